"""What was converted in a model, as plain data, so that a saved model can be converted again before its weights are loaded.

Every converted layer remembers its own conversion; `conversions` collects them. The data is made of strings, numbers, lists and
dictionaries, and stands in a ``config.json`` or beside a state dict.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

ATTRIBUTE = "core_attention_conversion"  # of a converted layer


@dataclass(frozen=True)
class Conversion:
    """One call of `convert_model`, as far as a model shows it.

    Attributes:
        mechanism: its name.
        options: what it was called with.
        layers: names of the layers that it changed.
    """

    mechanism: str
    options: dict[str, Any]
    layers: list[str] = field(default_factory=list)


def plain_options(mechanism: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON has them.

    Raises:
        ValueError: an option that JSON cannot hold, so that the model could not be saved.
    """
    for name, value in options.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(
                f"{mechanism}: option {name} is a {type(value).__name__}, which cannot be saved with the model; "
                "give numbers, strings, lists or None"
            ) from error
    return json.loads(json.dumps(options))


def conversions(model: nn.Module) -> list[dict[str, Any]]:
    """What was converted in a model, for `core_attention.pretrained.convert.convert_again`.

    Returns:
        One dictionary per mechanism and options, in the order of the layers: ``mechanism``, ``options``, ``layers``. Plain data:
        ``json.dumps`` takes it. An empty list for a model without converted layers.
    """
    listed: list[Conversion] = []
    for name, module in model.named_modules():
        conversion = getattr(module, ATTRIBUTE, None)
        if not isinstance(conversion, Conversion):
            continue
        for known in listed:
            if (known.mechanism, known.options) == (conversion.mechanism, conversion.options):
                known.layers.append(name)
                break
        else:
            listed.append(Conversion(conversion.mechanism, conversion.options, [name]))
    return [asdict(conversion) for conversion in listed]
