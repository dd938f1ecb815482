import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core_runtime.bulk import Attempt, BulkOutcome, Item, bulk, require_results, summary
from core_runtime.errors import UserError
from core_runtime.identity import is_own_output
from core_runtime.options import BulkOptions


@pytest.fixture
def square(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from squares import square

    return square


def items(folder, *sources):
    return [Item(f"item{i}", s, folder / f"{i}.txt") for i, s in enumerate(sources)]


def test_outcomes_keep_order_and_a_rerun_goes_on(tmp_path, square):
    work = items(tmp_path, 2, "user", "bug", "empty", 3)
    outcomes = bulk(square, work, log=tmp_path / "log.jsonl", description="squares")
    assert [o.status for o in outcomes] == ["done", "failed", "failed", "no tissue", "done"]
    assert outcomes[0].facts == {"value": 4}
    assert outcomes[1].message == "cannot read it (give another)"
    assert summary(outcomes) == 1
    again = bulk(square, work[::4], log=tmp_path / "log.jsonl", description="squares")
    assert [o.status for o in again] == ["already done"] * 2
    assert summary(again) == 0
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 5


def test_a_summary_replaces_no_input_and_is_no_input_of_the_next_run(tmp_path, square):
    picture = tmp_path / "images.png"
    picture.write_text("the user's")
    (work,) = items(tmp_path, 2)
    how = {"log": tmp_path / "log.jsonl", "description": "squares", "summaries": [picture]}
    with pytest.raises(UserError, match=r"images\.png is already there"):
        bulk(square, [work], **how)
    with pytest.raises(UserError, match="would replace an input"):
        bulk(square, [replace(work, inputs=[picture])], BulkOptions(overwrite=True), **how)
    assert picture.read_text() == "the user's"
    picture.unlink()
    bulk(square, [work], **how)
    picture.write_text("ours")
    assert is_own_output(picture)
    assert bulk(square, [work], **how)[0].status == "already done"


def test_stop_at_the_first_error(tmp_path, square):
    with pytest.raises(UserError, match="item1"):
        bulk(
            square, items(tmp_path, 2, "user", 3), BulkOptions(skip_errors=False), log=tmp_path / "log", description="x"
        )
    assert not (tmp_path / "2.txt").exists()


def test_names_and_keys_that_are_no_text_are_recorded(tmp_path, square):
    name = "half \ud83d"
    (work,) = items(tmp_path, 3)
    work = replace(work, name=name, key={"input": name})
    two = [work, *items(tmp_path / "other", 4)]
    assert bulk(square, two, log=tmp_path / "log", description="x")[0].status == "done"
    assert json.loads((tmp_path / "log").read_text().splitlines()[0])["name"] == name
    assert bulk(square, two, log=tmp_path / "log", description="x")[0].status == "already done"


@pytest.mark.parametrize("sources", [("user",), ("user", "user")])
def test_only_with_several_items_is_one_told_to_go_on(tmp_path, square, sources):
    with pytest.raises(UserError) as error:
        bulk(square, items(tmp_path, *sources), BulkOptions(skip_errors=False), log=tmp_path / "log", description="x")
    assert ("--skip-errors" in error.value.hint) == (len(sources) == 2)


def test_the_error_of_a_single_item_is_the_callers_and_leaves_nothing(tmp_path, square):
    for source, kind in (("user", UserError), ("bug", KeyError)):
        with pytest.raises(kind):
            bulk(square, items(tmp_path / "new", source), log=tmp_path / "new" / "log", description="x")
        assert not (tmp_path / "new").exists()
    (empty,) = bulk(square, items(tmp_path, "empty"), log=tmp_path / "log", description="x")
    assert empty.status == "no tissue"
    with pytest.raises(UserError, match="item0: blank glass"):
        require_results([empty])
    (done,) = bulk(square, items(tmp_path, 2), log=tmp_path / "log", description="x")
    require_results([empty, done])
    (again,) = bulk(square, items(tmp_path, 2), log=tmp_path / "log", description="x")
    assert again.status == "already done"


def test_a_single_part_that_fails_is_an_attempt(tmp_path, square):
    (part,) = bulk(square, items(tmp_path, "user"), log=tmp_path / "log", description="x", parts=True)
    assert (part.status, part.message) == ("failed", "cannot read it (give another)")


def test_the_error_of_a_single_item_on_an_executor(tmp_path, square):
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match="item0: cannot read it"):
        bulk(square, items(tmp_path, "user"), log=tmp_path / "log", description="x", executor=pool)


def test_processes_and_any_executor(tmp_path, square):
    work = items(tmp_path, *range(6))
    outcomes = bulk(square, work, BulkOptions(workers=2), log=tmp_path / "l", description="x")
    assert [o.facts["value"] for o in outcomes] == [0, 1, 4, 9, 16, 25]
    work = items(tmp_path / "b", *range(20))
    with ThreadPoolExecutor(3) as pool:
        assert all(o.ok for o in bulk(square, work, log=tmp_path / "l", description="x", executor=pool))


def test_a_dying_worker_is_named_and_the_rest_goes_on(tmp_path, square):
    outcomes = bulk(
        square, items(tmp_path, 1, "die", 2, 3), BulkOptions(workers=2), log=tmp_path / "l", description="x"
    )
    assert [o.status for o in outcomes] == ["done", "failed", "done", "done"]
    assert "died" in outcomes[1].message


def test_the_log_survives_a_half_line(tmp_path, square):
    log = tmp_path / "log.jsonl"
    log.write_text('{"name": "a"}\n{"na')
    bulk(square, items(tmp_path, 5, 6), log=log, description="x")
    assert json.loads(log.read_text().splitlines()[-1])["name"] == "item1"


def test_an_outcome_names_what_failed_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Squared(BulkOutcome):
        attempts: Sequence[Attempt]

    done, failed = Attempt("two", "done"), Attempt("x", "failed", "it is not a number")
    empty = Attempt("blank", "no numbers")
    assert Squared([done]).code == 0
    outcome = Squared([done, failed, empty])
    assert outcome.failed == {"x": "it is not a number", "blank": "no numbers"}
    assert outcome.code == 1
    assert "failed: x: it is not a number" in capsys.readouterr().err
