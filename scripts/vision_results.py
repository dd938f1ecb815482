"""Backbones of about half a million parameters on small real data, under one budget: the tables of docs/results-vision.md.

    uv run python scripts/vision_results.py /tmp/results --data fashion --sheet fashion-mnist-sprite.png --seeds 5

Each (network, seed) is one training in a folder of its own; finished ones are passed over and a killed one goes on, so the script can be called
again and again (``--minutes`` ends it in between). ``--data digits`` takes scikit-learn's; ``--data npz --file F`` any of MedMNIST's files.
``--page NAME`` trains nothing and writes the table of the finished trainings into the page, where it says NAME.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from core_runtime.image_sets import ImageSetOptions
from core_runtime.options import RunOptions
from vision_models.classify.commands.compare import NetworksCompared, compare
from vision_models.classify.commands.train import train
from vision_models.classify.model.options import NetworkOptions
from vision_models.classify.training.recipe import Recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results-vision.md"
NETWORKS: dict[str, tuple[str, str]] = {
    "vit": ("vit_tiny_patch16_224", "patch_size=4,embed_dim=96,depth=4,num_heads=3"),
    "resnet": ("resnet10t", "channels=32/64/96/128"),
    "dhvt": ("dhvt_tiny_cifar_patch4", "embed_dim=80,num_heads=4,depth=5"),
    "biformer": ("biformer_tiny", "embed_dim=24/48/96/120,depth=1/1/2/1,head_dim=24"),
    "davit": ("suite_davit_tiny", "embed_dims=16/32/64/128,num_heads=1/2/4/8,depths=1/1/1/1"),
    "mambaout": ("suite_mambaout_femto", "dims=24/48/84/112,depths=1/1/3/1"),
    "ravlt": ("ravlt_t", "embed_dims=16/32/64/112,depths=1/1/2/1,num_heads=1/2/4/4"),
    "moh": ("moh_vit_s80", "embed_dims=24/48/72/96,depths=1/1/2/1,num_heads=3/6/6/8,shared=3/6/3/4,routed=0/0/2/2"),
    "sparsifiner": ("sparsifiner_s", "patch_size=4,embed_dim=96,depth=4,num_heads=3"),
    "t2t-scatterbrain": ("t2t_vit_t_14_scatterbrain", "embed_dim=88,depth=4,num_heads=2"),
}
INSERTED = ("ela", "se", "eca", "coordinate", "cbam", "ulsam")
# Few epochs leave no room for DeiT's mixing and erasing: both are off, for every network alike.
RECIPE = {
    "batch": 32,
    "lr": 1.6e-2,
    "warmup": 2,
    "mixup": 0.0,
    "cutmix": 0.0,
    "erasing": 0.0,
    "drop_path": 0.0,
    "augment": "crop",
}
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", choices=("fashion", "digits", "npz"), required=True)
    parser.add_argument("--sheet", type=Path, help="fashion-mnist-sprite.png")
    parser.add_argument("--file", type=Path, help="an .npz with MedMNIST's keys")
    parser.add_argument("--networks", help="of the table, with commas between; default: all")
    parser.add_argument("--inserted", action="store_true", help="attentions in one ResNet instead of the networks")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--page", metavar="NAME", help="write this table of the page from the finished trainings")
    given = parser.parse_args()
    names = given.networks.split(",") if given.networks else list(NETWORKS)
    jobs = [(name, "") for name in names]
    if given.inserted:
        jobs = [("resnet", name) for name in ("", *INSERTED)]
    if given.page:
        folders = (folder(given, name, insert, seed) for name, insert in jobs for seed in range(given.seeds))
        write_table(given.page, [run for run in folders if (run / "metrics.json").exists()], given.out / "comparison")
        return
    data, how = prepared(given)
    began, runs = time.monotonic(), []
    for seed in range(given.seeds):
        for name, insert in jobs:
            out = folder(given, name, insert, seed)
            if not (out / "metrics.json").exists():
                if time.monotonic() - began > 60 * given.minutes:
                    sys.exit("more to do")
                fit(data, how, name, insert, seed, given.epochs, out)
            runs.append(out)
    table = compare(runs, out=given.out / f"{given.data}-comparison{'-inserted' * given.inserted}")
    for line in table.lines():
        print(line)


def folder(given: argparse.Namespace, name: str, insert: str, seed: int) -> Path:
    """Where one training lies."""
    return given.out / given.data / f"{name}{insert and '-' + insert}-{seed}"


def write_table(name: str, runs: list[Path], out: Path) -> None:
    """Writes a table of the page, and below it the pairs that differ."""
    begin, end = f"<!-- {name}: made by scripts/vision_results.py -->", f"<!-- end of {name} -->"
    table = compare(runs, out=out)
    lines = ["| network | parameters | seeds | accuracy | 95 % interval over pictures | spread over seeds |"]
    lines.append("|---|---|---|---|---|---|")
    for row in table.rows:
        cells = [row["name"], f"{row['parameters']:,}", str(row["seeds"]), f"{row['accuracy']:.3f}"]
        cells += [f"{row['low']:.3f} to {row['high']:.3f}", f"{row['spread']:.3f}" if row["seeds"] > 1 else "–"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *different_pairs(table)]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    if not rest:
        sys.exit(f"Error: {PAGE.name} has no place for {name}")
    after = rest.partition(end)[2]
    PAGE.write_text(f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{after}", encoding="utf-8")


def different_pairs(table: NetworksCompared) -> list[str]:
    """A line for each network that another one is better than."""
    tests = table.tests.rows if table.tests else []
    better: dict[str, list[str]] = {}
    for test in tests:
        if test["p_holm"] >= 0.05:
            continue
        first, second, sign = test["first"], test["second"], 1
        if test["difference"] < 0:
            first, second, sign = second, first, -1
        low, high = sorted((sign * test["low"], sign * test["high"]))
        better.setdefault(second, []).append(f"{first} {sign * test['difference']:+.3f} ({low:+.3f} to {high:+.3f})")
    told = f"Of {len(tests)} pairs, tested by picture with Holm's correction at the 5 % level,"
    if not better:
        return [f"{told} none differs."]
    rows = [f"- better than {name}: {'; '.join(others)}" for name, others in better.items()]
    return [f"{told} these differ (difference and its 95 % interval):", "", *rows]


def prepared(given: argparse.Namespace) -> tuple[Path, ImageSetOptions]:
    """The file to train on, and how it is read."""
    if given.data == "fashion":
        return given.sheet, ImageSetOptions(tile=28, rows_per_class=3, class_names=FASHION)
    if given.data == "npz":
        return given.file, ImageSetOptions()
    import numpy as np
    from sklearn.datasets import load_digits

    path = given.out / "digits.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        digits: Any = load_digits()
        np.savez(path, images=digits.images, labels=digits.target)
    return path, ImageSetOptions(white=16)


def fit(data: Path, how: ImageSetOptions, name: str, insert: str, seed: int, epochs: int, out: Path) -> None:
    """One training."""
    network, settings = NETWORKS[name]
    size = 16 if data.name == "digits.npz" else None
    chosen = NetworkOptions(network=network, settings=tuple(settings.split(",")), insert=insert or None, size=size)
    recipe = Recipe(epochs=epochs, flip=data.name != "digits.npz", **RECIPE)
    run = RunOptions(out=out, seed=seed, device="cpu", threads=1, resume=(out / "config.yaml").exists())
    began = time.process_time()
    trained = train(data, network=chosen, recipe=recipe, images=how, run=run)
    accuracy = trained.values["test"]["accuracy"]
    seconds = time.process_time() - began
    print(
        f"{out.name}: {accuracy:.4f}, {trained.values['parameters']:,} parameters, {seconds:.0f} s of CPU", flush=True
    )


if __name__ == "__main__":
    main()
