"""OAT on people's real paths: the 600 searches of the Amazon book covers, 5-fold by image, by subject and by target.

    python scripts/scanpath_results.py --data ../shared/data/oat/amazon_bookcover/Amazon.json --out runs    # about 40 minutes of one core

The boxes of the covers are not in the file, nor are the pictures: objects are the cells of an equal grid of 6 rows and 14 columns, and the model
sees places alone. The recipe was fixed before the first run and is the same for every fold. In each fold one fifth tests, the next chooses the
epoch by its likelihood, three fifths train; baselines learn their numbers from the same three fifths. The folds' tests are then put together, so
that each of the 600 paths is judged once. Intervals resample whole units of the split, and tests swap them: images, subjects or targets.

Each fold is a run folder; a second call goes on with the folds that are not there.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from core_runtime.comparison import holm
from core_runtime.options import RunOptions
from core_runtime.statistics import paired_test
from gaze.cohort.study import ObjectOptions
from gaze.commands.evaluate import evaluate, measured
from gaze.commands.train import train
from gaze.training.recipe import Recipe, Sizes

FOLDS = 5
SAMPLES = 20  # paths drawn per trial: over 600 trials their mean is known far better than people's spread
OBJECTS = ObjectOptions(grid=(6, 14))
SIZES = {"width": 128, "feedforward": 256, "layers": 2, "pyramid": 2, "crop": (24, 24)}
RECIPE = {"epochs": 60, "lr": 1e-3, "batch": 20, "patience": 8, "score": "likelihood", "folds": FOLDS}
UNITS = {"image": "scene", "subject": "subject", "target": "task"}  # split → column of what it keeps apart
MEASURES = ("log_likelihood", "bits", "sequence_score")
BASELINES = ("uniform", "nearest step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Amazon.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--splits", nargs="+", choices=UNITS, default=list(UNITS))
    parser.add_argument("--target-position", nargs="+", choices=("known", "unknown"), default=["known", "unknown"])
    parser.add_argument("--only-train", action="store_true", help="leave the evaluation to a later call")
    args = parser.parse_args()
    results = []
    for position in args.target_position:
        for split in args.splits:
            rows: list[dict[str, str]] = []
            for fold in range(1, FOLDS + 1):
                run = args.out / f"{split}_{position}_{fold}"
                train_fold(args.data, run, split, position, fold)
                if not args.only_train:
                    rows += judge_fold(args.data, run)
            if rows:
                results.append({"split": split, "target position": position, **summary(rows, split, args.data)})
    if results:
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(tables(results))


def train_fold(data: Path, run: Path, split: Any, position: Any, fold: int) -> None:
    if (run / "model" / "config.json").is_file():
        return
    recipe = Recipe(**RECIPE, split=split, fold=fold)
    train(
        data,
        objects=OBJECTS,
        recipe=recipe,
        sizes=Sizes(**SIZES, target_position=position),
        run=RunOptions(out=run, resume=run.exists()),
    )


def judge_fold(data: Path, run: Path) -> list[dict[str, str]]:
    """The rows of trials.csv: a row per predictor and path of the fold's test part."""
    out = run / "evaluation"
    if not out.exists():
        evaluate(data, model=str(run / "model"), out=out, objects=OBJECTS, part="test", samples=SAMPLES)
    with (out / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary(rows: list[dict[str, str]], split: str, data: Path) -> dict[str, Any]:
    """Means with intervals of each predictor over all folds, and OAT against the baselines, path by path."""
    pictures = json.loads(data.read_text(encoding="utf-8"))
    for row in rows:
        row["task"] = pictures[row["scene"]]["target"]
    unit = UNITS[split]
    by_predictor: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_predictor.setdefault(row["predictor"], []).append(row)
    counts = {len(own) for own in by_predictor.values()}
    assert counts == {600}, f"every path is judged once by every predictor, got {counts}"
    ours = by_predictor["OAT"]
    pairs = [(baseline, measure) for baseline in BASELINES for measure in ("bits", "sequence_score")]
    tests = [
        compared(ours, by_predictor[baseline], measure, unit) | {"baseline": baseline} for baseline, measure in pairs
    ]
    for test, p in zip(tests, holm([float(test["p"]) for test in tests]), strict=True):
        test["p_holm"] = p
    return {"measures": measured(by_predictor, unit), "tests": tests, "units": len({row[unit] for row in rows})}


def compared(ours: list[dict[str, str]], theirs: list[dict[str, str]], measure: str, unit: str) -> dict[str, Any]:
    other = {row["trial"]: row for row in theirs}
    first = np.array([float(row[measure]) for row in ours])
    second = np.array([float(other[row["trial"]][measure]) for row in ours])
    result = paired_test(lambda values, _: float(values.mean()), first, second, [row[unit] for row in ours])
    interval = result.interval
    return {
        "measure": measure,
        "difference": result.difference,
        "low": interval.low,
        "high": interval.high,
        "p": result.p,
    }


def tables(results: list[dict[str, Any]]) -> str:
    """Markdown: a table and the tests of each split."""
    lines = []
    for result in results:
        split, position = result["split"], result["target position"]
        lines.append(f"\nBy {split}, target position {position}; intervals over {result['units']} units.\n")
        lines.append(f"| | {' | '.join(name.replace('_', ' ') for name in MEASURES)} |")
        lines.append(f"|{'---|' * (len(MEASURES) + 1)}")
        for name, measures in result["measures"].items():
            lines.append(f"| {name} | {' | '.join(spelled(measures.get(each)) for each in MEASURES)} |")
        lines.append("")
        lines += [sentence(test) for test in result["tests"]]
    return "\n".join(lines)


def spelled(entry: dict[str, float] | None) -> str:
    if entry is None:
        return "–"
    return f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def sentence(test: dict[str, Any]) -> str:
    span = f"({test['low']:+.3f} to {test['high']:+.3f})"
    return f"- OAT - {test['baseline']}, {test['measure']}: {test['difference']:+.3f} {span}, p = {test['p_holm']:.4f} after Holm"


if __name__ == "__main__":
    main()
