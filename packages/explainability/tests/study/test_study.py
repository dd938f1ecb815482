import json
import os
from pathlib import Path

import numpy as np
import pytest

from core_runtime.errors import UserError
from explainability.commands.study import study
from explainability.study.analysis import needed_participants, permutation_test
from explainability.study.reading import read_study

# beside the repository; elsewhere CORE_ATTENTION_SHARED names the folder
SHARED = Path(os.environ.get("CORE_ATTENTION_SHARED", Path(__file__).parents[5] / "shared"))
DATA = SHARED / "data" / "chm_corr"
FIGURES = {
    "cub": {
        "ResNet-50": (65.2, 89.6, 40.9),
        "kNN": (64.7, 96.3, 33.2),
        "EMD-Corr": (67.1, 84.4, 49.7),
        "CHM-Corr": (69.0, 85.5, 52.5),
        "CHM-NN": (65.5, 92.6, 38.4),
        "EMD-NN": (63.9, 92.8, 35.0),
    },
    "imagenet": {
        "ResNet-50": (81.6, 92.3, 71.0),
        "kNN": (75.4, 94.0, 56.1),
        "EMD-Corr": (78.4, 93.6, 63.0),
        "CHM-Corr": (76.7, 94.4, 59.0),
        "CHM-NN": (77.6, 95.9, 58.7),
        "EMD-NN": (76.7, 94.9, 58.1),
    },
}


@pytest.mark.parametrize("name", FIGURES)
def test_published_study(name):
    path = DATA / f"{name}_human_study_decisions.csv"
    if not path.is_file():
        pytest.skip("needs the decisions of the 2022 study (shared data chm_corr)")
    results = study(path, permutations=100)
    assert len(results.comparisons) == 15
    for result in results.methods:
        shares = [100 * share for share in result.accuracy.values()]
        assert shares == pytest.approx(FIGURES[name][result.method], abs=0.1), result.method


def table(path, rows):
    path.write_text("UID,Method,Correctness,ClassifierCorrectness\n" + "\n".join(rows) + "\n")
    return path


def test_logs_of_the_tool_give_what_a_table_gives(tmp_path):
    rows, lines = [], []
    rng = np.random.default_rng(0)
    for person in range(4):
        for _ in range(10):
            right, accept = rng.random() < 0.5, rng.random() < 0.6
            rows.append(f"{person},interactive,{int(right == accept)},{int(right)}")
            record = {
                "username": str(person),
                "gt-label": "a",
                "ai-prediction": {"label": "a" if right else "b"},
                "decision": "Accept" if accept else "Reject",
            }
            lines.append(json.dumps(record))
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(lines))
    a, b = study(table(tmp_path / "t.csv", rows)), study(log)
    assert a.methods[0].accuracy == b.methods[0].accuracy
    assert a.methods[0].confusion == b.methods[0].confusion
    assert not a.comparisons


def test_what_is_said_of_odd_files(tmp_path):
    unequal = table(tmp_path / "u.csv", ["1,a,1,1", "1,a,0,1", "2,a,1,0", ",a,1,1"])
    notes = " ".join(read_study(unequal).notes)
    assert "1 rows without a participant" in notes
    assert "unequal numbers of trials" in notes
    for rows, message in (
        (["1,a,1,1", "1,b,1,1"], "saw more than one method"),
        (["1,a,2,1"], "line 2: Correctness is '2'"),
        (["1,,1,1"], "no method"),
    ):
        with pytest.raises(UserError, match=message):
            read_study(table(tmp_path / "bad.csv", rows))
    with pytest.raises(UserError, match="no method z"):
        study(unequal, methods=("z",))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"username": 1}')
    with pytest.raises(UserError, match="line 1: not a decision"):
        read_study(bad)


def test_permutations_and_power():
    rng = np.random.default_rng(0)
    same = [permutation_test(rng.normal(size=12), rng.normal(size=15), permutations=200, seed=i) for i in range(40)]
    assert 0.3 < np.mean(same) < 0.7
    assert permutation_test(np.zeros(10), np.ones(10), permutations=500) < 0.01
    assert needed_participants(0.1) == 63  # 2 · (1.96 + 0.84)² · 4
