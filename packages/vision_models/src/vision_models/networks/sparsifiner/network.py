"""Sparsifiner (Wei et al., CVPR 2023): DeiT and LV-ViT, in which each image chooses the pairs of tokens that attention computes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_attention.mechanisms.sparsifiner.attention import Sparse, SparsifinerAttention
from core_attention.mechanisms.sparsifiner.predictor import predictor_at, resample_predictor
from core_attention.parts.stochastic_depth import stochastic_depth
from vision_models.networks.backbone import (
    PlainTransformer,
    check_pictures,
    drop_path_rates,
    init_linear,
    resample_positions,
)


@dataclass
class Pass:
    """What one forward pass carries from layer to layer.

    Attributes:
        grid: height and width in patches.
        token_mask: who is alive, class token excluded; None if nobody was ever pruned.
        warm_up: the predictors' first phase: dense attention.
        details: keep the maps of each layer.
        layers: those maps.
    """

    grid: tuple[int, int]
    token_mask: Tensor | None = None
    warm_up: bool = False
    details: bool = False
    layers: list[Sparse] = field(default_factory=list)


@dataclass(frozen=True)
class Sparsified:
    """What a network computed, with all its maps.

    Attributes:
        logits: scores of the classes.
        features: normalised patch tokens; of LV-ViT the scores of the auxiliary head for each patch.
        layers: of each layer the connectivity, the unmasked attention, and who is alive after it; see `Sparse`.
    """

    logits: Tensor
    features: Tensor
    layers: tuple[Sparse, ...]


class PatchEmbed(nn.Module):
    """One convolution (DeiT)."""

    def __init__(self, in_chans: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.stride = patch_size

    def forward(self, x: Tensor) -> Tensor:
        """A map of patches."""
        return self.proj(x)


class ConvolutionalPatchEmbed(nn.Module):
    """Three convolutions with batch norm and ReLU, of which the first halves the picture, and one that makes patches (LV-ViT, "4_2").

    Patches are 16 pixels wide: 8 after the first convolution.
    """

    def __init__(self, in_chans: int, dim: int, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.proj = nn.Conv2d(width, dim, 8, stride=8)
        self.stride = 16

    def forward(self, x: Tensor) -> Tensor:
        """A map of patches."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.proj(F.relu(self.bn3(self.conv3(x))))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """y of the shape of `x`."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """``x += Attn(LN x) / λ; x += MLP(LN x) / λ``; afterwards the features of dead tokens are 0."""

    def __init__(
        self,
        dim: int,
        attention: SparsifinerAttention,
        *,
        mlp_ratio: float,
        eps: float,
        skip_lam: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn = attention
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.skip_lam, self.drop_path = skip_lam, drop_path

    def forward(self, x: Tensor, state: Pass, trained_grid: tuple[int, int]) -> tuple[Tensor, Sparse]:
        """The tokens, and what the attention found."""
        predictor = predictor_at(self.attn.mask_predictor, trained_grid, state.grid)
        attended = self.attn.detailed(
            self.norm1(x),
            token_mask=state.token_mask,
            warm_up=state.warm_up,
            details=state.details,
            predictor=predictor,
        )
        x = x + stochastic_depth(attended.y, self.drop_path, self.training) / self.skip_lam
        x = x + stochastic_depth(self.mlp(self.norm2(x)), self.drop_path, self.training) / self.skip_lam
        if attended.token_mask is not None and not state.warm_up:
            x = x * F.pad(attended.token_mask, (1, 0), value=True)[..., None].to(x.dtype)
        return x, attended


class Sparsifiner(PlainTransformer):
    """A vision transformer whose layers attend to predicted pairs only, optionally with fewer and fewer tokens.

    `forward` gives scores of the classes and computes no map that is tokens × tokens; `detailed` gives the maps and what the losses need.

    Args:
        img_size: that the tables of positions and connectivity are made for; other sizes resample them in each call, `set_input_size` for good.
        patch_size, embed_dim, depth, num_heads, mlp_ratio: of the transformer.
        qkv_bias: bias of the joint projection; None: DeiT has one, LV-ViT none.
        lvvit: LV-ViT: convolutional patches, halved branches, an auxiliary head whose largest score per class is added, halved, in evaluation.
        skip_lam: what branches are divided by; None: 1 for DeiT, 2 for LV-ViT.
        attn_keep_rate: share of the keys that each row keeps; one number, or one per layer.
        token_keep_rates: share of the patches that stay alive after each layer; None entries prune nobody; None: no pruning.
        predictor: further options of `MaskPredictor`.
        in_chans, num_classes, global_pool: see `PlainTransformer`.
        drop_rate: dropout of the embedded tokens.
        attn_drop_rate: dropout of the attention weights (LV-ViT only, as published).
        drop_path_rate: stochastic depth in the last block.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool | None = None,
        qk_scale: float | None = None,
        lvvit: bool = False,
        skip_lam: float | None = None,
        attn_keep_rate: float | Sequence[float] = 0.25,
        token_keep_rates: Sequence[float | None] | None = None,
        reduce_n_factor: int = 6,
        reduce_c_factor: int = 2,
        predictor: dict | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            depth,
            patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=0.0,
        )
        self.lvvit = lvvit
        if lvvit:
            self.patch_embed = ConvolutionalPatchEmbed(in_chans, embed_dim)
        else:
            self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size)
        self.grid = self._grid_of(img_size)
        tokens = self.grid[0] * self.grid[1] + 1
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, embed_dim), std=0.02))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, embed_dim), std=0.02))
        self.pos_drop = nn.Dropout(drop_rate)
        eps = 1e-5 if lvvit else 1e-6
        if skip_lam is None:
            skip_lam = 2.0 if lvvit else 1.0
        keep_rates = [attn_keep_rate] * depth if isinstance(attn_keep_rate, float | int) else attn_keep_rate
        self.blocks = nn.ModuleList()
        for i, rate in enumerate(drop_path_rates(drop_path_rate, [depth])[0]):
            attention = SparsifinerAttention(
                embed_dim,
                num_heads=num_heads,
                num_tokens=tokens,
                qkv_bias=not lvvit if qkv_bias is None else qkv_bias,
                scale=qk_scale,
                attn_drop=attn_drop_rate if lvvit else 0.0,
                token_keep_rate=None if token_keep_rates is None else token_keep_rates[i],
                attn_keep_rate=keep_rates[i],
                reduce_n_factor=reduce_n_factor,
                reduce_c_factor=reduce_c_factor,
                **predictor or {},
            )
            block = Block(embed_dim, attention, mlp_ratio=mlp_ratio, eps=eps, skip_lam=skip_lam, drop_path=rate)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(embed_dim, eps=eps)
        self.head = self.make_head(num_classes)
        self.aux_head = self.make_head(num_classes) if lvvit else None
        self.apply(init_linear)

    def _grid_of(self, img_size: int | Sequence[int]) -> tuple[int, int]:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        stride = self.patch_embed.stride
        return height // stride, width // stride

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Resamples the tables of positions and connectivity, in place, for pictures of another size."""
        grid = self._grid_of(img_size)
        with torch.no_grad():
            positions = resample_positions(self.pos_embed, self.grid, grid)
        self.pos_embed = nn.Parameter(positions.clone())
        blocks: Any = self.blocks
        for block in blocks:
            if grid != self.grid:
                resample_predictor(block.attn.mask_predictor, self.grid, grid)
        self.grid = grid

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        super().reset_classifier(num_classes, global_pool)
        if self.lvvit:
            self.aux_head = self.make_head(num_classes).to(self.cls_token) if num_classes > 0 else None

    def embed(self, x: Tensor) -> tuple[Tensor, Pass]:
        stride = self.patch_embed.stride
        if x.shape[2] < stride or x.shape[3] < stride:
            raise ValueError(f"pictures need at least one patch of {stride} × {stride} pixels, got {tuple(x.shape)}")
        patches = self.patch_embed(x)
        grid = (patches.shape[2], patches.shape[3])
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        return self.pos_drop(tokens + resample_positions(self.pos_embed, self.grid, grid)), Pass(grid)

    def run_layer(self, index: int, tokens: Tensor, state: Pass) -> Tensor:
        tokens, attended = self.run_block(self.blocks[index], tokens, state, self.grid)
        state.token_mask = attended.token_mask
        if state.details:
            state.layers.append(attended)
        return tokens

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        logits = super().forward_head(x, pre_logits)
        if self.aux_head is None or pre_logits or self.training or self.global_pool != "token":
            return logits
        return logits + 0.5 * self.aux_head(x[:, 1:]).amax(1)

    def detailed(self, x: Tensor, *, warm_up: bool = False) -> Sparsified:
        """Scores, features, and the maps of every layer, which are tokens × tokens.

        Args:
            x: pictures.
            warm_up: the first phase, in which only the predictors learn: dense attention, and the predictors' raw factors.
        """
        check_pictures(x, self.in_chans)
        tokens, state = self.embed(x)
        state.warm_up, state.details = warm_up, True
        for index in range(len(self.blocks)):
            tokens = self.run_layer(index, tokens, state)
        tokens = self.norm(tokens)
        features = tokens[:, 1:] if self.aux_head is None else self.aux_head(tokens[:, 1:])
        return Sparsified(self.forward_head(tokens), features, tuple(state.layers))

    def predictor_parameters(self) -> list[nn.Parameter]:
        """What the first phase trains; the second trains all others."""
        return [parameter for name, parameter in self.named_parameters() if "mask_predictor" in name]
