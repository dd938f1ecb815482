"""Model folders of this domain, and published checkpoints read in place: saving, strict loading, what a model expects of screenshots."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from core_attention.checkpoints.folders import find_folder, read_config
from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError, shorten
from core_runtime.fields import check_names, read_field
from core_runtime.folders import writing
from core_runtime.models import choose_model, seal, warn_if_changed
from core_runtime.pictures import MOST_PIXELS
from core_runtime.terminal import warn
from gui_grounding.model.answers import END, PAD, START
from gui_grounding.model.checkpoint import is_checkpoint, pixel_limits_of, read_json, read_tensors, system_message_of
from gui_grounding.model.declaration import system
from gui_grounding.model.labels import CELL
from gui_grounding.model.patches import MAX_PIXELS, MIN_PIXELS
from gui_grounding.model.pointer import PointerModel
from gui_grounding.model.regions import Scoring
from gui_grounding.model.tokens import SYSTEM_MESSAGE, Tokens

ADVICE = "'gui-grounding train ITEMS --out RUN' makes RUN/model; 'gui-grounding models' lists published ones"
TOKENIZER = "tokenizer.json"
DIGEST = "system_message_digest"
LARGEST_LEAST = 12_845_056  # pixels that a small screenshot may be enlarged to: Qwen's own upper limit
PUBLISHED = "Qwen2_5_VLForConditionalGenerationWithPointer"


@dataclass(frozen=True)
class Prepared:
    """What a model expects of screenshots and instructions.

    Attributes:
        system_message: that it was trained with; clicks degrade under another.
        min_pixels, max_pixels: limits of the resized screenshot.
        scoring: how regions are ranked: ``max`` (V2P) or ``mean`` (GUI-Actor).
        slope, offset: of the calibration ``p(hit) = σ(slope · (1 − entropy) + offset)``, on held-out items; None: not calibrated.
    """

    system_message: str = SYSTEM_MESSAGE
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    scoring: Scoring = "max"
    slope: float | None = None
    offset: float | None = None

    @property
    def message_digest(self) -> str:
        return hashlib.sha256(self.system_message.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Loaded:
    """A model ready to be used: the network in eval mode, its tokens, what it expects."""

    network: PointerModel
    tokens: Tokens
    prepared: Prepared
    provenance: Mapping[str, Any]


def save_model(
    network: PointerModel, tokens: Tokens, folder: Path, *, prepared: Prepared, provenance: Mapping[str, Any]
) -> Path:
    """Writes a model folder, whole or not at all: weights, configuration, tokenizer."""
    preprocessing = asdict(prepared) | {DIGEST: prepared.message_digest}
    with writing(folder) as part:
        save_folder(network, part, preprocessing=preprocessing, provenance=provenance)
        tokens.save(part / TOKENIZER)
        seal(part)
    return folder


def load_model(model: str | None, device: str = "cpu", dtype: torch.dtype | None = None) -> Loaded:
    """The model of ``--model``: a folder of ours, or a published checkpoint as it was downloaded.

    Args:
        model: folder, path or name.
        device: where it is put.
        dtype: of its weights; None: as they are in the file.

    Raises:
        UserError: none was given, or it is neither; missing, unexpected or misshapen tensors; special tokens in another order.
    """
    name = choose_model(model, advice=ADVICE)
    try:
        folder = find_folder(name)
        loaded = load_checkpoint(folder) if is_checkpoint(folder) else _load_own(folder)
        check_tokens(loaded.network, loaded.tokens, folder)
    except (OSError, ValueError) as error:
        raise UserError(shorten(str(error)), ADVICE) from None
    network = loaded.network.to(device)
    if dtype is not None:
        network = network.to(dtype)
    return replace(loaded, network=network.eval())


def _load_own(folder: Path) -> Loaded:
    network = load_strictly(folder, PointerModel)
    described = read_config(folder)
    where = f"{folder}/config.json"

    def field(name: str, kind: type, **more: Any) -> Any:
        return read_field(described, f"preprocessing.{name}", kind, where=where, **more)

    names = [name.name for name in fields(Prepared)]
    check_names(described, "preprocessing", [*names, DIGEST], where=where, hint=ADVICE)
    scoring = field("scoring", str)
    if scoring not in ("max", "mean"):
        raise ValueError(f"{where}: preprocessing.scoring is {scoring!r}, expected max or mean")
    least, most = field("min_pixels", int), field("max_pixels", int)
    check_pixels(least, most, where)
    prepared = Prepared(
        system_message=field("system_message", str),
        min_pixels=least,
        max_pixels=most,
        scoring=scoring,
        slope=field("slope", float, default=None),
        offset=field("offset", float, default=None),
    )
    provenance = read_field(described, "provenance", dict, where=where, default={})
    warn_if_changed(described, folder)
    return Loaded(network, read_tokens(folder), prepared, provenance)


def check_pixels(least: Any, most: Any, where: str) -> None:
    """Pixel limits are such that a screenshot can be resized to them.

    Raises:
        ValueError: they are no whole numbers, cross, or go beyond what a screenshot may have.
    """
    for name, value in (("min_pixels", least), ("max_pixels", most)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} is {value!r:.60}, expected a whole number")
    if not CELL**2 <= most <= MOST_PIXELS:
        raise ValueError(f"{where}: max_pixels is {most}, expected {CELL**2} to {MOST_PIXELS}")
    if not 1 <= least <= min(most, LARGEST_LEAST):
        raise ValueError(f"{where}: min_pixels is {least}, expected 1 to {min(most, LARGEST_LEAST)}")


def load_checkpoint(
    folder: Path, *, system_message: str | None = None, loss: Literal["v2p", "guiactor"] | None = None
) -> Loaded:
    """A published checkpoint, strictly.

    Args:
        folder: as it was downloaded.
        system_message: what it was trained with, where the folder does not say.
        loss: whether it is V2P's or GUI-Actor's, whose loss and ranking differ; None: GUI-Actor's where its name says so.

    Raises:
        OSError, ValueError: files or tensors are missing, damaged, unexpected or of other shapes.
    """
    config = read_json(folder / "config.json")
    named = f"{folder.resolve().name} {config.get('_name_or_path', '')}".lower()
    is_guiactor = loss == "guiactor" or (loss is None and "gui-actor" in named)
    network = system.components[PUBLISHED].load(config, read_tensors(folder))
    assert isinstance(network, PointerModel)
    network.config = replace(network.config, suppress=not is_guiactor)
    message = system_message or system_message_of(folder)
    if message is None:
        message = SYSTEM_MESSAGE
        warn(
            f"{folder} does not say which system message it was trained with; clicks degrade under another. "
            "'models convert --system-message FILE' gives it the published one"
        )
    least, most = pixel_limits_of(folder)
    least, most = least or MIN_PIXELS, most or MAX_PIXELS
    check_pixels(least, most, str(folder))
    prepared = Prepared(
        system_message=message,
        min_pixels=least,
        max_pixels=most,
        scoring="mean" if is_guiactor else "max",
    )
    return Loaded(network, read_tokens(folder), prepared, {"checkpoint": folder.name})


def read_tokens(folder: Path) -> Tokens:
    """The tokenizer of a folder.

    Raises:
        ValueError: it is absent, damaged, or lacks a special token.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise ValueError(f"{folder} has no {TOKENIZER}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{path} is damaged: {error}") from None
    try:
        return Tokens(tokenizer)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def check_tokens(network: PointerModel, tokens: Tokens, folder: Path) -> None:
    """Makes sure that the tokenizer and the configuration mean the same tokens.

    Raises:
        ValueError: they do not: another order of special tokens, or a vocabulary that is too small.
    """
    config = network.config
    expected = {START: config.pointer_start, PAD: config.pointer_pad, END: config.pointer_end}
    for token, number in expected.items():
        if tokens.id(token) != number:
            raise ValueError(
                f"{folder}: its tokenizer has {token} at {tokens.id(token)}, its configuration at {number}"
            )
    rows = network.backbone.get_input_embeddings().num_embeddings
    if tokens.size > rows:
        raise ValueError(f"{folder}: its tokenizer has {tokens.size} tokens, its model {rows}")
