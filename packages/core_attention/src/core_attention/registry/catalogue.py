"""What a person can look up, price and time by name: the mechanisms of this package.

A mechanism registers with one line in `MECHANISMS`, and a small factory beside its code, named by import path so that a
listing imports nothing heavy::

    "davit": Mechanism("davit", "core_attention.mechanisms.davit.attention:example", "docs/mechanisms/davit.md"),
    "rala": Mechanism("rala", "core_attention.mechanisms.rala.attention:example", "docs/mechanisms/rala.md"),

    # at the end of core_attention/mechanisms/rala/attention.py
    def example(tokens: int) -> Example:
        side = max(1, round(tokens**0.5))
        layer = GateLinearAttentionNoSilu(64, 1)
        return Example(layer, (torch.randn(1, 64, side, side),), tokens=side * side, softmax=(64, 1))

`Example` (in `core_attention.measuring.bench`) holds the module with its published defaults, inputs for about that many tokens, and what it
is compared with: ``reference``, the readable definition on the same inputs, and ``softmax``, the (width, heads) of the softmax
attention layer that it stands in for. ``core-attention show NAME`` and ``core-attention bench NAME`` use nothing else, and
``tests/test_catalogue.py`` checks every entry.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Mechanism:
    """One entry: the paper's slug (None where it is no paper's), where its example is made, and its page."""

    slug: str | None
    example: str
    page: str

    def make(self, tokens: int) -> Any:
        """The mechanism's `core_attention.measuring.example.Example` at about `tokens` tokens; imports the mechanism."""
        module, _, factory = self.example.partition(":")
        return getattr(import_module(module), factory)(tokens)


MECHANISMS: dict[str, Mechanism] = {
    "balanced": Mechanism(
        "eurosat_bmta", "core_attention.mechanisms.eurosat_bmta.balanced:example", "docs/mechanisms/balanced.md"
    ),
    "biformer": Mechanism(
        "biformer", "core_attention.mechanisms.biformer.attention:example", "docs/mechanisms/biformer.md"
    ),
    "cbam": Mechanism(
        "eurosat_bmta", "core_attention.mechanisms.eurosat_bmta.cbam:example", "docs/mechanisms/feature_maps.md"
    ),
    "channel-attention": Mechanism(
        "msdual",
        "core_attention.mechanisms.msdual.dual:channel_example",
        "docs/mechanisms/position_channel_attention.md",
    ),
    "class-semantics": Mechanism(
        "csa_action",
        "core_attention.mechanisms.csa_action.class_semantics:example",
        "docs/mechanisms/class_semantics.md",
    ),
    "coordinate": Mechanism(
        "eurosat_bmta", "core_attention.mechanisms.eurosat_bmta.coordinate:example", "docs/mechanisms/feature_maps.md"
    ),
    "davit": Mechanism("davit", "core_attention.mechanisms.davit.attention:example", "docs/mechanisms/davit.md"),
    "deconstructing-approx": Mechanism(
        "deconstructing",
        "core_attention.mechanisms.deconstructing.attention:approximate_example",
        "docs/mechanisms/deconstructing.md",
    ),
    "deconstructing-nonapprox": Mechanism(
        "deconstructing",
        "core_attention.mechanisms.deconstructing.attention:nonapproximate_example",
        "docs/mechanisms/deconstructing.md",
    ),
    "dhvt-attention": Mechanism(
        "dhvt", "core_attention.mechanisms.dhvt.attention:attention_example", "docs/mechanisms/dhvt.md"
    ),
    "dhvt-feed-forward": Mechanism(
        "dhvt", "core_attention.mechanisms.dhvt.attention:feed_forward_example", "docs/mechanisms/dhvt.md"
    ),
    "dma": Mechanism("dma", "core_attention.mechanisms.dma.layer:example", "docs/mechanisms/dma.md"),
    "ela": Mechanism("ela", "core_attention.mechanisms.ela.attention:example", "docs/mechanisms/ela.md"),
    "landmark": Mechanism(
        "landmark", "core_attention.mechanisms.landmark.layer:example", "docs/mechanisms/landmark.md"
    ),
    "moba": Mechanism("vmoba", "core_attention.mechanisms.vmoba.moba:example", "docs/mechanisms/vmoba.md"),
    "mvpa": Mechanism("mvpformer", "core_attention.mechanisms.mvpformer.mvpa:example", "docs/mechanisms/mvpa.md"),
    "position-attention": Mechanism(
        "msdual",
        "core_attention.mechanisms.msdual.dual:position_example",
        "docs/mechanisms/position_channel_attention.md",
    ),
    "moh": Mechanism("moh", "core_attention.mechanisms.moh.attention:example", "docs/mechanisms/moh.md"),
    "rala": Mechanism("rala", "core_attention.mechanisms.rala.attention:example", "docs/mechanisms/rala.md"),
    "scale-aware": Mechanism(
        "featenhancer", "core_attention.mechanisms.featenhancer.scale_aware:example", "docs/mechanisms/scale_aware.md"
    ),
    "scatterbrain": Mechanism(
        "scatterbrain", "core_attention.mechanisms.scatterbrain.local:example", "docs/mechanisms/scatterbrain.md"
    ),
    "sentence-attention": Mechanism(
        "sentence_attention",
        "core_attention.mechanisms.sentence_attention.attention:example",
        "docs/mechanisms/sentence_attention.md",
    ),
    "sparsifiner": Mechanism(
        "sparsifiner", "core_attention.mechanisms.sparsifiner.attention:example", "docs/mechanisms/sparsifiner.md"
    ),
    "squeeze-excitation": Mechanism(
        "eurosat_bmta",
        "core_attention.mechanisms.eurosat_bmta.squeeze_excitation:example",
        "docs/mechanisms/feature_maps.md",
    ),
    "subspace-attention-layer": Mechanism(
        "dynsubspace",
        "core_attention.mechanisms.dynsubspace.attention_layer:example",
        "docs/mechanisms/feature_maps.md",
    ),
    "tcpa": Mechanism("tcpa", "core_attention.mechanisms.tcpa.attention:example", "docs/mechanisms/tcpa.md"),
    "titans-lmm": Mechanism(
        "titans", "core_attention.mechanisms.titans.layers:lmm_example", "docs/mechanisms/titans.md"
    ),
    "titans-mac": Mechanism(
        "titans", "core_attention.mechanisms.titans.layers:mac_example", "docs/mechanisms/titans.md"
    ),
    "titans-mag": Mechanism(
        "titans", "core_attention.mechanisms.titans.layers:mag_example", "docs/mechanisms/titans.md"
    ),
    "titans-mal": Mechanism(
        "titans", "core_attention.mechanisms.titans.layers:mal_example", "docs/mechanisms/titans.md"
    ),
    "ulsam": Mechanism("ulsam", "core_attention.mechanisms.ulsam.attention:example", "docs/mechanisms/ulsam.md"),
    "vmoba": Mechanism("vmoba", "core_attention.mechanisms.vmoba.attention:example", "docs/mechanisms/vmoba.md"),
}
