"""VMoBA inside diffusers' Wan 2.1 and 2.2: self-attention alone; cross-attention, with its image branch, stays as it is.

Source: Wu et al., "VMoBA: Mixture-of-Block Attention for Video Diffusion Models", 2025.

Attention processors are not told the latent grid. The transformer's rotary embedding sees the latents once per forward: a hook on it reads the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core_attention.mechanisms.vmoba.attention import choose_blocks, mixture_of_blocks, partition
from core_runtime.errors import UserError
from vision_models.video.chunks import Grid, auto_chunks
from vision_models.video.options import VMoBAOptions

_STACKS = ("blocks", "vace_blocks")  # the lists of a transformer whose layers attend over the whole grid
_STATE = "_vmoba_state"


@dataclass
class _State:
    """What the layers of one transformer share.

    Attributes:
        options: how blocks are chosen.
        grids: number of tokens → grid, as last seen.
        step: denoising steps seen of this run, from 0.
        last: timestep of the last forward.
        hooks: to be removed.
        observer: gets (layer, q, k, v, out, grid, chunk) of every layer while a report is made.
    """

    options: VMoBAOptions
    grids: dict[int, Grid] = field(default_factory=dict)
    step: int = -1
    last: float | None = None
    hooks: list[Any] = field(default_factory=list)
    observer: Any = None

    def see_latents(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        latents = arguments[0]
        patch: Any = module.patch_size
        grid = tuple(int(side) // int(size) for side, size in zip(latents.shape[2:], patch, strict=True))
        self.grids[grid[0] * grid[1] * grid[2]] = grid  # type: ignore[assignment]

    def see_timestep(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        timestep = named.get("timestep", arguments[1] if len(arguments) > 1 else None)
        if timestep is None:
            return
        now = float(torch.as_tensor(timestep).max())  # a conditioned first frame has the timestep 0
        # both halves of classifier-free guidance have one timestep; a greater one begins another run
        if self.last is None or now > self.last:
            self.step = 0
        elif now < self.last:
            self.step += 1
        self.last = now


class VMoBAProcessor:
    """A self-attention processor of diffusers that attends to blocks.

    Args:
        layer: its number, by which chunks are taken in turn.
        state: shared with the other layers.
        original: the processor that it replaces, called for full attention.
    """

    _attention_backend = None  # diffusers sets both on any processor
    _parallel_config = None

    def __init__(self, layer: int, state: _State, original: Any) -> None:
        self.layer, self.state, self.original = layer, state, original

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
        **named: Any,
    ) -> Tensor:
        state, options = self.state, self.state.options
        tokens = hidden_states.shape[1]
        dense = self.layer < options.dense_layers or tokens < options.full_below or state.step < options.dense_steps
        if dense and state.observer is None:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb, **named)
        if encoder_hidden_states is not None:
            raise ValueError("VMoBA is self-attention: this layer attends to other states")
        if attention_mask is not None:
            raise ValueError("VMoBA takes no attention mask")
        if tokens not in state.grids:
            raise ValueError(f"no grid is known for {tokens} tokens: call the whole transformer, not a layer of it")
        grid = state.grids[tokens]
        q, k, v = _projected(attn, hidden_states, rotary_emb)
        chunks = options.partitions() or auto_chunks(grid)
        chunk: Any = chunks[self.layer % len(chunks)]
        if isinstance(chunk, float) and chunk * grid[1] * grid[2] < 1:
            chunk = 1.0
        choice: Any = {"tau": None if options.topk else options.tau, "topk": options.topk, "group": options.group}
        choice["include_self"] = options.include_self
        if dense:
            out = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            out = mixture_of_blocks(q, k, v, grid=grid, chunk=chunk, **choice)
        if state.observer is not None:
            state.observer(self.layer, q, k, v, out, grid, chunk, choice, dense)
        out = out.transpose(1, 2).flatten(2).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](out))


def _projected(attn: Any, x: Tensor, rotary: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (batch, heads, tokens, dim), normed and turned by their place."""
    if getattr(attn, "fused_projections", False):
        q, k, v = attn.to_qkv(x).chunk(3, -1)
    else:
        q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
    q, k = attn.norm_q(q), attn.norm_k(k)
    q, k, v = (part.unflatten(2, (attn.heads, -1)) for part in (q, k, v))
    if rotary is not None:
        q, k = _turned(q, *rotary), _turned(k, *rotary)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of neighbouring pairs."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cosine[..., 0::2], sine[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)


def apply_vmoba(transformer: nn.Module, options: VMoBAOptions = VMoBAOptions()) -> nn.Module:
    """Makes the self-attention of a Wan transformer attend to blocks; no weight changes. Applied again, the options are replaced.

    Args:
        transformer: of diffusers: WanTransformer3DModel, or one built like it (VACE).
        options: how blocks are chosen.

    Returns:
        The same transformer. `remove_vmoba` undoes it.

    Raises:
        UserError: it is not Wan-like.
    """
    layers = list(_self_attentions(transformer))
    rope = getattr(transformer, "rope", None)
    if not layers or rope is None or not hasattr(rope, "patch_size"):
        raise UserError(
            f"{type(transformer).__name__} is not built like Wan: it has no blocks with self-attention attn1 over a latent grid",
            "expected diffusers' WanTransformer3DModel; of a pipeline give pipe.transformer",
        )
    remove_vmoba(transformer)
    state = _State(options)
    state.hooks.append(rope.register_forward_pre_hook(state.see_latents))
    if options.dense_steps:
        state.hooks.append(transformer.register_forward_pre_hook(state.see_timestep, with_kwargs=True))
    else:
        state.step = 0
    for number, attention in layers:
        attention.set_processor(VMoBAProcessor(number, state, attention.processor))
    setattr(transformer, _STATE, state)
    return transformer


def remove_vmoba(transformer: nn.Module) -> nn.Module:
    """Gives a transformer its own attention back."""
    state = getattr(transformer, _STATE, None)
    if state is None:
        return transformer
    for hook in state.hooks:
        hook.remove()
    for _, attention in _self_attentions(transformer):
        if isinstance(attention.processor, VMoBAProcessor):
            attention.set_processor(attention.processor.original)
    delattr(transformer, _STATE)
    return transformer


def _self_attentions(transformer: nn.Module) -> Iterator[tuple[int, Any]]:
    """(number of its layer, self-attention) of every layer."""
    for stack in _STACKS:
        for number, block in enumerate(getattr(transformer, stack, ())):
            attention = getattr(block, "attn1", None)
            fits = all(hasattr(attention, name) for name in ("to_q", "to_out", "norm_q", "heads", "set_processor"))
            if fits and not getattr(attention, "is_cross_attention", False):
                yield number, attention


@dataclass(frozen=True)
class LayerReport:
    """One layer in one forward.

    Attributes:
        layer: its number.
        chunk: of its blocks.
        blocks: how many.
        density: share of (query, block) pairs that are attended to.
        recall: share of full attention's weight that lies in them, over some queries.
        error: relative error of the output against full attention on the same inputs, over the same queries.
    """

    layer: int
    chunk: Any
    blocks: int
    density: float
    recall: float
    error: float


def attention_report(transformer: nn.Module, *arguments: Any, queries: int = 64, **named: Any) -> list[LayerReport]:
    """Runs a transformer once and says of every layer what its blocks keep of full attention.

    Args:
        transformer: with VMoBA applied.
        arguments, named: of its forward.
        queries: evenly spread ones whose full attention is computed.

    Raises:
        UserError: VMoBA is not applied to it.
    """
    state: _State | None = getattr(transformer, _STATE, None)
    if state is None:
        raise UserError("VMoBA is not applied to this transformer", "call apply_vmoba first")
    rows: list[LayerReport] = []

    def observe(
        layer: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor, grid: Grid, chunk: Any, choice: Any, dense: bool
    ) -> None:
        blocks = partition(grid, chunk)
        if dense or (choice["tau"] or 0) >= 1:
            rows.append(LayerReport(layer, chunk, blocks.blocks, 1.0, 1.0, 0.0))
            return
        chosen = blocks.inverse(choose_blocks(blocks.permute(q), blocks.permute(k), blocks, **choice))
        places = torch.arange(blocks.permute(q).shape[2], device=q.device).view(1, 1, -1, 1)
        owner = (blocks.inverse(places) // blocks.block).flatten()
        some = torch.linspace(0, q.shape[2] - 1, min(queries, q.shape[2]), device=q.device).long()
        scores = q[:, :, some].float() @ k.float().transpose(2, 3) * q.shape[-1] ** -0.5
        weights = scores.softmax(-1)
        recall = (weights * chosen[:, :, some][..., owner]).sum(-1).mean()
        full = weights @ v.float()
        error = (out[:, :, some].float() - full).norm() / full.norm().clamp(min=1e-12)
        density = chosen.float().mean()
        rows.append(LayerReport(layer, chunk, blocks.blocks, float(density), float(recall), float(error)))

    state.observer = observe
    try:
        with torch.inference_mode():
            transformer(*arguments, **named)
    finally:
        state.observer = None
    return rows
