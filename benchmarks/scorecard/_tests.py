"""The tests as a tool: which of them run a line, and processes that run a few of them at once.

A process is forked from a Python that has loaded the libraries that the tests load, but not the package:
a changed package is tested in a second. ``python -m benchmarks.scorecard._tests FILE ...`` is that Python.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
import xml.etree.ElementTree as ET
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_OWN = ("tiledseg", "tests", "test_", "conftest", "benchmarks", "warm_python", "fuzz_", "__main__", "_pytest")
_HEAVY = ("tensorflow", "keras", "openvino")
_WAIT = 900  # seconds on the clock, for tests that wait for ever
_FEWEST_SECONDS, _TIMES = 20, 10  # of processor time for one set of tests: more is an endless loop
_MEMORY, _FILE = 10 << 30, 1 << 31  # bytes that a changed program may take or write
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "CI": "1",  # hypothesis draws the same examples each time
    "PYTHONDONTWRITEBYTECODE": "1",  # a changed module may have the size and the second of another
}
COVERED = ("coverage.sqlite", "coverage.json", "tests.xml")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which the tests of a copy run."""
    scratch = folder.parent / "tmp"
    scratch.mkdir(exist_ok=True)
    return os.environ | _ENVIRONMENT | {"PYTHONPATH": str(folder), "TMPDIR": str(scratch)}


def measure_coverage(folder: Path, place: Path, tests: Sequence[str]) -> None:
    """Run tests of a copy once; keep which branches ran, by which test, and how long each took."""
    data, report, times = (place / name for name in COVERED)
    source = [f"--cov={folder / 'tiledseg'}", "--cov-branch", "--cov-context=test"]
    stored = [f"--cov-report=json:{report}", f"--junitxml={times}"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "auto"]
    done = subprocess.run(
        [*command, "--dist", "worksteal", *source, *stored, *tests],
        cwd=folder,
        env=environment(folder) | {"COVERAGE_FILE": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:  # a test that fails under coverage is left out below
        raise RuntimeError(f"the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")


class CoveringTests:
    """Which tests run a line, the quickest first."""

    def __init__(self, place: Path) -> None:
        from coverage import CoverageData  # noqa: PLC0415  a dependency of the scorecard alone

        data, report, times = (place / name for name in COVERED)
        self._report = json.loads(report.read_text("utf-8"))["files"]
        self.seconds = dict(_passed(times))
        self._data = CoverageData(basename=str(data))
        self._data.read()

    def share(self, parts: tuple[str, str], folders: Sequence[str]) -> float:
        """Return what part in % of the branches, or the statements, of some folders ran."""
        files = [
            one for name, one in self._report.items() if any(f"/{part}" in f"/{name}" for part in folders)
        ]
        covered, count = (sum(one["summary"][part] for one in files) for part in parts)
        return round(100 * covered / count, 1)

    def of_lines(self, path: str, run: Iterable[int]) -> list[str]:
        """List the tests that run one of some lines; where none is known to, all that run the file."""
        lines = self._lines(path)
        found = {test for one in run for test in lines.get(one, ())}
        return self._quickest(found or {test for tests in lines.values() for test in tests})

    def _quickest(self, tests: Iterable[str]) -> list[str]:
        return sorted((one for one in tests if one in self.seconds), key=self.seconds.__getitem__)

    @cached_property
    def _files(self) -> dict[str, str]:
        return {one[one.rindex("/tiledseg/") + 1 :] if "/tiledseg/" in one else one: one
                for one in self._data.measured_files()}  # fmt: skip

    def _lines(self, path: str) -> dict[int, set[str]]:
        if path not in self._files:
            return {}
        found = self._data.contexts_by_lineno(self._files[path])
        return {
            line: {one.rpartition("|")[0] for one in contexts if "|" in one}
            for line, contexts in found.items()
        }


def _passed(path: Path) -> Iterator[tuple[str, float]]:
    """Yield the tests that passed, and their seconds."""
    for case in ET.parse(path).iter("testcase"):
        if not len(case):
            module, name = case.attrib["classname"], case.attrib["name"]
            file = module.replace(".", "/") + ".py"
            yield f"{file}::{name}", float(case.attrib["time"])


class Runner:
    """Runs sets of tests of a copy, each in a process of its own that is forked in a moment."""

    def __init__(self, folder: Path, files: Sequence[str]) -> None:
        command = [sys.executable, "-m", "benchmarks.scorecard._tests", *files]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(folder) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if not self._answer():
            raise RuntimeError("the tests could not be collected")

    def failed(self, tests: Sequence[str], seconds: float, *, first: bool = True) -> list[str]:
        """Run tests; list those that fail, or the first, or why all of them ended."""
        asked = {"tests": tests, "first": first, "seconds": max(_FEWEST_SECONDS, _TIMES * seconds)}
        stdin = cast("IO[bytes]", self._process.stdin)
        stdin.write(json.dumps(asked).encode() + b"\n")
        stdin.flush()
        answer: list[str] = json.loads(self._answer())
        return answer

    def _answer(self) -> bytes:
        return cast("IO[bytes]", self._process.stdout).readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()


# --- the process that forks --------------------------------------------------------------------------


class _Chosen:
    """A plugin of pytest that runs chosen tests in their order, and keeps the names of those that fail."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._place = {test: place for place, test in enumerate(tests)}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (one for one in items if one.nodeid in self._place), key=lambda one: self._place[one.nodeid]
        )

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def _run(asked: dict[str, Any]) -> list[str]:
    import pytest  # noqa: PLC0415  loaded before the fork

    chosen = _Chosen(asked["tests"])
    files = dict.fromkeys(one.partition("::")[0] for one in asked["tests"])
    options = ["-x"] if asked["first"] else []
    code = pytest.main(["-q", "-p", "no:cacheprovider", *options, *files], plugins=[chosen])
    nothing_failed = code in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    return chosen.failed or ([] if nothing_failed else [f"pytest ends with {int(code)}"])


def _forked(work: Any, seconds: float = 3600) -> list[str]:
    """Do something in a fork with limits, and return what it gives."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        try:
            found = work()
            with os.fdopen(writing, "wb") as answer:
                answer.write(json.dumps(found).encode() + b"\n")
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    text = _read(reading, time.monotonic() + _WAIT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # whatever it has started
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(text) if text else [f"the process ends with {code}"]


def _read(reading: int, until: float) -> bytes:
    """Read until the other end is closed, or the time is over."""
    parts = []
    while select.select([reading], [], [], max(0, until - time.monotonic()))[0]:
        if not (part := os.read(reading, 1 << 16)):
            break
        parts.append(part)
        if part.endswith(b"\n"):
            break
    os.close(reading)
    return b"".join(parts)


def _loaded(files: Sequence[str]) -> list[str]:
    """Collect tests, and list the foreign modules that they load."""
    import pytest  # noqa: PLC0415

    pytest.main(["-q", "-p", "no:cacheprovider", "--collect-only", *files])
    return [name for name in sys.modules if not name.startswith(_OWN)]


def main(files: Sequence[str]) -> None:
    """Load what the tests load; then run the tests that each line of standard input names."""
    import pytest  # noqa: F401, PLC0415

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for name in (*_HEAVY, *_forked(lambda: _loaded(files))):
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            importlib.import_module(name)
    if own := [name for name in sys.modules if name.startswith("tiledseg")]:
        raise RuntimeError(f"loaded before it is changed: {own}")
    gc.collect()
    gc.freeze()
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        found = _forked(lambda: _run(asked), asked["seconds"])  # noqa: B023
        for left in Path(os.environ["TMPDIR"]).iterdir():
            shutil.rmtree(left, ignore_errors=True)
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
