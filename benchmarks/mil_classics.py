"""Accuracy on the classic MIL benchmarks: gated ABMIL and ACMIL on MUSK1, Fox, Tiger and Elephant, 5 × 10 folds.

    python benchmarks/mil_classics.py --data ../shared/data/acmil            # about a quarter of an hour on one core

The recipe was fixed before the first run and is the same for every data set and model: that of Ilse, Tomczak and Welling (2018) for these
sets: Adam, learning rate 5e-4, weight decay 5e-3 (L2), one bag a step, 40 epochs, the last epoch's weights; features standardised with
the mean and deviation of the training folds' instances. Widths by the usual rule: L = F / 2, D = 128. Nothing is selected on the test folds.

The 50 models of a data set (5 repetitions of 10-fold cross-validation) train side by side as one batch of models, each with its own
weights, folds and bags, so that the loop over steps runs once instead of 50 times. In a step all models take a bag of about the same
length, so that little is padded: the order of lengths is shuffled every epoch, and within a length every model shuffles its own bags.
An epoch has as many steps as the set has bags; the tenth of them that stands in for a model's test bags repeats training bags.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from core_attention.measuring.clock import table
from pathology_mil.model.acmil import ACMIL_GA, ACMILConfig
from pathology_mil.model.losses import acmil_loss

MODELS = {
    "gated ABMIL": {"branches": 1, "top_k": 0, "mask_drop": 0.0},
    "ACMIL, p = 0": {"branches": 5, "top_k": 0, "mask_drop": 0.0},
    "ACMIL, p = 0.6": {"branches": 5, "top_k": 10, "mask_drop": 0.6},
}
PUBLISHED = {
    "musk1": 0.900,
    "fox": 0.603,
    "tiger": 0.845,
    "elephant": 0.857,
}  # gated attention, Ilse et al. 2018, table 1


@dataclass(frozen=True)
class Problem:
    """Padded bags of one data set, and which of them train each of the models."""

    instances: Tensor  # [bags, longest, d]
    mask: Tensor  # [bags, longest]
    labels: Tensor  # [bags]
    train: Tensor  # [models, bags] bool
    mean: Tensor  # [models, d]
    deviation: Tensor  # [models, d]


def read(path: Path) -> Problem:
    """One of the shared npz files (features, bag_index, bag_label, train_mask [repeats, folds, bags])."""
    with np.load(path) as file:
        features = torch.from_numpy(file["features"]).float()
        bag = torch.from_numpy(file["bag_index"]).long()
        labels = torch.from_numpy(file["bag_label"]).long()
        train = torch.from_numpy(file["train_mask"]).flatten(0, 1)
    lengths = torch.bincount(bag)
    place = torch.arange(len(bag)) - (lengths.cumsum(0) - lengths)[bag]
    instances = torch.zeros(len(labels), int(lengths.max()), features.shape[1])
    instances[bag, place] = features
    weight = train[:, bag].double()
    weight /= weight.sum(1, keepdim=True)
    mean = weight @ features.double()
    deviation = (weight @ features.double().square() - mean.square()).clamp_min(0).sqrt()
    deviation[deviation < 1e-6] = 1.0  # a constant feature stays 0
    return Problem(
        instances, torch.arange(instances.shape[1]) < lengths[:, None], labels, train, mean.float(), deviation.float()
    )


def standardised(problem: Problem, bags: Tensor) -> tuple[Tensor, Tensor]:
    """Instances [models, longest, d] of one bag a model, and which of them are real."""
    mask = problem.mask[bags]
    longest = int(mask.sum(-1).max())
    x = (problem.instances[bags, :longest] - problem.mean[:, None]) / problem.deviation[:, None]
    return x, mask[:, :longest]


def epoch(problem: Problem, generator: torch.Generator) -> Iterator[Tensor]:
    """The bag of every model at each step of an epoch: [models] each."""
    group = problem.mask.sum(1).log2().ceil().long()
    keys = torch.rand(problem.train.shape, generator=generator).masked_fill(~problem.train, 2.0)
    order, count, taken = {}, {}, dict.fromkeys(group.unique().tolist(), 0)
    for g in taken:
        there = problem.train & (group == g)
        none = ~there.any(1, keepdim=True)  # no training bag of this length: any will do
        count[g] = torch.where(none, problem.train, there).sum(1)
        order[g] = keys.masked_fill(~there & ~none, 2.0).argsort(1)
    for g in group[torch.randperm(len(group), generator=generator)].tolist():
        yield order[g].gather(1, (taken[g] % count[g])[:, None])[:, 0]
        taken[g] += 1


def run(
    problem: Problem, settings: dict, *, epochs: int, lr: float = 5e-4, decay: float = 5e-3, seed: int = 0
) -> Tensor:
    """Trains all models of a data set and returns the accuracy of each on its test fold."""
    models = []
    for i in range(len(problem.train)):
        torch.manual_seed(seed + i)
        models.append(ACMIL_GA(ACMILConfig(n_features=problem.instances.shape[2], n_class=2, **settings)))
    skeleton = models[0].train()
    weights, _ = stack_module_state(models)  # pyright: ignore[reportArgumentType]

    def loss(weights, x, mask, label):
        output = functional_call(skeleton, weights, (x,), {"mask": mask})
        return acmil_loss(output, label[None]).total

    gradient = vmap(grad(loss), randomness="different")
    optimizer = torch.optim.Adam(weights.values(), lr, weight_decay=decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    for _ in range(epochs):
        for bags in epoch(problem, generator):
            found = gradient(weights, *standardised(problem, bags), problem.labels[bags])
            for name, weight in weights.items():
                weight.grad = found[name]
            optimizer.step()
    skeleton.eval()
    score = vmap(lambda w, x, mask: functional_call(skeleton, w, (x,), {"mask": mask}).slide_logits[0])
    right = torch.zeros(problem.train.shape)
    with torch.no_grad():
        for bag in range(len(problem.labels)):
            same = torch.full((len(problem.train),), bag)
            right[:, bag] = (score(weights, *standardised(problem, same)).argmax(1) == problem.labels[bag]).float()
    test = ~problem.train
    return (right * test).sum(1) / test.sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of musk1.npz, fox.npz, tiger.npz, elephant.npz"
    )
    parser.add_argument("--sets", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.sets:
        problem = read(options.data / f"{name}.npz")
        for model in options.models:
            start = time.perf_counter()
            repeats = run(problem, MODELS[model], epochs=options.epochs).view(5, -1).mean(1)
            row = {
                "set": name,
                "model": model,
                "accuracy": f"{repeats.mean():.3f}",
                "± over 5 repeats": f"{repeats.std():.3f}",
                "range": f"{repeats.min():.3f}–{repeats.max():.3f}",
                "published (gated)": f"{PUBLISHED[name]:.3f}",
                "seconds": f"{time.perf_counter() - start:.0f}",
            }
            rows.append(row)
            print(json.dumps(row, ensure_ascii=False) if options.json else table([row]), flush=True)
    if not options.json:
        print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
