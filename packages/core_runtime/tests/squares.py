"""The work of test_bulk.py, in a module that a spawned worker process can import."""

import os
import signal
import time

from core_runtime.bulk import Item, Skipped
from core_runtime.errors import UserError
from core_runtime.folders import writing


def square(item: Item):
    if item.source == "user":
        raise UserError("cannot read it", "give another")
    if item.source == "bug":
        raise KeyError("x")
    if item.source == "empty":
        raise Skipped("no tissue", "blank glass")
    if item.source == "die":
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    with writing(item.output) as path:
        path.write_text(str(item.source**2))
    return {"value": item.source**2}
