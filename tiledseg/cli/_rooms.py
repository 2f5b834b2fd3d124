"""Rooms that are loaded when a command first needs them: its help needs none of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiledseg import data, engine, evaluate, io, report
    from tiledseg import plots as figures
    from tiledseg.cli import demo
else:

    class _Room:
        """Stands for a room until it is asked for a name."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(importlib.import_module(self._name), name)

    data = _Room("tiledseg.data")
    demo = _Room("tiledseg.cli.demo")
    engine = _Room("tiledseg.engine")
    evaluate = _Room("tiledseg.evaluate")
    io = _Room("tiledseg.io")
    report = _Room("tiledseg.report")
    figures = _Room("tiledseg.plots")

__all__ = ["data", "demo", "engine", "evaluate", "figures", "io", "report"]
