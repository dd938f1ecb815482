"""From slides to the features that a model takes, made with the tiles and the encoder of its training features."""

from dataclasses import replace
from pathlib import Path

from core_runtime.bulk import Attempt, require_results
from core_runtime.errors import UserError
from core_runtime.options import BulkOptions
from pathology_mil.features.encoding import Storage, encode_slides
from pathology_mil.features.options import COMPUTED, PAIRINGS, EncoderOptions
from pathology_mil.model.folder import LoadedModel
from pathology_mil.slides.formats import SLIDE_SUFFIXES
from pathology_mil.slides.options import TileOptions, Tiling
from pathology_mil.slides.reading import find_slides
from pathology_mil.slides.tiling import tile_slides


def holds_slides(path: Path) -> bool:
    """Whether a path holds slides rather than features: by its ending, or a folder with slides and no feature files."""
    if path.is_dir():
        endings = {file.suffix.lower() for file in path.rglob("*")}
        return bool(endings & SLIDE_SUFFIXES) and not endings & {".h5", ".hdf5", ".pt"}
    return path.suffix.lower() in SLIDE_SUFFIXES | {".csv"}


def prepare(
    slides: Path,
    model: LoadedModel,
    job: Path,
    *,
    encoder: EncoderOptions,
    mpp: float | None = None,
    device: str = "cpu",
    run: BulkOptions = BulkOptions(),
) -> tuple[Path, list[Attempt]]:
    """Tiles and encodes slides in the way of the model's training slides.

    Args:
        slides: as in `find_slides`.
        job: folder for tiles and features; an interrupted run continues there.
        encoder: as for ``encode``; not needed where the model's encoder is computed.
        mpp: the scans' resolution, where the files do not state it.

    Returns:
        The folder of features, and the attempts of slides without features.

    Raises:
        UserError: the model does not record how its features were made, another encoder or no weights were given, no usable slide.
    """
    files = find_slides(slides, mpp=mpp)
    tiling, choice = tiling_of(model), encoder_of(model, encoder)
    folder, tiled = tile_slides(files, job, tiling, run=run)
    if len(tiled) == 1:
        require_results(tiled)
    where = "cpu" if choice.computed else device
    storage = Storage(device=where)
    features, encoded = encode_slides(folder, choice, storage, run=run)
    # A slide without tiles fails in both steps: it is named once.
    unencoded = [attempt for attempt in encoded if not attempt.ok]
    names = {attempt.name for attempt in unencoded}
    untiled = [attempt for attempt in tiled if not attempt.ok and attempt.name not in names]
    return features, [*untiled, *unencoded]


def tiling_of(model: LoadedModel) -> Tiling:
    """The tiling of the model's training slides."""
    features = model.features
    if "tiles" in features:
        return Tiling.of(features["tiles"])
    if "patch_size" not in features or not {"target_magnification", "target_mpp"} & features.keys():
        raise UserError(
            "the model does not record how the tiles of its features were cut",
            "make features with 'pathology-mil tile' and 'encode' as for its training, then predict from those",
        )
    # Models of older feature files record only attributes, as text: "256", "20.0". A stated resolution outweighs the magnification.
    mag, mpp = None, None
    if features.get("target_mpp"):
        mpp = float(features["target_mpp"])
    else:
        mag = float(features["target_magnification"])
    patch_size = int(float(features["patch_size"]))
    overlap = int(float(features.get("overlap", 0)))
    return Tiling(TileOptions(patch_size=patch_size, mag=mag, mpp=mpp, overlap=overlap))


def encoder_of(model: LoadedModel, encoder: EncoderOptions) -> EncoderOptions:
    """The encoder of the model's training features, checked against what the user requests."""
    trained_on = str(model.features.get("encoder", ""))
    if encoder.encoder is None:
        if trained_on != COMPUTED:
            raise UserError(
                f"the model takes features of {trained_on or 'an encoder that it does not name'}",
                "give it with --encoder and its file with --weights ('pathology-mil models' lists encoders), "
                "or predict from features",
            )
        return EncoderOptions(encoder=COMPUTED)
    # Features may be stored under the name of a known encoder, which timm calls otherwise.
    if encoder.known_as is None and trained_on in PAIRINGS:
        encoder = replace(encoder, known_as=trained_on)
    if trained_on and encoder.label != trained_on:
        raise UserError(f"the model takes features of {trained_on}, but --encoder is {encoder.label}")
    weights, digest = encoder.plain()["weights"], model.features.get("weights")
    if digest is not None and weights != digest:
        raise UserError(
            f"the model's features were made with other weights of {trained_on}",
            "--weights names the file that the training features were made with",
        )
    return encoder
