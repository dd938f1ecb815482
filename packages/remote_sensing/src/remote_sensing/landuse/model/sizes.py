"""The networks by name, and their sizes. Imports nothing heavy."""

from typing import Annotated, Literal, get_args

from core_runtime.options import AtLeast, Between, Integers, options

NetworkName = Literal["balanced", "cbam", "baseline", "resnet18", "resnet50"]
NETWORKS: tuple[str, ...] = get_args(NetworkName)


@options
class NetworkOptions:
    """The network to train, and its size.

    Attributes:
        network: balanced, cbam and baseline are the published ones; the ResNets are the peers.
        width: channels of the first stage; default: as published.
        depths: blocks per stage of the balanced network; default: 3,3,3,2.
        drop: factor on the published rates of dropout and DropBlock, for narrow networks and few tiles.
    """

    network: NetworkName = "balanced"
    width: Annotated[int | None, AtLeast(8)] = None
    depths: Integers | None = None
    drop: Annotated[float, Between(0, 1.5)] = 1.0
