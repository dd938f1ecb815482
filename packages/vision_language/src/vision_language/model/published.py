"""Published weights that this domain can use, as data. Imports nothing heavy."""

from core_runtime.models import Published

_FOLDER = "diffusers' folder: 'hf download {source} --local-dir DIR' after asking for access where it is gated"
PUBLISHED: tuple[Published, ...] = (
    Published(name="llava-1.5-7b", holds="LLaVA-1.5, for answer and probe", licence="Llama 2 community", size="14 GB",
              source="llava-hf/llava-1.5-7b-hf", needs="a download of the whole repository; 16 GB of memory in float16"),
    Published(name="qwen2.5-vl-3b", holds="Qwen2.5-VL, for answer and probe", licence="Qwen research", size="7.5 GB",
              source="Qwen/Qwen2.5-VL-3B-Instruct", needs="a download of the whole repository"),
    Published(name="clip-l-336", holds="CLIP ViT-L/14 at 336, the base of FocalLens-CLIP", licence="MIT", size="1.7 GB",
              source="openai/clip-vit-large-patch14-336", needs="a download of the whole repository"),
    Published(name="flux-schnell", holds="FLUX.1-schnell, for RefAM", licence="Apache-2.0", size="34 GB",
              source="black-forest-labs/FLUX.1-schnell", gated=True, needs=_FOLDER),
    Published(name="sd3.5-medium", holds="Stable Diffusion 3.5 medium, for RefAM", licence="Stability community", size="17 GB",
              source="stabilityai/stable-diffusion-3.5-medium", gated=True, needs=_FOLDER),
    Published(name="mochi-1", holds="Mochi, for RefAM on videos", licence="Apache-2.0", size="45 GB",
              source="genmo/mochi-1-preview", needs=_FOLDER),
)  # fmt: skip
NOTICE = (
    "No trained weights of sentence attention or FocalLens are published; 'vision-language train' makes model folders. "
    "Licences and sizes are as their cards said; the card decides."
)
