"""``vision-language probe``."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import Above, AtLeast, Device, OutFile, Overwrite, resolve_device

PROMPTS = ("Describe the image.", "What is in the image?", "Is there a person in the image?")


@dataclass(frozen=True)
class Probed(Outcome):
    """The sinks of a model.

    Attributes:
        found: dimensions with evidence, as the file holds them.
        layers: of each layer: sinks per prompt, those on the picture, the share of heads that look at the picture.
        out: the file for ``answer --sinks``.
        picture: where sinks lie.
    """

    found: dict[str, Any]
    layers: Sequence[dict[str, Any]]
    out: Path | None
    picture: Path | None
    size: dict[str, str]

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        for name, value in self.size.items():
            yield f"{name:12} {value}"
        if self.out is None:
            return
        if not self.found["dims"]:
            yield f"No dimension is massive at τ = {self.found['tau']:g}: untrained and very small models have none"
        for row in self.found["evidence"]:
            mark = "sink" if row["dim"] in self.found["dims"] else ""
            yield (
                f"dim {row['dim']:5}  |x|/rms {row['ratio']:7.2f}  massive in {row['layers']:.0%} of layers, "
                f"{row['prompts']:.0%} of prompts  {mark}"
            )
        for row in self.layers:
            yield (
                f"layer {row['layer']:3}  {row['sinks']:.1f} sinks, {row['on_picture']:.1f} on the picture; "
                f"{row['image_heads']:.0%} of heads look at it"
            )
        yield f"For 'vision-language answer --sinks': {self.out}; where sinks lie: {self.picture}"


def probe(
    model: Path,
    pictures: Path,
    /,
    *,
    prompts: tuple[str, ...] = PROMPTS,
    tau: Annotated[float, Above(0)] = 20.0,
    most: Annotated[int, AtLeast(1)] = 8,
    dry_run: bool = False,
    out: OutFile = Path("sinks.json"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Probed:
    """Finds on a multimodal model itself which dimensions give attention sinks away, and where the sinks lie.

    Example: vision-language probe llava-1.5-7b-hf photos --out sinks.json

    Args:
        model: folder of the model.
        pictures: a folder of pictures, or one.
        prompts: questions; each is asked of each picture.
        tau: an activation is massive above this many rms.
        most: pictures at most.
        dry_run: print what the model takes, and load nothing.
        out: the file for 'answer --sinks', JSON; a PNG is written beside it.
    """
    import json

    from core_attention.mechanisms.var_sink.finding import find_sink_dims
    from core_runtime.folders import write_text, writing
    from core_runtime.pictures import find_pictures, open_picture
    from vision_language.commands.answer import describe_size
    from vision_language.model.multimodal import load_multimodal, size_of
    from vision_language.model.sink_files import facts_of
    from vision_language.reports.looking import draw_sinks

    files = find_pictures(pictures)[:most]
    if dry_run:
        return Probed({}, [], None, None, describe_size(size_of(model)))
    if out.exists() and not overwrite:
        raise UserError(f"{out} is already there", "--overwrite replaces it, --out names another file")
    images = [open_picture(file).image for file in files]
    asked = load_multimodal(model, resolve_device(device))
    width = asked.config.get_text_config().hidden_size
    if tau >= width**0.5:
        raise UserError(
            f"--tau {tau:g}: no activation of {width} can exceed √{width} = {width**0.5:.2f} rms", "give a lower --tau"
        )
    given = [asked.inputs(image, prompt) for image in images for prompt in prompts]
    sinks = find_sink_dims(asked.model, given, tau=tau)
    facts = facts_of(sinks, model, asked.config.model_type)
    layers, places = layer_rows(asked, given, sinks.dims, tau)
    write_text(out, json.dumps(facts | {"layers": layers}, indent=1) + "\n")
    picture = out.with_suffix(".png")
    with writing(picture) as part:
        draw_sinks(images[0], places, [row["sinks"] for row in layers]).savefig(part, dpi=110, format="png")
    return Probed(facts, layers, out, picture, {})


def layer_rows(asked: Any, prompts: Sequence[Any], dims: Sequence[int], tau: float) -> tuple[list[dict[str, Any]], Any]:
    """Of each layer sinks and heads that look at the picture, means over prompts; and where sinks lie in the first prompt's picture."""
    import numpy as np
    import torch

    from core_attention import capture
    from core_attention.mechanisms.var_sink.pretrained import image_token, language_model_of
    from core_attention.mechanisms.var_sink.sinks import find_sinks

    layers: Any = language_model_of(asked.model).layers
    names = {module: name for name, module in asked.model.named_modules()}
    attentions = [names[layer.self_attn] for layer in layers]
    rows = [{"layer": n, "sinks": 0.0, "on_picture": 0.0, "image_heads": 0.0} for n in range(len(layers))]
    first_places = None
    for prompt in prompts:
        image = prompt["input_ids"][0] == image_token(asked.config)
        with torch.inference_mode(), capture(asked.model, layers=attentions, rows=[-1], kinds="weights") as maps:
            output = asked.model(**prompt, output_hidden_states=True)
        on_layers = torch.zeros(int(image.sum()))
        for number, row in enumerate(rows):
            on_image = maps[attentions[number]][0, :, 0, image.cpu()].sum(-1)
            row["image_heads"] += float((on_image >= 0.2).float().mean()) / len(prompts)
            if number >= 2 and dims:
                sinks = find_sinks(output.hidden_states[number], dims, tau)[0]
                row["sinks"] += float(sinks.sum()) / len(prompts)
                row["on_picture"] += float((sinks & image).sum()) / len(prompts)
                on_layers += sinks[image].float().cpu()
        if first_places is None:
            first_places = on_layers.reshape(asked.grid(prompt, len(on_layers))).numpy()
    assert first_places is not None
    return rows, np.asarray(first_places)
