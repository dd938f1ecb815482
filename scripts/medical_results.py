"""Similar images on real data beside plain peers, and the page docs/results-medical.md of all that was measured.

    uv run python scripts/medical_results.py train /tmp/results breastmnist.npz --epochs 60 --seeds 3
    uv run python scripts/medical_results.py train /tmp/results retinamnist.npz --epochs 40 --seeds 3
    uv run python scripts/medical_results.py page /tmp/results docs/results-medical.md

Each (data, method, seed) is one training in a folder of its own: finished ones are passed over and a killed one goes on, so `train` can be called
again and again (``--minutes`` ends it in between). `page` reads their results, and those of `benchmarks/medical.py … --json` beside them in
``/tmp/results/benchmarks``; no number of the page is typed.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core_runtime.errors import UserError
from core_runtime.options import RunOptions
from medical_segmentation.similar.commands.evaluate import evaluate
from medical_segmentation.similar.commands.train import train
from medical_segmentation.similar.options import EmbeddingOptions, Recipe

METHODS: dict[str, dict[str, Any]] = {
    "dynamic learners": {},
    "one learner": {"dynamic": False},
    "cross entropy": {"dynamic": False, "loss": "cross-entropy"},
}
POINTS = {"cross entropy": "penultimate features"}  # what a classifier is judged by; the others by their embedding
CLEAR = "of those, where MONAI's two best scores are 1e-5 or more apart"
MEASURES = ("recall@1", "recall@4", "map@r", "nmi")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("train")
    verb.set_defaults(function=train_all)
    verb.add_argument("out", type=Path)
    verb.add_argument("data", type=Path, help="an .npz with MedMNIST's keys")
    verb.add_argument("--epochs", type=int, default=60)
    verb.add_argument("--patience", type=int, default=6)
    verb.add_argument("--lr", type=float, default=1e-3)
    verb.add_argument("--backbone", default="test_resnet")
    verb.add_argument("--image-size", type=int, default=32)
    verb.add_argument("--seeds", type=int, default=3)
    verb.add_argument("--minutes", type=float, default=1e9)
    verb = verbs.add_parser("page")
    verb.set_defaults(function=write_page)
    verb.add_argument("out", type=Path)
    verb.add_argument("page", type=Path)
    given = parser.parse_args()
    try:
        given.function(given)
    except UserError as error:
        sys.exit(f"{error.message} ({error.hint})" if error.hint else error.message)


def train_all(given: argparse.Namespace) -> None:
    """Every method with every seed, one after the other."""
    began = time.monotonic()
    embedding = EmbeddingOptions(backbone=given.backbone, size=64, image_size=given.image_size, train_norms=True)
    for seed in range(given.seeds):
        for method, changes in METHODS.items():
            recipe = Recipe(epochs=given.epochs, lr=given.lr, patience=given.patience, **changes)
            folder = given.out / given.data.stem / f"{method.replace(' ', '-')}-{seed}"
            if (folder / "result.json").exists():
                continue
            if time.monotonic() - began > 60 * given.minutes:
                sys.exit("more to do: call again")
            started = folder / "config.yaml"
            run = RunOptions(out=folder, device="cpu", threads=1, seed=seed, resume=started.exists())
            trained = train(given.data, embedding=embedding, recipe=recipe, run=run)
            judged = evaluate(
                given.data, model=str(trained.model), out=folder / "evaluation", device="cpu", overwrite=True
            )
            result = {
                "method": method,
                "seed": seed,
                "images": judged.images,
                "learners": len(trained.values["learners"]),
                "parameters": trained.values["parameters"],
                "epoch": trained.epoch,
                "embedding": asdict(embedding),
                "recipe": asdict(recipe),
                "measures": judged.measures[POINTS.get(method, "embedding")],
                "raw pixels": judged.measures["raw pixels"],
            }
            (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(given.data.stem, method, seed, f"{result['measures']['recall@1']['value']:.3f}", flush=True)


def write_page(given: argparse.Namespace) -> None:
    """The page of all results that are there; what is missing is said to be."""
    lines = [
        "# medical-segmentation, measured",
        "",
        "Made by `scripts/medical_results.py` from the JSON of its runs and of `benchmarks/medical.py`; research software, not a medical device.",
        "",
        *similar_lines(given.out),
        *organ_lines(given.out / "benchmarks"),
    ]
    given.page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(given.page)


def similar_lines(out: Path) -> list[str]:
    """A table for each data set: every method with every seed, and raw pixels."""
    lines = [
        "## Similar images",
        "",
        "MedMNIST's own parts: training images train, validation images select the epoch (by NMI), every test image is a query with the others as",
        "gallery; copies of training images among them are left out. All methods have the same network, from nothing: ImageNet weights, with which the",
        "paper starts, were not at hand, so these are not the paper's figures. Intervals (95 %) resample the test images;",
        "NMI is the mean over five clusterings. Each seed is a training of its own.",
        "",
    ]
    for folder in sorted(each for each in out.iterdir() if each.is_dir() and list(each.glob("*/result.json"))):
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/result.json"))]
        first = results[0]
        recipe, embedding = first["recipe"], first["embedding"]
        lines += [
            f"**{folder.name}**, {first['images']} test images; `{embedding['backbone']}` ({first['parameters']:,} parameters), images of "
            f"{embedding['image_size']}², {recipe['epochs']} epochs at a rate of {recipe['lr']:g}.",
            "",
            "| method | seed | learners | " + " | ".join(MEASURES) + " |",
            "|---|---|---|" + "---|" * len(MEASURES),
        ]
        for method in METHODS:
            own = sorted((each for each in results if each["method"] == method), key=lambda each: each["seed"])
            for result in own:
                lines.append(row(method, str(result["seed"]), str(result["learners"]), result["measures"]))
            if len(own) > 1:
                lines.append(mean_row(method, [result["measures"] for result in own]))
        lines += [row("raw pixels", "–", "–", first["raw pixels"]), "", comparison(results), ""]
    return lines


def cell(entry: dict[str, float]) -> str:
    """A value with its interval, or with its deviation over clusterings."""
    if entry.get("low") is not None:
        return f"{entry['value']:.3f} ({entry['low']:.3f}–{entry['high']:.3f})"
    return f"{entry['value']:.3f} ± {entry['sd']:.3f}"


def row(method: str, seed: str, learners: str, measures: dict[str, Any]) -> str:
    return f"| {method} | {seed} | {learners} | " + " | ".join(cell(measures[name]) for name in MEASURES) + " |"


def mean_row(method: str, runs: list[dict[str, Any]]) -> str:
    """The mean over seeds."""
    means = [f"**{statistics.mean(run[name]['value'] for run in runs):.3f}**" for name in MEASURES]
    return f"| {method} | mean of {len(runs)} | | " + " | ".join(means) + " |"


def comparison(results: list[dict[str, Any]]) -> str:
    """In words: whether the learners are above each peer, and by more than the intervals allow for."""

    def values(method: str) -> list[dict[str, float]]:
        if method == "raw pixels":
            return [results[0]["raw pixels"]["recall@1"]]
        return [each["measures"]["recall@1"] for each in results if each["method"] == method]

    ours = values("dynamic learners")
    if not ours:
        return "The learners have not been trained yet."
    mean = statistics.mean(each["value"] for each in ours)
    words = []
    for peer in ("one learner", "cross entropy", "raw pixels"):
        theirs = values(peer)
        if not theirs:
            words.append(f"{peer}: not measured")
            continue
        difference = mean - statistics.mean(each["value"] for each in theirs)
        apart = min(each["low"] for each in ours) > max(each["high"] for each in theirs) or max(
            each["high"] for each in ours
        ) < min(each["low"] for each in theirs)
        words.append(f"{peer} {difference:+.3f} ({'the intervals are apart' if apart else 'the intervals overlap'})")
    return f"Recall@1 of the dynamic learners, mean over seeds, minus that of the peers: {'; '.join(words)}."


def organ_lines(folder: Path) -> list[str]:
    """Overfitting, the network against its definition, windows against MONAI, triplets."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    lines = ["## Organs", ""]
    for name, result in found.items():
        if name.startswith("overfit"):
            steps = result["Dice after steps"]
            best = max(steps, key=lambda step: steps[step])
            lines.append(
                f"- {name.removeprefix('overfit-')}: {result['crop'][0]} slices of {result['crop'][2]} × {result['crop'][3]}, of which "
                f"{100 * result['share of the organ']:.1f} % are organ (a full mask would get {result['Dice of a full mask']:.3f}): "
                f"Dice in evaluation {steps[best]:.3f} after {best} steps."
            )
    for verb in ("overfit", "network", "volume", "triplets"):
        if not any(name.startswith(verb) for name in found):
            lines.append(f"- Not measured yet: `benchmarks/medical.py {verb}`.")
    lines += ["", "## Speed and memory", ""]
    for name, result in found.items():
        if name.startswith("network"):
            time_ratio, memory = result["time, N×N / ours"], result["memory, ours / N×N"]
            lines.append(
                f"- The whole published network at {result['side']}², PAM with its N×N array against ours: {time_ratio[0]:.2f}× the time, ours in "
                f"{memory[0]:.3f} of the memory; outputs differ by {result['outputs differ by']:.1g}."
            )
        elif name.startswith("volume"):
            text = f"- {result['side']} × {result['side']} × {result['slices']}, {result['classes']} classes, windows of 96³: "
            text += f"{result['ours']['gigabytes']:.2f} GB beyond network and input"
            if "monai" in result:
                text += (
                    f" (MONAI {result['monai']['gigabytes']:.2f} GB), {result['time, ours / MONAI']:.2f}× MONAI's time, labels differ in "
                    f"{result['labels that differ']} voxels, {result[CLEAR]} of them clearly"
                )
            lines.append(text + ".")
        elif name.startswith("triplets"):
            middle, low, high = result["time, loop / ours"]
            lines.append(
                f"- Triplets of the margin loss, batch {result['batch']}: {middle:.1f}× the loop ({low:.1f}–{high:.1f}); "
                f"the same triplets: {result['same triplets']}."
            )
    return lines


if __name__ == "__main__":
    main()
