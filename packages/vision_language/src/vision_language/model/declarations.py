"""What is declared of each system; how its components are built, loaded and run stands in `official/`."""

from core_attention.systems import Paper, System, components_of

focallens = System(
    "focallens",
    components_of("vision_language.model.official.focallens", "FocalLensCLIP", "FocalLensMLLM", "contrastive_loss"),
    paper=Paper(
        "FocalLens: Instruction Tuning Enables Zero-Shot Conditional Image Representations",
        2025,
        components=("FocalLensCLIP", "FocalLensMLLM", "contrastive_loss"),
    ),
    page="focallens.md",
)

refam = System(
    "refam",
    components_of(
        "vision_language.model.official.refam",
        "FluxTransformer2DModel",
        "SD3Transformer2DModel",
        "MochiTransformer3DModel",
    ),
)

sentence_attention = System(
    "sentence_attention",
    components_of("vision_language.model.official.sentence_attention", "Model"),
)

var_sink = System(
    "var_sink",
    components_of("vision_language.model.official.var_sink", "TunedLlamaForCausalLM"),
)
