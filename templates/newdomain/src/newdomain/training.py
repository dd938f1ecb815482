"""Training and evaluation with Lightning: a folder of signals with labels.csv in, a run folder with a model folder out."""

from pathlib import Path

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC

from core_attention.checkpoints.folders import load_model, save_model
from core_runtime.errors import UserError
from core_runtime.folders import data_fingerprint, open_run
from core_runtime.training import EpochOrder, Training, first_epoch, fit
from newdomain.model import BurstClassifier, BurstConfig
from newdomain.signals import read_labels, read_signal, signal_files


class BurstTraining(Training):
    """Binary cross-entropy, AdamW."""

    def __init__(self, model: BurstClassifier, lr: float, seed: int) -> None:
        super().__init__(model, seed)
        self.lr = lr

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        windows, labels = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(windows), labels.float())
        self.count(train_loss=loss.item())
        return self.finite(loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.lr)


class BurstData(lightning.LightningDataModule):
    """The training signals, in an order of its own for every epoch."""

    def __init__(self, data: TensorDataset, workers: int, seed: int) -> None:
        super().__init__()
        self.data, self.workers, self.seed = data, workers, seed

    def train_dataloader(self) -> DataLoader:
        order = EpochOrder(len(self.data), self.seed, epoch=first_epoch(self))
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        return DataLoader(self.data, batch_size=16, sampler=order, **workers)


def load_data(folder: Path) -> TensorDataset:
    """All labelled signals of a folder, cut to the shortest one's windows.

    Raises:
        UserError: no labels, no signals, or an unusable one.
    """
    labels = read_labels(folder)
    files = {p.stem: p for p in signal_files(folder)}
    bags = [torch.from_numpy(read_signal(files[name]).windows()) for name in labels]
    shortest = min(len(bag) for bag in bags)
    return TensorDataset(torch.stack([bag[:shortest] for bag in bags]), torch.tensor(list(labels.values())))


def train(
    folder: Path,
    out: Path,
    *,
    epochs: int = 60,
    lr: float = 3e-3,
    device: str = "cpu",
    precision: str = "32-true",
    workers: int = 0,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Trains and returns the model folder. An interrupted run goes on with `resume`."""
    data = load_data(folder)
    arguments = {"folder": str(folder), "epochs": epochs, "lr": lr, "precision": precision, "seed": seed}
    open_run(
        out,
        arguments,
        packages=["torch", "lightning"],
        data=data_fingerprint(signal_files(folder)),
        resume=resume,
        overwrite=overwrite,
    )
    torch.manual_seed(seed)
    module = BurstTraining(BurstClassifier(BurstConfig()), lr, seed)
    loaders = BurstData(data, workers, seed)
    fit(module, loaders, out, epochs=epochs, device=device, precision=precision, show=progress)
    save_model(
        module.model,
        out / "model",
        preprocessing={"window": BurstConfig().window},
        provenance={"trained_on": folder.name, "seed": seed},
    )
    return out / "model"


def evaluate(model: Path, folder: Path, *, device: str = "cpu") -> dict[str, float]:
    """Accuracy and area under the ROC curve over a folder of labelled signals."""
    try:
        loaded = load_model(model, BurstClassifier).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(str(error), "'newdomain train' makes a model folder") from None
    windows, labels = load_data(folder).tensors
    with torch.inference_mode():
        probabilities = loaded(windows.to(device)).sigmoid().cpu()
    return {
        "accuracy": BinaryAccuracy()(probabilities, labels).item(),
        "auroc": BinaryAUROC()(probabilities, labels).item(),
        "signals": float(len(labels)),
    }
