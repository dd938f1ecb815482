"""Published weights that this domain can use, as data. Imports nothing heavy."""

from core_runtime.models import Published

PUBLISHED: tuple[Published, ...] = ()
NOTICE = (
    "Models to explain come by name: timm:NAME, torchvision:NAME, hf:NAME, each under its own licence. "
    "Checkpoints of Prompt-CAM and SAT are on their authors' drives; 'explainability models convert' makes model folders of them. "
    "'explainability train' makes one of your own pictures."
)
