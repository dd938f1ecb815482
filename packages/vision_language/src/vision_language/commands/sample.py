"""``vision-language sample``."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.options import AtLeast, Overwrite, Seed


@dataclass(frozen=True)
class Sampled(Outcome):
    """Where the samples are."""

    folder: Path
    grounding: Path
    questions: Path
    instructions: Path
    scenes: int
    sentences: int

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        yield f"{self.scenes} scenes with {self.sentences} sentences and masks: {self.grounding}"
        yield f"Questions as POPE asks them: {self.questions}; single shapes with instructions: {self.instructions}"
        yield f"Next: vision-language train grounding '{self.grounding}' --out run"


def sample(
    out: Path, /, *, scenes: Annotated[int, AtLeast(1)] = 60, seed: Seed = 0, overwrite: Overwrite = False
) -> Sampled:
    """Draws scenes of coloured shapes with sentences, masks, questions and instructions.

    Example: vision-language sample data

    Args:
        out: folder for the pictures and files.
        scenes: how many.
    """
    from vision_language.samples import make_samples

    return Sampled(**make_samples(out, scenes=scenes, seed=seed, overwrite=overwrite).__dict__)
