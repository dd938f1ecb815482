"""What the verbs print at their end, and the small decisions before they begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_runtime.cli import note
from core_runtime.errors import UserError
from remote_sensing.landuse.published import NO_CLASSIFIERS
from remote_sensing.landuse.recipes import CLASSES, Recipe, recipe_of

if TYPE_CHECKING:
    from remote_sensing.landuse.evaluation import Measured
    from remote_sensing.landuse.inspection import Findings
    from remote_sensing.landuse.predict import Predicted
    from remote_sensing.landuse.training import Trained


def chosen(model: str | None) -> Path:
    """The model folder asked for.

    Raises:
        UserError: none was; says which exist and how to get one.
    """
    if model is None:
        near = sorted(str(p.parent) for p in Path().glob("*/model/config.json"))
        raise UserError("no --model was given", f"here are: {', '.join(near)}" if near else NO_CLASSIFIERS)
    return Path(model)


def numbers(text: str | None) -> tuple[int, ...] | None:
    """``'3,3,3,2'`` as numbers."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{text!r} is no list of whole numbers", "write them as 3,3,3,2") from None


def recipe_for(network: str, data: Path, kind: str, **changed: Any) -> Recipe:
    """The network's recipe; without a wish, tiles of other classes than EuroSAT's take the effective class weights."""
    if changed.get("class_weights") is None:
        from remote_sensing.landuse.layouts import find_tiles

        changed["class_weights"] = "paper" if find_tiles(data, kind).classes == CLASSES else "effective"
    return recipe_of(network, **changed)


def threads(workers: int) -> None:
    if workers:
        import torch

        torch.set_num_threads(workers)


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        note.print(f"Warning: {line}", style="yellow", markup=False, soft_wrap=True)


def inspected(found: Findings) -> None:
    print(f"{found.kind}: {found.summary}")
    for key, value in found.facts.items():
        print(f"  {key}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")
    warn(found.warnings)
    for command in found.next_commands:
        print(f"Next: {command}")


def trained(made: Trained) -> None:
    facts = made.facts
    split = facts["split"]
    print(
        f"{facts['tiles']} tiles ({facts['layout']}); split {split['name']}: {split['train']} train, {split['val']} validate, {split['test']} test"
    )
    print(
        f"{facts['network']}, {facts['parameters']:,} parameters; epoch {made.epoch} of {facts['epochs']} kept (validation {facts['val_accuracy']:.1%})"
    )
    _measures(facts["test"])
    print(f"Model folder: {made.model}")
    print(f"Next: remote-sensing landuse predict SCENE.tif --model {made.model}")


def _measures(m: dict[str, Any]) -> None:
    print(f"Test tiles: {m['tiles']}")
    for name, key in (
        ("accuracy", "accuracy"),
        ("Cohen's kappa", "kappa"),
        ("Matthews correlation", "mcc"),
        ("macro F1", "f1"),
        ("ECE", "ece"),
    ):
        value = m[key]
        print(f"  {name:22} {'–' if value is None else f'{value:.4f}'}")
    gap = m["confidence_gap"]
    print(f"  {'confidence gap':22} {'–' if gap is None else f'{gap:.2f} points'}")


def evaluated(measured: Measured, out: Path) -> None:
    _measures(measured.plain())
    for name, value in measured.recall.items():
        print(f"    {name:22} {value:.3f} of its tiles found")
    for true, predicted, count in measured.pairs:
        print(f"  {true} taken for {predicted}: {count}")
    print(f"Pictures: {out / 'confusion.png'}, {out / 'calibration.png'}; tile by tile: {out / 'predictions.csv'}")


def predicted(made: Predicted) -> None:
    for tile in made.tiles[:20]:
        print(f"{tile.file}: {tile.label} ({tile.confidence:.3f})")
    if len(made.tiles) > 20:
        print(f"… and {len(made.tiles) - 20} more")
    for scene in made.scenes:
        shares = sorted(scene.shares.items(), key=lambda item: -item[1])
        print(
            f"{scene.scene}: "
            + ", ".join(f"{c} {s:.0%}" for c, s in shares[:6])
            + f"; cells of {scene.cell:g} map units"
        )
        warn(scene.warnings)
        for name, file in scene.files.items():
            print(f"  {name}: {file}")
    for name, file in made.files.items():
        print(f"  {name}: {file}")


def about_models(
    action: str, what: str | None, out: Path, classes: Sequence[str] | None
) -> tuple[dict[str, Any], Callable[[], None]]:
    """What `models` answers, and how it is printed."""
    from remote_sensing.landuse import models

    if action == "list":
        facts = models.listed()
        return facts, lambda: _listed(facts)
    if what is None:
        wanted = {"get": "a name", "convert": "a state dict", "check": "a model folder"}[action]
        raise UserError(f"'models {action}' needs {wanted}", "'remote-sensing landuse models' lists what is published")
    if action == "get":
        facts = models.get(what, out)
        return facts, lambda: print(f"{facts['file']} ({facts['licence']})\nUse: {facts['use']}")
    facts = models.convert(Path(what), out, classes=classes) if action == "convert" else models.check(what)
    return facts, lambda: print("\n".join(f"{k}: {v}" for k, v in facts.items()))


def _listed(facts: dict[str, Any]) -> None:
    for m in facts["models"]:
        print(f"{m['name']:20} {m['size']}, {m['licence']}\n{'':20} needs {m['needs']}")
    print(facts["classifiers"])
