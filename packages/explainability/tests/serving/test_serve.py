"""The local page: what it answers, what it refuses, and a person who drags, decides and reloads in a real browser."""

import concurrent.futures
import contextlib
import io
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from core_runtime.cli import run as run_command
from core_runtime.errors import UserError
from explainability.cli import app
from explainability.commands.correspond import CorrespondOptions
from explainability.commands.index import index
from explainability.commands.serve import StudyOptions, desks, page
from explainability.commands.study import study
from explainability.models.loading import save_network
from explainability.models.network import Network, NetworkConfig

pytest.importorskip("fastapi", reason="needs FastAPI and uvicorn (the extra `serve`)")

from core_runtime.server import Call, Limits, bind, local_app, server_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MASK = "0" * 14 + "1" * 14 + "0" * 21
CORR = CorrespondOptions(neighbours=8, voters=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, an index of red and green pictures, and queries of which two are in the wrong folder; file names hold markup."""
    folder = tmp_path_factory.mktemp("serve")
    torch.manual_seed(0)
    sizes = {"image_size": 56, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
    save_network(Network(NetworkConfig(classes=("green", "red"), **sizes)).eval(), folder / "model", {})
    rng = np.random.default_rng(0)
    for part in ("train", "queries"):
        for channel, label in enumerate(("red", "green")):
            (folder / part / label).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 50, (40, 56, 3), dtype=np.uint8)
                swapped = part == "queries" and number < 2
                pixels[..., 1 - channel if swapped else channel] += 200
                Image.fromarray(pixels).save(folder / part / label / f"{number}<b>.png")
    assert index(folder / "train", model=str(folder / "model"), out=folder / "index").code == 0
    return folder


def endpoints(place, log, *, trials=4, condition="interactive"):
    options = StudyOptions(study=log, trials=trials, condition=condition)
    return desks(str(place / "model"), place / "index", place / "queries", None, None, CORR, options, "cpu")


@pytest.fixture(scope="module")
def desk(place, tmp_path_factory):
    return endpoints(place, tmp_path_factory.mktemp("log") / "study")


def call(desk, path, body=b"", **query):
    return desk[path](Call(body, {name: [str(value)] for name, value in query.items()}))


def a_picture():
    out = io.BytesIO()
    Image.new("RGB", (50, 30), "green").save(out, "PNG")
    return out.getvalue()


def test_an_edit_answers_from_what_was_compared(desk):
    first = call(desk, "/correspond", a_picture())
    edited = call(desk, "/edit", picture=first["picture"], mask=MASK)
    assert edited["user_mask"] == np.array([int(c) for c in MASK]).reshape(7, 7).tolist()
    assert sum(edited["votes"].values()) == edited["k"]
    begun = time.perf_counter()
    for _ in range(20):
        call(desk, "/edit", picture=first["picture"], mask=MASK)
    assert (time.perf_counter() - begun) / 20 < 0.2
    assert call(desk, "/correspond", picture="q3", mask=MASK)["user_mask"] is not None
    assert Image.open(io.BytesIO(__import__("base64").b64decode(call(desk, "/copy", number=3)["image"]))).size == (
        56,
        40,
    )


def test_maps_and_heads(desk):
    answer = call(desk, "/explain", a_picture(), method="gradcam,rollout")
    assert {row["method"] for row in answer["rows"]} >= {"Rollout", "Random map"}
    heads = call(desk, "/heads", picture="q0")
    assert np.shape(heads["measures"]["prob_drop"]) == (2, 2)
    assert np.allclose(np.sum(heads["mass"], -1), 1, atol=1e-5)
    seen = call(desk, "/head", picture="q0", layer=1, head=1, patch=48)
    assert len(seen["weights"]) == 49
    assert sum(seen["weights"]) + seen["to_prefix"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "query", "match"),
    [
        ("/correspond", b"", {}, "no picture was sent"),
        ("/correspond", b"hello", {}, "is not a picture"),
        ("/correspond", a_picture()[:40], {}, r"not a picture|damaged"),
        ("/correspond", b"", {"picture": "../../etc/passwd"}, "is not kept any more"),
        ("/correspond", b"", {"picture": "q../../x"}, "expected a number from 0 to 11"),
        ("/correspond", b"", {"picture": "q12"}, "expected a number from 0 to 11"),
        ("/correspond", b"", {"picture": "q0", "mask": "01"}, "needs 49 digits"),
        ("/correspond", b"", {"picture": "q0", "mask": "9" * 500}, "needs 49 digits"),
        ("/edit", b"x", {"picture": "q0"}, "an edit has no body"),
        ("/edit", b"", {"picture": "absent"}, "is not kept any more"),
        ("/copy", b"", {"number": "-1"}, "expected a number from 0 to 11"),
        ("/explain", a_picture(), {"method": "magic"}, "no such method"),
        ("/explain", a_picture(), {"target": "blue"}, "no such class"),
        ("/head", a_picture(), {"layer": "7", "head": "0"}, "expected a number from 0 to 1"),
        ("/study/start", b"", {"user": "<script>"}, "a name has"),
        ("/study/start", b"", {"user": "a", "seed": "-1"}, "expected a number"),
        ("/study/decide", b"", {"user": "nobody", "decision": "Accept", "confidence": "3"}, "not shown yet"),
    ],
)
def test_mistakes_of_callers_are_one_line(desk, path, body, query, match):
    with pytest.raises(UserError) as error:
        call(desk, path, body, **query)
    import re

    assert re.search(match, f"{error.value.message} {error.value.hint}")
    assert "\n" not in error.value.message


def test_a_scripted_session_is_a_study(place, tmp_path):
    """Every participant sees as many right as wrong answers; the log is read back by `study` with the same accuracy."""
    log = tmp_path / "log"
    desk = endpoints(place, log)
    right = 0
    for seed, user in enumerate(("ann", "bob")):
        person = {"user": user, "seed": seed}
        for number in range(4):
            shown = call(desk, "/study/trial", **person)
            assert "gt-label" not in shown
            assert shown["trial"] == number
            if number == 0:
                call(desk, "/study/edit", **person, trial=number, mask=MASK)
            if number == 2:  # the server is started again
                desk = endpoints(place, log)
                shown = call(desk, "/study/trial", **person)
            call(desk, "/study/decide", **person, trial=number, decision="Accept", confidence=4)
        with pytest.raises(UserError, match="has decided all 4"):
            call(desk, "/study/decide", **person, decision="Accept", confidence=4)
        done = call(desk, "/study/trial", **person)
        assert done["done"]
        assert done["right"] == 2  # all were accepted, half of them wrong
        right += done["right"]
    lines = [json.loads(line) for line in (log / "decisions.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert {line["ai-prediction"]["label"] == line["gt-label"] for line in lines} == {True, False}
    result = study(log / "decisions.jsonl", permutations=100)
    assert result.methods[0].accuracy["all"] == pytest.approx(right / 8)
    assert len((log / "interactions.jsonl").read_text().splitlines()) == 2
    with (log / "decisions.jsonl").open("a") as file:
        file.write('{"username": "an')  # killed while it wrote
    call(endpoints(place, log), "/study/start", user="ann")


def test_studies_that_cannot_be(place, tmp_path):
    with pytest.raises(UserError, match="10 queries that the model gets right and as many wrong ones; it has 8 and 4"):
        endpoints(place, tmp_path, trials=20)
    with pytest.raises(UserError, match="half are right and half wrong"):
        endpoints(place, tmp_path, trials=3)
    static = endpoints(place, tmp_path / "static", condition="static")
    call(static, "/study/trial", user="ann")
    with pytest.raises(UserError, match="without edits"):
        call(static, "/study/edit", user="ann", mask=MASK)


@contextlib.contextmanager
def running(desk, token=None, limits=Limits(size=100_000)):
    listening = bind("127.0.0.1", 0, None)
    server = server_of(local_app("test", page(), desk, token=token, limits=limits), limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def post(url, body=b"", headers=()):
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_over_http(desk):
    """Fifty parallel edits are all answered; an oversized body, another path and a missing token are refused."""
    with running(desk) as url:
        assert post(f"{url}/correspond?picture=q5")[0] == 200
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda _: post(f"{url}/edit?picture=q5&mask={MASK}"), range(50)))
        assert {status for status, _ in answers} == {200}
        assert len({answer["label"] for _, answer in answers}) == 1
        assert post(f"{url}/correspond", b"x" * 200_000)[0] == 413
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{url}/../index/index.json")
        assert error.value.code in (404, 405)
    with running(desk, token="secret") as url:
        assert post(f"{url}/state")[0] == 401
        assert post(f"{url}/state", headers={"Authorization": "Bearer secret"}.items())[0] == 200


def test_the_page_stands_alone():
    assert "http://" not in page().replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page()
    assert "innerHTML" not in page()


def test_a_server_that_cannot_start_says_why(place, capsys):
    def refused(*words):
        with pytest.raises(SystemExit) as end:
            run_command(app, ["serve", *map(str, words)])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "neither --model nor --index" in refused()
    assert "a study needs --index and --queries" in refused("--model", place / "model", "--study", "log")
    assert "other machines" in refused("--model", place / "model", "--host", "0.0.0.0")
    assert "not an index" in refused("--index", place)


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if find_spec("playwright") is None or path is None:
        pytest.skip("needs Playwright and a Chromium of the system (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def drag(shown, first, last):
    box = shown.locator("#grid").bounding_box()
    points = [(box["x"] + (x + 0.5) * 48, box["y"] + (y + 0.5) * 48) for y, x in (first, last)]
    shown.mouse.move(*points[0])
    shown.mouse.down()
    shown.mouse.move(*points[1], steps=12)
    shown.mouse.up()


def test_a_person_drags_and_reloads_by_permalink(desk, browser, tmp_path):
    with running(desk) as url, contextlib.closing(browser.new_page()) as shown:
        mistakes = []
        shown.on("pageerror", lambda error: mistakes.append(str(error)))
        shown.on(
            "request",
            lambda request: mistakes.append(request.url) if not request.url.startswith((url, "data:")) else None,
        )
        shown.goto(url)
        shown.click("nav >> text=correspond")
        assert "0<b>.png" in shown.inner_text("#queries")  # as text, not as markup
        shown.select_option("#queries", "q7")
        shown.wait_for_function("() => document.querySelectorAll('.pair').length > 0")
        own = shown.inner_text("#votes")
        assert "votes" in own
        drag(shown, (2, 1), (2, 5))
        shown.wait_for_function("() => location.hash.split('/').length === 3")
        shown.wait_for_timeout(300)
        mask = shown.evaluate("() => location.hash.split('/')[2]")
        assert mask == "0" * 15 + "11111" + "0" * 29
        assert shown.locator("#grid i.on").count() == 5
        edited = shown.inner_text("#votes")
        shown.reload()
        shown.wait_for_function("() => document.querySelectorAll('.pair').length > 0")
        assert shown.locator("#grid i.on").count() == 5
        assert shown.inner_text("#votes") == edited
        (tmp_path / "bad.png").write_bytes(b"no picture")
        shown.set_input_files("#file", tmp_path / "bad.png")
        shown.wait_for_function("() => /not a picture/.test(document.getElementById('said').textContent)")
        shown.click("nav >> text=heads")
        shown.select_option("#queries", "q2")
        shown.click("#go-heads")
        shown.wait_for_selector("#matrix td")
        shown.click("#matrix td >> nth=3")
        shown.wait_for_function("() => /Layer 1, head 1/.test(document.getElementById('head-name').textContent)")
        shown.click("#look", position={"x": 10, "y": 10})
        shown.wait_for_function("() => /patch 0/.test(document.getElementById('head-name').textContent)")
        shown.click("nav >> text=explain")
        shown.fill("#methods", "rollout")
        shown.click("#go-explain")
        shown.wait_for_selector("#explained:not([hidden])")
        assert "Random map" in shown.inner_text("#scores")
        assert mistakes == []


def test_a_person_takes_part_in_a_study(place, browser, tmp_path):
    desk = endpoints(place, tmp_path / "log", trials=2)
    with running(desk) as url, contextlib.closing(browser.new_page()) as shown:
        shown.goto(url + "/#study")
        shown.fill("#user", "ann")
        shown.click("#go-study")
        for number in range(2):
            shown.wait_for_function(
                f"() => /Picture {number + 1} of 2/.test(document.getElementById('progress').textContent)"
            )
            assert shown.is_disabled("[data-decision=Accept]")
            drag(shown, (1, 1), (3, 1))
            shown.check(f"#confidence input[value='{number + 2}']")
            shown.wait_for_timeout(200)
            shown.click("[data-decision=Reject]")
        shown.wait_for_function("() => /Done: 1 of 2/.test(document.getElementById('progress').textContent)")
    lines = [json.loads(line) for line in (tmp_path / "log" / "decisions.jsonl").read_text().splitlines()]
    assert [line["self-reported-confidence"] for line in lines] == [2, 3]
    assert (tmp_path / "log" / "interactions.jsonl").exists()
