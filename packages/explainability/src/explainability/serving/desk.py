"""What the local page can be asked about: a classifier, an index, and the queries of a folder. No HTTP here."""

import base64
import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core_runtime.errors import UserError, clean
from core_runtime.pictures import Picture, read_picture
from explainability.chm_corr.features import Backbone
from explainability.chm_corr.index import Index, digest_of
from explainability.chm_corr.masks import parse_mask
from explainability.chm_corr.matching import CHMNet
from explainability.chm_corr.session import Rules, Session, compare

if TYPE_CHECKING:
    from PIL.Image import Image

    from core_runtime.server import Call

KEPT = 64  # pictures that were sent lately
SHOWN = 480  # pixels of the longer side of what the page shows


@dataclass(frozen=True)
class Matcher:
    """An index with the networks that it was made with."""

    index: Index
    backbone: Backbone
    chm: CHMNet | None
    rules: Rules

    def compare(self, picture: Picture, content: bytes) -> Session:
        """A query's session."""
        return compare(self.index, self.backbone, self.chm, picture.image, content, self.rules)


@dataclass
class Recent:
    """The last few things that were worked out, by the name under which a page asks for them again."""

    items: OrderedDict[str, Any] = field(default_factory=OrderedDict)

    def get(self, name: str) -> Any:
        """What is kept under a name; None where it is not there any more."""
        if name in self.items:
            self.items.move_to_end(name)
        return self.items.get(name)

    def keep(self, name: str, value: Any) -> None:
        """Keeps a thing; the least used one goes."""
        self.items[name] = value
        self.items.move_to_end(name)
        while len(self.items) > KEPT:
            self.items.popitem(last=False)


@dataclass(frozen=True)
class Sent:
    """A picture that the page names: a query of the folder, or one that was sent."""

    name: str
    picture: Picture
    content: bytes


@dataclass
class Pictures:
    """The pictures that a page may name: queries of a folder by number, sent ones by their digest.

    A page never names a file, so it reaches none beside these.
    """

    queries: Sequence[Path] = ()
    sent: Recent = field(default_factory=Recent)

    def of(self, call: "Call") -> Sent:
        """The picture of a call: its body, or what ``?picture=`` names.

        Raises:
            UserError: there is neither, it is no picture, or it is not kept any more.
        """
        if call.body:
            name = digest_of(call.body)
            picture = self.sent.get(name)
            if picture is None:
                picture = Sent(name, read_picture(call.body, "the picture"), call.body)
                self.sent.keep(name, picture)
            return picture
        name = call.one("picture", "")
        if not name:
            raise UserError("no picture was sent", "send the bytes of a picture as the body, or ?picture= of the list")
        if name.startswith("q"):
            return self.query(whole_number(name[1:], "picture", len(self.queries) - 1))
        picture = self.sent.get(name)
        if picture is None:
            raise UserError(f"picture {clean(name)[:40]!r} is not kept any more", "choose the file again")
        return picture

    def query(self, number: int) -> Sent:
        """A picture of the folder."""
        name = f"q{number}"
        picture = self.sent.get(name)
        if picture is None:
            file = self.queries[number]
            content = file.read_bytes()
            picture = Sent(name, read_picture(content, file.name), content)
            self.sent.keep(name, picture)
        return picture


def whole_number(text: str, name: str, most: int, least: int = 0) -> int:
    """A number of a query string.

    Raises:
        UserError: it is none, or out of range.
    """
    if text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most:
        return int(text)
    raise UserError(f"{name} is {clean(text)[:40]!r}, expected a number from {least} to {most}")


def jpeg(image: "Image", side: int = SHOWN) -> str:
    """A small copy, in base64."""
    copy = image.copy()
    copy.thumbnail((side, side))
    content = io.BytesIO()
    copy.save(content, "JPEG", quality=88)
    return base64.b64encode(content.getvalue()).decode()


def png_of(figure: Any) -> str:
    """A figure of matplotlib, in base64."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return base64.b64encode(content.getvalue()).decode()


def mask_of(call: "Call") -> Tensor | None:
    """The mask of a call, 49 digits; None without one."""
    text = call.one("mask", "")
    return parse_mask(text[:200]) if text else None


def told(function: "Callable[[Call], Any]") -> "Callable[[Call], Any]":
    """An endpoint whose ValueErrors, which say what does not fit the model, are told as a user's mistakes are."""

    def answer(call: "Call") -> Any:
        try:
            return function(call)
        except ValueError as error:
            raise UserError(str(error)) from None

    return answer


@dataclass
class CorrespondDesk:
    """*correspond*: a query is compared once; every edit is answered from that.

    Attributes:
        matcher: the index with its networks.
        pictures: that may be named.
        sessions: kept by the name of their picture.
    """

    matcher: Matcher
    pictures: Pictures
    sessions: Recent = field(default_factory=Recent)

    def endpoints(self) -> dict[str, "Callable[[Call], Any]"]:
        """Path → function."""
        return {"/correspond": told(self.open), "/edit": told(self.edit), "/copy": told(self.copy)}

    def session(self, sent: Sent) -> Session:
        """The session of a picture, worked out once."""
        session = self.sessions.get(sent.name)
        if session is None:
            session = self.matcher.compare(sent.picture, sent.content)
            self.sessions.keep(sent.name, session)
        return session

    def open(self, call: "Call") -> dict[str, Any]:
        """Compares a picture; answers with the decision, under the mask if one is given."""
        sent = self.pictures.of(call)
        shown = {"picture": sent.name, "image": jpeg(sent.picture.image), "picture_notes": list(sent.picture.notes)}
        return shown | decided(self.session(sent), mask_of(call))

    def edit(self, call: "Call") -> dict[str, Any]:
        """The decision under another mask."""
        if call.body:
            raise UserError("an edit has no body", "POST the picture to /correspond first, then /edit?picture=…&mask=…")
        session = self.sessions.get(call.one("picture", ""))
        if session is None:
            session = self.session(self.pictures.of(call))
        return decided(session, mask_of(call))

    def copy(self, call: "Call") -> dict[str, Any]:
        """The small copy of a support image."""
        index = self.matcher.index
        number = whole_number(call.one("number", ""), "number", len(index.entries) - 1)
        return {"image": base64.b64encode(index.copy(number)).decode()}


def decided(session: Session, mask: Tensor | None) -> dict[str, Any]:
    """Facts of the decision under a mask, with the time that it took."""
    decision = session.predict(mask)
    return {**session.facts(decision, mask), "seconds": session.log[-1]["seconds"]}


@dataclass
class ExplainDesk:
    """*explain* and *heads*: maps of a classifier with their tests, and what its attention heads do."""

    classifier: Any
    pictures: Pictures

    def endpoints(self) -> dict[str, "Callable[[Call], Any]"]:
        """Path → function."""
        return {"/explain": told(self.explain), "/heads": told(self.heads), "/head": told(self.head)}

    def explain(self, call: "Call") -> dict[str, Any]:
        """Maps of several methods on one colour scale, with curves and scores."""
        from explainability.attribution.explaining import Checks, explain_batch
        from explainability.attribution.targets import logits_of
        from explainability.commands.explain import MapOptions
        from explainability.reports.explanation import verdict
        from explainability.reports.figures import TITLES, draw_curves, draw_maps

        sent = self.pictures.of(call)
        options = MapOptions(method=tuple(call.one("method", "gradcam,ig").split(",")[:7]))
        image = self.classifier.prepare(sent.picture.image).to(self.classifier.device)
        with torch.no_grad():
            probabilities = logits_of(self.classifier.model(image)).softmax(-1)[0]
        target = self.classifier.number(call.one("target", "") or None, len(probabilities))
        if target is None:
            target = int(probabilities.argmax())
        explanations, refused = explain_batch(
            self.classifier.model, image, options.method, target, Checks(steps=options.steps)
        )
        rows = []
        scores = {}
        for name, explanation in explanations.items():
            unchanged = explanation.unchanged
            scores[name] = {
                "insertion": float(explanation.insertion.area[0]),
                "deletion": float(explanation.deletion.area[0]),
                "random_weights_correlation": None if unchanged is None else float(unchanged[0]),
            }
        for name, of_method in scores.items():
            words = "the control" if name == "random" else verdict(of_method, scores["random"])
            rows.append({"method": TITLES.get(name, name), **of_method, "verdict": words})
        return {
            "picture": sent.name,
            "target": self.classifier.name(target),
            "probability": float(probabilities[target]),
            "maps": png_of(draw_maps(sent.picture.image, explanations)),
            "curves": png_of(draw_curves(explanations)),
            "rows": rows,
            "refused": [f"{TITLES.get(name, name)}: {why}" for name, why in refused.items()],
            "notes": list(sent.picture.notes),
        }

    def heads(self, call: "Call") -> dict[str, Any]:
        """Every measure of importance of every head, for one picture, and how far heads look."""
        from core_attention import capture
        from explainability.vit.backbone import grid_of
        from explainability.vit_analytics.distance import hop_strength
        from explainability.vit_analytics.importance import MEASURES, gradient_proxy, head_importance

        sent = self.pictures.of(call)
        model = self.classifier.model
        image = self.classifier.prepare(sent.picture.image).to(self.classifier.device)
        importance = head_importance(model, image)
        grid = grid_of(model, image)
        with torch.no_grad(), capture(model) as maps:
            model(image)
        hops = hop_strength(torch.stack([maps[name][0] for name in maps]), grid)
        measures = {name: getattr(importance, name)[0].tolist() for name in MEASURES}
        measures["gradient_proxy"] = gradient_proxy(model, image)[0].tolist()
        measures["distance"] = hops.distance.tolist()
        measures["entropy"] = hops.entropy.tolist()
        label = int(importance.logits[0].argmax())
        return {
            "picture": sent.name,
            "image": jpeg(sent.picture.image),
            "label": self.classifier.name(label),
            "grid": list(grid),
            "measures": measures,
            "mass": hops.mass.tolist(),
            "notes": list(sent.picture.notes),
        }

    def head(self, call: "Call") -> dict[str, Any]:
        """What one head looks at: from the class token, or from a patch."""
        from core_attention import capture
        from explainability.vit.backbone import blocks_of, check_backbone, grid_of

        sent = self.pictures.of(call)
        model = check_backbone(self.classifier.model)
        image = self.classifier.prepare(sent.picture.image).to(self.classifier.device)
        rows, columns = grid_of(model, image)
        blocks = blocks_of(model)
        layer = whole_number(call.one("layer", ""), "layer", len(blocks) - 1)
        attn: Any = blocks[layer].attn
        head = whole_number(call.one("head", ""), "head", attn.num_heads - 1)
        patch = call.one("patch", "")
        row = 0
        if patch:
            row = model.num_prefix_tokens + whole_number(patch, "patch", rows * columns - 1)
        with torch.no_grad(), capture(model, layers=f"blocks.{layer}.attn", heads=[head], rows=[row]) as maps:
            model(image)
        weights = maps[f"blocks.{layer}.attn"][0, 0, 0]
        patches = weights[model.num_prefix_tokens :]
        return {"grid": [rows, columns], "weights": patches.tolist(), "to_prefix": float(1 - patches.sum())}
