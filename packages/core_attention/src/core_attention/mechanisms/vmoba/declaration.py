"""What is declared of vmoba; how its components are built, loaded and run stands in `official`."""

from core_attention.systems import Paper, System, components_of

system = System(
    "vmoba",
    components_of("core_attention.mechanisms.vmoba.official", "vmoba", "moba_attn_varlen"),
    paper=Paper(
        "VMoBA: Mixture-of-Block Attention for Video Diffusion Models",
        2026,
        repository="KwaiVGI/VMoBA",
        licence="none",
        components=(
            "moba_attn_varlen",
            "vmoba",
        ),
    ),
    examples={
        "moba": "core_attention.mechanisms.vmoba.moba:example",
        "vmoba": "core_attention.mechanisms.vmoba.attention:example",
    },
    aliases={
        "MixtureOfBlocks": "vmoba",
    },
    page="vmoba.md",
    attentions={
        "moba": "core_attention.mechanisms.vmoba.pretrained:moba",
        "vmoba": "core_attention.mechanisms.vmoba.pretrained:vmoba",
    },
)
