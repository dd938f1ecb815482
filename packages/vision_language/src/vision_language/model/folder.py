"""Model folders of this domain: saving, strict loading, choosing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core_attention.checkpoints.folders import find_folder, read_config
from core_attention.checkpoints.folders import load_model as load_strictly
from core_attention.checkpoints.folders import save_model as save_folder
from core_runtime.errors import UserError
from core_runtime.fields import read_field
from core_runtime.folders import writing
from core_runtime.models import choose_model
from vision_language.model.focallens_clip import FocalLensCLIP
from vision_language.model.grounding import Grounder, Prepared
from vision_language.model.grounding_network import GroundingNetwork
from vision_language.model.retrieval import Embedder
from vision_language.model.sentences import SentenceEncoder, encoder_named

ADVICE = (
    "'vision-language train grounding ITEMS --out RUN' makes RUN/model; 'vision-language models' lists published ones"
)
FOCAL_ADVICE = "'vision-language train focallens DATA --out RUN' makes RUN/model; 'vision-language models' lists bases"
TOKENIZER = "tokenizer.json"


def save_grounder(grounder: Grounder, folder: Path, *, provenance: Mapping[str, Any]) -> Path:
    """Writes a model folder of a grounding network, whole or not at all."""
    preprocessing = {"side": grounder.prepared.side, "encoder": grounder.prepared.encoder}
    return save_folder(grounder.network, folder, preprocessing=preprocessing, provenance=provenance)


def load_grounder(model: str | None, device: str = "cpu", *, encoder: SentenceEncoder | None = None) -> Grounder:
    """The grounding model of ``--model``, ready to be used.

    Raises:
        UserError: none was given, it is another kind of folder, or its weights do not fit.
    """
    source = choose_model(model, advice=ADVICE)
    try:
        network = load_strictly(source, GroundingNetwork)
        described = read_config(find_folder(source))
    except (OSError, ValueError) as error:
        raise UserError(str(error), ADVICE) from None
    where = f"{source}/config.json"
    side = read_field(described, "preprocessing.side", int, where=where)
    name = read_field(described, "preprocessing.encoder", str, where=where)
    encoder = encoder or encoder_named(name, network.config.sentence_dim)
    if encoder.dim != network.config.sentence_dim:
        raise UserError(
            f"{source} was trained with sentences of {network.config.sentence_dim} numbers, {encoder.name} gives {encoder.dim}"
        )
    return Grounder(network.to(device).eval(), encoder, Prepared(side, name))


def save_embedder(embedder: Embedder, folder: Path, *, provenance: Mapping[str, Any]) -> Path:
    """Writes a model folder of FocalLens-CLIP with its tokenizer, whole or not at all."""
    with writing(folder) as part:
        save_folder(embedder.network, part, preprocessing={"side": embedder.side}, provenance=provenance)
        embedder.tokenizer.save(str(part / TOKENIZER))
    return folder


def load_embedder(model: str | None, device: str = "cpu") -> Embedder:
    """The FocalLens-CLIP of ``--model``, ready to be used.

    Raises:
        UserError: none was given, it is another kind of folder, or its weights or tokenizer do not fit.
    """
    from tokenizers import Tokenizer

    source = choose_model(model, advice=FOCAL_ADVICE)
    try:
        folder = find_folder(source)
        network = load_strictly(folder, FocalLensCLIP)
        described = read_config(folder)
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except (OSError, ValueError) as error:
        raise UserError(str(error), FOCAL_ADVICE) from None
    except Exception as error:  # what tokenizers raises is a plain Exception
        raise UserError(f"{source}/{TOKENIZER} cannot be read: {error}", FOCAL_ADVICE) from None
    side = read_field(described, "preprocessing.side", int, where=f"{source}/config.json")
    network.freeze_text()
    return Embedder(network.to(device).eval(), tokenizer, side)
