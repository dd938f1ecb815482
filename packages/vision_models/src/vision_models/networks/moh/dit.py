"""Latent diffusion transformers with mixtures of heads (MoH-DiT: Jin et al., ICML 2025, on Peebles and Xie's DiT)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.moh.attention import MoHAttention
from vision_models.networks.moh.variants import DITS


class TimestepEmbedder(nn.Module):
    """Cosines and sines of the time at 128 frequencies, and an MLP."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.frequencies = frequencies

    def forward(self, t: Tensor) -> Tensor:
        """One vector per sample, (batch, dim); `t` may have fractions."""
        half = self.frequencies // 2
        powers = torch.arange(half, device=t.device, dtype=torch.float32) / half
        angle = t[:, None].float() * torch.exp(-math.log(10000) * powers)
        dtype = next(self.mlp.parameters()).dtype
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(dtype))


class LabelEmbedder(nn.Module):
    """One vector per class and, where classes are dropped in training, one for none: the last."""

    def __init__(self, num_classes: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), dim)
        self.num_classes, self.dropout = num_classes, dropout

    def forward(self, labels: Tensor) -> Tensor:
        """One vector per sample, (batch, dim)."""
        if self.training and self.dropout > 0:
            dropped = torch.rand(labels.shape, device=labels.device) < self.dropout
            labels = labels.masked_fill(dropped, self.num_classes)
        return self.embedding_table(labels)


class Mlp(nn.Module):
    """Linear, GELU (the tanh form), linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x (1 + scale) + shift``, the same for all tokens of a sample."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention and MLP, whose norms and branches time and class modulate (adaLN-zero); returns the balance loss too."""

    def __init__(self, dim: int, attention: nn.Module, *, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attn, self.mlp = attention, Mlp(dim, int(dim * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (batch, tokens, dim), and the balance loss of the attention."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, 1)
        y = self.attn(modulate(self.norm1(x), shift1, scale1))
        if isinstance(self.attn, MoHAttention):
            y, loss = y
        else:
            loss = x.new_zeros(())
        x = x + gate1[:, None] * y
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2)), loss


class FinalLayer(nn.Module):
    """A modulated norm and a linear layer to the pixels of each patch."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(dim, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(batch, tokens, pixels of a patch × channels)."""
        shift, scale = self.adaLN_modulation(condition).chunk(2, 1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class PatchEmbed(nn.Module):
    """One convolution."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class DiT(nn.Module):
    """Predicts the noise in a latent, and how its variance is to be interpolated, from the time and a class.

    Args:
        input_size: side of the latent.
        patch_size: side of a patch of it.
        in_channels: channels of the latent.
        hidden_size: channels of the tokens.
        depth: blocks.
        num_heads: heads, one number or one per block.
        shared: heads that every token uses, likewise; None: ordinary attention without mixtures.
        routed: heads that a token chooses among the others, likewise.
        head_dim: channels of a head; None: ``hidden_size / num_heads``.
        mlp_ratio: hidden width of the MLPs over the channels.
        class_dropout_prob: share of the classes dropped in training, which guidance needs.
        num_classes: classes.
        learn_sigma: predict the variance too: twice the channels.

    Raises:
        ValueError: lists that do not have one entry per block.
    """

    def __init__(
        self,
        *,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int | Sequence[int] = 16,
        shared: int | Sequence[int] | None = None,
        routed: int | Sequence[int] = 0,
        head_dim: int | None = None,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 1000,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.num_classes, self.learn_sigma = num_classes, learn_sigma
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.x_embedder = PatchEmbed(in_channels, hidden_size, patch_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size, class_dropout_prob)
        positions = grid_positions(input_size // patch_size, hidden_size)
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        heads = _per_block("num_heads", num_heads, depth)
        self.blocks = nn.ModuleList()
        for i in range(depth):
            if shared is None:
                if head_dim is not None and head_dim * heads[i] != hidden_size:
                    raise ValueError(
                        f"ordinary attention has heads of {hidden_size}/{heads[i]} channels, got head_dim {head_dim}"
                    )
                attention = Attention(hidden_size, num_heads=heads[i], qkv_bias=True)
            else:
                attention = MoHAttention(
                    hidden_size,
                    heads[i],
                    shared=_per_block("shared", shared, depth)[i],
                    routed=_per_block("routed", routed, depth)[i],
                    head_dim=head_dim,
                )
            self.blocks.append(Block(hidden_size, attention, mlp_ratio=mlp_ratio))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * self.out_channels)
        self.grad_checkpointing = False
        self._init()

    def _init(self) -> None:
        """As published: Xavier for linear layers, and zeros for all that modulates, so that blocks begin as identities."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if name.startswith("t_embedder.") and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            if "adaLN_modulation" in name or name.startswith("final_layer.") or name == "x_embedder.proj.bias":
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The prediction (batch, out channels, height, width).

        Args:
            x: noisy latents (batch, channels, height, width).
            t: times.
            y: classes; `num_classes` for none.
        """
        return self.forward_with_balance(x, t, y)[0]

    def forward_with_balance(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The prediction, and the balance loss of each layer that routes; training adds 0.01 times their mean.

        Raises:
            ValueError: latents of another size.
        """
        expected = (self.in_channels, self.input_size, self.input_size)
        if x.ndim != 4 or tuple(x.shape[1:]) != expected:
            raise ValueError(f"expected latents (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        tokens = self.x_embedder(x) + self.pos_embed
        condition = self.t_embedder(t) + self.y_embedder(y)
        losses = []
        for block in self.blocks:
            tokens, loss = block(tokens, condition)
            if isinstance(block.attn, MoHAttention) and block.attn.router.routed:
                losses.append(loss)
        return self._unpatchify(self.final_layer(tokens, condition)), losses

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float, guided: int = 3) -> Tensor:
        """Classifier-free guidance: ``ε = ε_none + s (ε_class − ε_none)``.

        Args:
            x: latents; the second half is not used: both halves see the first.
            t: times.
            y: classes in the first half, `num_classes` in the second.
            cfg_scale: s.
            guided: channels that are guided; the published models guide 3 of 4.
        """
        half = x[: len(x) // 2]
        out = self.forward(torch.cat([half, half]), t, y)
        noise, rest = out[:, :guided], out[:, guided:]
        of_class, of_none = noise.chunk(2)
        mixed = of_none + cfg_scale * (of_class - of_none)
        return torch.cat([torch.cat([mixed, mixed]), rest], 1)

    def _unpatchify(self, x: Tensor) -> Tensor:
        side, p = self.input_size // self.patch_size, self.patch_size
        x = x.unflatten(2, (p, p, self.out_channels)).unflatten(1, (side, side))
        return x.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], self.out_channels, side * p, side * p)


def create(name: str, **options: Any) -> DiT:
    """A published network with fresh weights, such as "moh_dit_xl2_90"; `options` replace its own.

    Raises:
        ValueError: no such network; names those that there are.
    """
    if name not in DITS:
        raise ValueError(f"there is no diffusion transformer {name!r}: one of {', '.join(DITS)}")
    return DiT(**dict(DITS[name].options) | options)


def grid_positions(side: int, dim: int) -> Tensor:
    """Fixed sines and cosines of the column (first half of the channels) and the row of each token, (1, tokens, dim)."""
    frequency = 1 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim / 4))
    place = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * frequency
    table = torch.cat([place.sin(), place.cos()], 1)  # (side, dim / 2)
    columns, rows = table[None].expand(side, -1, -1), table[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], -1).flatten(0, 1).float()[None]


def _per_block(name: str, value: int | Sequence[int], depth: int) -> Sequence[int]:
    if isinstance(value, int):
        return [value] * depth
    if len(value) != depth:
        raise ValueError(f"{name} has {len(value)} entries for {depth} blocks")
    return value
