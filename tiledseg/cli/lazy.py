"""Packages that are imported when a command first uses them, so that help is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tiledseg import _storage as storage
    from tiledseg import config, data, engine, evaluate, io, plots, predict, report
else:
    config, data, engine, evaluate, io, plots, predict, report, storage = (
        lazy_loader.load(f"tiledseg.{name}", suppress_warning=True)
        for name in ("config", "data", "engine", "evaluate", "io", "plots", "predict", "report", "_storage")
    )

__all__ = ["config", "data", "engine", "evaluate", "io", "plots", "predict", "report", "storage"]
