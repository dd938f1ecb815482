"""Results of the explainability systems on small public pictures, into docs/results-explainability.md.

uv run python scripts/explainability_results.py --sprite fashion-mnist-sprite.png --breast breastmnist.npz --work results-work

Each stage leaves a JSON file in the work folder, and a rerun goes on after the last; ``--write`` writes the page from what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DOC = Path(__file__).parent.parent / "docs" / "results-explainability.md"
NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
SIZES = {"image_size": 28, "patch_size": 4, "width": 64, "depth": 4, "heads": 4, "batch_size": 50}
METHODS = ("own", "gradcam")
EXPLAINED = 100  # of the 150 test pictures
# the budget: epochs of each method, chosen once for time, not tuned
RUNS: dict[str, dict[str, Any]] = {
    "plain ViT": {"method": "plain", "epochs": 60},
    "Prompt-CAM": {"method": "prompt-cam", "epochs": 25, "lr": 0.01},
    "TCPA (R)": {"method": "tcpa", "epochs": 20, "taken": 8, "lr": 0.005},
    "TCPA (full)": {"method": "tcpa", "epochs": 20, "taken": 4, "lr": 0.005},
    "SAT": {"method": "sat", "epochs": 40, "area": 0.5},
}


def cut_sprite(sprite: Path, out: Path) -> Path:
    """The 900 pictures by class: columns 0–19 train, 20–24 validate, 25–29 test; masks are what is not black."""
    sheet = np.asarray(Image.open(sprite).convert("L"))
    for row in range(30):
        for column in range(30):
            picture = sheet[28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
            part = "train" if column < 20 else "val" if column < 25 else "test"
            name = Path(NAMES[row // 3]) / f"{row % 3}-{column:02}.png"
            for folder, content in ((part, picture), (f"masks-{part}", (picture > 0) * np.uint8(255))):
                place = out / folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(place)
    return out


def unpack_breast(file: Path, out: Path) -> Path:
    """BreastMNIST by class in its own split."""
    arrays = np.load(file, allow_pickle=False)
    for part in ("train", "val", "test"):
        pairs = zip(arrays[f"{part}_images"], arrays[f"{part}_labels"].ravel(), strict=True)
        for number, (picture, label) in enumerate(pairs):
            place = out / part / ("malignant", "benign-or-normal")[int(label)] / f"{number:03}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place)
    return out


def trained(folder: Path, out: Path, **recipe: Any) -> Path:
    """A run, finished or gone on with."""
    from core_runtime.options import RunOptions
    from explainability.commands.train import train
    from explainability.training.recipe import Recipe

    if not (out / "model" / "config.json").is_file():
        train(folder, recipe=Recipe(**{**SIZES, **recipe}), run=RunOptions(out=out, resume=out.exists()))
    return out / "model"


def judge_run(folder: Path, model: Path, out: Path) -> dict[str, Any]:
    """Accuracy and maps on the test pictures."""
    from explainability.commands.evaluate import evaluate
    from explainability.commands.explain import MapOptions

    maps = MapOptions(method=METHODS, steps=14)
    result = evaluate(
        folder / "test",
        model=str(model),
        masks=folder / "masks-test",
        maps=maps,
        pictures=EXPLAINED,
        out=out,
        overwrite=True,
    )
    return result.facts()


def compare_all(folder: Path, model: Path, out: Path) -> dict[str, Any]:
    """CHM-Corr by nearest cells and kNN over the test pictures, with intervals."""
    from core_runtime.pictures import read_picture
    from core_runtime.statistics import wilson
    from explainability.chm_corr.index import Index
    from explainability.chm_corr.session import Rules, compare
    from explainability.commands.index import index

    index(folder, model=str(model), out=out)
    opened = Index.open(out)
    backbone, chm = opened.load_networks()
    right: dict[str, list[bool]] = {"CHM-Corr": [], "kNN": []}
    for file in sorted((folder / "test").rglob("*.png")):
        content = file.read_bytes()
        session = compare(
            opened, backbone, chm, read_picture(content, file.name).image, content, Rules(ties="smallest")
        )
        for name, decision in (("CHM-Corr", session.predict()), ("kNN", session.nearest())):
            right[name].append(opened.classes[decision.label] == file.parent.name)
    facts = {}
    for name, hits in right.items():
        share = float(np.mean(hits))
        facts[name] = [share, *wilson(share, len(hits))]
    return facts


def stage(work: Path, name: str, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a stage gave, now or in an earlier run."""
    path = work / f"{name}.json"
    if not path.is_file():
        began = time.process_time()
        facts = do()
        facts["seconds"] = round(time.process_time() - began)
        path.write_text(json.dumps(facts, indent=1))
        print(f"{name}: {facts['seconds']} s")
    return json.loads(path.read_text())


def between(values: list[float], factor: float = 1) -> str:
    mean, low, high = (factor * value for value in values)
    digits = 1 if factor > 1 else 2
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def write_page(work: Path) -> None:
    """The page, from the stages that are there."""
    lines = [
        "# Results: explainability",
        "",
        "Made by `scripts/explainability_results.py` on one CPU thread with small budgets: networks of 4 blocks of width 64 trained from scratch,",
        "no pretrained weights. They show what the systems do and how their maps compare, not what the papers' backbones reach. Brackets are 95 %",
        "intervals over pictures.",
        "",
        "## Fashion-MNIST's 900 labelled pictures (600 train, 150 validate, 150 test)",
        "",
        "Prompt-CAM and TCPA keep the plain ViT's blocks frozen; SAT trains from scratch. The epoch is chosen on the validation pictures.",
        f"Maps explain the true class of {EXPLAINED} test pictures, spread over the classes.",
        "The object is what is not black, about half of a picture, so a random map has about half of its energy there too.",
        "TCPA (R): tokens are told apart by role alone (every token takes all prompts of its pool).",
        "",
    ]
    for name in RUNS:
        path = work / f"{name}.json"
        if not path.is_file():
            continue
        facts = json.loads(path.read_text())
        accuracy = between([facts["accuracy"], *facts["accuracy_interval"]], 100)
        lines += [f"### {name}: accuracy {accuracy} %", ""]
        lines += [
            "| map | insertion ↑ | deletion ↓ | energy in object ↑ | pointing game ↑ | same with random weights |",
            "|---|---|---|---|---|---|",
        ]
        for method, measures in facts["methods"].items():
            cells = []
            for measure in ("insertion", "deletion", "energy_in_mask", "pointing_game", "random_weights_correlation"):
                cells.append(between(measures[measure]) if measure in measures else "")
            lines.append(f"| {method} | {' | '.join(cells)} |")
        for method, why in facts["refused"].items():
            lines += ["", f"{method} is not for this model: {why}."]
        lines.append("")
    for name, title in (
        ("fashion-chm", "Fashion-MNIST"),
        ("breast-chm", "BreastMNIST (546 train, 156 test; 73 % of the test are benign)"),
    ):
        path = work / f"{name}.json"
        if path.is_file():
            facts = json.loads(path.read_text())
            lines += [f"## CHM-Corr and kNN, {title}", "", "| | accuracy % |", "|---|---|"]
            lines += [f"| {method} | {between(facts[method], 100)} |" for method in ("CHM-Corr", "kNN")]
            lines += [
                "",
                "Features of the plain ViT trained on the same pictures; cells go to the nearest features (CHM's weights are not public here).",
                "N = 50, K = 20, ties to the first class.",
                "",
            ]
    wanted = [*RUNS, "fashion-chm", "breast-chm"]
    missing = [name for name in wanted if not (work / f"{name}.json").is_file()]
    if missing:
        lines += [
            "## Not run to the end yet",
            "",
            f"{', '.join(missing)}. The script goes on where it was stopped.",
            "",
        ]
    DOC.write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sprite", type=Path, help="fashion-mnist-sprite.png, 30 × 30 pictures")
    parser.add_argument("--breast", type=Path, help="breastmnist.npz")
    parser.add_argument("--work", type=Path, default=Path("explainability-results"))
    parser.add_argument("--write", action="store_true", help="write the page from what is there, and do no more")
    args = parser.parse_args()
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    if not args.write and args.sprite is not None:
        fashion = work / "fashion"
        if not (fashion / "test" / "boot" / "2-29.png").is_file():
            cut_sprite(args.sprite, fashion)
        plain = trained(fashion, work / "runs" / "plain ViT", **RUNS["plain ViT"])
        stage(work, "fashion-chm", lambda: compare_all(fashion, plain, work / "fashion-index"))
        for name, recipe in RUNS.items():
            start = str(plain) if recipe["method"] in ("prompt-cam", "tcpa") else ""
            model = trained(fashion, work / "runs" / name, start=start, **recipe)
            stage(work, name, lambda name=name, model=model: judge_run(fashion, model, work / "judged" / name))
    if not args.write and args.breast is not None:
        breast = work / "breast"
        if not (breast / "test").is_dir():
            unpack_breast(args.breast, breast)
        model = trained(breast, work / "runs" / "breast", method="plain", epochs=15)
        stage(work, "breast-chm", lambda: compare_all(breast, model, work / "breast-index"))
    write_page(work)


if __name__ == "__main__":
    main()
