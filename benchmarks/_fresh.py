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


def call_fresh(
    target: str, environment: dict[str, str] | None = None, limit: float | None = None, **arguments: Any
) -> Any:
    """Call ``module:function`` with arguments that JSON can hold, in a fresh interpreter.

    The result is returned through JSON. If the function fails, its traceback is on the console and
    `subprocess.CalledProcessError` is raised here; `subprocess.TimeoutExpired` after `limit` seconds. A
    process that ends badly after its answer was written, as libraries of several runtimes do at exit, has
    answered.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks._fresh", target]
        command += [json.dumps(arguments), str(answer)]
        environment = os.environ | _QUIET | (environment or {})
        ended = subprocess.run(command, check=False, cwd=_ROOT, env=environment, timeout=limit)
        if not answer.is_file():
            raise subprocess.CalledProcessError(ended.returncode, f"{target} {json.dumps(arguments)}")
        return json.loads(answer.read_text())


def _main(target: str, arguments: str, answer: str) -> None:
    module, _, function = target.partition(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    whole = Path(answer).with_suffix(".part")
    whole.write_text(json.dumps(result, default=lambda row: row.as_dict()))
    whole.rename(answer)


if __name__ == "__main__":
    _main(*sys.argv[1:])
