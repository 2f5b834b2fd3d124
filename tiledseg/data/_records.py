"""The records of a manifest, as an argument."""

from __future__ import annotations

from tiledseg._arguments import all_of
from tiledseg._checks import broken
from tiledseg.config import Record
from tiledseg.errors import SettingError

__all__ = ["as_records"]

_FIX = "Make them with tiledseg.data.describe."


def as_records(records: object) -> list[Record]:
    """Check that an argument is records, at least one.

    Parameters
    ----------
    records : object
        What was given.

    Returns
    -------
    list of Record
        The records.

    Raises
    ------
    SettingError
        If it is something else.
    """
    known = all_of(Record, records, "records", _FIX)
    if not known:
        raise broken(SettingError, "records", must="be at least one record", got="none", fix=_FIX)
    return known
