"""The command line: one command per job; its options come from the settings, never from a second list."""

from tiledseg.cli.app import main

__all__ = ["main"]
