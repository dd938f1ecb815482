"""BMN with and without CSA on made features laid over the real THUMOS-14 timelines, UntrimmedNet's real scores as classifier.

The features are drawn: every class has a direction, which stands out from noise while an action lasts and fades in and out. So the figures compare the
two networks on real lengths, pauses and crowding, and say nothing about videos. Finished runs are kept: a killed run goes on.

Example: python scripts/action_results.py ../shared/data/csa_action/thumos14 /tmp/thumos --seeds 3 --epochs 8
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from core_runtime.options import RunOptions
from vision_models.actions.annotations import VideoTruth, read_annotations
from vision_models.actions.commands.compare import compare
from vision_models.actions.commands.evaluate import EvaluationOptions, evaluate
from vision_models.actions.commands.train import train
from vision_models.actions.features import write_features
from vision_models.actions.training.recipe import NetworkOptions, Recipe

CHANNELS, STEP = 64, 0.64  # seconds of a snippet: 16 frames at 25 per second
NOISE = 1.6


def lay_features(video: VideoTruth, labels: tuple[str, ...], path: Path, number: int) -> None:
    """Features of one video: noise, and a direction of its own for each class that is seen."""
    directions = np.random.default_rng(0).normal(size=(len(labels), CHANNELS))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng([1, number])
    seconds = max([20.0, *(action.end + 5 for action in video.actions)])
    moments = (np.arange(int(seconds / STEP)) + 0.5) * STEP
    values = rng.normal(size=(len(moments), CHANNELS)) * NOISE
    # noise of neighbouring snippets is alike, as in videos
    values[1:] = 0.6 * values[:-1] + 0.8 * values[1:]
    for action in video.actions:
        inside = np.minimum(moments - action.start, action.end - moments)
        strength = 1 / (1 + np.exp(np.clip(-inside / 0.4, -50, 50))) * rng.uniform(2, 5)
        values += strength[:, None] * directions[labels.index(action.label)]
    write_features(path, values, step=STEP, seconds=seconds, backbone="")


def prepare(data: Path, out: Path, videos: int) -> tuple[Path, Path]:
    """Features and one file of annotations for both parts; THUMOS' validation videos train."""
    validation, test = read_annotations(data / "val_Annotation.csv"), read_annotations(data / "thumos_gt.json")
    # the file of the test videos' truth holds the validation videos again
    parts = {"training": list(validation.videos.values()), "testing": test.of_part("test")}
    database = {}
    number = 0
    for subset, members in parts.items():
        for video in members[:videos]:
            path = out / "features" / f"{video.name}.npz"
            if not path.is_file():
                lay_features(video, test.labels, path, number)
            number += 1
            actions = [{"segment": [action.start, action.end], "label": action.label} for action in video.actions]
            database[video.name] = {"subset": subset, "annotations": actions}
    annotations = out / "annotations.json"
    annotations.write_text(json.dumps({"database": database}), encoding="utf-8")
    return out / "features", annotations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of THUMOS' annotations and uNet_test.npy")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--videos", type=int, default=1000, help="at most so many of each part")
    parser.add_argument("--hidden", type=int, default=128)
    given = parser.parse_args()
    features, annotations = prepare(given.data, given.out, given.videos)
    evaluations = []
    for seed in range(given.seeds):
        for csa in ("none", "base"):
            place = given.out / f"{csa}-{seed}"
            sizes = {"hidden": given.hidden, "pem_channels": 32, "map_3d": 64, "map_2d": 32, "bins": 16}
            network = NetworkOptions(steps=128, longest=64, layout="duration_start", csa=csa, labels="none", **sizes)
            recipe = Recipe(epochs=given.epochs, lr=1e-3, drop=max(1, given.epochs - 2), clip=1.0)
            if not (place / "run" / "metrics.json").is_file():
                run = RunOptions(out=place / "run", seed=seed, resume=(place / "run" / "config.yaml").is_file())
                train(features, annotations=annotations, network=network, recipe=recipe, run=run)
            if not (place / "evaluation" / "metrics.json").is_file():
                options = EvaluationOptions(classifier=given.data / "uNet_test.npy", part="test")
                model = str(place / "run" / "model")
                evaluate(features, annotations=annotations, model=model, out=place / "evaluation", options=options)
            evaluations.append((csa, seed, place / "evaluation"))
    print("| network | seed | mAP@.3 | .4 | .5 | .6 | .7 | mAP (95 % over videos) |\n|---|---|---|---|---|---|---|---|")
    for csa, seed, place in evaluations:
        test = json.loads((place / "metrics.json").read_text(encoding="utf-8"))["test"]
        cells = " | ".join(f"{100 * test[f'mAP@{tiou}']:.1f}" for tiou in (0.3, 0.4, 0.5, 0.6, 0.7))
        low, high = test["intervals"]["mAP"]
        print(
            f"| BMN{'-CSA' * (csa != 'none')} | {seed} | {cells} | {100 * test['mAP']:.1f} ({100 * low:.1f}-{100 * high:.1f}) |"
        )
    for seed in range(given.seeds):
        pair = [place for csa, number, place in evaluations if number == seed]
        compared = compare(pair[::-1], out=given.out / f"compared-{seed}", resamples=200)
        print("\n".join(compared.lines()))


if __name__ == "__main__":
    main()
