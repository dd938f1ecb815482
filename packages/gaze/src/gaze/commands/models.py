"""``gaze models``."""

from pathlib import Path
from typing import Annotated

from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from core_runtime.options import AtLeast
from gaze.model.published import NOTICE, PUBLISHED


def convert(
    checkpoint: Path,
    /,
    *,
    table: Path,
    longest: Annotated[int, AtLeast(1)],
    heads: Annotated[int, AtLeast(1)] = 4,
    looks: bool = True,
    out: Path = Path("model"),
) -> Described:
    """Makes a model folder of a checkpoint of the published code and its position table.

    Example: gaze models convert last.ckpt --table pe_amazon.npy --longest 91 --out model

    Args:
        checkpoint: a Lightning checkpoint (.ckpt, .pth) or .safetensors; sizes are read from its tensors.
        table: the position table, a .npy file that the published code keeps beside it.
        longest: fixations of the longest training path, where predictions end.
        heads: of each attention layer, which no tensor tells.
        looks: whether it was trained with pictures.
        out: the model folder.
    """
    import numpy as np
    import torch

    from core_attention.checkpoints.files import read_official
    from core_runtime.errors import named
    from gaze.model.declaration import system
    from gaze.model.folder import Prepared, save_model
    from gaze.model.official import config_of

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        positions = torch.from_numpy(np.load(table, allow_pickle=False)).float()
    except (OSError, ValueError) as error:
        raise UserError(named(table, error), "expected a .npy file of float32, rows × 86") from None
    try:
        state = read_official(checkpoint)
        config = config_of(state, positions, heads)
        model = system.components["Seq2SeqTransformer"].load(config, {**state, "pe_table": positions})
    except (OSError, ValueError, KeyError) as error:
        raise UserError(named(checkpoint, error), "expected a checkpoint of Seq2SeqTransformer") from None
    prepared = Prepared(looks, longest)
    folder = save_model(model, out, prepared=prepared, provenance={"converted_from": checkpoint.name})  # pyright: ignore[reportArgumentType]
    return Described({"model": str(folder), "parameters": sum(p.numel() for p in model.parameters())})


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and predicts one path.

    Example: gaze models check run/model

    Args:
        folder: the model folder.
    """
    import numpy as np

    from gaze.model.folder import load_model
    from gaze.model.inference import predict_scenes
    from gaze.scenes.grids import equal_grid
    from gaze.scenes.scene import Layout, Scene

    model, prepared = load_model(folder)
    grid = equal_grid(2, 3, (600, 400))
    crops = None
    if prepared.looks:
        crops = np.random.default_rng(0).random((6, 3, *model.config.crop), np.float32)
    scene = Scene("check", (600, 400), list("abcdef"), grid.boxes(), Layout.of_grid(grid), crops)
    prediction = predict_scenes(model, prepared, [scene], [1], samples=2, longest=5)[0]
    if not np.isfinite(prediction.step_probabilities).all():
        raise UserError(f"{folder}: the model's answers are not finite", "its weights are damaged: train again")
    return Described(
        {
            "model": folder,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "looks": prepared.looks,
            "longest path": prepared.longest,
            "target position": model.config.target_position,
        }
    )


models = models_group(PUBLISHED, convert, check, command="gaze", notice=NOTICE)
