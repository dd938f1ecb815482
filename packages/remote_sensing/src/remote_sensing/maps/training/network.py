"""The network that training starts from."""

from __future__ import annotations

from typing import Any

from core_attention.checkpoints.folders import read_official
from core_runtime.errors import UserError
from remote_sensing.maps.model.checkpoints import load_adapter, load_sam, variant_of
from remote_sensing.maps.model.mapsam import MapSAM, MapSamConfig, mapsam_config
from remote_sensing.maps.training.recipe import NetworkOptions

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A small encoder for tests, demos and first experiments without SAM's weights; all of it is trained. Pixels around 0 speed up the start: in [0, 1] paper is
# bright everywhere, and patches hardly differ.
TINY: dict[str, Any] = {
    "embed_dim": 64,
    "depth": 10,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "global_attn_indexes": (4, 9),
    "window_size": 5,  # divides the 10 cells of the demo's 160 pixels: windows over the edge cost calls of their own
    "prompt_dim": 64,
    "decoder_mlp_dim": 128,
    "decoder_heads": 4,
    "iou_head_hidden_dim": 32,
    "rank": 0,
    "pixel_mean": PIXEL_MEAN,
    "pixel_std": PIXEL_STD,
}


def start_network(options: NetworkOptions, classes: int) -> MapSAM:
    """A MapSAM to train: on a SAM checkpoint with frozen encoder, or from random weights and then with nothing frozen.

    Raises:
        UserError: files that do not fit, sizes that do not.
    """
    sizes: dict[str, Any] = {
        "num_classes": classes,
        "image_size": options.image_size,
        "masked_attention": options.masked_attention,
    }
    if options.normalise:
        sizes |= {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD}
    try:
        if options.variant == "tiny":
            if options.sam is not None:
                raise UserError(
                    "--sam is for vit_b, vit_l and vit_h", "leave out --variant: the checkpoint determines it"
                )
            if options.adapter is not None:
                raise UserError("--adapter is for the encoders of SAM's checkpoints", "leave out --variant tiny")
            return MapSAM(MapSamConfig(**(TINY | sizes)))
        if options.sam is None:
            if options.adapter is not None:
                raise UserError("an adapter holds no encoder", "--sam gives the SAM checkpoint it belongs to")
            return MapSAM(mapsam_config(options.variant, rank=options.rank, **sizes))
        state = read_official(options.sam)
        model = MapSAM(mapsam_config(variant_of(state), rank=options.rank, **sizes))
        load_sam(model, state, init_mask_token=options.init_mask_token)
        if options.adapter is not None:
            load_adapter(model, options.adapter)
        return model.freeze_encoder()
    except (OSError, ValueError) as error:
        raise UserError(str(error), "'remote-sensing maps models' lists SAM's files") from None
