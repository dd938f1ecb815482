import os

import pytest

from core_runtime.bulk import Item, bulk
from core_runtime.errors import UserError
from core_runtime.identity import (
    begin,
    data_fingerprint,
    differences,
    full_digests,
    identity,
    is_done,
    is_own_output,
    keep_latest,
    model_identity,
    refuse_inputs_as_outputs,
)
from core_runtime.options import BulkOptions


def copy_input(item):
    item.output.write_bytes(item.source.read_bytes())
    return {}


def test_an_output_belongs_to_its_input_model_and_options(tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out" / "a.txt"
    source.write_text("first")

    def run(threshold=0.5, **more):
        key = {"input": identity(source), "options": {"threshold": threshold}}
        items = [Item("a", source, output, key)]
        return bulk(copy_input, items, BulkOptions(**more), log=tmp_path / "log", description="x")[0].status

    assert run() == "done"
    assert run() == "already done"
    with pytest.raises(UserError, match=r"another threshold \(0.5, now 0.7\)"):
        run(0.7)
    source.write_text("other")
    with pytest.raises(UserError, match="another input"):
        run()
    assert output.read_text() == "first"
    assert run(overwrite=True) == "done"
    assert output.read_text() == "other"


@pytest.mark.parametrize("at", [0, 65535, 3_000_000 - 65536, 3_000_000 - 1])
def test_both_ends_of_a_large_file_are_looked_at(tmp_path, at):
    """Without the time of change: a copy that was damaged at its end is another input."""
    file = tmp_path / "large.bin"
    digests = []
    for byte in (0, 1):
        data = bytearray(3_000_000)
        data[at] = byte
        file.write_bytes(data)
        digests.append(identity(file)["digest"])
    assert digests[0] != digests[1]


def test_an_option_on_one_side_alone_is_a_difference():
    assert differences({"a": 1}, {"a": 1, "b": 2}) == ["b (None, now 2)"]
    assert differences({"a": 1, "b": 2}, {"a": 1}) == ["b (2, now None)"]


def test_an_output_of_a_killed_run_is_made_anew(tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("now")
    output.write_text("of before")
    begin(output, {"n": 1})
    assert not is_done(output, {"n": 1})
    assert (
        bulk(copy_input, [Item("a", source, output, {"n": 1})], log=tmp_path / "l", description="x")[0].status == "done"
    )
    assert output.read_text() == "now"


def test_a_file_of_somebody_else_is_never_replaced(tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("mine")
    output.write_text("theirs")
    with pytest.raises(UserError, match="no record of what it was made from"):
        bulk(copy_input, [Item("a", source, output)], log=tmp_path / "l", description="x")
    with pytest.raises(UserError, match="would replace an input"):
        bulk(
            copy_input,
            [Item("a", source, source, inputs=[source])],
            BulkOptions(overwrite=True),
            log=tmp_path / "l",
            description="x",
        )
    assert (source.read_text(), output.read_text()) == ("mine", "theirs")


def test_own_outputs_are_told_from_inputs(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("x")
    bulk(copy_input, [Item("a", source, tmp_path / "out.txt")], log=tmp_path / "l", description="x")
    assert is_own_output(tmp_path / "out.txt")
    assert not is_own_output(source)


def test_identity_sees_contents_and_time_of_large_files_and_folders(tmp_path):
    big = tmp_path / "big"
    big.write_bytes(bytes(5_000_000))
    before, whole = identity(big), identity(big, full=True)
    with big.open("r+b") as file:
        file.seek(2_000_001)
        file.write(b"x")
    os.utime(big, ns=(1, 1))
    assert identity(big)["changed"] != before["changed"]
    assert identity(big, full=True) != whole
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = identity(folder)
    (folder / "a").rename(folder / "b")
    assert identity(folder)["digest"] != first["digest"]
    assert data_fingerprint([big, folder]) == data_fingerprint([folder, big])


def test_inputs_are_recognised_by_all_that_they_hold_where_asked(tmp_path):
    big, output = tmp_path / "big", tmp_path / "out" / "big"
    big.write_bytes(bytes(5_000_000))

    def run():
        item = Item("big", big, output, {"input": identity(big)})
        return bulk(copy_input, [item], log=tmp_path / "log", description="x")[0].status

    with full_digests():
        assert run() == "done"
        os.utime(big, ns=(1, 1))  # a copy
        assert run() == "already done"
        with big.open("r+b") as file:
            file.seek(2_000_001)  # between the samples
            file.write(b"x")
        os.utime(big, ns=(1, 1))
        with pytest.raises(UserError, match="another input"):
            run()
    with pytest.raises(UserError, match="with or without --full-digest"):
        run()


def test_a_copied_model_is_the_same_model(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"1234")
    assert model_identity(tmp_path / "a") == model_identity(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text("[]")
    assert differences(model_identity(tmp_path / "a"), model_identity(tmp_path / "b")) == ["config.json"]


def test_shards_and_tokenizers_are_part_of_a_model(tmp_path):
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(b"1234")
    (tmp_path / "tokenizer.json").write_text("{}")
    before = model_identity(tmp_path)
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(b"1235")
    assert differences(before, model_identity(tmp_path)) == ["model-00001-of-00001.safetensors"]


def test_a_model_that_was_replaced_at_its_path_is_loaded_anew(tmp_path):
    loads = []

    @keep_latest
    def load(model, device):
        loads.append(device)
        return (tmp_path / "model" / "config.json").read_text()

    for name in ("model", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(name)
        os.utime(tmp_path / name / "config.json", ns=(1, 1))  # as copies that keep their times
    path = str(tmp_path / "model")
    assert load(path, "cpu") == load(path, "cpu") == "model"
    assert loads == ["cpu"]
    (tmp_path / "model").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "model")
    assert load(path, "cpu") == "other"
    load(path, "cuda")
    assert loads == ["cpu", "cpu", "cuda"]


def test_an_output_never_replaces_an_input_nor_a_folder_that_holds_one(tmp_path):
    source = tmp_path / "x" / "a.tif"
    for output in (source, source.parent):
        with pytest.raises(UserError, match="replace an input"):
            refuse_inputs_as_outputs([source], [output])
    refuse_inputs_as_outputs([source], [tmp_path / "y", source.parent / "b.tif"])
