"""Published weights that this domain can use, as data. Imports nothing heavy."""

from core_runtime.models import Published


def _doge(size: str, download: str) -> Published:
    return Published(
        name=f"doge-{size.lower()}",
        holds=f"Doge-{size}, dynamic mask attention, tied embeddings",
        licence="Apache-2.0",
        size=download,
        source=f"SmallDoge/Doge-{size}",
        files=("model.safetensors",),
        use="language-models models convert FOLDER --out model, with its config.json and tokenizer.json beside it",
    )


PUBLISHED: tuple[Published, ...] = (
    _doge("20M", "about 52 MB"),
    _doge("60M", "about 220 MB"),
    _doge("160M", "about 610 MB"),
    _doge("320M", "about 1.3 GB"),
    Published(
        name="landmark-llama-7b",
        holds="the difference of a landmark LLaMA-7B to LLaMA-7B",
        licence="Apache-2.0; LLaMA's own licence for the base",
        size="about 13 GB",
        source="epfml/landmark-attention-llama7b-wdiff",
        needs="network, and LLaMA-7B's weights: 'models recover RAW DIFFERENCE'",
    ),
    Published(
        name="moh-llama3-8b",
        holds="MoH-LLaMA3-8B, heads routed by their norm",
        licence="Llama 3 Community License",
        size="about 16 GB",
        source="Chat-UniVi/MoH-LLaMA3-8B",
        needs="network, and 32 GB of memory",
    ),
)
NOTICE = "'language-models train' makes a model folder; of Titans, Scatterbrain and the deconstructed models no weights are published."
