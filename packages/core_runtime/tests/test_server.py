"""The local server, over real sockets: limits, token, hosts, errors, many at once, clients that go away."""

import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from core_runtime.errors import UserError

if find_spec("fastapi") is None or find_spec("uvicorn") is None:
    pytest.skip("needs FastAPI and uvicorn (the extra `server`)", allow_module_level=True)

from core_runtime.server import Limits, bind, local_app, server_of


@contextmanager
def running(endpoints, **options):
    """A server in a thread; yields its port."""
    limits = options.get("limits", Limits())
    listening = bind("127.0.0.1", 0, None)
    server = server_of(local_app("test", "<p>page</p>", endpoints, **options), limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(5)
        listening.close()


def call(port, path, body=b"", method="POST", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def echo(given):
    return {"size": len(given.body), "words": list(given.query.get("word", ())), "nan": float("nan")}


def test_it_answers_its_page_and_its_functions():
    with running({"/echo": echo}) as port:
        status, page, headers = call(port, "/", method="GET")
        assert (status, page) == (200, b"<p>page</p>")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        status, text, _ = call(port, "/echo?word=a&word=b", b"123")
        assert (status, json.loads(text)) == (200, {"size": 3, "words": ["a", "b"], "nan": None})
        assert call(port, "/absent")[0] == 404
        assert call(port, "/echo", method="GET")[0] == 405


def test_errors_are_one_line_and_keep_their_details():
    def user(given):
        raise UserError("not\na picture", "send PNG")

    def broken(given):
        raise RuntimeError("secret details")

    with running({"/user": user, "/broken": broken}) as port:
        status, text, _ = call(port, "/user")
        assert (status, json.loads(text)) == (400, {"error": "not a picture", "hint": "send PNG"})
        status, text, _ = call(port, "/broken")
        assert status == 500
        assert b"secret" not in text


def test_bodies_are_bounded_announced_or_not():
    with running({"/echo": echo}, limits=Limits(size=1000)) as port:
        assert call(port, "/echo", b"x" * 1000)[0] == 200
        assert call(port, "/echo", b"x" * 1001)[0] == 413
        chunks = iter([b"x" * 600, b"x" * 600])
        assert call(port, "/echo", chunks, **{"Transfer-Encoding": "chunked"})[0] == 413


def test_a_body_that_does_not_come_is_given_up():
    with (
        running({"/echo": echo}, limits=Limits(seconds=0.2)) as port,
        socket.create_connection(("127.0.0.1", port)) as slow,
    ):
        slow.sendall(f"POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 10\r\n\r\nab".encode())
        assert b" 408 " in slow.recv(200)


def test_a_token_is_asked_for():
    with running({"/echo": echo}, token="sécret") as port:
        assert call(port, "/echo")[0] == 401
        assert call(port, "/echo", Authorization="Bearer wrong")[0] == 401
        assert call(port, "/echo", Authorization="Bearer sécret".encode())[0] == 200


def test_other_names_and_other_sites_are_refused():
    with running({"/echo": echo}) as port:
        assert call(port, "/echo", Host="evil.example")[0] == 421
        assert call(port, "/", method="GET", Host="evil.example")[0] == 421
        assert call(port, "/echo", Origin="https://evil.example")[0] == 403
        assert call(port, "/echo", Origin=f"http://127.0.0.1:{port}")[0] == 200


def test_fifty_at_once_are_answered_one_after_the_other():
    at_work = []

    def work(given):
        at_work.append(1)
        busy = len(at_work)
        time.sleep(0.005)
        at_work.pop()
        return {"busy": busy}

    with running({"/work": work}) as port, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: call(port, f"/work?n={number}"), range(50)))
    assert [status for status, _, _ in answers] == [200] * 50
    assert {json.loads(text)["busy"] for _, text, _ in answers} == {1}


def test_who_finds_too_many_waiting_is_told_so():
    release = threading.Event()

    def wait(given):
        release.wait(10)
        return {}

    with running({"/wait": wait}, limits=Limits(waiting=2)) as port, ThreadPoolExecutor(2) as pool:
        first = [pool.submit(call, port, "/wait") for _ in range(2)]
        while json.loads(call(port, "/health", method="GET")[1])["waiting"] < 2:
            time.sleep(0.01)
        assert call(port, "/wait")[0] == 503
        release.set()
        assert [each.result()[0] for each in first] == [200, 200]


def test_a_client_that_went_away_costs_no_work():
    release = threading.Event()
    worked = []

    def wait(given):
        worked.append(given.one("n", "?"))
        release.wait(10)
        return {}

    with running({"/wait": wait}) as port, ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, port, "/wait?n=1")
        while not worked:
            time.sleep(0.01)
        with socket.create_connection(("127.0.0.1", port)) as gone:
            gone.sendall(f"POST /wait?n=2 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\n\r\n".encode())
            while json.loads(call(port, "/health", method="GET")[1])["waiting"] < 2:
                time.sleep(0.01)
        time.sleep(0.1)
        release.set()
        assert first.result()[0] == 200
        while json.loads(call(port, "/health", method="GET")[1])["waiting"]:
            time.sleep(0.01)
    assert worked == ["1"]


def test_addresses_that_cannot_be_had_are_one_line():
    with pytest.raises(UserError, match="other machines"):
        bind("0.0.0.0", 0, None)
    with bind("127.0.0.1", 0, None) as taken:
        taken.listen()
        with pytest.raises(UserError, match="cannot listen"):
            bind("127.0.0.1", taken.getsockname()[1], None)
