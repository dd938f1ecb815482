"""OAT, the object-level attention transformer: objects of a scene and a searched target to a distribution over scanpaths.

Fang, Yu, Zhang, van der Lans and Shi, ECCV 2024, arXiv 2407.13335.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gaze.model.appearance import AppearanceEncoder, feature_count
from gaze.model.layers import DecoderLayer, EncoderLayer, ObjectPointer, StepCache
from gaze.model.positions import embed_positions, position_table, time_encoding

TargetPosition = Literal["known", "unknown"]


@dataclass(frozen=True)
class OATConfig:
    """Sizes of OAT; the defaults are the published ones.

    Attributes:
        width: channels of a token; half of them say how it looks, half where it is.
        heads: of each attention layer.
        feedforward: width of the feed-forward branch.
        encoder_layers, decoder_layers: how many.
        pointer_heads: of the object attention.
        pointer_width: of each of them.
        pyramid: levels of the spatial pyramid over crops of any size; 0: crops of one size.
        crop: height and width of the crops, in pixels.
        dropout: share of channels and attention weights dropped in training.
        table_rows, table_width: of the position table; the largest row or column of a scene is below `table_rows`.
        sigma: how far positions are alike, in rows.
        target_position: whether the encoder is told where the target is. Published: known. A free search does not know it.
    """

    width: int = 512
    heads: int = 4
    feedforward: int = 512
    encoder_layers: int = 4
    decoder_layers: int = 4
    pointer_heads: int = 2
    pointer_width: int = 512
    pyramid: int = 0
    crop: tuple[int, int] = (150, 93)
    dropout: float = 0.1
    table_rows: int = 14
    table_width: int = 86
    sigma: float = 2.0
    target_position: TargetPosition = "known"

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop", tuple(self.crop))  # JSON has lists
        for name in ("width", "heads", "feedforward", "pointer_heads", "pointer_width", "table_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        feature_count(self.pyramid, self.crop)  # raises where crops are too small
        if self.width % 2:
            raise ValueError(f"width is even (half of it says where a token is), got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share from 0 to below 1, got {self.dropout}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be divided among {self.heads} heads")
        least = -(-self.width // 6)
        if self.table_width < least:
            raise ValueError(
                f"three vectors of the position table fill half of a token of width {self.width}: "
                f"table_width is at least {least}, got {self.table_width}"
            )


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch of scenes, before the encoder; N is the number of objects of the largest scene.

    Attributes:
        vectors: (scenes, N + 4, width) of the objects, then stop, padding, begin and one more that is never used: what the decoder reads.
        source: (scenes, N + 1, width) of the objects, then the searched target: what the encoder reads.
        valid: (scenes, N + 1), which of `source` are there.
    """

    vectors: Float[Tensor, "scenes all width"]
    source: Float[Tensor, "scenes tokens width"]
    valid: Bool[Tensor, "scenes tokens"]


@dataclass(frozen=True)
class Encoded:
    """Scenes after the encoder, with what every decoding step needs of them.

    Attributes:
        tokens: before the encoder.
        memory: keys and values of each decoder layer.
        objects: projected for the pointer.
    """

    tokens: Tokens
    memory: list[tuple[Tensor, Tensor]]
    objects: Tensor


class OAT(nn.Module):
    """Which object is looked at next, until the search stops.

    Indices: objects are 0 … N-1; N is the searched target's token, whose choice means "stop"; N+1 pads and N+2 begins a sequence. N is the
    number of objects of the largest scene in a batch; smaller scenes are padded (`valid`).
    """

    def __init__(self, config: OATConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        size = config.width // 2
        layer = (config.width, config.heads, config.feedforward, config.dropout)
        self.appearance = AppearanceEncoder(size, pyramid=config.pyramid, crop=config.crop)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(config.decoder_layers))
        self.pointer = ObjectPointer(config.width, config.pointer_width, config.pointer_heads)
        self.register_buffer("table", torch.zeros(config.table_rows, config.table_width))
        self.table: Tensor
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.seed = seed

    def optimise_table(self) -> None:
        """Fills the position table of a new model."""
        config = self.config
        table = position_table(config.table_rows, config.table_width, sigma=config.sigma, seed=self.seed)
        self.table.copy_(table)

    def set_table(self, table: Float[Tensor, "rows width"]) -> None:
        """Takes another position table, such as a published one (a .npy file beside the checkpoint)."""
        if table.shape != self.table.shape:
            raise ValueError(f"expected a table of shape {tuple(self.table.shape)}, got {tuple(table.shape)}")
        self.table = table.to(self.table)

    def embed(
        self,
        crops: Float[Tensor, "pictures objects 3 height width"] | None,
        places: Float[Tensor, "scenes objects 2"],
        target: Int[Tensor, " scenes"],
        *,
        crops_of: Int[Tensor, " scenes"] | None = None,
        valid: Bool[Tensor, "scenes objects"] | None = None,
        specials: Float[Tensor, "scenes 4 2"] | None = None,
        target_crops: Float[Tensor, "scenes 3 height width"] | None = None,
    ) -> Tokens:
        """How tokens look and where they are.

        Args:
            crops: of the objects, values between 0 and 1; None: nothing is known of looks, all are alike.
            places: row and column of each object, from 0; fractions lie between.
            target: index of the searched object; -1: it is not in the scene. Then `target_crops` shows it, or nothing is known of it.
            crops_of: whose crops each scene has, where several scenes are the same picture; None: `crops` holds those of every scene.
            valid: which objects are there; None: all.
            specials: row and column of the four tokens behind the objects, `grid_specials`; None: all in the first cell.
            target_crops: the searched object where it is not one of the scene's.
        """
        scenes, count = places.shape[:2]
        size = self.config.width // 2
        if valid is None:
            valid = torch.ones(scenes, count, dtype=torch.bool, device=places.device)
        if specials is None:
            specials = places.new_zeros(scenes, 4, 2)
        present = target >= 0
        index = target.clamp(min=0)[:, None, None]

        blank_crop = places.new_ones(1, 3, *(self.config.crop if crops is None else crops.shape[-2:]))
        blank = self.appearance(blank_crop)
        looks = blank.expand(scenes, count, -1)
        if crops is not None:
            looks = self._looks(crops, valid, crops_of)
        searched = looks.gather(1, index.expand(-1, 1, size))
        elsewhere = blank[:, None] if target_crops is None else self.appearance(target_crops)[:, None]
        searched = torch.where(present[:, None, None], searched, elsewhere)

        is_target = torch.arange(count, device=target.device) == target[:, None]
        flags = F.pad(is_target, (0, 4)).to(places.dtype)[..., None]
        decoder_places = self.locate(torch.cat([torch.cat([places, specials], 1), flags], -1))
        source_places = self.locate(F.pad(places, (0, 1)))
        target_place = places.gather(1, index.expand(-1, 1, 2))
        target_where = self.locate(F.pad(target_place, (0, 1), value=1.0))
        is_told = present
        if self.config.target_position != "known":
            is_told = torch.zeros_like(present)
        target_where = target_where * is_told[:, None, None].to(target_where.dtype)

        specials_look = blank.expand(scenes, 4, -1)
        vectors = torch.cat([torch.cat([looks, specials_look], 1), decoder_places], -1)
        source_where = torch.cat([source_places, target_where], 1)
        source = torch.cat([torch.cat([looks, searched], 1), source_where], -1)
        return Tokens(vectors, source, F.pad(valid, (0, 1), value=True))

    def _looks(self, crops: Tensor, valid: Tensor, crops_of: Tensor | None) -> Float[Tensor, "scenes objects size"]:
        """How the objects of each scene look; a picture that several scenes share is looked at once."""
        if crops_of is None:
            crops_of = torch.arange(len(crops), device=crops.device)
        there = valid.new_zeros(len(crops), valid.shape[1])
        there[crops_of] = valid
        looks = self.appearance(crops[there])
        shared = looks.new_zeros(*there.shape, looks.shape[-1])
        shared[there] = looks
        return shared[crops_of]

    def locate(self, places: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch size"]:
        return embed_positions(self.table, places, self.config.width // 2)

    def encode(self, tokens: Tokens) -> Encoded:
        """Reads scenes; once per scene, however many paths are drawn."""
        return self._prepare(tokens, self.encode_scene(tokens))

    def encode_scene(self, tokens: Tokens) -> Float[Tensor, "scenes tokens width"]:
        """The encoder's output."""
        mask = tokens.valid
        if bool(tokens.valid.all()):
            mask = None
        x = tokens.source
        for layer in self.encoder:
            x = layer(x, mask)
        return x

    def _prepare(self, tokens: Tokens, encoded: Tensor) -> Encoded:
        memory = []
        for layer in self.decoder:
            assert isinstance(layer, DecoderLayer)
            memory.append(layer.cross_attention.memory(encoded))
        return Encoded(tokens, memory, self.pointer.project_objects(encoded))

    def step_tokens(
        self, tokens: Tokens, steps: Int[Tensor, "batch steps"], start: int = 0
    ) -> Float[Tensor, "batch steps width"]:
        """Decoder tokens of object indices; the batch holds as many rows of each scene, one scene after the other."""
        scenes = len(tokens.vectors)
        positions = steps.reshape(scenes, -1)[..., None].expand(-1, -1, tokens.vectors.shape[-1])
        vectors = tokens.vectors.gather(1, positions).reshape(*steps.shape, -1)
        time = time_encoding(start + steps.shape[1], self.config.width).to(vectors)[start:]
        return F.dropout(vectors + time, self.config.dropout, self.training)

    def decode(
        self,
        encoded: Encoded,
        x: Float[Tensor, "batch steps width"],
        *,
        step_mask: Bool[Tensor, "batch steps"] | None = None,
        caches: list[StepCache] | None = None,
        room: int = 0,
    ) -> Float[Tensor, "batch steps width"]:
        """The decoder's output for `step_tokens`; with caches those of new steps only."""
        valid = encoded.tokens.valid
        scene_mask = valid
        if bool(valid.all()):
            scene_mask = None
        for i, layer in enumerate(self.decoder):
            cache = None
            if caches is not None:
                cache = caches[i]
            x = layer(x, encoded.memory[i], step_mask=step_mask, scene_mask=scene_mask, cache=cache, room=room)
        return x

    def point(
        self, encoded: Encoded, decoded: Float[Tensor, "batch steps width"]
    ) -> Float[Tensor, "batch steps choices"]:
        """Logits of the objects, the stop, and the placeholder; objects that are not there have -inf."""
        logits = self.pointer(decoded, encoded.objects)
        valid = encoded.tokens.valid
        if bool(valid.all()):
            return logits
        rows = len(logits) // len(valid)
        absent = F.pad(~valid, (0, 1)).repeat_interleave(rows, 0)
        return logits.masked_fill(absent[:, None], -torch.inf)

    def forward(self, tokens: Tokens, steps: Int[Tensor, "batch steps"]) -> Float[Tensor, "batch steps choices"]:
        """Logits of what follows each step, teacher-forced.

        Args:
            tokens: of the scenes, `embed`.
            steps: object indices: begin, then the fixated objects, the stop, padding. The batch holds as many rows of each scene, one
                scene after the other.

        Returns:
            (batch, steps, N + 2): the objects, the stop, and the placeholder that no path chooses.
        """
        encoded = self.encode(tokens)
        padding = tokens.vectors.shape[1] - 3
        there = steps != padding
        mask = there
        if bool(there.all()):
            mask = None
        return self.point(encoded, self.decode(encoded, self.step_tokens(tokens, steps), step_mask=mask))


def sequence_loss(
    logits: Float[Tensor, "batch steps choices"], following: Int[Tensor, "batch steps"], *, padding: int
) -> Float[Tensor, ""]:
    """Cross-entropy of the next index, the mean over all steps that are not padding."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=padding)


def grid_specials(rows: int, columns: int, count: int) -> Float[Tensor, "4 2"]:
    """Where a grid's special tokens are, as published: stop and padding go on in the grid, begin is in its middle.

    Published code cuts the middle to whole numbers before it looks them up: `floor` of this.

    Args:
        rows, columns: of the grid.
        count: objects in it.
    """
    index = torch.arange(count, count + 4)
    places = torch.stack([index // columns, index % columns], -1).float()
    places[2] = torch.tensor([rows / 2, columns / 2])
    return places
