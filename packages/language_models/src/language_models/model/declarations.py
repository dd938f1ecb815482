"""What is declared of each system; how its components are built, loaded and run stands in `official/`."""

from core_attention.systems import System, components_of

deconstructing = System(
    "deconstructing",
    components_of("language_models.model.official.deconstructing", "LanguageModel"),
)

dma = System(
    "dma",
    components_of("language_models.model.official.dma", "DogeForCausalLM"),
)

landmark = System(
    "landmark",
    components_of(
        "language_models.model.official.landmark",
        "GPTBase",
        "GPTBase_cached",
        "LlamaForCausalLM",
        "LlamaForCausalLM_generate",
    ),
)

titans = System(
    "titans",
    components_of("language_models.model.official.titans", "MemoryAsContextTransformer"),
)
