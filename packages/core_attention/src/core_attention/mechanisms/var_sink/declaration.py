"""What is declared of var_sink; how its components are run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "var_sink",
    components_of("core_attention.mechanisms.var_sink.official", "VARProcessor"),
    paper=Paper(
        "See What You Are Told: Visual Attention Sink in Large Multimodal Models",
        2025,
        repository="seilk/VisAttnSink",
        licence="Apache-2.0",
        components=("TunedLlamaForCausalLM", "VARProcessor"),
    ),
    page="var_sink.md",
)
