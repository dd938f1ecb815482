"""What the suite knows of this domain; imports nothing heavy."""

from core_runtime.domains import Check, Domain, check_modules, lazily
from language_models.texts.formats import claim


def doctor() -> list[Check]:
    return check_modules(
        {
            "transformers": "models under AutoModelForCausalLM",
            "tokenizers": "tokenizer.json files",
            "lightning": "training",
            "matplotlib": "pictures",
        },
        {"zstandard": "zstd", "datasets": "hub", "lm_eval": "harness"},
    )


domain = Domain(
    name="language-models",
    question="How does this text go on? (long-context mechanisms as language models, and one arena where all meet)",
    recognises=claim,
    glance=lazily("language_models.commands.inspect:glance"),
    demo=lazily("language_models.commands.demo:demo"),
    doctor=doctor,
    app="language_models.cli:app",
    kinds="text (.txt, JSON lines, .gz), token ids (.npy, .bin)",
)
