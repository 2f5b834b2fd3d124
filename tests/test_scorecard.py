"""The scorecard: its table, and short versions of its rows."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import warm_python

import tiledseg as ts
from benchmarks.scorecard import fuzzing, hostile
from benchmarks.scorecard._processes import digests
from benchmarks.scorecard._rows import ROWS, SHORT, Trial
from benchmarks.scorecard.mutation import Equal, sites
from tiledseg.errors import ModelError, TiledSegError
from tiledseg.samples import write_samples

importlib.import_module("benchmarks.scorecard.__main__")  # it registers the rows
ROOT = Path(__file__).parent.parent
COMMAND = "import sys; from tiledseg.cli import main; sys.exit(main())"
HERE = [number for number, test in SHORT.items() if "a_short_version" in test]


def test_every_row_has_its_short_version_and_stands_in_the_docs():
    assert sorted(ROWS) == sorted(SHORT) == list(range(1, 22))
    page = (ROOT / "docs" / "scorecard.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|.*?\| `([^`|]+)` \|$", page, re.MULTILINE)
    assert {int(number): (name, test) for number, name, test in rows} == {
        number: (one.name, SHORT[number]) for number, one in ROWS.items()
    }
    for test in SHORT.values():
        file, name = test.split("::")
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.MULTILINE), test


@pytest.mark.parametrize("number", HERE)
def test_a_short_version_meets_its_targets(number, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for figure in ROWS[number].measure(Trial(tmp_path, 0, 0.001)):
        assert figure.passed, (figure.what, figure.faults)


def test_every_requirement_has_a_floor_without_a_known_vulnerability(tmp_path):
    environment, *metadata = ROWS[21].measure(Trial(tmp_path, 0, 1))
    assert "open" in environment.what  # it depends on the machine, so that `make scorecard` alone judges it
    assert len(metadata) == 2
    for figure in metadata:
        assert figure.passed, (figure.what, figure.faults)


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_the_corpus_of_each_target_is_read_without_a_foreign_error(target, tmp_path):
    (tmp_path / "corpus").mkdir()
    read = fuzzing._reader(target, tmp_path, tmp_path / "corpus")
    for data in [path.read_bytes() for path in sorted((fuzzing._CORPUS / target).iterdir())]:
        with contextlib.suppress(TiledSegError):
            read(data)


def test_hostile_models_do_nothing_before_they_are_refused(tmp_path):
    secret, folder = tmp_path / "SECRET.h5", tmp_path / "models"
    secret.write_bytes(b"secret")
    folder.mkdir()
    models = list(hostile._hostile_models(folder, secret))
    done = warm_python.run(hostile._LOAD, *models)
    assert done.stdout.splitlines() == ["FOUND refused | "] * len(models), done.stderr
    assert len(models) > 20


def test_results_have_the_same_bytes_in_other_surroundings(tmp_path):
    write_samples(tmp_path, n_images=1, height=64, width=64, seed=0)
    write = ["--write", "mask,probs,objects,geojson,coco", "--pixel-size", "0.25"]
    found = []
    for number, changes in enumerate(
        ({}, {"TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8"}, {"LC_ALL": "C"})
    ):
        out = tmp_path / f"out-{number}"
        done = warm_python.run(
            COMMAND, "predict", "demo", tmp_path / "images", "--output", out, *write, env=changes
        )
        assert done.returncode == 0, done.stderr
        found.append(digests(out))
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_memory_that_runs_out_outside_the_network_is_a_typed_error(monkeypatch):
    class Large:
        shape, dtype = (40, 50, 3), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise MemoryError("Unable to allocate 9 GiB")

    with pytest.raises(ModelError, match=r"9 GiB.*Let `out` be on disk"):
        ts.tiled_predict(lambda tiles: tiles / 255, Large(), {"tile_size": 16, "overlap": 4})

    def load(name):
        raise ImportError("libtensorflow.so: failed to map segment from shared object")

    monkeypatch.setattr("tiledseg._backend.importlib.import_module", load)
    monkeypatch.delitem(vars(ts._backend), "keras", raising=False)
    with pytest.raises(ModelError, match=r"failed to map segment.*Free memory"):
        _ = ts._backend.keras


def test_each_mutation_changes_the_code_in_one_place():
    text = "def f(x: int) -> int:\n    if x < 2 and not x:\n        raise ValueError(1)\n    return x + 5\n"
    unseen = "def f(x):\n    return list(zip(x.astype(int, copy=True).reshape(-1), x, strict=True))\n"
    assert list(sites(ast.parse(unseen))) == []
    found = set()
    for place in range(len(list(sites(ast.parse(text))))):
        tree = ast.parse(text)
        list(sites(tree))[place].change()
        found.add(ast.unparse(tree))
    wanted = ["x <= 2 and", "x < 3 and", "or not x", "x - 5", "x + 6"]
    assert len(found) == len(wanted)
    assert all(sum(part in one for one in found) == 1 for part in wanted)


def test_each_change_that_is_called_equal_stands_in_its_module():
    for one in Equal.known():
        assert one.places((ROOT / one.module).read_text("utf-8")), one
        assert re.match(r"(time|memory|precision|words|never|runs on other systems)\b", one.why), one
