"""From slides to the features that a model takes: the tiles and the encoder that its training features were made with."""

from pathlib import Path

from core_runtime.bulk import Outcome
from core_runtime.errors import UserError
from pathology_mil.features.encoders import PAIRINGS, EncoderChoice
from pathology_mil.features.encoding import EncodeParams, encode_slides
from pathology_mil.slides.formats import SLIDE_SUFFIXES
from pathology_mil.model.folder import LoadedModel
from pathology_mil.slides.reading import find_slides
from pathology_mil.slides.tiles import TileParams
from pathology_mil.slides.tiling import tile_slides, verdict


def holds_slides(path: Path) -> bool:
    """Whether a path means slides rather than features: by its ending, or a folder with slides and no feature files."""
    if path.is_dir():
        files = {p.suffix.lower() for p in path.rglob("*")}
        return bool(files & SLIDE_SUFFIXES) and not files & {".h5", ".hdf5", ".pt"}
    return path.suffix.lower() in SLIDE_SUFFIXES | {".csv"}


def prepare(
    slides: Path,
    model: LoadedModel,
    job: Path,
    *,
    encoder: str | None = None,
    weights: Path | None = None,
    mpp: float | None = None,
    device: str = "cpu",
    workers: int = 1,
) -> tuple[Path, list[Outcome]]:
    """Tiles and encodes slides as the model's training slides were.

    Args:
        slides: as `find_slides`.
        job: folder for tiles and features; an interrupted run goes on there.
        encoder, weights: as ``encode``; not needed where the encoder is computed.
        mpp: the scans' resolution, where the files do not say it.

    Returns:
        The folder of features, and the outcomes of slides that gave none.

    Raises:
        UserError: the model does not say how its features were made, another encoder or no weights were given, no usable slide.
    """
    found = find_slides(slides, mpp=mpp)
    params, choice = tiles_of(model), encoder_of(model, encoder, weights)
    folder, tiled = tile_slides(found, job, params, workers=workers)
    verdict(tiled, single=len(found) == 1)
    where = "cpu" if choice.computed else device
    features, encoded = encode_slides(folder, EncodeParams(choice, device=where), workers=workers)
    encoded_names = {o.name for o in encoded if not o.ok}
    return features, [o for o in tiled if not o.ok and o.name not in encoded_names] + [o for o in encoded if not o.ok]


def tiles_of(model: LoadedModel) -> TileParams:
    """The tiles that the model's training features were made of."""
    made = model.features
    if "tiles" in made:
        return TileParams.of(made["tiles"])
    if "patch_size" not in made or not {"target_magnification", "target_mpp"} & made.keys():
        raise UserError(
            "the model does not say how the tiles of its features were cut",
            "make features with 'pathology-mil tile' and 'encode' as for its training, then predict from those",
        )
    mpp = made.get("target_mpp")
    return TileParams(
        patch_size=int(float(made["patch_size"])),
        mag=None if mpp else float(made["target_magnification"]),
        mpp=float(mpp) if mpp else None,
        overlap=int(float(made.get("overlap", 0))),
    )


def encoder_of(model: LoadedModel, encoder: str | None, weights: Path | None) -> EncoderChoice:
    """The encoder of the model's training features, checked against what a person asks for."""
    wanted = str(model.features.get("encoder", ""))
    if not encoder:
        if wanted != "colour-texture":
            raise UserError(
                f"the model takes features of {wanted or 'an encoder that it does not name'}",
                "name it with --encoder and its file with --weights ('pathology-mil models' lists encoders), or predict from features",
            )
        encoder = wanted
    choice = EncoderChoice(encoder, weights, known_as=wanted if wanted in PAIRINGS else None)
    if wanted and choice.label != wanted:
        raise UserError(f"the model takes features of {wanted}, --encoder asks for {choice.label}")
    return choice
