"""The command line: one command per job; its options come from the settings, never from a second list."""

from tiledseg.cli._main import main

__all__ = ["main"]
