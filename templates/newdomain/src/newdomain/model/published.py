"""Published weights that this domain can use, as data. Imports nothing heavy."""

from core_runtime.models import Published

PUBLISHED: tuple[Published, ...] = ()
NOTICE = "No weights are published for this domain yet; 'newdomain train' makes a model folder."
