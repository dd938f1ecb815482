"""The layers of OAT: post-norm transformer layers that keep keys and values of earlier steps, and the pointer to objects."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core_attention import Causal, attention


class StepCache:
    """Keys and values of the steps so far, of each layer: room for `steps` steps, written in place."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.length = 0

    def extend(self, keys: Tensor, values: Tensor, room: int) -> tuple[Tensor, Tensor]:
        """Adds those of new steps, (batch, heads, steps, width); returns all so far."""
        if self.keys is None or self.values is None:
            shape = (*keys.shape[:2], room, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def reorder(self, rows: Tensor) -> None:
        """Keeps these rows of the batch, in this order: the beams that go on."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be divided among {heads} heads")
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def split(self, x: Float[Tensor, "batch tokens width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of self-attention, each (batch, heads, tokens, width / heads)."""
        query, key, value = self.project(x).chunk(3, -1)
        return self._heads(query), self._heads(key), self._heads(value)

    def queries(self, x: Float[Tensor, "batch tokens width"]) -> Tensor:
        width = x.shape[-1]
        return self._heads(F.linear(x, self.project.weight[:width], self.project.bias[:width]))

    def memory(self, x: Float[Tensor, "batch tokens width"]) -> tuple[Tensor, Tensor]:
        """Keys and values of another sequence."""
        width = x.shape[-1]
        key, value = F.linear(x, self.project.weight[width:], self.project.bias[width:]).chunk(2, -1)
        return self._heads(key), self._heads(value)

    def merge(self, attended: Float[Tensor, "batch heads tokens head_width"]) -> Float[Tensor, "batch tokens width"]:
        return self.output(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class _Layer(nn.Module):
    """What both kinds of layers share: ``x ← norm(x + dropout(branch))``, and the feed-forward branch."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, norms: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attention = Attention(width, heads)
        self.expand = nn.Linear(width, feedforward)
        self.contract = nn.Linear(feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(norms))

    def add(self, x: Tensor, branch: Tensor, norm: int) -> Tensor:
        return self.norms[norm](x + F.dropout(branch, self.dropout, self.training))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.contract(F.dropout(F.relu(self.expand(x)), self.dropout, self.training))

    @property
    def weight_dropout(self) -> float:
        """Dropout of attention weights, as in torch's layers."""
        if self.training:
            return self.dropout
        return 0.0


class EncoderLayer(_Layer):
    """Self-attention and feed-forward, each followed by its norm."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(width, heads, feedforward, dropout, norms=2)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], valid: Bool[Tensor, "batch tokens"] | None
    ) -> Float[Tensor, "batch tokens width"]:
        query, key, value = self.self_attention.split(x)
        attended = attention(query, key, value, key_mask=valid, dropout=self.weight_dropout)
        x = self.add(x, self.self_attention.merge(attended), 0)
        return self.add(x, self.feed_forward(x), 1)


class DecoderLayer(_Layer):
    """Causal self-attention over the steps, attention to the scene, feed-forward."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__(width, heads, feedforward, dropout, norms=3)
        self.cross_attention = Attention(width, heads)

    def forward(
        self,
        x: Float[Tensor, "batch steps width"],
        scene: tuple[Tensor, Tensor],
        *,
        step_mask: Bool[Tensor, "batch steps"] | None = None,
        scene_mask: Bool[Tensor, "scenes tokens"] | None = None,
        cache: StepCache | None = None,
        room: int = 0,
    ) -> Float[Tensor, "batch steps width"]:
        """
        Args:
            x: decoder tokens; with a cache those of new steps. The batch holds as many rows of each scene, one scene after the other.
            scene: keys and values of the scenes, `cross_attention.memory` of the encoder's output.
            step_mask: which steps are there; a hidden one is seen by none.
            scene_mask: which objects are there.
            cache: of this layer.
            room: steps that the cache will hold.
        """
        query, key, value = self.self_attention.split(x)
        if cache is not None:
            key, value = cache.extend(key, value, room)
        causal = Causal(align="end") if cache is not None else Causal()
        attended = attention(query, key, value, mask=causal, key_mask=step_mask, dropout=self.weight_dropout)
        x = self.add(x, self.self_attention.merge(attended), 0)
        x = self.add(x, self._look_at_scene(x, scene, scene_mask), 1)
        return self.add(x, self.feed_forward(x), 2)

    def _look_at_scene(self, x: Tensor, scene: tuple[Tensor, Tensor], scene_mask: Tensor | None) -> Tensor:
        key, value = scene
        # rows of one scene stand behind each other as queries, so that its keys are not copied for every sample
        steps = x.shape[1]
        grouped = x.reshape(len(key), -1, x.shape[-1])
        query = self.cross_attention.queries(grouped)
        attended = attention(query, key, value, key_mask=scene_mask, dropout=self.weight_dropout)
        return self.cross_attention.merge(attended).reshape(-1, steps, x.shape[-1])


class ObjectPointer(nn.Module):
    """Logits of the objects: several heads of dot products between steps and objects, combined by a learned sum.

    ``S_c[t, n] = (A_c v_t + a_c) · (K_c u_n + k_c) / √d`` for heads c, ``logit = Σ_c w_c S_c + b``; a placeholder behind the objects has
    S_c = 0, so that its logit is b. With one head the scores are the logits.
    """

    def __init__(self, width: int, pointer_width: int, heads: int) -> None:
        super().__init__()
        self.pointer_width = pointer_width
        self.steps = nn.ModuleList(nn.Linear(width, pointer_width) for _ in range(heads))
        self.objects = nn.ModuleList(nn.Linear(width, pointer_width) for _ in range(heads))
        self.combine = nn.Linear(heads, 1)

    def project_objects(self, encoded: Float[Tensor, "scenes tokens width"]) -> Float[Tensor, "heads scenes tokens p"]:
        """Of the encoder's output, once per scene."""
        return torch.stack([project(encoded) for project in self.objects])

    def forward(
        self,
        decoded: Float[Tensor, "batch steps width"],
        objects: Float[Tensor, "heads scenes tokens p"],
    ) -> Float[Tensor, "batch steps tokens_and_placeholder"]:
        """`objects` is `project_objects` of the scenes; the batch holds as many rows of each scene, one scene after the other."""
        steps = decoded.shape[1]
        grouped = decoded.reshape(objects.shape[1], -1, decoded.shape[-1])
        queries = torch.stack([project(grouped) for project in self.steps])
        scores = F.pad(queries @ objects.transpose(-1, -2), (0, 1)) / self.pointer_width**0.5
        if len(self.steps) == 1:
            logits = scores[0]
        else:
            logits = torch.einsum("csqn,c->sqn", scores, self.combine.weight[0]) + self.combine.bias
        return logits.reshape(-1, steps, logits.shape[-1])
