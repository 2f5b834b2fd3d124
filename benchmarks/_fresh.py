"""A call of a function in an interpreter of its own."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["call_fresh"]

_ROOT = Path(__file__).resolve().parents[1]
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def call_fresh(target: str, environment: dict[str, str] | None = None, **arguments: Any) -> Any:
    """Call ``module:function`` with arguments that JSON can hold, in a fresh interpreter.

        The result is returned through JSON. If the function fails, its traceback is on the console and
    `subprocess.CalledProcessError` is raised here.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [sys.executable, "-m", "benchmarks._fresh", target, json.dumps(arguments), str(answer)]
        subprocess.run(command, check=True, cwd=_ROOT, env=os.environ | _QUIET | (environment or {}))
        return json.loads(answer.read_text())


def _main(target: str, arguments: str, answer: str) -> None:
    module, _, function = target.partition(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    Path(answer).write_text(json.dumps(result, default=lambda row: row.as_dict()))


if __name__ == "__main__":
    _main(*sys.argv[1:])
