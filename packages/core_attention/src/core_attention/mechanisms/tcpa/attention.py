"""Token coordinated prompt attention: CLS and image tokens each attend only to prompts of their own (Liu, Zou, Hua, Zhou 2025).

Two pools of prompts stand beside the tokens of a frozen vision transformer, one for CLS and one for the image tokens. Each token takes
the entries of its pool whose keys match it best. As released, the softmax runs over all tokens and all prompts, and what a token may
not use is struck out afterwards, without a new normalisation: rows then sum to less than 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core_attention.attention import attention
from core_attention.capture.recording import active, paused, record
from core_attention.measuring.example import Example
from core_attention.parts.placing import Device, placed


def coordinated_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    k_prompt: Float[Tensor, "one_or_b h p d"],
    v_prompt: Float[Tensor, "one_or_b h p d"],
    allowed: Bool[Tensor, "b n p"],
    *,
    renormalise: bool = False,
) -> Float[Tensor, "b h n d"]:
    """``A = softmax([q kᵀ, q k_promptᵀ] / √d)``, then A of prompts that are not allowed is 0, then ``A [v; v_prompt]``.

    Attention over the tokens needs no mask and runs on fused kernels, which also give the log of its normaliser; the prompts, a few
    tens of columns, are merged in by it. No array of all tokens by all tokens is made.

    Args:
        q: queries of the tokens.
        k: keys of the tokens.
        v: values of the tokens.
        k_prompt: keys of the prompts; the batch may be 1.
        v_prompt: values of the prompts, likewise.
        allowed: True where a token may use a prompt, the same for all heads.
        renormalise: strike out before the softmax, so that rows sum to 1.

    Returns:
        the tokens' outputs, in the dtype of `q`.

    Raises:
        ValueError: `allowed` does not have one entry per token and prompt; the shapes are quoted.
    """
    b, h, n, d = q.shape
    p = k_prompt.shape[2]
    if allowed.shape != (b, n, p):
        raise ValueError(
            f"coordinated_attention needs allowed ({b}, {n}, {p}) for queries {tuple(q.shape)} and prompts "
            f"{tuple(k_prompt.shape)}, got {tuple(allowed.shape)}"
        )
    if active():
        record(
            "weights",
            lambda rows, heads: _weight_rows(q, k, k_prompt, allowed, renormalise, rows, heads),
            shape=(b, h, n, n + p),
            device=q.device,
        )
    with paused():
        y, lse = attention(q, k, v, return_lse=True)
    scores = (q @ k_prompt.mT).to(lse.dtype) * d**-0.5  # (b, h, n, p)
    visible = allowed[:, None]
    if renormalise:
        scores = scores.masked_fill(~visible, float("-inf"))
    # the softmax over tokens and prompts from that over the tokens: its normaliser grows from exp(lse) to exp(total)
    total = torch.logaddexp(lse, scores.logsumexp(-1)) if p else lse
    token_share = (lse - total).exp()[..., None]
    # struck out after the normaliser, as published: rows sum to less than 1
    weights = (scores - total[..., None]).exp() * visible
    return y * token_share.to(y.dtype) + weights.to(v_prompt.dtype) @ v_prompt


def _weight_rows(
    q: Tensor, k: Tensor, k_prompt: Tensor, allowed: Tensor, renormalise: bool, rows: Tensor, heads: Tensor
) -> Tensor:
    """The requested rows of the weights, (b, heads, rows, n + p): tokens first, then prompts."""
    keys = torch.cat([k, k_prompt.expand(k.shape[0], -1, -1, -1)], 2)[:, heads]
    scores = q[:, heads][:, :, rows].float() @ keys.float().mT * q.shape[3] ** -0.5
    visible = F.pad(allowed[:, None, rows], (k.shape[2], 0), value=True)
    if renormalise:
        return scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return scores.softmax(-1) * visible


def match(
    tokens: Float[Tensor, "b n c"],
    keys: Float[Tensor, "entries c"],
    k: int,
    *,
    draws: Float[Tensor, "b n entries"] | None = None,
) -> tuple[Bool[Tensor, "b n entries"], Float[Tensor, ""]]:
    """The k entries whose keys have the greatest cosine with each token, and the mean of 1 − cosine over what was taken.

    Args:
        tokens: the input of a block, before any norm.
        keys: one key per entry.
        k: entries that each token takes.
        draws: numbers whose k greatest decide instead of the cosine (uniform ones: the random phase of the training).

    Returns:
        which entries each token takes, and the distance, a scalar.

    Raises:
        ValueError: `k` is not between 1 and the number of entries.
    """
    entries = keys.shape[0]
    if not 1 <= k <= entries:
        raise ValueError(f"a token takes between 1 and all {entries} entries of its pool, got {k}")
    cosine = F.normalize(tokens, dim=2) @ F.normalize(keys, dim=1).mT
    ranking = cosine if draws is None else draws
    taken = ranking.topk(k, dim=2).indices
    selected = torch.zeros_like(cosine, dtype=torch.bool).scatter(2, taken, True)
    return selected, (1 - cosine.gather(2, taken)).mean()


def fourier(prompts: Float[Tensor, "p c"]) -> Float[Tensor, "p c"]:
    """The real part of the two-dimensional discrete Fourier transform, without normalisation (visual Fourier prompt tuning)."""
    # there is no transform in half precision on CPUs
    wide = prompts.to(torch.promote_types(prompts.dtype, torch.float32))
    return torch.fft.fft2(wide).real.to(prompts.dtype)


class PromptPool(nn.Module):
    """Entries of `length` prompts each, and a key to find an entry by, for every layer.

    Args:
        layers: layers of the transformer.
        entries: entries per layer; 0: no pool.
        dim: channels.
        length: prompts per entry.
        device, dtype: of parameters and buffers.
    """

    @placed
    def __init__(
        self,
        layers: int,
        entries: int,
        dim: int,
        *,
        length: int = 1,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if layers < 1 or entries < 0 or dim < 1 or length < 1:
            raise ValueError(f"impossible pool: layers {layers}, entries {entries}, dim {dim}, length {length}")
        self.length = length
        self.keys = nn.Parameter(torch.empty(layers, entries, dim).uniform_(-1, 1))
        self.prompts = nn.Parameter(torch.empty(layers, entries, length, dim).uniform_(-1, 1))

    def match(self, layer: int, tokens: Tensor, k: int, *, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which of the layer's prompts each token may use, (batch, tokens, entries · length), and the matching distance."""
        selected, distance = match(tokens, self.keys[layer], k, draws=draws)
        return selected.repeat_interleave(self.length, 2), distance


class TokenCoordinatedPrompts(nn.Module):
    """Prompts of all layers of a frozen vision transformer, and its attention with them.

    In block l, ``z, distance = prompts(l, x, block.norm1, block.attn)`` takes the place of ``z = block.attn(block.norm1(x))``; add z to
    x and go on with the block's MLP. The loss is that of the task plus a weight times the sum of the distances, from which alone the
    keys learn.

    Args:
        layers: blocks of the transformer.
        dim: its channels.
        cls_entries: entries of the CLS pool of a layer; 0: none.
        image_entries: entries of the pool of the image tokens; 0: none.
        cls_length: prompts per entry of the CLS pool.
        image_length: prompts per entry of the image pool.
        cls_k: entries that CLS takes; None: all (the role-only variant, without a matching distance).
        image_k: entries that each image token takes; None: all.
        use_fourier: transform the layer's prompts by `fourier` (VFPT); False: plain prompts (VPT).
        affine: one learnt scale and shift of the prompts' values for all layers (ADVP).
        dropout: of the prompts in training.
        renormalise: see `coordinated_attention`.
        device, dtype: of parameters and buffers.

    Raises:
        ValueError: sizes below their least, or more entries taken than there are.
    """

    @placed
    def __init__(
        self,
        layers: int,
        dim: int,
        *,
        cls_entries: int = 18,
        image_entries: int = 18,
        cls_length: int = 1,
        image_length: int = 1,
        cls_k: int | None = 10,
        image_k: int | None = 10,
        use_fourier: bool = True,
        affine: bool = False,
        dropout: float = 0.1,
        renormalise: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for pool, entries, k in (("cls", cls_entries, cls_k), ("image", image_entries, image_k)):
            if k is not None and entries and not 1 <= k <= entries:
                raise ValueError(f"a token takes between 1 and all {entries} entries of the {pool} pool, got {k}")
        self.dim, self.cls_k, self.image_k = dim, cls_k, image_k
        self.use_fourier, self.renormalise = use_fourier, renormalise
        self.cls = PromptPool(layers, cls_entries, dim, length=cls_length)
        self.image = PromptPool(layers, image_entries, dim, length=image_length)
        self.dropout = nn.Dropout(dropout)
        count = cls_entries * cls_length + image_entries * image_length
        self.scale = self.shift = None
        if affine:
            self.scale = nn.Parameter(1 + 0.1 * nn.init.kaiming_normal_(torch.empty(1, count, dim)))
            self.shift = nn.Parameter(0.1 * nn.init.kaiming_normal_(torch.empty(1, count, dim)))

    def prompts(self, layer: int) -> Float[Tensor, "p c"]:
        """The layer's prompts, those of CLS first, entry by entry, as they stand beside the tokens."""
        prompts = torch.cat([self.cls.prompts[layer].flatten(0, 1), self.image.prompts[layer].flatten(0, 1)])
        prompts = self.dropout(prompts)
        if self.use_fourier and prompts.shape[0]:  # the transform refuses an empty axis
            return fourier(prompts)
        return prompts

    def coordinate(
        self, layer: int, x: Float[Tensor, "b n c"], *, random: bool = False
    ) -> tuple[Bool[Tensor, "b n p"], Float[Tensor, ""]]:
        """Which prompts each token may use, and the matching distance of the layer.

        Args:
            layer: number of the block.
            x: its input, CLS first, before any norm.
            random: entries are drawn instead of matched, as in the first epochs.
        """
        b, n, _ = x.shape
        allowed, distance = [], x.new_zeros(())
        # of each role: its pool, its tokens, how many entries each takes, and how many tokens of the other role stand before and after
        roles = ((self.cls, x[:, :1], self.cls_k, (0, n - 1)), (self.image, x[:, 1:], self.image_k, (1, 0)))
        for pool, tokens, k, others in roles:
            entries = pool.keys.shape[1]
            if k is None or entries == 0 or tokens.shape[1] == 0:
                own = torch.ones(b, tokens.shape[1], entries * pool.length, dtype=torch.bool, device=x.device)
            else:
                draws = torch.rand(*tokens.shape[:2], entries, device=x.device) if random else None
                own, pool_distance = pool.match(layer, tokens, k, draws=draws)
                distance = distance + pool_distance
            # tokens of the other role may use nothing of this pool
            allowed.append(F.pad(own, (0, 0, *others)))
        return torch.cat(allowed, 2), distance

    def forward(
        self, layer: int, x: Float[Tensor, "b n c"], norm: nn.Module, attn: nn.Module, *, random: bool = False
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, ""]]:
        """The block's attention with prompts: what it adds to `x`, and the matching distance.

        Args:
            layer: number of the block.
            x: its input, CLS first, before any norm.
            norm: the block's norm before attention.
            attn: its attention, with `qkv`, `proj` and `num_heads` (timm's, or any with these).
            random: see `coordinate`.

        Returns:
            what is added to `x`, and the matching distance, a scalar.

        Raises:
            ValueError: not (batch, tokens, `dim`) with at least one token.
        """
        if x.ndim != 3 or x.shape[2] != self.dim or x.shape[1] == 0:
            raise ValueError(
                f"TokenCoordinatedPrompts needs tokens (batch, 1 + patches, {self.dim}), got {tuple(x.shape)}"
            )
        allowed, distance = self.coordinate(layer, x, random=random)
        heads: int = attn.num_heads  # pyright: ignore[reportAssignmentType]
        q, k, v = _split(attn.qkv(norm(x)), heads)  # pyright: ignore[reportCallIssue]
        # the prompts are the same for every sample and have no queries; their values alone pass through the affine
        _, k_prompt, v_prompt = attn.qkv(norm(self.prompts(layer))[None]).chunk(3, 2)  # pyright: ignore[reportCallIssue]
        if self.scale is not None and self.shift is not None:
            v_prompt = v_prompt * self.scale + self.shift
        k_prompt = k_prompt.unflatten(2, (heads, -1)).transpose(1, 2)
        v_prompt = v_prompt.unflatten(2, (heads, -1)).transpose(1, 2)
        y = coordinated_attention(q, k, v, k_prompt, v_prompt, allowed, renormalise=self.renormalise)
        return attn.proj(y.transpose(1, 2).flatten(2)), distance  # pyright: ignore[reportCallIssue]


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, tokens, 3 · channels) → queries, keys, values (batch, heads, tokens, width)."""
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


class _Coordinated(nn.Module):
    """One layer's attention with its prompts, as a module of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = TokenCoordinatedPrompts(1, 768)
        self.norm = nn.LayerNorm(768)
        self.attn = nn.Module()
        self.attn.num_heads = 12  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        self.attn.qkv, self.attn.proj = nn.Linear(768, 3 * 768), nn.Linear(768, 768)

    def forward(self, x: Tensor) -> Tensor:
        return self.prompts(0, x, self.norm, self.attn)[0]

    def definition(self, x: Tensor) -> Tensor:
        """Prompts in the sequence as published: every row of the softmax, the mask after it, the prompts' rows dropped."""
        allowed, _ = self.prompts.coordinate(0, x)
        prompts = self.prompts.prompts(0).expand(x.shape[0], -1, -1)
        sequence = self.norm(torch.cat([x[:, :1], prompts, x[:, 1:]], 1))  # prompts stand behind CLS
        q, k, v = _split(self.attn.qkv(sequence), 12)  # pyright: ignore[reportCallIssue]
        b, n, p = x.shape[0], x.shape[1], prompts.shape[1]
        mask = torch.cat([allowed.new_ones(b, n, 1), allowed, allowed.new_ones(b, n, n - 1)], 2)
        weights = torch.softmax(q @ k.mT * q.shape[3] ** -0.5, -1)
        weights = torch.cat([weights[:, :, :1], weights[:, :, 1 + p :]], 2) * mask[:, None]
        return self.attn.proj((weights @ v).transpose(1, 2).flatten(2))  # pyright: ignore[reportCallIssue]


def example(tokens: int) -> Example:
    """A layer of ViT-B with 18 prompts per pool, for `core_attention.registry.catalogue`."""
    layer = _Coordinated()
    x = torch.randn(1, tokens, 768)
    return Example(layer, (x,), tokens=tokens, reference=layer.definition, softmax=(768, 12))
