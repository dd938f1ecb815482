"""What timm asks of an image network, for pyramids and for plain vision transformers: a network adds its stem, stages and head.

Both offer ``forward_features``, ``forward_head``, ``forward_intermediates``, ``prune_intermediate_layers`` (what ``features_only=True`` uses),
``get_classifier``, ``reset_classifier`` and ``set_grad_checkpointing`` as timm's own networks do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Indices = int | list[int] | None


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channels, height, width)."""

    def forward(self, input: Tensor) -> Tensor:
        """The map, normalised at each pixel."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth: evenly from 0 in the first block to `rate` in the last, one list per stage."""
    last = max(1, sum(depths) - 1)
    rates = iter(rate * block / last for block in range(sum(depths)))
    return [[next(rates) for _ in range(depth)] for depth in depths]


def init_linear(module: nn.Module) -> None:
    """Linear layers of a truncated normal of deviation 0.02 with no bias; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_pictures(x: Tensor, in_chans: int) -> None:
    """Raises:
    ValueError: not a batch of pictures with `in_chans` channels and at least one pixel; quotes the shape.
    """
    if x.ndim != 4 or x.shape[1] != in_chans or 0 in x.shape[2:]:
        raise ValueError(f"expected pictures (batch, {in_chans}, height, width), got {tuple(x.shape)}")


class Backbone(nn.Module):
    """What both kinds share. `head` is the last layer; `in_chans`, `num_features` and `feature_info` are set by the network."""

    in_chans: int
    num_features: int
    feature_info: list[dict[str, Any]]
    head: nn.Module

    def __init__(self, *, num_classes: int, global_pool: str, drop_rate: float) -> None:
        super().__init__()
        self.num_classes, self.global_pool = num_classes, global_pool
        self.head_drop = nn.Dropout(drop_rate)
        self.grad_checkpointing = False

    @property
    def head_hidden_size(self) -> int:
        """Channels of what ``forward_head(…, pre_logits=True)`` returns."""
        return self.num_features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training computes the inside of each block a second time instead of keeping it."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves out, beside biases and norms: tokens and tables of positions."""
        return {"cls_token", "pos_embed"} & {name for name, _ in self.named_parameters()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameters from the stem to the head, by which timm lets the learning rate decay from layer to layer."""
        raise NotImplementedError

    def make_head(self, num_classes: int) -> nn.Module:
        """A fresh last layer; none for 0 classes."""
        return nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Another number of classes with a fresh last layer; 0 leaves it out.

        Args:
            num_classes: of the new head.
            global_pool: another pooling; "" returns what is not pooled.
            reset_other: leaves out what stands before the last layer as well (timm's name; used when a network is pruned).
        """
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = global_pool
        if any(True for _ in self.head.parameters()):
            like = next(self.head.parameters())
        else:
            like = next(self.parameters())
        self.head = self.make_head(num_classes).to(like)
        self.head.apply(init_linear)

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """A block's output, with its inside forgotten until the backward pass where that was asked for."""
        if self.grad_checkpointing and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def run_blocks(self, blocks: Iterable[nn.Module], x: Any) -> Any:
        """One block after another."""
        for block in blocks:
            x = self.run_block(block, x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Any:
        """Scores of the classes (batch, num_classes)."""
        return self.forward_head(self.forward_features(x))


class Pyramid(Backbone):
    """Stages of half the size each. A network defines `run_stage` and, where it has one, `final_norm`.

    With ``dense=True`` the network has no head: it has a norm for each stage's output instead, and returns these maps, for detection and
    segmentation. The maps that go on to the next stage are not normalised.
    """

    per_stage: ClassVar[Sequence[str]]  # module lists with one entry per stage
    channels_last: ClassVar[bool] = False  # whether maps inside are (batch, height, width, channels)
    output_norms: nn.ModuleList | None  # of a dense network

    def __init__(
        self,
        dims: Sequence[int],
        *,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
        dense: bool = False,
    ) -> None:
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool is 'avg' or '' (none), got {global_pool!r}")
        super().__init__(num_classes=0 if dense else num_classes, global_pool=global_pool, drop_rate=drop_rate)
        self.in_chans, self.num_features, self.dense = in_chans, dims[-1], dense
        self.output_norms = None
        self.feature_info = []
        for stage, dim in enumerate(dims):
            place = f"{self.per_stage[-1]}.{stage}"
            self.feature_info.append({"num_chs": dim, "reduction": 4 * 2**stage, "module": place})

    def run_stage(self, index: int, x: Tensor) -> Tensor:
        """The stage's map, from the last one's (the picture, for the first)."""
        raise NotImplementedError

    def final_norm(self, x: Tensor) -> Tensor:
        """The last map, (batch, channels, height, width), as the head takes it."""
        return x

    def _start(self, x: Tensor) -> Tensor:
        check_pictures(x, self.in_chans)
        return x

    def _map(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) if self.channels_last else x

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map (batch, channels, height, width), normalised."""
        x = self._start(x)
        for index in range(len(self.feature_info)):
            x = self.run_stage(index, x)
        return self.final_norm(self._map(x))

    def pool(self, x: Tensor) -> Tensor:
        """The mean over the map, unless pooling was taken away."""
        return x.mean((2, 3)) if self.global_pool == "avg" else x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Scores of the classes from the last map; with `pre_logits` what the last layer would get."""
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Any:
        """Scores of the classes (batch, num_classes); of a dense network its maps, finest first."""
        return self.forward_intermediates(x, intermediates_only=True) if self.dense else super().forward(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of the stages.

        Args:
            x: pictures.
            indices: which stages: the last n, or their numbers; None: all.
            norm: apply the final norm to the last map.
            stop_early: compute nothing after the last wanted stage.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the maps alone.

        Returns:
            The maps; or the last map as `forward_features` returns it, and the maps.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is 'NCHW' or 'NHWC', got {output_fmt!r}")
        stages = len(self.feature_info)
        wanted, last = feature_take_indices(stages, indices)
        x = self._start(x)
        maps = []
        for index in range(last + 1 if stop_early else stages):
            x = self.run_stage(index, x)
            if index not in wanted:
                continue
            out = self._map(x)
            if self.output_norms is not None:
                out = self.output_norms[index](out)
            elif norm and index == stages - 1:
                out = self.final_norm(out)
            maps.append(out if output_fmt == "NCHW" else out.permute(0, 2, 3, 1))
        if intermediates_only:
            return maps
        return self.final_norm(self._map(x)), maps

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the stages after the last wanted one, and the head; returns the numbers of the wanted stages."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        pruned = last + 1 < len(self.feature_info)
        lists = [*self.per_stage, *(["output_norms"] if self.output_norms is not None else [])]
        for name in lists:
            setattr(self, name, getattr(self, name)[: last + 1])
        self.feature_info = self.feature_info[: last + 1]
        self.num_features = self.feature_info[-1]["num_chs"]
        if prune_norm or pruned:
            self.remove_norm()
        if prune_head or pruned:
            self.reset_classifier(0, "", reset_other=True)
        return wanted

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """By stage, whether `coarse` or not."""
        stages = [(rf"^{name}\.(\d+)", None) for name in self.per_stage]
        return {"stem": rf"^{self.per_stage[0]}\.0\.", "blocks": [*stages, (r"^norms?\.|^proj\.", (99999,))]}

    def remove_norm(self) -> None:
        """Leaves out the final norm."""


class PlainTransformer(Backbone):
    """Blocks of one width over a class token and patch tokens. A network defines `embed` and `run_layer`."""

    blocks: nn.ModuleList
    norm: nn.Module

    def __init__(
        self,
        dim: int,
        depth: int,
        patch_size: int,
        *,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
    ) -> None:
        if global_pool not in ("token", "avg", ""):
            raise ValueError(f"global_pool is 'token', 'avg' or '' (none), got {global_pool!r}")
        super().__init__(num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)
        self.in_chans, self.num_features, self.patch_size = in_chans, dim, patch_size
        self.num_prefix_tokens = 1
        self.feature_info = []
        for index in range(depth):
            self.feature_info.append({"num_chs": dim, "reduction": patch_size, "module": f"blocks.{index}"})

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """By block."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm\.", (99999,))],
        }

    def embed(self, x: Tensor) -> tuple[Tensor, Any]:
        """Tokens (batch, 1 + patches, channels), the class token first; and what the layers pass on: it has `grid`, (height, width)."""
        raise NotImplementedError

    def run_layer(self, index: int, tokens: Tensor, state: Any) -> Tensor:
        """The tokens after a block."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """All tokens after the last block, normalised."""
        check_pictures(x, self.in_chans)
        tokens, state = self.embed(x)
        for index in range(len(self.blocks)):
            tokens = self.run_layer(index, tokens, state)
        return self.norm(tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Scores of the classes from the tokens; with `pre_logits` what the last layer would get."""
        if self.global_pool == "token":
            x = x[:, 0]
        elif self.global_pool == "avg":
            x = x[:, 1:].mean(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The patch tokens after the blocks.

        Args:
            x: pictures.
            indices: which blocks: the last n, or their numbers; None: all.
            return_prefix_tokens: pairs with the class token (batch, 1, channels).
            norm: apply the final norm to each.
            stop_early: compute nothing after the last wanted block.
            output_fmt: "NCHW", maps; or "NLC", tokens row by row.
            intermediates_only: return the intermediates alone.

        Returns:
            The intermediates; or all tokens as `forward_features` returns them, and the intermediates.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is 'NCHW' or 'NLC', got {output_fmt!r}")
        check_pictures(x, self.in_chans)
        wanted, last = feature_take_indices(len(self.blocks), indices)
        tokens, state = self.embed(x)
        intermediates = []
        for index in range(last + 1 if stop_early else len(self.blocks)):
            tokens = self.run_layer(index, tokens, state)
            if index not in wanted:
                continue
            out = self.norm(tokens) if norm else tokens
            patches = out[:, 1:]
            if output_fmt == "NCHW":
                patches = patches.transpose(1, 2).unflatten(2, state.grid)
            intermediates.append((patches, out[:, :1]) if return_prefix_tokens else patches)
        return intermediates if intermediates_only else (self.norm(tokens), intermediates)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the blocks after the last wanted one, and the head; returns the numbers of the wanted blocks."""
        wanted, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "", reset_other=True)
        return wanted


def resample_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings (1, 1 + patches, channels) for another grid of patches, bicubically; that of the class token stays."""
    if old == new:
        return positions
    image = positions[:, 1:].transpose(1, 2).unflatten(2, old)
    resized = F.interpolate(image.float(), new, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([positions[:, :1], resized.to(positions.dtype).flatten(2).transpose(1, 2)], 1)
