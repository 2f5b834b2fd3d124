"""Text in files: JSON that is read strictly, CSV that no spreadsheet runs, UTF-8."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

from tiledseg._storage.files import write_bytes
from tiledseg._validate import instance_of, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tiledseg._types import PathLike

_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # also full-width


def write_text(path: PathLike, text: str) -> None:
    r"""Write text to a file as UTF-8, whole or not at all; ``\n`` stays ``\n`` on every system."""
    instance_of(str, text, "text", "Give text; bytes are written by write_bytes.")
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def json_of(data: str | bytes, *, nan: bool = False) -> Any:  # noqa: ANN401  any JSON
    """Read JSON; a ValueError says what it must not have: a key twice, endless nesting, NaN without `nan`."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=float if nan else _no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(key)} occurs twice in one object")
    return found


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Write rows as CSV; text that a spreadsheet would run as a formula begins with an apostrophe."""
    table = io.StringIO()
    writer = csv.DictWriter(table, list(columns), restval="", lineterminator="\n")
    for row in (dict(zip(writer.fieldnames, writer.fieldnames, strict=True)), *rows):
        writer.writerow({name: _inert(value) for name, value in row.items()})
    return table.getvalue()


def _inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # the writer quotes no \r, which begins a new line
    return f"'{text}" if text.startswith(_FORMULAS) else text
