"""`verify` by sabotage: a good case passes, and every way of spoiling the case or the component is caught."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from core_attention import cli
from core_attention.golden.replay import verify
from core_attention.systems import Component, System


def exit_status(*arguments) -> int:
    return cli.main(["verify", *map(str, arguments)])


def failing(result) -> set[str]:
    return {row.name for row in result.rows if not row.ok}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_good_case_passes(toy, tmp_path, mode, dtype):
    path, _, tensors = toy.record(tmp_path, mode=mode, dtype=dtype)
    result = verify(path)
    assert result.status == "ok", (result.message, [row for row in result.rows if not row.ok])
    recorded = {key for key in tensors if key.split("/")[0] in ("output", "grad")}
    assert recorded | {"output/names"} <= {row.name for row in result.rows}
    assert sum(row.name.startswith("state_after/") for row in result.rows) == (3 if mode == "train" else 0)
    assert exit_status(path) == 0


def test_a_float64_case_runs_in_float64(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path, dtype=torch.float64)
    toy.write(tmp_path, "case", fields | {"rtol": 1e-13, "atol": 1e-13}, tensors)
    assert verify(path).status == "ok"


def test_every_stored_tensor_matters(toy, tmp_path):
    """Changing any one tensor by little more than the tolerance fails the case."""
    path, fields, tensors = toy.record(tmp_path)
    for key, tensor in tensors.items():
        if key == "state_dict/head":
            continue  # tied: `convert` takes the other name
        changed = tensor.clone()
        changed.view(-1)[0] += 0.01 if changed.is_floating_point() else 1
        toy.write(tmp_path, "case", fields, {**tensors, key: changed})
        assert verify(path).status == "differs", key
        assert exit_status(path) == 1


# ---- the component is wrong: differs, exit 1 ----


def sabotaged(toy, **changes):
    toy.register(toy=System("toy", {"Toy": dataclasses.replace(toy.component, **changes)}))


def spoil_output(toy, name, spoil):
    def run(module, inputs, *, config, mode):
        outputs = toy.run(module, inputs, config=config, mode=mode)
        outputs[name] = spoil(outputs[name])
        return outputs

    sabotaged(toy, run=run)


def flip_one_bit(mask):
    mask = mask.clone()
    mask.view(-1)[3] = 1 - mask.view(-1)[3]
    return mask


def one_nan(y):
    y = y.clone()
    y.view(-1)[7] = math.nan
    return y


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("y", lambda y: y + 1e-3),
        ("y", one_nan),
        ("y", lambda y: y[:, :-1]),
        ("y", lambda y: y.transpose(0, 1)),
        ("y", lambda y: y / 0),
        ("y", lambda y: y.tolist()),
        ("mask", flip_one_bit),
        ("mask", lambda mask: mask * 0.999999),  # a mask is exact, whatever rtol
        ("best", lambda best: best + 1),
        ("best", lambda best: best + 0.25),  # not integers at all
        ("loss", lambda loss: loss * 1.001),
        ("names", lambda names: names | {"label": "dog"}),
        ("names", lambda names: names | {"more": 1}),
        ("names", lambda names: names | {"values": [1.0, *names["values"][1:]]}),  # an integer became a float
        ("names", lambda names: names | {"values": [True, *names["values"][1:]]}),
        ("names", lambda names: names | {"values": names["values"][:-1]}),
        ("names", lambda names: names | {"values": [1, 0.5001, *names["values"][2:]]}),
        ("names", lambda names: names | {"values": [1, 0.5, None, 0.0]}),
        ("names", lambda names: torch.zeros(1)),
    ],
)
def test_a_wrong_output_differs(toy, tmp_path, name, spoil):
    path, _, _ = toy.record(tmp_path)
    spoil_output(toy, name, spoil)
    result = verify(path)
    assert result.status == "differs"
    if result.rows:  # an output that grad_of needs may have raised instead
        assert f"output/{name}" in failing(result)
    assert exit_status(path) == 1


def test_a_missing_output_differs_unless_optional(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path)

    def run(module, inputs, *, config, mode):
        outputs = toy.run(module, inputs, config=config, mode=mode)
        return {key: outputs[key] for key in outputs if key not in ("mask", "names")}

    sabotaged(toy, run=run)
    assert failing(verify(path)) == {"output/mask", "output/names"}
    optional = {"output/mask": {"optional": True}, "output/n*": {"optional": True}}
    toy.write(tmp_path, "case", fields | {"compare": optional}, tensors)
    assert verify(path).status == "ok"


def test_a_detached_path_loses_its_gradient(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)

    def convert(official, config):
        ours = toy.convert(official, config)
        return ours | {"query.weight": ours["query.weight"].detach()}

    sabotaged(toy, convert=convert)
    assert failing(verify(path)) == {"grad/state_dict/qkv"}


def test_an_output_cut_from_the_graph_has_zero_gradients(toy, tmp_path):
    path, _, tensors = toy.record(tmp_path)

    def run(module, inputs, *, config, mode):
        outputs = toy.run(module, inputs, config=config, mode=mode)
        return {key: o.detach() if isinstance(o, torch.Tensor) else o for key, o in outputs.items()}

    sabotaged(toy, run=run)
    assert failing(verify(path)) == {key for key in tensors if key.startswith("grad/")}


def test_running_statistics_that_are_not_updated_are_caught(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)

    class Frozen(toy.Module):
        def forward(self, x):
            before = {key: t.clone() for key, t in self.norm.named_buffers()}
            result = super().forward(x)
            for key, tensor in before.items():
                self.norm._buffers[key] = tensor
            return result

    sabotaged(toy, build=lambda config: Frozen(config["width"]))
    assert failing(verify(path)) == {
        "state_after/norm.running_mean",
        "state_after/norm.running_var",
        "state_after/norm.num_batches_tracked",
    }


def test_statistics_recorded_as_unchanged_must_not_change(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path)
    key = "norm.running_mean"
    toy.write(tmp_path, "case", fields, tensors | {f"state_after/{key}": tensors[f"state_dict/{key}"]})
    assert failing(verify(path)) == {f"state_after/{key}"}


@pytest.mark.parametrize("where", ["build", "convert", "run"])
@pytest.mark.parametrize(
    "error", [RuntimeError("first line\nsecond line"), KeyError("qkv"), IndexError("x"), TypeError("y"), SystemExit(0)]
)
def test_a_component_that_raises_differs_and_says_so_in_one_line(toy, tmp_path, capsys, where, error):
    path, _, _ = toy.record(tmp_path)

    def fail(*args, **kwargs):
        raise error

    sabotaged(toy, **{where: fail})
    result = verify(path)
    assert result.status == "differs"
    assert type(error).__name__ in result.message
    assert "\n" not in result.message
    assert exit_status(path) == 1
    assert "Traceback" not in capsys.readouterr().out


def test_run_must_return_a_dict(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)
    sabotaged(toy, run=lambda module, inputs, *, config, mode: torch.zeros(1))
    assert "expected a dict" in verify(path).message


# ---- the case is wrong or its keys do not fit: unusable, exit 2 ----


def without(name):
    return lambda fields, tensors: tensors.pop(name)


def with_tensor(name, tensor=None):
    return lambda fields, tensors: tensors.update({name: torch.zeros(2) if tensor is None else tensor})


def with_field(name, value):
    return lambda fields, tensors: fields.update({name: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("state_dict/scale"), "no key 'scale'"),
        (without("state_dict/norm.bias"), "missing: norm.bias"),
        (with_tensor("state_dict/extra.weight"), "extra.weight"),
        (with_tensor("state_dict/norm.extra"), "unexpected: norm.extra"),
        (with_tensor("state_dict/norm.bias"), r"norm.bias has shape \[2\], expected \[6\]"),
        (with_tensor("weights/x"), "'weights/x' is in none of the sections"),
        (with_tensor("x"), "'x' is in none of the sections"),
        (with_tensor("output/"), "'output/' is in none of the sections"),
        (with_tensor("grad/output/y"), "grad/output/y is neither"),
        (with_tensor("grad/input/absent"), "there is no input/absent"),
        (with_tensor("grad/state_dict/absent"), "there is no state_dict/absent"),
        (with_tensor("grad/state_dict/norm.num_batches_tracked", torch.zeros(())), "has no gradient"),
        (with_tensor("grad/input/x"), "grad/input/x has shape"),
        (with_tensor("state_after/absent"), "has no such key"),
        (with_tensor("probe/absent"), "probe/absent has no output/absent"),
        (with_tensor("input/label"), "'label' is recorded twice"),
        (with_field("grad_of", None), "no grad_of"),
        (with_field("grad_of", {}), "no grad_of"),
        (with_field("grad_of", {"z": 1.0}), "not a recorded output"),
        (with_field("grad_of", {"loss": "probe"}), "needs probe/loss"),
        (with_field("grad_of", {"y": "sum"}), "expected 'probe' or a number"),
        (with_field("grad_of", ["y"]), "grad_of is a list"),
        (with_field("mode", "test"), "mode is 'test'"),
        (with_field("rtol", "small"), "rtol is 'small'"),
        (with_field("atol", -1), "atol is -1"),
        (with_field("system", None), "no 'system'"),
        (with_field("component", ""), "no 'component'"),
        (with_field("config", []), "config is a list"),
        (with_field("compare", {"output/y": {"rtoll": 1}}), "unknown rule"),
        (with_field("compare", {"output/y": {"rows": "list"}}), "only 'set'"),
        (with_field("compare", {"output/y": {"atol": None}}), "atol is None"),
        (with_field("compare", {"output/y": {"where": "absent"}}), "where names 'absent'"),
        (with_field("compare", {"output/*": {"where": "x"}}), "does not lead"),
        (with_field("weights", {"rule": "other", "shapes": {}}), "not in weights.shapes"),
        (with_field("input_files", {"slide": 3}), "expected a path"),
    ],
)
def test_a_case_that_promises_what_it_does_not_hold_is_unusable(toy, tmp_path, capsys, spoil, message):
    path, fields, tensors = toy.record(tmp_path)
    spoil(fields, tensors)
    toy.write(tmp_path, "case", fields, tensors)
    result = verify(path)
    assert result.status == "unusable", result
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.message)
    assert exit_status(path) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"system"', "\x00", '{"system": "toy"}', "[" * 100_000])
def test_bad_json_is_unusable(toy, tmp_path, text):
    path = toy.write(tmp_path, "case", text, {})
    assert verify(path).status == "unusable"
    assert exit_status(path) == 2


def test_bad_files_are_unusable(toy, tmp_path):
    path, fields, _ = toy.record(tmp_path)
    stored = path.with_suffix(".safetensors")
    whole = stored.read_bytes()
    for spoiled in (whole[:-1], whole[:100], whole[:4], b"", b"\xff" * 64):
        stored.write_bytes(spoiled)
        assert verify(path).status == "unusable"
    stored.unlink()
    assert verify(path).status == "unusable"  # its objective is not recorded any more
    assert verify(tmp_path / "absent.json").status == "unusable"
    path.write_bytes(b"\xff\xfe\x00")
    assert verify(path).status == "unusable"
    toy.write(tmp_path, "empty", {"system": fields["system"], "component": "total"}, {})
    assert "nothing to compare" in verify(tmp_path / "empty.json").message


def test_an_objective_of_other_weights_is_caught(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path)
    for wrong in ({"y": "probe", "loss": 0.5}, {"y": "probe"}, {"loss": 0.25}, {"y": 1.0, "loss": 0.25}):
        toy.write(tmp_path, "case", fields | {"grad_of": wrong}, tensors)
        result = verify(path)
        assert result.status == "differs", wrong
        assert failing(result) <= {key for key in tensors if key.startswith("grad/")}


def test_a_non_zero_gradient_of_what_has_no_influence_is_caught(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path)
    tensors["input/idle"] = torch.ones(6)
    tensors["grad/input/idle"] = torch.zeros(6)
    toy.write(tmp_path, "case", fields, tensors)
    assert verify(path).status == "ok"
    tensors["grad/input/idle"] = torch.full((6,), 0.1)
    toy.write(tmp_path, "case", fields, tensors)
    assert failing(verify(path)) == {"grad/input/idle"}


# ---- the component is not here: unknown, exit 2 ----


def test_an_unknown_component_names_the_known_and_the_nearest(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path)
    toy.write(tmp_path, "case", fields | {"component": "Toys"}, tensors)
    result = verify(path)
    assert result.status == "unknown"
    assert "known: Toy, total; nearest: Toy" in result.message
    assert exit_status(path) == 2


def test_an_unknown_system_names_the_nearest(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path)
    toy.write(tmp_path, "case", fields | {"system": "tyo"}, tensors)
    assert "nearest: toy" in verify(path).message


def test_a_package_that_cannot_be_imported_is_named_with_the_reason(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)
    toy.register(toy=ImportError("no module named heavy"))
    result = verify(path)
    assert result.status == "unknown"
    assert "could not be imported: ImportError: no module named heavy" in result.message


def test_a_broken_part_leaves_the_other_parts_of_its_system_usable(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)
    toy.register(toy=toy.system, toy_=ImportError("broken"))
    assert verify(path).status == "ok"


def test_only_the_system_of_the_case_is_imported(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)
    toy.register(toy=toy.system, other=AssertionError("imported"))
    assert verify(path).status == "ok"


def test_one_key_registered_twice_is_an_error(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)
    toy.register(toy=toy.system, toy_=toy.system)
    result = verify(path)
    assert result.status == "unusable"
    assert "registered twice" in result.message


# ---- input files: skipped ----


@pytest.fixture
def case_with_file(toy, tmp_path):
    def run(module, inputs, *, config, mode):
        return {"text": inputs["page"].read_text()}

    toy.register(toy=System("toy", {"read": Component(run=run)}))
    folder = tmp_path / "deep" / "golden"
    folder.mkdir(parents=True)
    fields = {
        "system": "toy",
        "component": "read",
        "input_files": {"page": "data/toy/page.txt"},
        "output_json": {"text": "hello"},
    }
    return toy.write(folder, "case", fields, {})


def test_a_missing_input_file_skips_the_case(case_with_file, capsys):
    result = verify(case_with_file)
    assert (result.status, result.message) == ("skipped", "needs data/toy/page.txt")
    assert exit_status(case_with_file) == 0
    assert "skipped   case · toy/read: needs data/toy/page.txt" in capsys.readouterr().out
    assert exit_status(case_with_file, "--no-skip") == 1


@pytest.mark.parametrize("place", ["deep/golden", "deep", "deep/shared", "shared", "elsewhere"])
def test_input_files_are_found(case_with_file, tmp_path, monkeypatch, place):
    page = tmp_path / place / "data" / "toy" / "page.txt"
    page.parent.mkdir(parents=True)
    page.write_text("hello")
    assert verify(case_with_file).status == ("skipped" if place == "elsewhere" else "ok")
    assert exit_status(case_with_file, "--data", tmp_path / place, "--no-skip") == 0
    monkeypatch.setenv("CORE_ATTENTION_SHARED", str(tmp_path / place))
    assert verify(case_with_file).status == "ok"


# ---- functions, tying, generated weights ----


def function_case(toy, folder, **more):
    fields = {"system": "toy", "component": "total"} | more.pop("fields", {})
    x = torch.arange(12.0).reshape(4, 3)
    tensors = {"input/x": x, "output/sum": x.sum().reshape(1), "output/rows": x} | more
    return toy.write(folder, "total", fields, {key.replace("__", "/"): t for key, t in tensors.items()})


def test_a_function_runs_without_a_module_and_scalars_have_two_shapes(toy, tmp_path):
    rows = {"compare": {"output/rows": {"rows": "set"}}}
    assert verify(function_case(toy, tmp_path, fields=rows)).status == "ok"
    assert failing(verify(function_case(toy, tmp_path))) == {"output/rows"}  # the order counts without the rule


def test_a_function_with_a_state_dict_is_unusable(toy, tmp_path):
    result = verify(function_case(toy, tmp_path, state_dict__w=torch.ones(2)))
    assert result.status == "unusable"
    assert "is a function" in result.message


@pytest.mark.parametrize("graded", [("embed", "head"), ("embed",), ("head",)])
def test_the_gradient_of_either_tied_key_is_the_total(toy, tmp_path, graded):
    path, fields, tensors = toy.record(tmp_path)
    for key in {"embed", "head"} - set(graded):
        del tensors[f"grad/state_dict/{key}"]
    toy.write(tmp_path, "case", fields, tensors)
    assert verify(path).status == "ok"
    last = f"grad/state_dict/{graded[-1]}"
    toy.write(tmp_path, "case", fields, tensors | {last: tensors[last] * 0.5})
    assert failing(verify(path)) == {last}


def test_a_module_that_ties_its_own_parameters(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)

    class Tied(toy.Module):
        def __init__(self, width):
            super().__init__(width)
            self.head = self.embed

    def convert(official, config):
        head = official["head"]
        return toy.convert(official, config) | {"head": head}

    sabotaged(toy, build=lambda config: Tied(config["width"]))  # one name of two is given
    assert verify(path).status == "ok"
    sabotaged(toy, build=lambda config: Tied(config["width"]), convert=convert)  # both are
    assert verify(path).status == "ok"


def test_numbers_and_arrays_may_stand_for_tensors(toy, tmp_path):
    def run(module, inputs, *, config, mode):
        return {
            "sum": float(inputs["x"].sum()),
            "rows": inputs["x"].numpy(),
            "json": {"n": np.int64(3), "pair": (1, 2)},
        }

    toy.register(toy=System("toy", {"total": Component(run=run)}))
    fields = {"output_json": {"json": {"n": 3, "pair": [1, 2]}}}
    assert verify(function_case(toy, tmp_path, fields=fields)).status == "ok"


def test_weights_made_by_a_rule_with_stored_ones_over_them(toy, tmp_path):
    path, fields, tensors = toy.record(tmp_path)
    state = {key.removeprefix("state_dict/"): t for key, t in tensors.items() if key.startswith("state_dict/")}
    weights = {"rule": "mix32", "shapes": {key: list(t.shape) for key, t in state.items()}}
    toy.write(tmp_path, "case", fields | {"weights": weights}, tensors)
    assert verify(path).status == "ok"
    del tensors["state_dict/norm.bias"]
    toy.write(tmp_path, "case", fields | {"weights": weights}, tensors)
    result = verify(path)
    assert "output/y" in failing(result)  # norm.bias is generated now
    huge = {"shapes": weights["shapes"] | {"qkv2": [10**9, 10**9]}}
    for spoiled in (huge, {"rule": "mix33"}, {"gain": "x"}, {"scale": {"*": "x"}}, {"shapes": {"qkv": [1, "a"]}}):
        toy.write(tmp_path, "case", fields | {"weights": weights | spoiled}, tensors)
        assert verify(path).status == "unusable"


def test_a_case_of_generated_weights_and_float64_inputs_runs_in_float64(toy, tmp_path):
    def run(module, inputs, *, config, mode):
        assert module.weight.dtype == torch.float64
        return {"y": module(inputs["x"])}

    toy.register(toy=System("toy", {"linear": Component(run=run, build=lambda config: torch.nn.Linear(2, 2))}))
    shapes = {"weight": [2, 2], "bias": [2]}
    fields = {"system": "toy", "component": "linear", "weights": {"rule": "mix32", "shapes": shapes}}
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.2, 0.2]], dtype=torch.float64)
    path = toy.write(
        tmp_path, "case", fields | {"atol": 1.0, "compare": {"output/y": {"rtol": 1.0}}}, {"input/x": x, "output/y": y}
    )
    assert verify(path).status == "ok"


# ---- the command ----


def test_one_case_never_stops_the_others(toy, tmp_path, capsys):
    toy.record(tmp_path, "b_good")
    (tmp_path / "a_bad.json").write_text("{")
    path, fields, tensors = toy.record(tmp_path, "c_differs")
    toy.write(tmp_path, path.stem, fields, tensors | {"output/y": tensors["output/y"] + 1})
    toy.write(tmp_path, "d_unknown", fields | {"component": "none"}, tensors)
    assert exit_status(tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "unusable",
        "ok",
        "differs",
        "unknown",
        "1",
    ]
    assert lines[-1] == "1 ok, 1 differs, 1 unknown, 1 unusable"
    assert any("output/y" in line and "limit" in line and "at [" in line for line in lines)
    path.unlink()
    assert exit_status(tmp_path / "*.json") == 2
    assert exit_status(tmp_path / "none*.json") == 2


def test_json_gives_every_row_and_is_strict_json(toy, tmp_path, capsys):
    path, _, tensors = toy.record(tmp_path)

    def run(module, inputs, *, config, mode):
        print("noise on stdout")
        outputs = toy.run(module, inputs, config=config, mode=mode)
        return {key: value for key, value in outputs.items() if key != "mask"}

    sabotaged(toy, run=run)
    assert exit_status(path, "--json") == 1

    def refuse(constant):
        raise AssertionError(constant)

    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    (case,) = report["cases"]
    assert report["counts"] == {"differs": 1}
    assert case["status"] == "differs"
    rows = {row["name"]: row for row in case["rows"]}
    assert not rows["output/mask"]["ok"]
    assert rows["output/y"]["ok"]
    assert {key for key in tensors if key.startswith("grad/")} <= set(rows)


def test_no_damage_to_a_file_makes_verify_raise(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)
    random = np.random.default_rng(0)
    for place in (path, path.with_suffix(".safetensors")):
        whole = place.read_bytes()
        for _ in range(100):
            spoiled = bytearray(whole)
            for position in random.integers(0, min(len(whole), 2000), 3):
                spoiled[position] = int(random.integers(256))
            place.write_bytes(spoiled)
            assert verify(path).status in ("ok", "differs", "unknown", "unusable")
        place.write_bytes(whole)


@pytest.mark.parametrize("device", ["cudaa", "meta:x", "xpu"])
def test_a_device_that_cannot_be_used_is_one_line(toy, tmp_path, capsys, device):
    path, _, _ = toy.record(tmp_path)
    assert exit_status(path, "--device", device) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the device {device!r} cannot be used" in line


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_case_runs_on_cuda(toy, tmp_path, mode):
    path, _, _ = toy.record(tmp_path, mode=mode)
    assert exit_status(path, "--device", "cuda") == 0


def test_torch_is_left_as_it_was_and_draws_are_repeatable(toy, tmp_path):
    path, _, _ = toy.record(tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = []

    def run(module, inputs, *, config, mode):
        assert torch.are_deterministic_algorithms_enabled()
        drawn.append(torch.rand(2))
        return toy.run(module, inputs, config=config, mode=mode)

    sabotaged(toy, run=run)
    assert verify(path).status == verify(path).status == "ok"
    assert torch.equal(*drawn)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
