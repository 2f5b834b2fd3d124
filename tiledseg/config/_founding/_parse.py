"""Reading the INI file: values are Python literals, and nothing is ever executed."""

from __future__ import annotations

import ast
import configparser
import re
from difflib import get_close_matches

from tiledseg._validate import instance_of, invalid
from tiledseg.config._founding._note import Entry
from tiledseg.errors import SettingError

__all__ = ["entries_of"]

_LARGEST = 100_000
_KEYS = {"alpah": "alpha"}
_WORDS = {"true": True, "false": False, "none": None}
_POINT_FOR_COMMA = re.compile(r"(\d)\.(\s+)(?=[\d.-])")
_OPENCV = re.compile(r"cv2\.\w+")
_COMMENT = re.compile(r"\s[;#].*")


def entries_of(text: str) -> list[Entry]:
    """Read all keys of an INI file."""
    instance_of(str, text, "configuration", "Pass the text of the file.")
    if len(text) > _LARGEST:
        fix = "Give the experiment's configuration file."
        must = f"have at most {_LARGEST} characters"
        raise invalid(SettingError, "configuration", must=must, got=len(text), fix=fix)
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        got = " ".join(str(error).split())
        fix = "Mend the line."
        raise invalid(SettingError, "configuration", must="be an INI file", got=got, fix=fix) from None
    return [
        _entry(section, key, parser.get(section, key))
        for section in parser.sections()
        for key in parser.options(section)
    ]


def _entry(section: str, key: str, text: str) -> Entry:
    known = _KEYS.get(key, key)
    mended = [f"read the key {key} as {known}"] if known != key else []
    for readable in (text, _COMMENT.sub("", text)):
        found, value = _literal(readable)
        if found:
            return Entry(section, known, text, value, mended="; ".join(mended))
    readable = _COMMENT.sub("", text).strip()
    if _OPENCV.fullmatch(readable):  # a constant's name, which is never looked up
        return Entry(section, known, text, readable, mended="; ".join(mended))
    word = get_close_matches(readable.lower(), _WORDS, n=1)
    if word:
        value = _WORDS[word[0]]
        return Entry(section, known, text, value, mended="; ".join([*mended, f"read {readable} as {value}"]))
    commas = _POINT_FOR_COMMA.sub(r"\1,\2", readable)
    found, value = _literal(commas)
    if found:
        return Entry(section, known, text, value, mended="; ".join([*mended, f"read {readable} as {commas}"]))
    return Entry(section, known, text, text, readable=False, mended="; ".join(mended))


def _literal(text: str) -> tuple[bool, object]:
    try:
        return True, ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False, None
