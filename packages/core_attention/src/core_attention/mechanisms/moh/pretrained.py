"""Mixture of heads put into pretrained models (see `core_attention.pretrained.convert`).

::

    convert_model(model, "moh", shared=16, routed=8)  # 75 % of 32 heads; LLaMA: no new weight
    loss = task_loss + 0.01 * balance_loss(model)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from core_attention.masks import Mask
from core_attention.mechanisms.moh.attention import GateScale, HeadRouter, Routing, gated_heads
from core_attention.mechanisms.moh.llama import norm_routing
from core_attention.parts.placing import Device, placed
from core_attention.pretrained.convert import Converted, Layer, Replacement
from core_attention.pretrained.padding import cut_keys, visible


class MixtureOfHeads(nn.Module):
    """What mixture of heads adds to a layer: a router, or with routing by norm nothing.

    Attributes:
        x: the layer's input, of which the learned router makes the gates; held during the call only.
        balance_loss: of the last call.
    """

    @placed
    def __init__(
        self,
        layer: Layer,
        shared: int,
        routed: int,
        router: str,
        straight_through: bool,
        gate_scale: GateScale,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shared, self.routed, self.straight_through = shared, routed, straight_through
        self.router = None
        if router == "learned":
            width = _input_width(layer.module)
            self.router = HeadRouter(width, layer.num_heads, shared=shared, routed=routed, gate_scale=gate_scale)
            for name, linear in self.router.named_children():
                # gates of kinds and of shared heads start at 1; the choice starts at random
                std = 0.02 if name == "wg" else 0.0
                nn.init.normal_(linear.weight, std=std)  # type: ignore[arg-type]
        self.is_causal = bool(getattr(layer.module, "is_causal", False))
        self.x: Tensor | None = None
        self.balance_loss: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a copy has not been called: what the last call left belongs to its graph, which cannot be copied
        return {**self.__dict__, "x": None, "balance_loss": None}

    def route(self, q: Tensor) -> Routing:
        """The routing of the tokens whose queries these are. A rotation leaves the norm of a query as it was."""
        if self.router is None:
            through = self.straight_through and self.training
            return norm_routing(q, shared=self.shared, routed=self.routed, straight_through=through)
        if self.x is None:
            raise ValueError(
                "the learned router needs the layer's input, and the layer was not called through its forward"
            )
        x, self.x = self.x, None
        return self.router(x)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, mask: Mask | None = None) -> Tensor:
        """Gated head outputs between the projections of the layer.

        Returns:
            the gated outputs, (batch, heads, tokens, width).
        """
        visibility = visible("moh", q, k, mask, self)
        k, v, key_mask = cut_keys(visibility, q, k, v)
        routing = self.route(q)
        self.balance_loss = routing.balance_loss()
        causal = visibility.causal and q.shape[2] > 1  # a single query is the last one and sees every key
        return gated_heads(q, k, v, routing, mask=key_mask, causal=causal, scale=scale)


def _input_width(attention: nn.Module) -> int:
    """Channels that an attention layer takes: timm's joint projection, or transformers' own one of queries."""
    projection = getattr(attention, "qkv", None)
    if projection is None:
        projection = attention.q_proj
    return int(projection.in_features)  # type: ignore[union-attr,arg-type]


class _Routed(Converted):
    """timm's layer, whose input the router sees."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.mechanism.x = x
        return super().forward(x, attn_mask, is_causal)


def for_layer(
    layer: Layer,
    *,
    shared: int | None = None,
    routed: int | None = None,
    router: Literal["norm", "learned"] | None = None,
    straight_through: bool = True,
    gate_scale: GateScale = "code",
) -> nn.Module | Replacement:
    """Makes the "moh" of one layer.

    Args:
        shared: heads that every token uses: the first ones; defaults to half of them.
        routed: heads that a token chooses among the others; defaults to a quarter of all.
        router: ``"norm"`` (gates 0 and 1, no new weight; the default in language models, as in MoH-LLaMA3) or ``"learned"`` (the default elsewhere).
        straight_through: in training, gates by norm carry the gradient of the soft scores.
        gate_scale: of the learned router.
    """
    shared = layer.num_heads // 2 if shared is None else shared
    routed = int(0.25 * layer.num_heads) if routed is None else routed
    if not 0 <= shared <= layer.num_heads or not 0 <= routed <= layer.num_heads - shared:
        raise ValueError(
            f"{layer.name} has {layer.num_heads} heads: {shared} cannot be shared and {routed} of the other "
            f"{layer.num_heads - shared} be chosen"
        )
    if router is None:
        language_model = layer.kind == "transformers" and getattr(layer.module, "is_causal", False)
        router = "norm" if language_model else "learned"
    if router not in ("norm", "learned"):
        raise ValueError(f"router is 'norm' or 'learned', got {router!r}")
    core = MixtureOfHeads(layer, shared, routed, router, straight_through, gate_scale)
    if core.router is None:
        return core
    if layer.kind == "timm":
        return Replacement(_Routed(layer, core))
    layer.module.register_forward_pre_hook(_keep_input, with_kwargs=True)
    return core


def _keep_input(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Shows a layer's input to its router. It asks the layer for the router: copies of a model share this function."""
    core = getattr(module, "mechanism", None)
    if isinstance(core, MixtureOfHeads) and core.router is not None:
        core.x = args[0] if args else options["hidden_states"]


def balance_loss(model: nn.Module) -> Tensor:
    """The mean balance loss of a converted model's last forward, over the layers that route; 0 if none does.

    transformers' and timm's layers have no place to return it; each keeps its own until its next call.

    Returns:
        a scalar.

    Raises:
        ValueError: the model has routed layers and has not been called yet.
    """
    cores = [m for m in model.modules() if isinstance(m, MixtureOfHeads) and m.routed]
    losses = [core.balance_loss for core in cores if core.balance_loss is not None]
    if len(losses) != len(cores):
        raise ValueError(f"{len(cores) - len(losses)} of {len(cores)} routed layers have not been called yet")
    if not losses:
        return torch.zeros(())
    return torch.stack(losses).mean()
