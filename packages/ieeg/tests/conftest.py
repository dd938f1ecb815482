import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest


class Called(NamedTuple):
    """A command that was called."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """What ``--json`` printed; status 0 is expected."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def records(self) -> list:
        """Lines of JSON; status 0 is expected."""
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


def call(*words) -> Called:
    """Calls ``ieeg`` in this process."""
    from core_runtime.cli import run
    from ieeg.cli import app

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        run(app, [str(word) for word in words])
    return Called(int(end.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def ieeg():
    """The command: ``ieeg("detect", path, "--model", model)``."""
    return call


def _shared(*parts: str) -> Path:
    """A folder of the shared material, which lives outside the repository."""
    asked = os.environ.get("CORE_ATTENTION_SHARED")
    places = [Path(asked)] if asked else [p / "shared" for p in Path(__file__).resolve().parents]
    for place in places:
        if place.joinpath(*parts).is_dir():
            return place.joinpath(*parts)
    pytest.skip(f"needs shared/{'/'.join(parts)} (found from CORE_ATTENTION_SHARED or beside the repository)")


@pytest.fixture(scope="session")
def data() -> Path:
    """The real recordings."""
    return _shared("data", "mvpformer")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Files that once gave a wrong answer."""
    return _shared("cases", "ieeg")


@pytest.fixture
def write_edf():
    """Writes signals {name: (values, rate[, unit])} as EDF+ and returns the path."""
    import edfio

    def write(path: Path, signals: dict, annotations=(), **options) -> Path:
        made = []
        for name, (values, rate, *unit) in signals.items():
            values = np.asarray(values, np.float64)
            low, high = float(values.min()), float(values.max())
            span = (low, high) if high > low else (low - 1, low + 1)
            made.append(
                edfio.EdfSignal(
                    values,
                    rate,
                    label=name,
                    physical_dimension=unit[0] if unit else "uV",
                    physical_range=span,
                )
            )
        notes = [edfio.EdfAnnotation(*a) for a in annotations]
        edfio.Edf(made, annotations=notes or None, **options).write(path)
        return path

    return write
