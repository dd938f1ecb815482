"""Reading any length with landmark attention: finished blocks wait in a store, and each query reads the few whose landmarks it scores highest.

Keys are kept turned by their place in their block alone. A chunk of queries sees [the chosen blocks, oldest first; the unfinished block; the chunk
itself] at the "stingy" positions of the published code: the K newest blocks keep their true distance, all older ones stand in one slot before them. So no
distance exceeds what was seen in training, however long the text. Turning the query back by the distance of a block is all that a position costs.
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core_attention.mechanisms.landmark.attention import grouped_softmax, landmark_flags
from core_attention.mechanisms.landmark.token import Tables, one_token, turned_tables
from core_attention.parts.cache import SETTING, Cache, check_crop
from core_attention.parts.rotary import Pairing, rotary_angles, rotate
from core_attention.parts.transforms import readable

Choice = Literal["per_token_and_head", "max_over_heads", "max_over_tokens"]
SCRATCH = 1 << 24  # numbers that the blocks read for one slice of queries may take


class Prefix(NamedTuple):
    """What queries see before their own chunk: the chosen blocks, oldest first, and the unfinished block."""

    scores: Float[Tensor, "batch heads queries prefix"]
    values: Float[Tensor, "batch heads queries prefix value_dim"]
    is_landmark: Bool[Tensor, "batch prefix"]
    start: int


@dataclass
class LandmarkMemory(Cache):
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

    Attributes:
        length: positions read so far, landmarks included.
        keys, values: blocks, (batch, kv_heads, room, block, dim); those from `first` on, `count` of them, are live.
        landmarks: keys of the landmarks, (batch, kv_heads, room, dim).
        tail_keys, tail_values: the unfinished block, (batch, kv_heads, block, dim), of which ``length % block`` places are taken.

    Raises:
        ValueError: a size below 1, or an unknown choice.
    """

    block: int = field(metadata=SETTING)
    top_k: int = field(metadata=SETTING)
    _: KW_ONLY
    choice: Choice = field(default="per_token_and_head", metadata=SETTING)
    capacity: int | None = field(default=None, metadata=SETTING)
    offload: bool = field(default=False, metadata=SETTING)
    dtype: torch.dtype | None = field(default=None, metadata=SETTING)
    pairing: Pairing = field(default="half", metadata=SETTING)
    theta: float = field(default=10000.0, metadata=SETTING)
    length: int = 0
    first: int = 0
    count: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None
    landmarks: Tensor | None = None
    tail_keys: Tensor | None = None
    tail_values: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = (
            ("block", self.block),
            ("top_k", self.top_k),
            ("capacity", 1 if self.capacity is None else self.capacity),
        )
        for name, value in sizes:
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.choice not in ("per_token_and_head", "max_over_heads", "max_over_tokens"):
            raise ValueError(f"unknown choice {self.choice!r}: per_token_and_head, max_over_heads or max_over_tokens")
        self._tables: Tables | None = None

    def __len__(self) -> int:
        """Blocks in the store."""
        return self.count

    def crop(self, length: int) -> None:
        """Forgets the positions from `length` on; blocks that `capacity` has forgotten do not come back.

        Raises:
            ValueError: `length` is not from 0 to the positions read, or lies in what `capacity` has forgotten.
        """
        check_crop(length, self.length)
        whole, places = divmod(length, self.block)
        lost = self.length // self.block - self.count  # blocks that were forgotten
        if whole < lost:
            raise ValueError(
                f"the memory has forgotten its first {lost} blocks: it cannot be cropped to {length} positions"
            )
        if places and whole < self.length // self.block:
            at = self.first + whole - lost
            assert self.keys is not None
            assert self.values is not None
            assert self.tail_keys is not None
            assert self.tail_values is not None
            self.tail_keys.copy_(self.keys[:, :, at])
            self.tail_values.copy_(self.values[:, :, at])
        self.length, self.count = length, whole - lost

    @property
    def start(self) -> int:
        """The rotary position at which the next chunk starts."""
        if not self.length:
            return 0
        return self._base * self.block + self._places

    @property
    def _base(self) -> int:
        """The slot of the unfinished block, in blocks: behind the K newest and the one that all older ones share."""
        return min(self.top_k, self.count) + 1 if self.length else 0

    @property
    def _places(self) -> int:
        """Places of the unfinished block that are taken."""
        return self.length % self.block

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
        factor = dim**-0.5 if scale is None else float(scale)
        if queries == 1 and self._decodes(q, k, v):
            return self._one_token(q, k, v, factor)
        kv_heads = k.shape[1]
        wide = torch.promote_types(q.dtype, torch.float32)
        # places count from the start of the unfinished block
        place = torch.arange(self._places, self._places + queries, device=q.device)
        chunk_k, chunk_v = self._rotated(k.to(wide), place), v.to(wide)
        flags = landmark_flags(self._places + queries, self.block, q.device)[self._places :]
        blocks = self._choose(q.to(wide), place, factor)
        width = (min(self.top_k, self.count) + 1) * self.block * (dim + v.shape[-1])
        step = max(1, queries if self.choice == "max_over_tokens" else SCRATCH // max(1, batch * heads * width))
        parts = []
        for begin in range(0, queries, step):
            end = min(begin + step, queries)
            rows = q[:, :, begin:end].to(wide)
            index = blocks
            if blocks is not None and blocks.shape[2] > 1:
                index = blocks[:, :, begin:end]
            scores, values, prefix_flags = self._read(rows, place[begin:end], index, factor)
            grouped = self._rotated(rows, place[begin:end]).unflatten(1, (kv_heads, -1))
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

    def _decodes(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Whether one token goes the short way: no gradient, one dtype that is computed in, and a block that holds more than its landmark."""
        plain = q.dtype == k.dtype == v.dtype and q.dtype in (torch.float32, torch.float64) and not self.offload
        return plain and self.block > 1 and self.length > 0 and not torch.is_grad_enabled() and readable(q)

    def _one_token(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """`attend` for one query: the token takes its place in the unfinished block, and is read there."""
        if self._tables is None or self._tables.cos.dtype != q.dtype or self._tables.cos.device != q.device:
            self._tables = turned_tables(self.block, self.top_k, q, self.theta, self.pairing)
        assert self.tail_keys is not None
        assert self.tail_values is not None
        live = slice(self.first, self.first + self.count)
        out = one_token(
            q * scale,
            k,
            v,
            tail=(self.tail_keys, self.tail_values),
            place=self._places,
            landmarks=None if self.landmarks is None else self.landmarks[:, :, live],
            blocks=lambda chosen: self._blocks_of(chosen, q.shape[1], q),
            top_k=self.top_k,
            tables=self._tables,
            shared=self.choice == "max_over_heads",
        )
        self.length += 1
        if self._places == 0:
            self._finish(self.tail_keys[:, :, None], self.tail_values[:, :, None])
        return out

    def retrieve(self, q: Float[Tensor, "batch heads queries dim"], *, scale: float | None = None) -> Prefix:
        """What a chunk of queries (without position) would see of the memory, with its scaled scores; stores nothing."""
        factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
        place = torch.arange(self._places, self._places + q.shape[2], device=q.device)
        scores, values, flags = self._read(q, place, self._choose(q, place, factor), factor)
        return Prefix(scores, values.expand(*scores.shape, values.shape[-1]), flags.expand(q.shape[0], -1), self.start)

    def store(
        self, k: Float[Tensor, "batch kv_heads new dim"], v: Float[Tensor, "batch kv_heads new value_dim"]
    ) -> None:
        """Appends a chunk: whole blocks go to the store, the rest stays as the unfinished block. What is stored is detached."""
        k, v = k.detach(), v.detach()
        place = (self._places + torch.arange(k.shape[2], device=k.device)) % self.block
        k = self._rotated(k.to(torch.promote_types(k.dtype, torch.float32)), place).to(k.dtype)
        if self.tail_keys is not None and self.tail_values is not None:
            k = torch.cat([self.tail_keys[:, :, : self._places], k], dim=2)
            v = torch.cat([self.tail_values[:, :, : self._places], v], dim=2)
        self.length += place.shape[0]
        whole = k.shape[2] // self.block * self.block
        self.tail_keys, self.tail_values = (self._tail(x[:, :, whole:]) for x in (k, v))
        if self.capacity is not None and whole > self.capacity * self.block:
            k, v = (x[:, :, whole - self.capacity * self.block :] for x in (k, v))
            whole = self.capacity * self.block
        if whole:
            self._finish(*(x[:, :, :whole].unflatten(2, (-1, self.block)) for x in (k, v)))

    def _tail(self, x: Tensor) -> Tensor:
        """An unfinished block with room for the rest of it."""
        room = x.new_zeros(*x.shape[:2], self.block, x.shape[3])
        room[:, :, : x.shape[2]] = x
        return room

    def _finish(self, keys: Tensor, values: Tensor) -> None:
        """Puts whole blocks into the store."""
        new = keys.shape[2]
        if self.capacity is not None and self.count + new > self.capacity:
            drop = self.count + new - self.capacity
            self.first, self.count = self.first + drop, self.count - drop
        self._make_room(keys, values)
        assert self.keys is not None
        assert self.values is not None
        assert self.landmarks is not None
        place = slice(self.first + self.count, self.first + self.count + new)
        self.keys[:, :, place], self.values[:, :, place] = keys, values
        self.landmarks[:, :, place] = keys[:, :, :, -1]
        self.count += new

    def _make_room(self, keys: Tensor, values: Tensor) -> None:
        """Buffers double, so that a block is copied a bounded number of times; live blocks move to the front."""
        need = self.count + keys.shape[2]
        room = 0 if self.landmarks is None else self.landmarks.shape[2]
        if self.first + need <= room:
            return
        live = slice(self.first, self.first + self.count)
        room = max(2 * need, 8)

        def grown(old: Tensor | None, like: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
            pin = self.offload and torch.cuda.is_available() and device.type == "cpu"
            larger = torch.empty(*like.shape[:2], room, *like.shape[3:], device=device, dtype=dtype, pin_memory=pin)
            if old is not None:
                larger[:, :, : self.count] = old[:, :, live]
            return larger

        place = torch.device("cpu") if self.offload else keys.device
        self.keys = grown(self.keys, keys, place, self.dtype or keys.dtype)
        self.values = grown(self.values, values, place, self.dtype or values.dtype)
        self.landmarks = grown(self.landmarks, keys[:, :, :, -1], keys.device, keys.dtype)
        self.first = 0

    def state_dict(self) -> dict[str, Tensor]:
        """As for every cache; of the room of the store the live blocks alone."""
        state = super().state_dict()
        live = slice(self.first, self.first + self.count)
        for name in ("keys", "values", "landmarks"):
            if name in state:
                state[name] = state[name][:, :, live].contiguous()
        return {**state, "first": torch.tensor(0)}

    def _rotated(self, x: Tensor, position: Tensor) -> Tensor:
        return rotate(x, rotary_angles(position, x.shape[-1], self.theta, x.dtype), self.pairing)

    def _from(self, q: Tensor, place: Tensor, base: Tensor) -> Tensor:
        """Queries as the blocks in the slots `base`, (…, blocks), see them: (batch, heads, queries, blocks, dim)."""
        distance = place[:, None] + (self._base - base) * self.block
        return self._rotated(q[:, :, :, None].expand(-1, -1, -1, base.shape[-1], -1), distance)

    def _choose(self, q: Tensor, place: Tensor, scale: float) -> Int[Tensor, "batch heads queries blocks"] | None:
        """Ranks of the chosen blocks, ascending; heads or queries are 1 where they share the choice."""
        count, new = self.count, min(self.top_k, self.count)
        if not count:
            return None
        assert self.landmarks is not None
        keys = self.landmarks[:, :, self.first : self.first + count].to(q.dtype)
        # the newest stand each in its own slot, 1 … K, the others together in slot 0
        own_slot = self._from(q, place, torch.arange(1, new + 1, device=q.device)[None, None, None])
        shared_slot = self._rotated(q, place + self._base * self.block)
        grouped = (keys.shape[1], -1)
        score = torch.cat(
            [
                torch.einsum("bhgqd,bhnd->bhgqn", shared_slot.unflatten(1, grouped), keys[:, :, : count - new]),
                torch.einsum("bhgqnd,bhnd->bhgqn", own_slot.unflatten(1, grouped), keys[:, :, count - new :]),
            ],
            -1,
        )
        score = score.flatten(1, 2) * scale
        if self.choice != "per_token_and_head":
            score = score.softmax(-1).amax(1 if self.choice == "max_over_heads" else 2, keepdim=True)
        # flipped, so that the stable sort puts the newest of equals first
        order = score.flip(-1).sort(dim=-1, descending=True, stable=True).indices[..., :new]
        return (count - 1 - order).sort(dim=-1).values

    def _read(self, q: Tensor, place: Tensor, chosen: Tensor | None, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled scores of queries against chosen blocks and tail, their values (queries may be 1), and the landmark flags."""
        batch, heads, queries, dim = q.shape
        parts: list[tuple[Tensor, Tensor]] = []
        flags = q.new_zeros(0, dtype=torch.bool)
        if chosen is not None:
            keys, values = self._blocks_of(chosen, heads, q)
            blocks = chosen.shape[-1]
            is_new = chosen >= self.count - min(self.top_k, self.count)
            turned = self._from(q, place, torch.arange(blocks, device=q.device) + is_new.long())
            if keys.shape[2] == 1:
                score = torch.einsum("bhqnd,bhnkd->bhqnk", turned, keys[:, :, 0])
            else:
                score = (keys @ turned[..., None]).squeeze(-1)
            parts.append((score.flatten(3) * scale, values.flatten(3, 4)))
            flags = landmark_flags(blocks * self.block, self.block, q.device)
        length = self._places
        if self.tail_keys is not None and self.tail_values is not None and length:
            tail_k, tail_v = (x[:, :, :length].to(q.dtype) for x in (self.tail_keys, self.tail_values))
            turned = self._rotated(q, place).unflatten(1, (tail_k.shape[1], -1))
            score = torch.einsum("bhgqd,bhkd->bhgqk", turned, tail_k).flatten(1, 2) * scale
            values = tail_v.repeat_interleave(heads // tail_v.shape[1], dim=1)[:, :, None]
            parts.append((score, values))
            flags = torch.cat([flags, flags.new_zeros(length)])
        if not parts:
            dim = 1 if self.tail_values is None else self.tail_values.shape[-1]
            return q.new_zeros(batch, heads, queries, 0), q.new_zeros(batch, heads, 1, 0, dim), flags
        scores = torch.cat([score for score, _ in parts], dim=-1)
        rows = max(values.shape[2] for _, values in parts)
        return scores, torch.cat([values.expand(-1, -1, rows, -1, -1) for _, values in parts], dim=3), flags

    def _blocks_of(self, chosen: Tensor, heads: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the chosen blocks, (batch, heads, queries or 1, blocks, block, dim), whole blocks copied."""
        assert self.keys is not None
        assert self.values is not None
        batch, kv_heads, room = self.keys.shape[:3]
        row = torch.arange(batch, device=q.device)[:, None] * kv_heads
        row = row + torch.arange(heads, device=q.device) // (heads // kv_heads)
        index = (row[:, :, None, None] * room + self.first + chosen).flatten()
        shape = (batch, heads, chosen.shape[2], chosen.shape[3])
        return tuple(  # type: ignore[return-value]
            x.flatten(0, 2).index_select(0, index.to(x.device)).to(q.device, q.dtype).unflatten(0, shape)
            for x in (self.keys, self.values)
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
        held = self.tail_keys
        if held is not None and (held.shape[:2], held.shape[3]) != (k.shape[:2], k.shape[3]):
            size = (*held.shape[:2], self._places, held.shape[3])
            raise ValueError(f"the memory holds (batch, kv_heads, ·, dim) = {size}: {shapes}")


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
