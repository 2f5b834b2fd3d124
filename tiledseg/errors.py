"""Every error that tiledseg raises on purpose.

The tree::

    TiledSegError
    ├── SettingError          a setting or an argument
    ├── ArrayError            an image, a mask or another array
    ├── FileError             a file that cannot be read or written
    ├── ModelError            a network that does not fit the job
    ├── BundleError           a saved segmenter that is damaged or not of tiledseg
    ├── StitchError           a tile that is missing, repeated or of the wrong shape
    └── CancelledError        the user stopped the work
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArrayError",
    "BundleError",
    "CancelledError",
    "FileError",
    "ModelError",
    "SettingError",
    "StitchError",
    "TiledSegError",
]


class TiledSegError(Exception):
    """Base of all errors that tiledseg raises on purpose.

    The message says what is wrong, where, what was found, what was expected and how to fix it.
    """


class SettingError(TiledSegError):
    """A setting or an argument has a value that cannot be used."""


class ArrayError(TiledSegError):
    """An image, a mask or another array has the wrong shape, dtype or values."""


class FileError(TiledSegError):
    """A file cannot be read or written."""


class ModelError(TiledSegError):
    """A network does not fit the job that it is given."""


class BundleError(TiledSegError):
    """A saved segmenter is damaged, incomplete or not a bundle of tiledseg."""


class StitchError(TiledSegError):
    """A tile is missing, repeated or of the wrong shape."""


class CancelledError(TiledSegError):
    """The user stopped the work before its end; what was finished is not lost.

    Parameters
    ----------
    message : str
        What was done, and what was not.
    result : array_like, optional
        The map as far as it was computed.
    finished_rows : int
        How many of its first rows are final.
    """

    def __init__(self, message: str, *, result: Any = None, finished_rows: int = 0) -> None:
        super().__init__(message)
        self.result = result
        self.finished_rows = finished_rows
