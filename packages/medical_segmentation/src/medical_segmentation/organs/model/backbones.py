"""Feature extractors by timm's names, as they are in 2-D and inflated to 3-D."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core_runtime.errors import UserError

_OTHERS = "try resnet18, resnext50_32x4d, convnext_tiny, swin_tiny_patch4_window7_224 or vit_small_patch16_224 (the first two also in 3-D)"
SCALES = 4  # feature maps that the network takes, as published


class Backbone(nn.Module):
    """The last four feature maps of a timm network, finest first.

    Args:
        name: as timm knows it ("resnext101_32x8d", "convnext_tiny" …).
        in_channels: channels of the image.
        dims: 3 inflates a convolutional network: each k×k filter becomes k×k×k, and its norms and pools follow.
        pretrained: with timm's weights (from the hub); the first filter is summed or repeated to `in_channels`.

    Raises:
        UserError: timm has no such network, or it gives no maps.
    """

    def __init__(self, name: str, in_channels: int, *, dims: int = 2, pretrained: bool = False) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:4])
            raise UserError(f"timm has no network {name!r}", f"similar: {near}" if near else "see timm.list_models()")
        try:
            network: Any = _of_any_size(name, features_only=True, in_chans=in_channels, pretrained=pretrained)
        except (RuntimeError, NotImplementedError, AttributeError, AssertionError) as error:
            raise UserError(f"{name} gives no feature maps: {error}", _OTHERS) from None
        reductions = network.feature_info.reduction()
        # maps finer than a quarter of the image cost much and are not what the network was published with
        places = [place for place, reduction in enumerate(reductions) if reduction >= 4][-SCALES:]
        if len(places) < 2:
            raise UserError(f"{name} has {len(places)} maps of a quarter of the image or less; two are needed")
        info = network.feature_info
        self.places = places
        self.channels = [info.channels()[place] for place in places]
        self.reductions = [reductions[place] for place in places]
        self.network = inflated(network) if dims == 3 else network
        if not _is_plain(self.network):
            _require_any_size(self.network, name, in_channels, dims)

    def forward(self, x: Float[Tensor, "b i *space"]) -> list[Tensor]:
        """Feature maps, finest first, channels before pixels."""
        maps = self.network(x)
        chosen = []
        for place, channels in zip(self.places, self.channels, strict=True):
            features = maps[place]
            if features.shape[1] != channels and features.shape[-1] == channels:  # Swin and its kin give channels last
                features = features.movedim(-1, 1)
            chosen.append(features)
        return chosen


def _of_any_size(name: str, **settings: Any) -> nn.Module:
    """A network of timm, told to take images of any size where it can be: vision transformers and Swin have a switch each."""
    import timm

    for switch in ({"dynamic_img_size": True}, {"strict_img_size": False}):
        try:
            return timm.create_model(name, **switch, **settings)
        except TypeError:  # it has no such switch
            continue
    return timm.create_model(name, **settings)


def _is_plain(network: nn.Module) -> bool:
    """Whether it is made of convolutions, norms, rectifiers and pools alone, as ResNets are: these take any size."""
    plain = (nn.Conv2d, nn.Conv3d, nn.BatchNorm2d, nn.BatchNorm3d, nn.ReLU, nn.MaxPool2d, nn.MaxPool3d, nn.Identity)
    return all(isinstance(module, plain) for module in network.modules() if not list(module.children()))


def _require_any_size(network: nn.Module, name: str, in_channels: int, dims: int) -> None:
    """Tries an image of an uncommon size.

    Raises:
        UserError: the network does not take it (many know one size only), or was not made three-dimensional by its inflation.
    """
    first = next(network.parameters())
    sides = (96, 160) if dims == 2 else (32, 64, 96)
    was = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, in_channels, *sides, device=first.device, dtype=first.dtype))
    except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
        what = "does not take images of any size" if dims == 2 else "cannot be made three-dimensional"
        raise UserError(f"{name} {what}: {error}", _OTHERS) from None
    network.train(was)


def inflated(network: nn.Module) -> nn.Module:
    """A 2-D convolutional network as a 3-D one: filters repeated along the new axis and divided by its length (Carreira and Zisserman 2017).

    A volume that does not change along the new axis then gives the same features as its slices, away from the border.

    Raises:
        UserError: it holds layers that know two axes only.
    """
    for name, child in network.named_children():
        setattr(network, name, _inflate(child))
    return network


def _inflate(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return _inflate_convolution(module)
    if isinstance(module, nn.BatchNorm2d) and type(module) is nn.BatchNorm2d:
        norm = nn.BatchNorm3d(module.num_features, module.eps, module.momentum)
        norm.load_state_dict(module.state_dict())
        return norm
    pool: Any = module
    if isinstance(module, nn.MaxPool2d):
        return nn.MaxPool3d(pool.kernel_size, pool.stride, pool.padding, pool.dilation, ceil_mode=pool.ceil_mode)
    if isinstance(module, nn.AvgPool2d):
        return nn.AvgPool3d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.count_include_pad)
    if type(module).__name__.endswith("2d") or type(module).__name__ in ("BatchNormAct2d", "LayerNorm2d"):
        raise UserError(
            f"this backbone cannot be made three-dimensional: it holds {type(module).__name__}",
            "try resnet18, resnet50 or resnext50_32x4d, or the 2.5-D form",
        )
    return inflated(module)


def _inflate_convolution(flat: nn.Conv2d) -> nn.Conv3d:
    size, across = flat.kernel_size[0], int(flat.kernel_size[-1])
    solid = nn.Conv3d(
        flat.in_channels,
        flat.out_channels,
        (size, size, across),
        (flat.stride[0], flat.stride[0], flat.stride[1]),
        (int(flat.padding[0]), int(flat.padding[0]), int(flat.padding[1])),
        groups=flat.groups,
        bias=flat.bias is not None,
    )
    with torch.no_grad():
        solid.weight.copy_(flat.weight[:, :, None].expand_as(solid.weight) / size)
        if flat.bias is not None and solid.bias is not None:
            solid.bias.copy_(flat.bias)
    return solid
