import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The real recordings, which live outside the repository."""
    asked = os.environ.get("CORE_ATTENTION_SHARED")
    places = [Path(asked)] if asked else [p / "shared" for p in Path(__file__).resolve().parents]
    for place in places:
        if (place / "data" / "mvpformer").is_dir():
            return place / "data" / "mvpformer"
    pytest.skip("needs shared/data/mvpformer (found from CORE_ATTENTION_SHARED or beside the repository)")


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
