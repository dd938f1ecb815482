import pytest

from core_runtime.report import Report

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def test_a_report_is_self_contained_and_escapes(tmp_path):
    report = (
        Report("A <b> title", lead="lead & more").heading("h").text("one\n\ntwo").warning("w").command("cmd --x '<y>'")
    )
    report.facts([("a", 1), ("b", None)]).table(["n"], [[0.12345], [True], ["<i>"]]).picture(PNG, "caption").picture(
        b"<svg/>"
    )
    page = report.write(tmp_path / "r.html").read_text()
    assert "A &lt;b&gt; title" in page
    assert "<i>" not in page
    assert "0.123" in page
    assert "data:image/png;base64," in page
    assert "http" not in page


def test_not_a_picture():
    with pytest.raises(ValueError, match="PNG, JPEG or SVG"):
        Report("x").picture(b"GIF89a")
    with pytest.raises(TypeError, match="int"):
        Report("x").picture(3)
