"""``vision-language answer``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from core_runtime.cli import Outcome
from core_runtime.errors import UserError
from core_runtime.options import AtLeast, Between, Device, Model, Out, Overwrite, options, resolve_device


@options
class VAR:
    """How visual attention is redistributed.

    Attributes:
        keep_fraction: of its weight that a sink keeps; the paper's p is 1 minus this.
        least_image_share: attention on the picture that makes a head look at it.
        most_sink_share: largest share on sinks of a head that is edited; 0.2 general, 0.5 hallucination, 0.1 vision-centric tasks.
        skip_last_layer: leave the last layer alone, as the paper says.
    """

    keep_fraction: Annotated[float, Between(0, 1)] = 0.6
    least_image_share: Annotated[float, Between(0, 1)] = 0.2
    most_sink_share: Annotated[float, Between(0, 1)] = 0.5
    skip_last_layer: bool = True


@dataclass(frozen=True)
class Answer(Outcome):
    """Both answers to one question.

    Attributes:
        question: as it was asked.
        plain, redistributed: text, margin, share on the picture, and whether it abstains.
        edited: share of (head, query) pairs that were edited.
        sinks: dimensions, τ, where they are from.
        size: what the model takes, of a dry run.
        out: the folder with answer.json and a map per answer; None of a dry run.
    """

    question: str
    plain: Mapping[str, Any]
    redistributed: Mapping[str, Any]
    edited: float
    sinks: Mapping[str, Any]
    size: Mapping[str, Any]
    out: Path | None

    def facts(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def lines(self) -> Iterable[str]:
        for name, value in self.size.items():
            yield f"{name:12} {value}"
        if self.out is None:
            return
        for name, reply in (("plain", self.plain), ("VAR", self.redistributed)):
            margin = "" if reply["margin"] is None else f", yes over no {reply['margin']:+.2f}"
            text = "(abstains)" if reply["abstains"] else reply["text"]
            yield f"{name:6} {text}  [{reply['on_picture']:.0%} of its attention on the picture{margin}]"
        yield f"Edited {self.edited:.1%} of the heads' rows behind the picture; sinks: {self.sinks['from']}"
        yield f"Where both looked: {self.out}"


def answer(
    picture: Path,
    question: str,
    /,
    *,
    model: Model = None,
    sinks: Path | None = None,
    var: VAR = VAR(),
    abstain: Annotated[float, AtLeast(0)] = 0.0,
    tokens: Annotated[int, AtLeast(1)] = 128,
    dry_run: bool = False,
    out: Out = Path("vision-language-answer"),
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Answer:
    """Asks a multimodal model plainly and with redistributed visual attention, and shows where each answer looked.

    Example: vision-language answer photo.jpg "Is there a dog?" --model llava-1.5-7b-hf

    Args:
        picture: the picture.
        question: about it.
        sinks: file of 'vision-language probe'; default: what was published for this very configuration.
        abstain: say nothing where "yes" and "no" are nearer than this in log-probability.
        tokens: of an answer, at most.
        dry_run: print what the model takes, and load nothing.
    """
    import json

    from core_attention.mechanisms.var_sink.redistribution import Rule
    from core_runtime.cli import plain as as_json
    from core_runtime.folders import writing
    from core_runtime.identity import refuse_foreign_folder
    from core_runtime.models import choose_model
    from core_runtime.pictures import open_picture
    from vision_language.model.multimodal import ADVICE, load_multimodal, read_config, size_of
    from vision_language.model.sink_files import choose_sinks
    from vision_language.reports.looking import draw_looking

    image = open_picture(picture).image
    if not question.strip():
        raise UserError("the question is empty", 'vision-language answer photo.jpg "Is there a dog?"')
    folder = Path(choose_model(model, advice=ADVICE))
    if dry_run:
        return Answer(question, {}, {}, 0.0, {}, describe_size(size_of(folder)), None)
    if out.exists():
        refuse_foreign_folder(out, [picture], overwrite=overwrite)
    dims, tau, source = choose_sinks(sinks, read_config(folder), folder)
    asked = load_multimodal(folder, resolve_device(device))
    rule = Rule(var.keep_fraction, var.least_image_share, var.most_sink_share)
    redistribution = {"dims": dims, "tau": tau, "rule": rule, "skip_last_layer": var.skip_last_layer}
    first = asked.ask(image, question, tokens=tokens)
    second = asked.ask(image, question, tokens=tokens, redistribution=redistribution)
    described = []
    for reply in (first, second):
        abstains = abstain > 0 and reply.margin is not None and abs(reply.margin) < abstain
        described.append(
            {"text": reply.text, "margin": reply.margin, "on_picture": float(reply.looked.sum()), "abstains": abstains}
        )
    result = Answer(
        question, described[0], described[1], second.edited, {"dims": list(dims), "tau": tau, "from": source}, {}, out
    )
    from core_runtime.identity import begun

    with begun(out, {"question": question}), writing(out) as part:
        part.mkdir()
        draw_looking(image, [("plain", first), ("VAR", second)]).savefig(part / "looked.png", dpi=110)
        (part / "answer.json").write_text(json.dumps(as_json(result.facts()), indent=1), encoding="utf-8")
    return result


def describe_size(size: Any) -> dict[str, str]:
    """What a model takes, in words."""
    return {
        "family": size.family,
        "layers": f"{size.layers} of {size.width}, {size.heads} heads",
        "parameters": f"{size.parameters:,}",
        "weights": f"{size.weights / 2**30:.2f} GiB as they are saved",
        "cache": f"{size.cache / 2**10:.1f} KiB per token",
    }
