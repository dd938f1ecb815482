"""Published weights that this domain can use, as data. Imports nothing heavy."""

from core_runtime.models import Published

PUBLISHED: tuple[Published, ...] = ()
NOTICE = (
    "No weights of OAT are published; 'gaze train' makes a model folder, "
    "'gaze models convert' makes one of a checkpoint that you trained with the published code."
)
