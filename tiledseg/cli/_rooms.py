"""Rooms that are loaded when a command first needs them: its help needs none of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiledseg import _figures as figures
    from tiledseg import _types as types
    from tiledseg import data, demo, engine, evaluate, io, report
else:

    class _Room:
        """Stands for a room until it is asked for a name."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(importlib.import_module(self._name), name)

    data = _Room("tiledseg.data")
    demo = _Room("tiledseg.demo")
    engine = _Room("tiledseg.engine")
    evaluate = _Room("tiledseg.evaluate")
    io = _Room("tiledseg.io")
    report = _Room("tiledseg.report")
    figures = _Room("tiledseg._figures")
    types = _Room("tiledseg._types")

__all__ = ["data", "demo", "engine", "evaluate", "figures", "io", "report", "types"]
