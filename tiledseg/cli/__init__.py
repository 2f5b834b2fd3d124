"""The command line: one command per job; its options are made from the settings."""

from tiledseg.cli.app import main

__all__ = ["main"]
