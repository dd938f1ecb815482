"""Lightning without its announcements: a person at the terminal sees our progress and our errors."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences Lightning's hardware listing, tips and advice on loaders while a `Trainer` is made and runs; our own warnings stay."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        for module in (r"lightning\.", r"lightning_utilities\.", r"torch\.utils\.data"):
            warnings.filterwarnings("ignore", module=module)
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)
