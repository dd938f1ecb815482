"""``vision-models actions models``."""

from pathlib import Path

from core_runtime.errors import UserError
from core_runtime.models import Described
from core_runtime.models import models as models_group
from vision_models.actions.model.published import ADVICE, PUBLISHED


def convert(checkpoint: Path, /, *, out: Path = Path("model"), margin: float = 0.5, points: int = 3) -> Described:
    """Makes a model folder from a checkpoint of JJBOY's BMN; the sizes are read from it.

    Example: vision-models actions models convert BMN_best.pth.tar --out bmn

    Args:
        checkpoint: BMN_best.pth.tar, or its state dict.
        out: the model folder.
        margin: prop_boundary_ratio of its training, which the weights do not tell.
        points: num_sample_perbin of its training.
    """
    import torch

    from core_attention.checkpoints.folders import read_official
    from core_runtime.errors import clean, named
    from vision_models.actions.model.cells import dense_mask
    from vision_models.actions.model.declaration import system
    from vision_models.actions.model.detector import ActionDetector, DetectorConfig
    from vision_models.actions.model.folder import save_model
    from vision_models.actions.model.inference import FeatureSource
    from vision_models.actions.model.official import MASK, config_of, without_prefix

    if out.exists():
        raise UserError(f"{out} is already there", "--out names another folder")
    try:
        state = without_prefix(read_official(checkpoint))
        base, heads, folded = state["x_1d_b.0.weight"], state["x_1d_b.2.weight"], state["x_3d_p.0.weight"]
        sizes = {
            "hidden_dim_1d": base.shape[0],
            "conv_groups": base.shape[0] // heads.shape[1],
            "feat_dim": base.shape[1] * (base.shape[0] // heads.shape[1]),
            "hidden_dim_3d": folded.shape[0],
            "num_sample": folded.shape[2],
            "hidden_dim_2d": state["x_2d_p.0.weight"].shape[0],
            "prop_boundary_ratio": margin,
            "num_sample_perbin": points,
            "temporal_scale": state[MASK].shape[0] if MASK in state else 100,
        }
        network = system.components["BMN"].load(sizes, state)
    except KeyError as error:
        raise UserError(f"{checkpoint} has no key {error.args[0]!r}", "expected a checkpoint of JJBOY's BMN") from None
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        message = clean(named(checkpoint, error))[:300]
        raise UserError(message, "expected a checkpoint of JJBOY's BMN") from None
    config = config_of(sizes)
    if MASK in state and not torch.allclose(dense_mask(config.cells, config.sampling), state[MASK].float(), atol=1e-5):
        raise UserError(
            f"{checkpoint}: its constant mask is not that of --margin {margin:g} and --points {points}",
            "give prop_boundary_ratio and num_sample_perbin of its training",
        )
    model = ActionDetector(DetectorConfig(config, fit="resize"))
    model.bmn.load_state_dict(network.state_dict())
    source = FeatureSource("", config.channels, 0.0)
    provenance = {"converted_from": checkpoint.name}
    folder = save_model(model, out, labels=(), source=source, threshold=0.0, provenance=provenance)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Described(
        {"model": str(folder), "steps": config.steps, "channels": config.channels, "parameters": parameters}
    )


def check(folder: str, /) -> Described:
    """Loads a model folder strictly and runs it once.

    Example: vision-models actions models check run/model

    Args:
        folder: the model folder.
    """
    import torch

    from vision_models.actions.model.folder import load_model

    model = load_model(folder)
    config = model.network.config
    with torch.inference_mode():
        out = model.network(torch.randn(1, config.bmn.channels, config.bmn.steps))
    if not all(bool(torch.isfinite(part).all()) for part in out):
        raise UserError(f"{folder}: the model's outputs are not finite", "its weights are damaged: train again")
    return Described(
        {
            "model": folder,
            "network": "BMN" if config.bmn.csa == "none" else f"BMN-CSA ({config.bmn.csa})",
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "input": f"{config.bmn.steps} steps of {config.bmn.channels} channels ({config.fit})",
            "backbone": model.source.backbone or "not known",
            "labels": list(model.labels) or "none: class-agnostic",
            "threshold": model.threshold,
            "test": model.provenance.get("test"),
        }
    )


models = models_group(PUBLISHED, convert, check, command="vision-models actions", notice=ADVICE)
