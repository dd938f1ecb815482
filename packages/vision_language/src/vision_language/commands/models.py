"""``vision-language models``."""

from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from vision_language.model.published import NOTICE, PUBLISHED


def check(folder: str, /) -> Described:
    """Loads a model folder of ours strictly and runs it once.

    Example: vision-language models check run/model

    Args:
        folder: the model folder.
    """
    from core_attention.checkpoints.folders import find_folder, read_config
    from core_runtime.models import choose_model
    from vision_language.model.folder import ADVICE, load_embedder, load_grounder

    try:
        kind = read_config(find_folder(choose_model(folder, advice=ADVICE)))["class"]
    except (OSError, ValueError) as error:
        raise UserError(str(error), ADVICE) from None
    from PIL import Image

    image = Image.new("RGB", (64, 48), "grey")
    if kind == "FocalLensCLIP":
        model = load_embedder(folder)
        model.embed([image], "which colour is it?")
        network = model.network
    else:
        grounder = load_grounder(folder)
        grounder.ground(image, ["the red circle"])
        network = grounder.network
    return Described({"model": folder, "class": kind, "parameters": sum(p.numel() for p in network.parameters())})


models = models_group(PUBLISHED, check, command="vision-language", notice=NOTICE)
