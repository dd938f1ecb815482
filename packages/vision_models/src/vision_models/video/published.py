"""Published weights of Wan models, as data. Imports nothing heavy."""

from core_runtime.models import Published


def _wan(name: str, holds: str, size: str, repository: str) -> Published:
    return Published(
        name=name,
        holds=holds,
        licence="Apache-2.0",
        size=size,
        source=repository,
        needs="the folder, by hand: huggingface-cli download " + repository,
        use="vision-models video profile '{file}' --size 832x480 --frames 81",
    )


PUBLISHED = (
    _wan("wan2.1-t2v-1.3b", "text to video, the paper's base model", "2.9 GB", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    _wan("wan2.1-t2v-14b", "text to video", "57 GB", "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    _wan("wan2.1-i2v-14b-480p", "image to video", "66 GB", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
    _wan("wan2.2-ti2v-5b", "text and image to video", "20 GB", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
)
ADVICE = (
    "train a small one with 'vision-models video train CLIPS --out run', or give a folder saved by diffusers "
    "('vision-models video models'). VMoBA published no weights and needs none of its own."
)
