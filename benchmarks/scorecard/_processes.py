"""Processes that rows start: commands of the library, and scripts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["command", "digests", "kill_after", "parts_in", "results_of", "run_each", "run_script", "start"]

_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(_ROOT)}


def command(*arguments: object, **changes: str) -> subprocess.Popen[str]:
    """Start ``tiledseg ARGUMENTS``."""
    return start("import sys; from tiledseg.cli import main; sys.exit(main())", *arguments, **changes)


def start(code: str, *arguments: object, **changes: str) -> subprocess.Popen[str]:
    """Start a script in a fresh Python."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | _ENVIRONMENT | changes,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def run_script(code: str, *arguments: object, seconds: float = 120, **changes: str) -> tuple[int, str]:
    """Run a script; return its exit code, or -1000 if it did not end, and what it printed."""
    process = start(code, *arguments, **changes)
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        return -1000, text
    return process.returncode, text


def run_each(
    code: str, cases: Sequence[Path], seconds: float = 60, **changes: str
) -> Iterator[tuple[Path, str, str]]:
    """Run a script over cases; give what it prints of each, and the rest if it died or did not end.

    The script takes the cases as arguments, and prints a line FOUND for each as soon as it is done.
    """
    left = list(cases)
    while left:
        code_, text = run_script(code, *left, seconds=seconds * len(left), **changes)
        found = [line.removeprefix("FOUND ") for line in text.splitlines() if line.startswith("FOUND ")]
        yield from ((path, one, "") for path, one in zip(left, found, strict=False))
        left = left[len(found) :]
        if left:
            yield left.pop(0), f"ended with {code_}", text[-300:]


def kill_after(process: subprocess.Popen[str], seconds: float, number: int) -> tuple[int, str]:
    """Send a signal after a time, wait for the end; return the exit code and what was printed."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    if process.poll() is None:
        process.send_signal(number)
    text, _ = process.communicate(timeout=120)
    return process.returncode, text


RECORD = ".tiledseg-resume.json"
"""The file of a folder that says from which images and settings its results come."""

_ABOUT_RUNS = {"run.toml", RECORD}


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the SHA-256 of the results in a folder, by their names."""
    files = [path for pattern in patterns or ("*",) for path in sorted(folder.rglob(pattern))]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and path.name not in _ABOUT_RUNS
    }


def parts_in(folder: Path) -> list[str]:
    """List hidden files and folders of the library that are not finished."""
    return [path.name for path in folder.rglob(".*tiledseg*") if not path.name.endswith("resume.json")]


def results_of(found: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    """Say which results are missing or differ from those of an undisturbed run."""
    return [
        f"{name} {'differs' if name in seen else 'is missing'}"
        for name in found
        if seen.get(name) != found[name]
    ]
