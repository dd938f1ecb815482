"""Reading any length with landmark attention: finished blocks wait in a store, and each query reads the few whose landmarks it scores highest.

Keys are kept without position. A chunk of queries sees [the chosen blocks, oldest first; the unfinished block; the chunk itself] at the
"stingy" positions of the published code: the K newest blocks keep their true distance, all older ones stand in one slot before them. So no
distance exceeds what was seen in training, however long the text.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core_attention.mechanisms.landmark.attention import grouped_softmax, landmark_flags
from core_attention.parts.rotary import Pairing, rotary_angles, rotate

Choice = Literal["per_token_and_head", "max_over_heads", "max_over_tokens"]
SCRATCH = 1 << 24  # numbers that the blocks read for one slice of queries may take


class Prefix(NamedTuple):
    """What queries see before their own chunk: the chosen blocks, oldest first, and the unfinished block."""

    scores: Float[Tensor, "batch heads queries prefix"]
    values: Float[Tensor, "batch heads queries prefix value_dim"]
    is_landmark: Bool[Tensor, "batch prefix"]
    start: int


class LandmarkMemory:
    """The store of one attention layer, and the attention that reads it.

    Args:
        block: positions in a block, its landmark included: ``mem_freq + 1``. The stream that is fed must carry a landmark at every position p
            with ``p % block == block − 1``, as `insert_landmarks` makes it.
        top_k: blocks that a query reads.
        choice: ``"per_token_and_head"``: each query and head for itself; ``"max_over_heads"``: the heads of a query together;
            ``"max_over_tokens"``: the queries of a chunk together, each head for itself, which reads the store once a chunk. Equal scores prefer the
            newest block.
        capacity: blocks kept, the oldest are forgotten; None keeps all.
        offload: keeps blocks on the CPU (pinned where there is CUDA) and only landmark keys on the device; best with ``"max_over_tokens"``.
        dtype: of the stored blocks, where it differs from that of the keys.
        pairing, theta: of the rotary embedding.

    Raises:
        ValueError: a size below 1, or an unknown choice.
    """

    def __init__(
        self,
        block: int,
        top_k: int,
        *,
        choice: Choice = "per_token_and_head",
        capacity: int | None = None,
        offload: bool = False,
        dtype: torch.dtype | None = None,
        pairing: Pairing = "half",
        theta: float = 10000.0,
    ) -> None:
        for name, value in (("block", block), ("top_k", top_k), ("capacity", 1 if capacity is None else capacity)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if choice not in ("per_token_and_head", "max_over_heads", "max_over_tokens"):
            raise ValueError(f"unknown choice {choice!r}: per_token_and_head, max_over_heads or max_over_tokens")
        self.block, self.top_k, self.capacity = block, top_k, capacity
        self.choice: Choice = choice
        self.offload, self.dtype = offload, dtype
        self.pairing: Pairing = pairing
        self.theta = theta
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self.length = 0  # positions read so far, landmarks included
        self._first = self._count = 0  # the live blocks of the buffers
        self._blocks: tuple[Tensor, Tensor] | None = None  # keys, values: (batch, kv_heads, room, block, dim)
        self._landmarks: Tensor | None = None  # (batch, kv_heads, room, dim)
        self._tail: tuple[Tensor, Tensor] | None = None  # the unfinished block: (batch, kv_heads, < block, dim)

    def __len__(self) -> int:
        """Blocks in the store."""
        return self._count

    @property
    def start(self) -> int:
        """The rotary position at which the next chunk starts."""
        if not self.length:
            return 0
        return (min(self.top_k, self._count) + 1) * self.block + self.length % self.block

    def attend(
        self,
        q: Float[Tensor, "batch heads queries dim"],
        k: Float[Tensor, "batch kv_heads queries dim"],
        v: Float[Tensor, "batch kv_heads queries value_dim"],
        *,
        scale: float | None = None,
    ) -> Float[Tensor, "batch heads queries value_dim"]:
        """Attends from a chunk of the stream to memory and itself, then stores the chunk.

        Args:
            q, k, v: without position; computed in float32 at least.

        Raises:
            ValueError: shapes that do not fit each other or what is stored.
        """
        self._check(q, k, v)
        batch, heads, queries, dim = q.shape
        kv_heads = k.shape[1]
        factor = dim**-0.5 if scale is None else float(scale)
        wide = torch.promote_types(q.dtype, torch.float32)
        position = torch.arange(self.start, self.start + queries, device=q.device)
        chunk_k, chunk_v = self._rotated(k.to(wide), position), v.to(wide)
        flags = landmark_flags(self.length % self.block + queries, self.block, q.device)[self.length % self.block :]
        chosen = self._choose(self._rotated(q.to(wide), position), factor)
        width = (min(self.top_k, self._count) + 1) * self.block * (dim + v.shape[-1])
        step = max(1, queries if self.choice == "max_over_tokens" else SCRATCH // max(1, batch * heads * width))
        parts = []
        for begin in range(0, queries, step):
            end = min(begin + step, queries)
            rows = self._rotated(q[:, :, begin:end].to(wide), position[begin:end])
            index = None if chosen is None else chosen if chosen.shape[2] == 1 else chosen[:, :, begin:end]
            scores, values, prefix_flags = self._read(rows, index, factor)
            grouped = rows.unflatten(1, (kv_heads, -1))
            own = torch.einsum("bhgqd,bhkd->bhgqk", grouped, chunk_k[:, :, :end]).flatten(1, 2) * factor
            weights, _ = grouped_softmax(
                torch.cat([scores, own], dim=-1),
                torch.cat([prefix_flags, flags[:end]])[None],
                rows=scores.shape[-1] + torch.arange(begin, end, device=q.device),
            )
            of_prefix, of_chunk = weights.split([scores.shape[-1], end], dim=-1)
            out = torch.einsum("bhgqk,bhkd->bhgqd", of_chunk.unflatten(1, (kv_heads, -1)), chunk_v[:, :, :end]).flatten(
                1, 2
            )
            parts.append(out + _weighted(of_prefix, values))
        self.store(k, v)
        return torch.cat(parts, dim=2).to(v.dtype) if parts else v.new_zeros(batch, heads, 0, v.shape[-1])

    def retrieve(self, q: Float[Tensor, "batch heads queries dim"], *, scale: float | None = None) -> Prefix:
        """What a chunk of queries (without position) would see of the memory, with its scaled scores; stores nothing."""
        factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
        rows = self._rotated(q, torch.arange(self.start, self.start + q.shape[2], device=q.device))
        scores, values, flags = self._read(rows, self._choose(rows, factor), factor)
        return Prefix(scores, values.expand(*scores.shape, values.shape[-1]), flags.expand(q.shape[0], -1), self.start)

    def store(
        self, k: Float[Tensor, "batch kv_heads new dim"], v: Float[Tensor, "batch kv_heads new value_dim"]
    ) -> None:
        """Appends a chunk: whole blocks go to the store, the rest stays as the unfinished block. What is stored is detached."""
        k, v = k.detach(), v.detach()
        self.length += k.shape[2]
        if self._tail is not None:
            k, v = torch.cat([self._tail[0], k], dim=2), torch.cat([self._tail[1], v], dim=2)
        whole = k.shape[2] // self.block * self.block
        self._tail = (k[:, :, whole:].clone(), v[:, :, whole:].clone())
        new = whole // self.block
        if self.capacity is not None and new > self.capacity:
            k, v, whole, new = (
                *(x[:, :, whole - self.capacity * self.block :] for x in (k, v)),
                self.capacity * self.block,
                self.capacity,
            )
        if not new:
            return
        keys, values = (x[:, :, :whole].unflatten(2, (new, self.block)) for x in (k, v))
        if self.capacity is not None and self._count + new > self.capacity:
            drop = self._count + new - self.capacity
            self._first, self._count = self._first + drop, self._count - drop
        self._make_room(keys, values)
        assert self._blocks is not None
        assert self._landmarks is not None
        place = slice(self._first + self._count, self._first + self._count + new)
        self._blocks[0][:, :, place], self._blocks[1][:, :, place] = keys, values
        self._landmarks[:, :, place] = keys[:, :, :, -1]
        self._count += new

    def _make_room(self, keys: Tensor, values: Tensor) -> None:
        """Buffers double, so that a block is copied a bounded number of times; live blocks move to the front."""
        need = self._count + keys.shape[2]
        room = 0 if self._landmarks is None else self._landmarks.shape[2]
        if self._first + need <= room:
            return
        live = slice(self._first, self._first + self._count)
        room = max(2 * need, 8)

        def grown(old: Tensor | None, like: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
            pin = self.offload and torch.cuda.is_available() and device.type == "cpu"
            made = torch.empty(*like.shape[:2], room, *like.shape[3:], device=device, dtype=dtype, pin_memory=pin)
            if old is not None:
                made[:, :, : self._count] = old[:, :, live]
            return made

        place = torch.device("cpu") if self.offload else keys.device
        old = (None, None) if self._blocks is None else self._blocks
        self._blocks = (
            grown(old[0], keys, place, self.dtype or keys.dtype),
            grown(old[1], values, place, self.dtype or values.dtype),
        )
        self._landmarks = grown(self._landmarks, keys[:, :, :, -1], keys.device, keys.dtype)
        self._first = 0

    def _rotated(self, x: Tensor, position: Tensor) -> Tensor:
        return rotate(x, rotary_angles(position, x.shape[-1], self.theta, x.dtype), self.pairing)

    def _slots(self, rank: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """1 … K for the K newest blocks, 0 for every older one; ranks count from the oldest."""
        return (rank - (self._count - min(self.top_k, self._count)) + 1).clamp(min=0)

    def _choose(self, q: Tensor, scale: float) -> Int[Tensor, "batch heads queries blocks"] | None:
        """Ranks of the chosen blocks, ascending; heads or queries are 1 where they share the choice."""
        count = self._count
        if not count:
            return None
        assert self._landmarks is not None
        rank = torch.arange(count, device=q.device)
        keys = self._landmarks[:, :, self._first : self._first + count].to(q.dtype)
        keys = self._rotated(keys, self._slots(rank) * self.block + self.block - 1)
        score = torch.einsum("bhgqd,bhnd->bhgqn", q.unflatten(1, (keys.shape[1], -1)), keys).flatten(1, 2) * scale
        if self.choice != "per_token_and_head":
            score = score.softmax(-1).amax(1 if self.choice == "max_over_heads" else 2, keepdim=True)
        # flipped, so that the stable sort puts the newest of equals first
        order = score.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., : min(self.top_k, count)]
        return (count - 1 - order).sort(dim=-1).values

    def _read(self, q: Tensor, chosen: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled scores of rotated queries against chosen blocks and tail, their values (queries may be 1), and the landmark flags."""
        batch, heads, queries, dim = q.shape
        parts: list[tuple[Tensor, Tensor]] = []
        flags = q.new_zeros(0, dtype=torch.bool)
        if chosen is not None:
            keys, values = self._blocks_of(chosen, heads, q)
            blocks = chosen.shape[-1]
            base = torch.arange(blocks, device=q.device) + (self._slots(chosen) > 0).long()  # in blocks
            keys = self._rotated(keys, base[..., None] * self.block + torch.arange(self.block, device=q.device))
            keys, values = keys.flatten(3, 4), values.flatten(3, 4)
            score = (q @ keys[:, :, 0].mT) if keys.shape[2] == 1 else (keys @ q[..., None]).squeeze(-1)
            parts.append((score * scale, values))
            flags = landmark_flags(blocks * self.block, self.block, q.device)
        if self._tail is not None and self._tail[0].shape[2]:
            tail_k, tail_v = (x.to(q.dtype) for x in self._tail)
            length = tail_k.shape[2]
            tail_k = self._rotated(tail_k, torch.arange(self.start - length, self.start, device=q.device))
            score = (
                torch.einsum("bhgqd,bhkd->bhgqk", q.unflatten(1, (tail_k.shape[1], -1)), tail_k).flatten(1, 2) * scale
            )
            values = tail_v.repeat_interleave(heads // tail_v.shape[1], dim=1)[:, :, None]
            parts.append((score, values))
            flags = torch.cat([flags, flags.new_zeros(length)])
        if not parts:
            dim = 1 if self._tail is None else self._tail[1].shape[-1]
            return q.new_zeros(batch, heads, queries, 0), q.new_zeros(batch, heads, 1, 0, dim), flags
        scores = torch.cat([score for score, _ in parts], dim=-1)
        rows = max(values.shape[2] for _, values in parts)
        return scores, torch.cat([values.expand(-1, -1, rows, -1, -1) for _, values in parts], dim=3), flags

    def _blocks_of(self, chosen: Tensor, heads: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the chosen blocks, (batch, heads, queries or 1, blocks, block, dim), whole blocks copied."""
        assert self._blocks is not None
        batch, kv_heads, room = self._blocks[0].shape[:3]
        row = torch.arange(batch, device=q.device)[:, None] * kv_heads
        row = row + torch.arange(heads, device=q.device) // (heads // kv_heads)
        index = (row[:, :, None, None] * room + self._first + chosen).flatten()
        shape = (batch, heads, chosen.shape[2], chosen.shape[3])
        return tuple(  # type: ignore[return-value]
            x.flatten(0, 2).index_select(0, index.to(x.device)).to(q.device, q.dtype).unflatten(0, shape)
            for x in self._blocks
        )

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        if (
            q.ndim != 4
            or k.ndim != 4
            or k.shape[:3] != v.shape[:3]
            or q.shape[0] != k.shape[0]
            or q.shape[2:] != k.shape[2:]
        ):
            raise ValueError(
                f"a chunk needs q (batch, heads, queries, dim) and k, v (batch, kv_heads, queries, ·): {shapes}"
            )
        if q.shape[1] % max(k.shape[1], 1):
            raise ValueError(f"query heads must be a multiple of key heads: {shapes}")
        if self._tail is not None and (self._tail[0].shape[:2], self._tail[0].shape[3]) != (k.shape[:2], k.shape[3]):
            raise ValueError(f"the memory holds (batch, kv_heads, ·, dim) = {tuple(self._tail[0].shape)}: {shapes}")


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Σ_k weights[…, q, k] values[…, q or 1, k, :]."""
    if values.shape[2] == 1:
        return weights @ values[:, :, 0]
    return (weights[..., None, :] @ values).squeeze(-2)


def chunk_length(train_context: int, block: int, top_k: int) -> int:
    """The longest chunk for which chunk, chosen blocks and the slot before them stay within the context seen in training.

    Raises:
        ValueError: nothing is left for the chunk.
    """
    length = train_context // block * block - (top_k + 1) * block
    if length <= 0:
        raise ValueError(
            f"{top_k} + 1 blocks of {block} leave no room in a context of {train_context}: take a smaller top_k, or a longer context"
        )
    return length
