"""What `attention-suite` knows of this domain; imports nothing heavy."""

from core_runtime.domains import Domain

domain = Domain(
    name="language-models",
    package="language_models",
    question="How does this text go on? (long-context mechanisms as language models, and one arena where all meet)",
    claim="language_models.texts.formats:claim",
    kinds="text (.txt, JSON lines, .gz), token ids (.npy, .bin)",
    needs={
        "transformers": "models under AutoModelForCausalLM",
        "tokenizers": "tokenizer.json files",
        "lightning": "training",
        "matplotlib": "pictures",
    },
    extras={"zstandard": "zstd", "datasets": "hub", "lm_eval": "harness"},
)
