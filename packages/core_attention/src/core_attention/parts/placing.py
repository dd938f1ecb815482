"""``device=`` and ``dtype=`` of a layer's constructor, as torch's own layers have them."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch

Device = torch.device | str | int | None

P = ParamSpec("P")


def placed(init: Callable[P, None]) -> Callable[P, None]:
    """Makes what a module's ``__init__`` creates on the ``device`` and in the ``dtype`` that the constructor is given.

    The constructor declares both, keyword-only and None by default, and need not use them: what it creates stands on `device` from
    the start (also on "meta"), floating tensors become `dtype` at its end. Modules that it was given are moved along.

    ::

        class Layer(nn.Module):
            @placed
            def __init__(self, dim: int, *, device: Device = None, dtype: torch.dtype | None = None): ...
    """

    @wraps(init)
    def placing(*args: P.args, **options: P.kwargs) -> None:
        device: Any = options.pop("device", None)
        dtype: Any = options.pop("dtype", None)
        if device is None:
            init(*args, **options)
        else:
            with torch.device(device):
                init(*args, **options)
        if device is not None or dtype is not None:
            module: Any = args[0]
            module.to(device=device, dtype=dtype)

    return placing
