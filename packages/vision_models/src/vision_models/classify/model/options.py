"""Which network, as options. Imports nothing heavy."""

from typing import Annotated, Any, Literal

from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Names, options


@options
class NetworkOptions:
    """Which network is trained.

    Attributes:
        network: a name of ours ('vision-models classify models') or of timm.
        size: side of the network's input in pixels; default: that of the images, at most 224.
        channels: 1 (grey) or 3; default: 1 where all images are grey.
        settings: of the network, name=value with commas between: embed_dim=96,depth=4; several values with /: channels=8/16/32.
        insert: attention put into a CNN: ela, se, eca, coordinate, cbam, ulsam.
        insert_at: where: residual (before each addition), depthwise, or a pattern of module names.
    """

    network: str = "resnet18"
    size: Annotated[int, AtLeast(8)] | None = None
    channels: Literal[1, 3] | None = None
    settings: Names | None = None
    insert: str | None = None
    insert_at: str = "residual"

    def values(self) -> dict[str, Any]:
        """The settings as keyword arguments.

        Raises:
            UserError: one is not name=value.
        """
        values = {}
        for setting in self.settings or ():
            name, equals, text = setting.partition("=")
            if not equals or not name.isidentifier() or not text:
                raise UserError(f"--settings: {setting!r} is not name=value", "--settings embed_dim=96,depth=4")
            values[name] = _value(text)
        return values


def _value(text: str) -> Any:
    """A number, true or false, or text; several with / between them are a tuple."""
    if "/" in text:
        return tuple(_value(part) for part in text.split("/"))
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
