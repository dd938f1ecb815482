"""``explainability recipes``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError


@dataclass(frozen=True)
class Recipes(Outcome):
    """Published recipes.

    Attributes:
        recipes: name → what it is.
        written: where one was written; None: they were only listed.
    """

    recipes: Mapping[str, str]
    written: Path | None = None

    def facts(self) -> dict[str, Any]:
        return {"recipes": dict(self.recipes), "written": self.written}

    def lines(self) -> Iterable[str]:
        if self.written is not None:
            yield f"Written: {self.written}"
            yield f"Next: explainability train FOLDER --config {self.written} --out run"
            return
        for name, words in self.recipes.items():
            yield f"{name:24} {words}"
        yield "'explainability recipes NAME' writes one to NAME.yaml"


def recipes(name: str | None = None, /, *, out: Path | None = None) -> Recipes:
    """Lists the papers' training recipes, or writes one as a file for 'train --config'.

    Example: explainability recipes sat-cub

    Args:
        name: of the recipe; default: all are listed.
        out: the file; default: NAME.yaml here.
    """
    from core_runtime.folders import write_text

    folder = resources.files("explainability").joinpath("recipes")
    texts = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".yaml"):
            texts[entry.name.removesuffix(".yaml")] = entry.read_text(encoding="utf-8")
    known = {each: texts[each].partition("\n")[0].lstrip("# ") for each in sorted(texts)}
    if name is None:
        return Recipes(known)
    if name not in texts:
        raise UserError(f"no recipe {name!r}", f"recipes are {', '.join(known)}")
    path = out or Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path} is already there", "--out names another file")
    write_text(path, texts[name])
    return Recipes(known, path)
