"""``ieeg models``: lists published models, gets them, converts checkpoints between the three namings, checks a model folder."""

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.models import Described, find_published
from core_runtime.models import models as models_group
from ieeg.model.layouts import ConversionOptions
from ieeg.model.published import PUBLISHED, RESEARCH_ONLY


def get(name: str, /, *, out: Path = Path("models")) -> Described:
    """Downloads published weights from the hub and converts them to a model folder OUT/NAME.

    Example: ieeg models get mvpformer-s-swec --out models

    Args:
        name: as in the list.
        out: folder for the model folder.
    """
    from core_runtime.hub import hub_errors
    from ieeg.model.conversion import convert_checkpoint

    published = find_published(PUBLISHED, name)
    if not published.files:
        raise UserError(f"{name} is not on the hub", f"it needs {published.needs}")
    target = out / name
    if target.exists():
        raise UserError(f"{target} is already there", "--out names another folder")
    from huggingface_hub import hf_hub_download

    by_hand = f"copy the folder of {published.source} and use 'ieeg models convert FOLDER'"
    with hub_errors(name, published.source, by_hand):
        config = Path(hf_hub_download(published.source, "config.json"))
        hf_hub_download(published.source, "model.safetensors")
    facts = convert_checkpoint(config.parent, target)
    return Described({**facts, "name": name, "licence": published.licence})


def convert(
    source: Path, /, *, out: Path = Path("model"), conversion: ConversionOptions = ConversionOptions()
) -> Described:
    """Converts between IBM's, braindecode's and our naming, both ways.

    Example: ieeg models convert mvpformer_s_swec.pt --base mvpformer_s_base.pt --out model

    Args:
        source: a checkpoint file, or a model folder.
        out: the model folder, or the file.
    """
    from ieeg.model.conversion import convert_checkpoint

    return Described(convert_checkpoint(source, out, conversion))


def check(folder: Path, /) -> Described:
    """Loads a model folder strictly and runs it once, on noise.

    Example: ieeg models check run/model

    Args:
        folder: the model folder.
    """
    from ieeg.model.conversion import check_model

    return Described(check_model(folder))


models = models_group(PUBLISHED, get, convert, check, command="ieeg", notice=RESEARCH_ONLY)
