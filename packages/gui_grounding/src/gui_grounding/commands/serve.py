"""``gui-grounding serve``."""

import base64
import io
import math
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from core_runtime.errors import UserError
from core_runtime.models import no_model
from core_runtime.options import AtLeast, Between, Device, Model, resolve_device

MEGABYTE = 1024 * 1024


def serve(
    *,
    model: Model = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Between(0, 65535)] = 8000,
    token: Path | None = None,
    megabytes: Annotated[int, AtLeast(1)] = 32,
    waiting: Annotated[int, AtLeast(1)] = 64,
    device: Device = "auto",
) -> None:
    """Answers screenshots and instructions on a local page and as JSON, until it is stopped.

    POST the bytes of a picture to /ground?instruction=…; answers are those of predict, with overlay=1 a picture as well.

    Example: gui-grounding serve --model run/model

    Args:
        host: address to listen on; one that other machines reach needs a token.
        port: 0 takes any that is free.
        token: text file with the secret that callers must bring.
        megabytes: of the largest screenshot file.
        waiting: requests that may wait for their turn.
    """
    from core_runtime.terminal import note
    from gui_grounding.model.folder import ADVICE

    if model is None:
        raise no_model(ADVICE)
    try:
        from core_runtime.server import LOOPBACK, Limits, bind, local_app, read_token
        from core_runtime.server import serve as answer_until_stopped
    except ImportError:
        raise UserError(
            "FastAPI and uvicorn are not installed", "pip install 'attention-suite-gui-grounding[serve]'"
        ) from None
    secret = read_token(token)
    listening = bind(host, port, secret)
    limits = Limits(size=megabytes * MEGABYTE, waiting=waiting)
    endpoints = {"/ground": answerer(model, resolve_device(device))}
    hosts = (*LOOPBACK, host)
    app = local_app("gui-grounding", page(), endpoints, token=secret, limits=limits, hosts=hosts)
    shown = host
    if ":" in host:
        shown = f"[{host}]"
    note.print(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C stops)", markup=False)
    answer_until_stopped(app, listening, limits=limits)


def page() -> str:
    """The page that a browser shows."""
    return resources.files("gui_grounding.reports").joinpath("serve.html").read_text(encoding="utf-8")


def answerer(model: str, device: str) -> Any:
    """The function behind ``/ground``; loads the model now, so that a mistake is the first line.

    Raises:
        UserError: no such model.
    """
    from gui_grounding.commands.predict import load
    from gui_grounding.coordinates import View
    from gui_grounding.model.inference import Asking
    from gui_grounding.reports.overlay import draw_grounding
    from gui_grounding.screens.pictures import read_screenshot

    grounder = load(model, device, "as-saved")

    def ground(call: Any) -> dict[str, Any]:
        instructions = call.query.get("instruction", [])
        if not instructions:
            raise UserError("no instruction was given", "POST to /ground?instruction=open+the+settings")
        if not call.body:
            raise UserError("the body is empty", "send the bytes of a screenshot as the body")
        screenshot = read_screenshot(call.body, "the screenshot")
        ratio = _number(call.one("pixel_ratio", "1"), "pixel_ratio")
        action = call.one("action", "click")
        if action not in ("click", "drag"):
            raise UserError(f"action is {action[:40]!r}, expected click or drag")
        most = call.one("max_pixels", "")
        asking = Asking(
            action,
            abstain_below=_number(call.one("abstain", "0"), "abstain"),
            max_pixels=max(784, int(_number(most, "max_pixels"))) if most else None,
        )
        view = View(*screenshot.size, pixel_ratio=ratio)
        groundings = grounder.ground(screenshot.image, instructions, asking, view=view)
        answers = []
        for grounding in groundings:
            answer = grounding.facts()
            if call.one("overlay", "0") == "1":
                picture = io.BytesIO()
                draw_grounding(screenshot.image, grounding).save(picture, "PNG")
                answer["overlay"] = base64.b64encode(picture.getvalue()).decode()
            answers.append(answer)
        return {"groundings": answers, "notes": list(screenshot.notes)}

    return ground


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} is {text[:40]!r}, which is not a number")
    return value
