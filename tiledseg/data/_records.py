"""The records of a manifest, as an argument."""

from __future__ import annotations

from tiledseg._validate import all_of, invalid
from tiledseg.config import Record
from tiledseg.errors import SettingError

__all__ = ["as_records"]

_FIX = "Make them with tiledseg.data.describe."


def as_records(records: object) -> list[Record]:
    """Check that an argument is records, at least one."""
    known = all_of(Record, records, "records", _FIX)
    if not known:
        raise invalid(SettingError, "records", must="be at least one record", got="none", fix=_FIX)
    return known
