"""Masks of cells as a user gives them."""

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core_runtime.errors import UserError
from core_runtime.pictures import open_picture
from explainability.chm_corr.decision import CELLS
from explainability.chm_corr.transfer import GRID

ADVICE = "a mask is 7 rows of 7 digits 0 and 1 (0000000/0011100/…), a text file of them, or a picture whose bright cells count"


def parse_mask(text: str) -> Float[Tensor, "7 7"]:
    """A mask from 49 digits, rows separated by slashes, commas, brackets, blanks or nothing.

    Raises:
        UserError: other than 49 digits of 0 and 1.
    """
    digits = re.sub(r"[\s/,;\[\]]", "", text)
    if len(digits) != CELLS or set(digits) - {"0", "1"}:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise UserError(f"mask {shown!r}: needs {CELLS} digits 0 and 1, got {len(digits)} characters", ADVICE)
    return torch.tensor([float(digit) for digit in digits]).view(GRID, GRID)


def read_mask(given: str) -> Float[Tensor, "7 7"]:
    """The mask of ``--mask``: digits, or a file.

    Raises:
        UserError: neither.
    """
    path = Path(given)
    if ("/" not in given.strip("/") and not path.suffix) or set(given) <= set("01/ ,;"):
        return parse_mask(given)
    if not path.is_file():
        raise UserError(f"--mask {given}: no such file, nor {CELLS} digits", ADVICE)
    if path.suffix.lower() in (".txt", ".json", ".csv"):
        try:
            return parse_mask(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{path} is not a text file", ADVICE) from None
    grey = np.asarray(open_picture(path).image.convert("L"), np.float32) / 255
    cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(grey)[None, None], GRID)[0, 0]
    return (cells >= 0.5).float()
