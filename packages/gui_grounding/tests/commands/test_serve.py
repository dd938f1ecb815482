"""What the server answers: the same as predict; mistakes of callers in one line. The HTTP side has its tests in core_runtime."""

import base64
import io
import threading

import pytest
from PIL import Image

from core_runtime.cli import run as run_command
from core_runtime.errors import UserError
from gui_grounding.browser.chromium import can_open, opened
from gui_grounding.cli import app
from gui_grounding.commands.predict import predict
from gui_grounding.commands.serve import answerer, page
from gui_grounding.model.folder import Prepared, save_model
from gui_grounding.model.tiny import TinySizes, tiny_model

pytest.importorskip("fastapi", reason="needs FastAPI and uvicorn (the extra `serve`)")

from core_runtime.server import Call, Limits, bind, local_app, read_token, server_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network, tokens = tiny_model(["click"], sizes=TinySizes(width=32, vision_width=32))
    folder = tmp_path_factory.mktemp("m") / "model"
    return save_model(network, tokens, folder, prepared=Prepared(), provenance={})


def picture(size=(120, 90)):
    out = io.BytesIO()
    Image.new("RGB", size, "white").save(out, "PNG")
    return out.getvalue()


def test_it_answers_what_predict_says(model, tmp_path):
    (tmp_path / "x.png").write_bytes(picture())
    (expected,) = predict(tmp_path / "x.png", "one", "two", model=str(model), out=tmp_path / "p").predictions
    answer = answerer(str(model), "cpu")(Call(picture(), {"instruction": ["one", "two"], "overlay": ["1"]}))
    for ours, theirs in zip(answer["groundings"], expected["groundings"], strict=True):
        assert Image.open(io.BytesIO(base64.b64decode(ours.pop("overlay")))).size == (720, 540)  # enlarged
        assert ours["targets"][0]["image"] == pytest.approx(theirs["targets"][0]["image"])
        assert ours["confidence"] == pytest.approx(theirs["confidence"])


@pytest.mark.parametrize(
    ("body", "query", "match"),
    [
        (picture(), {}, "no instruction"),
        (b"", {"instruction": ["x"]}, "body is empty"),
        (b"{}", {"instruction": ["x"]}, "is not a picture"),
        (b"file:///etc/passwd", {"instruction": ["x"]}, "is not a picture"),
        (picture()[:40], {"instruction": ["x"]}, r"is not a picture|is damaged"),
        (picture(), {"instruction": [" "]}, "instruction is empty"),
        (picture(), {"instruction": ["x"], "pixel_ratio": ["two"]}, "not a number"),
        (picture(), {"instruction": ["x"], "pixel_ratio": ["0"]}, "pixel ratio"),
        (picture(), {"instruction": ["x"], "max_pixels": ["inf"]}, "max_pixels is .inf., which is not a number"),
        (picture(), {"instruction": ["x"], "action": ["type"]}, "expected click or drag"),
    ],
)
def test_mistakes_of_callers_are_one_line(model, body, query, match):
    with pytest.raises(UserError, match=match):
        answerer(str(model), "cpu")(Call(body, query))


def test_the_page_stands_alone():
    assert "fetch(" in page()
    assert "http://" not in page()
    assert "https://" not in page()


def test_a_server_that_cannot_start_says_why(model, tmp_path, capsys):
    def refused(*words):
        with pytest.raises(SystemExit) as end:
            run_command(app, ["serve", *map(str, words)])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "no --model" in refused()
    assert "other machines" in refused("--model", model, "--host", "0.0.0.0")
    assert "cannot be read" in refused("--model", model, "--token", tmp_path / "absent")
    (tmp_path / "token").write_text(" \n")
    assert "is empty" in refused("--model", model, "--token", tmp_path / "token")
    (tmp_path / "token").write_text("secret\n")
    assert read_token(tmp_path / "token") == "secret"


@pytest.mark.skipif(
    not can_open(), reason="needs Playwright and a Chromium of the system (Debian: apt-get install chromium)"
)
def test_the_page_answers_in_a_browser(model, tmp_path):
    """A person gives a screenshot and an instruction, and sees where it is; a mistake is told on the page."""
    limits = Limits()
    listening = bind("127.0.0.1", 0, None)
    server = server_of(local_app("test", page(), {"/ground": answerer(str(model), "cpu")}, limits=limits), limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    (tmp_path / "x.png").write_bytes(picture())
    (tmp_path / "broken.png").write_bytes(picture()[:40])
    try:
        with opened(f"http://127.0.0.1:{listening.getsockname()[1]}/") as shown:
            shown.page.set_input_files("#file", tmp_path / "x.png")
            shown.page.fill("#instruction", "the button")
            shown.page.click("text=Find")
            shown.page.wait_for_selector("#overlay:not([hidden])")
            assert "confidence" in shown.page.inner_text("#said")
            assert shown.page.evaluate("() => document.getElementById('overlay').naturalWidth") == 720
            shown.page.set_input_files("#file", tmp_path / "broken.png")
            shown.page.click("text=Find")
            shown.page.wait_for_function("() => /picture|damaged/.test(document.getElementById('said').textContent)")
            assert shown.page.is_hidden("#overlay")
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
