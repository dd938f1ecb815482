"""Published weights that this domain can use, as data. Imports nothing heavy."""

from dataclasses import dataclass

from core_runtime.models import Published


@dataclass(frozen=True, kw_only=True)
class PublishedPointer(Published):
    """A published model.

    Attributes:
        memory: of the weights alone, by precision.
    """

    memory: str


_NEEDS = "network for 'models get'; the memory named, and as much again while it loads"
_USE = "gui-grounding models convert {file} --system-message MESSAGE.txt --out model"
_FILES = ("config.json",)


def _pointer(name: str, source: str, base: str, licence: str, size: str, memory: str) -> PublishedPointer:
    return PublishedPointer(
        name=name,
        holds=f"{base} with a pointer head; memory {memory}",
        licence=licence,
        size=size,
        source=source,
        files=_FILES,
        needs=_NEEDS,
        use=_USE,
        memory=memory,
    )


PUBLISHED: tuple[PublishedPointer, ...] = (
    _pointer("v2p-7b", "inclusionAI/V2P-7B", "Qwen2.5-VL-7B", "see its card", "about 17 GB", "17 GB bf16, 34 GB float32"),
    _pointer("gui-actor-7b", "microsoft/GUI-Actor-7B-Qwen2.5-VL", "Qwen2.5-VL-7B", "MIT (its card decides)", "about 17 GB", "17 GB bf16, 34 GB float32"),
    _pointer("gui-actor-3b", "microsoft/GUI-Actor-3B-Qwen2.5-VL", "Qwen2.5-VL-3B", "MIT (its card decides)", "about 8 GB", "8 GB bf16, 15 GB float32"),
    _pointer("gui-actor-7b-qwen2", "microsoft/GUI-Actor-7B-Qwen2-VL", "Qwen2-VL-7B", "MIT (its card decides)", "about 17 GB", "17 GB bf16, 34 GB float32"),
    _pointer("gui-actor-2b-qwen2", "microsoft/GUI-Actor-2B-Qwen2-VL", "Qwen2-VL-2B", "MIT (its card decides)", "about 4.5 GB", "4.5 GB bf16, 9 GB float32"),
)  # fmt: skip
NOTICE = (
    "Sizes follow from the published parameter counts. The published system messages stand in the authors' source: give them with "
    "--system-message. 'gui-grounding train' makes a model folder of your own."
)
