"""The training of subspace learners: divide, conquer, add a learner while it helps, tune all together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from core_runtime.terminal import note
from core_runtime.training import Training
from medical_segmentation.similar.images import ImageSet
from medical_segmentation.similar.metrics import cluster, nmi
from medical_segmentation.similar.model.embedding import EmbeddingNet
from medical_segmentation.similar.model.folder import SimilarModel
from medical_segmentation.similar.model.margin import MarginLoss
from medical_segmentation.similar.model.subspaces import (
    can_split,
    plan_split,
    reassign_clusters,
    split_moments,
    split_ranges,
    split_rows,
    without_singletons,
)
from medical_segmentation.similar.options import Recipe
from medical_segmentation.similar.training.data import ALL


class SubspaceTraining(Training):
    """Margin loss on the learner's block of the embedding (or on all of it), NMI of the validation images after every epoch."""

    model: EmbeddingNet

    def __init__(
        self,
        model: EmbeddingNet,
        recipe: Recipe,
        images: ImageSet,
        train: Sequence[int],
        val: Sequence[int],
        *,
        image_size: int,
        seed: int,
    ) -> None:
        super().__init__(model, seed)
        self.recipe, self.images = recipe, images
        self.train_numbers, self.val_numbers, self.image_size = list(train), list(val), image_size
        self.criterion = MarginLoss(len(images.classes), pair_count=recipe.pair_count)
        self.criterion.requires_grad_(False)  # β is fixed, as published
        self.head: nn.Linear | None = None
        if recipe.loss == "cross-entropy":
            self.head = nn.Linear(model.channels, len(images.classes))
        self.finetune_epoch = math.ceil(recipe.finetune * recipe.epochs)
        self.clusters: NDArray[np.int64] | None = None
        self.best, self.best_epoch, self.explored = -1.0, 0, False
        size = model.config.size
        self.products, self.samples = torch.zeros(size), 0

    def ready(self) -> SimilarModel:
        """The embedding as it is, for evaluation."""
        return SimilarModel(self.model, self.image_size, tuple(self.images.classes), {})

    def clusters_of(self, epoch: int) -> NDArray[np.int64] | None:
        """The cluster of every training image in an epoch; None where all learners train on everything.

        Made anew every few epochs from the penultimate features, and matched to those before, so that a learner keeps its images.
        """
        learners = len(self.model.learners)
        if self.recipe.loss == "cross-entropy" or learners == 1 or epoch >= self.finetune_epoch:
            return None
        stale = self.clusters is None or int(self.clusters.max()) + 1 != learners or epoch % self.recipe.recluster == 0
        if stale:
            was = self.model.training
            self.model.eval()
            _, features = self.ready().embed(self.images, self.train_numbers)
            self.model.train(was)
            fresh = cluster(features.numpy(), learners, self.seed, starts=3)
            if self.clusters is not None:
                fresh = reassign_clusters(fresh, self.clusters, learners, published=self.recipe.published)
            labels = np.array([self.images.labels[number] for number in self.train_numbers])
            self.clusters = without_singletons(fresh, labels)
        return self.clusters

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.products, self.samples = torch.zeros(self.model.config.size), 0

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        outputs = self.model(batch["image"])
        labels = batch["label"]
        if self.head is not None:
            loss = F.cross_entropy(self.head(outputs.penultimate * math.sqrt(self.model.channels)), labels)
            self.finite(loss)
            self.count(train_loss=loss.item())
            return loss
        learner = int(batch["learner"][0])
        embedding = outputs.embedding
        if embedding.requires_grad:
            embedding.register_hook(lambda gradient: self._gather(embedding.detach(), gradient))
        if learner == ALL:
            block = F.normalize(embedding, dim=1)
        else:
            start, stop = self.model.learners[learner]
            block = F.normalize(embedding[:, start:stop], dim=1)
        loss = self.criterion(block, labels)
        if not loss.requires_grad:  # no triplet at all
            loss = loss + 0 * embedding.sum()
        self.finite(loss)
        self.count(train_loss=loss.item())
        return loss

    def _gather(self, activation: Tensor, gradient: Tensor) -> None:
        """Running sums of activation times gradient: no epoch of activations is kept."""
        self.products += (activation * gradient).sum(0).cpu()
        self.samples += len(activation)

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.recipe.lr, weight_decay=self.recipe.weight_decay)

    def close_epoch(self) -> dict[str, float]:
        """Loss, NMI of the validation images, and the number of learners; adds one where it is time."""
        row = super().close_epoch()
        row.setdefault("train_loss", 0.0)
        was = self.model.training
        self.model.eval()
        embeddings, features = self.ready().embed(self.images, self.val_numbers)
        self.model.train(was)
        points = features if self.head is not None else embeddings
        labels = np.array([self.images.labels[number] for number in self.val_numbers])
        score = nmi(labels, cluster(points.numpy(), len(set(labels.tolist())), self.seed, starts=3))
        row |= {"val_nmi": score, "learners": float(len(self.model.learners))}
        if score > self.best:
            self.best, self.best_epoch, self.explored = score, self.current_epoch, False
        elif self._is_time():
            self._add_learner()
        return row

    def _is_time(self) -> bool:
        waited = self.current_epoch - self.best_epoch >= self.recipe.patience
        return (
            self.recipe.dynamic
            and self.head is None
            and waited
            and not self.explored
            and self.current_epoch + 1 < self.finetune_epoch
        )

    def _add_learner(self) -> None:
        newest = self.model.learners[-1]
        split = plan_split(self.products / max(1, self.samples), newest)
        if not can_split(split, newest):
            return
        split_rows(self.model.embedding, split, published=self.recipe.published)
        split_moments(self.trainer.optimizers[0], self.model.embedding, split)
        self.model.set_learners(split_ranges(self.model.learners, len(split.selected)))
        self.explored = True  # one exploration per best
        note.print(f"epoch {self.current_epoch}: learner {len(self.model.learners)} is added", markup=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        clusters = None if self.clusters is None else torch.from_numpy(self.clusters)
        checkpoint["subspaces"] = {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "explored": self.explored,
            "clusters": clusters,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["subspaces"]
        self.best, self.best_epoch, self.explored = state["best"], state["best_epoch"], state["explored"]
        self.clusters = None if state["clusters"] is None else state["clusters"].numpy()


def settled(model: EmbeddingNet) -> EmbeddingNet:
    """The network with its learners in its configuration."""
    model.config = replace(model.config, learners=tuple(model.learners))
    return model
