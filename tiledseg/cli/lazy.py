"""Packages that are imported when a command first uses them, so that help is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg._lazy import lazy

if TYPE_CHECKING:
    from tiledseg import config, data, engine, evaluate, io, plots, predict, report
else:
    config, data, engine, evaluate, io, plots, predict, report = (
        lazy(f"tiledseg.{name}")
        for name in ("config", "data", "engine", "evaluate", "io", "plots", "predict", "report")
    )

__all__ = ["config", "data", "engine", "evaluate", "io", "plots", "predict", "report"]
