"""What train, evaluate, predict and models print at their end: facts for programs, lines for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core_runtime.bulk import Outcome, summary
from core_runtime.cli import Result, note
from core_runtime.errors import UserError
from pathology_mil.commands.evaluate import Evaluation
from pathology_mil.metrics import Metrics, describe
from pathology_mil.model.folder import load
from pathology_mil.commands.models import check, convert, get, listed
from pathology_mil.model.inference import predict
from pathology_mil.model.published import NO_CLASSIFIERS
from pathology_mil.training.recipe import Recipe
from pathology_mil.commands.train import Trained
from pathology_mil.cohort.splits import read_splits
from pathology_mil.commands.sweep import SweepRow


def recipe_of(**options: Any) -> Recipe:
    """A recipe; options that do not fit are a person's mistake."""
    try:
        return Recipe(**options)
    except ValueError as error:
        raise UserError(str(error)) from None


def chosen(model: str | None) -> Path:
    """The model folder asked for.

    Raises:
        UserError: none was; says which exist and how to get one.
    """
    if model is None:
        near = sorted(str(p.parent) for p in Path().glob("*/model/config.json"))
        there = f"here are: {', '.join(near)}" if near else NO_CLASSIFIERS
        raise UserError("no --model was given", there)
    return Path(model)


def test_part(splits: Path | None) -> Sequence[str] | None:
    """The test slides of a split file; None for all slides."""
    if splits is None:
        return None
    found = read_splits(splits)
    if len(found) != 1 or not found[0].test:
        raise UserError(f"{splits}: not one split with test slides", "name the file of one fold (splits_0.csv)")
    return found[0].test


def _about(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['slides']} slides, {facts['tiles']:,} tiles (median {facts['tiles_per_slide']:.0f} a slide), "
        f"encoder {facts['encoder']} ({facts['feature_width']} wide), magnification {facts['magnification']}"
    )


def _print_metrics(metrics: Metrics) -> None:
    for name, value, interval in describe(metrics):
        print(f"  {name:30} {value:.3f}" + (f"   95 % interval {interval}" if interval else ""))


def _skipped(skipped: Mapping[str, str]) -> int:
    return summary(Outcome(slide, why) for slide, why in skipped.items())


def trained(made: Trained) -> Result:
    code = _skipped(made.skipped)

    def show() -> None:
        print(_about(made.facts))
        for i, fold in enumerate(made.folds):
            print(f"Fold {i}, epoch {fold.epoch} kept" if len(made.folds) > 1 else f"Epoch {fold.epoch} kept")
            judged = fold.test or fold.validation
            if judged is not None:
                print(f"{'Test' if fold.test else 'Validation'} slides: {judged.slides}")
                _print_metrics(judged)
        print(f"Model folder: {made.model}")
        print(f"Next: pathology-mil predict FEATURES --model {made.model}")

    return Result(made.plain(), show, code)


def numbers(text: str) -> list[float]:
    """``'0,0.3,0.6'`` as numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is no list of numbers", "write them as 0,0.3,0.6") from None


def swept(rows: Sequence[SweepRow], out: Path) -> Result:
    def show() -> None:
        print("share masked   runs   macro F1          AUROC")
        for r in rows:
            cells = [f"{r.mean[m]:.3f} ± {r.deviation[m]:.3f}" for m in ("f1_macro", "auroc")]
            print(f"{r.mask_drop:<14g} {r.runs:<6} {'     '.join(cells)}")
        print(f"Table: {out / 'sweep.csv'}")

    return Result({"rows": [vars(r) for r in rows], "table": str(out / "sweep.csv")}, show)


def evaluated(made: Evaluation) -> Result:
    code = _skipped(made.skipped)

    def show() -> None:
        print(_about(made.facts))
        _print_metrics(made.metrics)
        print(f"Slide by slide: {made.table}")

    return Result(made.plain(), show, code)


def predict_path(path: Path, model: Path, out: Path, *, device: str, overwrite: bool, **preparation: Any) -> Result:
    """Predicts from features, or from slides by way of tiles and features in ``OUT/slides``."""
    from pathology_mil.features.preparing import holds_slides, prepare

    loaded, left_out = load(model, device=device), []
    if holds_slides(path):
        path, left_out = prepare(path, loaded, out / "slides", device=device, **preparation)
    made, outcomes = predict(loaded, path, out, device=device, overwrite=overwrite)
    return predicted(made, [*outcomes, *left_out], out)


def predicted(made: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome], out: Path) -> Result:
    code = summary(outcomes)

    def show() -> None:
        for p in made:
            said = ", ".join(f"{c} {v:.3f}" for c, v in p["probabilities"].items())
            print(
                f"{p['slide_id']}: {p['label']} ({said}); {p['tiles']:,} tiles, top 10 hold {p['top10_attention']:.0%} of the attention"
            )
        for warning in sorted({p["warning"] for p in made if "warning" in p}):
            note.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
        print(f"Table: {out / 'predictions.csv'}")

    return Result({"predictions": list(made), "table": str(out / "predictions.csv")}, show, code)


def about_models(action: str, what: str | None, out: Path, classes: list[str] | None) -> Result:
    if action == "list":
        facts = listed()
        return Result(facts, lambda: _show_list(facts))
    if what is None:
        wanted = {"get": "the name of an encoder", "convert": "a checkpoint file", "check": "a model folder"}[action]
        raise UserError(f"'models {action}' needs {wanted}", "'pathology-mil models' lists what is published")
    if action == "get":
        facts = get(what, out)
        return Result(facts, lambda: print(f"{facts['file']} ({facts['licence']})\nUse: pathology-mil {facts['use']}"))
    if action == "convert":
        facts = convert(Path(what), out, classes=classes)
        return Result(
            facts, lambda: print(f"{facts['component']}, {facts['n_class']} classes. Model folder: {facts['model']}")
        )
    facts = check(what)
    return Result(facts, lambda: print("\n".join(f"{key}: {value}" for key, value in facts.items())))


def _show_list(facts: Mapping[str, Any]) -> None:
    for m in facts["models"]:
        gate = ", gated" if m["gated"] else ""
        width = f"{m['feature_width']} wide, " if m["feature_width"] else ""
        print(
            f"{m['name']:15} {width}tiles {m['tiles']}, {m['size']}, {m['licence']}{gate}\n{'':15} needs {m['needs']}"
        )
    print(facts["classifiers"])
