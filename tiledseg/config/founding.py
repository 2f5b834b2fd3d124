"""From the configuration file of the experiment that this package began with to settings of ours."""

from __future__ import annotations

import ast
import configparser
import operator
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from tiledseg._validate import did_you_mean, instance_of, invalid, shown
from tiledseg.config.base import Config
from tiledseg.config.fields import laid_over
from tiledseg.config.founding_keys import DROPPED, RULES, NotNeeded
from tiledseg.config.run import RunConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

Outcome: TypeAlias = Literal["converted", "dropped", "unusable"]
"""Whether the meaning of a key was kept, is not needed here, or was lost."""

_LONGEST = 100_000
_AUGMENT = "train.augment"  # each transform is appended to those before it
_WORDS = {"true": True, "false": False, "none": None}
_POINT_FOR_COMMA = re.compile(r"(\d)\.(\s+)(?=[\d.-])")
_OPENCV = re.compile(r"cv2\.\w+")
_COMMENT = re.compile(r"\s[;#].*")


@dataclass(slots=True)
class Note:
    """A key of the file, and what became of it."""

    section: str  # where it stands
    key: str  # its name, a known misspelling corrected
    written: str  # its value as written
    value: object = None  # its value as Python reads it
    readable: bool = False  # whether Python reads it
    corrected: str = ""  # what was misspelt and how it was read; empty for nothing
    outcome: Outcome = "unusable"
    text: str = ""  # into which setting, or why

    @property
    def name(self) -> str:
        """Section and key."""
        return f"{self.section}.{self.key}"

    def __str__(self) -> str:
        corrected = f" ({self.corrected})" if self.corrected else ""
        return f"{self.outcome:<9}  {self.name} = {shown(self.written)}{corrected}: {self.text}"


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a configuration file."""

    run: RunConfig  # the settings
    notes: tuple[Note, ...]  # what became of each key, in the order of the file

    def __str__(self) -> str:
        kinds = ("converted", "dropped", "unusable")
        counts = [f"{sum(note.outcome == kind for note in self.notes)} {kind}" for kind in kinds]
        return "\n".join([*map(str, self.notes), ", ".join(counts)])


class _Patch(NamedTuple):
    """Settings that some keys become together."""

    notes: list[Note]
    settings: dict[str, Any]  # as in ``train.network.levels``
    text: str


def import_founding(text: str) -> Imported:
    r"""Convert a ``train_eval_infer.config`` of the experiment that this package began with.

    Values are read as Python literals, never executed. Its known misspellings are understood:
    ``Flase``, ``alpah``, and a point for a comma in a list.

    Parameters
    ----------
    text : str
        The file's text.

    Returns
    -------
    Imported
        The settings, and what became of each key.

    Raises
    ------
    SettingError
        If the text is no INI file.

    Examples
    --------
    >>> done = import_founding("[model]\nnum_layers = 6\nshow_summary = Flase\n")
    >>> done.run.train.network.levels
    6
    >>> print(done.notes[0])
    converted  model.num_layers = 6: train.network.levels = 6
    """
    notes = _notes(text)
    _settle(notes, "unusable", "the file has this key twice; the last one counts")
    _settle((note for note in notes if not note.readable), "unusable", "the value is no Python literal")
    return Imported(_fitted(_patches({note.name: note for note in notes if note.readable})), tuple(notes))


def _notes(text: str) -> list[Note]:
    """Read all keys of an INI file."""
    instance_of(str, text, "configuration", "Pass the text of the file.")
    if len(text) > _LONGEST:
        must, fix = f"have at most {_LONGEST} characters", "Give the experiment's configuration file."
        raise invalid(SettingError, "configuration", must=must, got=len(text), fix=fix)
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        got = " ".join(str(error).split())
        fix = "Fix the line."
        raise invalid(SettingError, "configuration", must="be an INI file", got=got, fix=fix) from None
    return [_note(section, *item) for section in parser.sections() for item in parser.items(section)]


def _note(section: str, key: str, text: str) -> Note:
    """Read a value as a Python literal, or as one with the known misspellings."""
    known = "alpha" if key == "alpah" else key
    corrected = [f"read the key {key} as {known}"] if known != key else []
    bare = _COMMENT.sub("", text).strip()
    quoted = repr(bare) if _OPENCV.fullmatch(bare) else bare  # a constant's name, which is never looked up
    words = [str(_WORDS[word]) for word in get_close_matches(bare.lower(), _WORDS, n=1)]
    for meant in (text.strip(), quoted, *words, _POINT_FOR_COMMA.sub(r"\1,\2", bare)):
        try:
            value = ast.literal_eval(meant)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if meant not in (text.strip(), quoted):
            corrected.append(f"read {bare} as {meant}")
        return Note(section, known, text, value, readable=True, corrected="; ".join(corrected))
    return Note(section, known, text, corrected="; ".join(corrected))


def _patches(notes: dict[str, Note]) -> list[_Patch]:
    """Convert all keys, those of one rule together."""
    values, patches = {name: note.value for name, note in notes.items()}, []
    for note in notes.values():
        if note.name not in RULES:
            _explain(note)
    for rule in dict.fromkeys(RULES.values()):
        if not (found := [notes[key] for key in rule.keys if key in notes]):
            continue
        try:
            settings = rule.convert(values)
        except NotNeeded as reason:
            _settle(found, "dropped", str(reason))
        except (TypeError, ValueError, SettingError) as reason:
            _settle(found, "unusable", str(reason))
        else:
            given = ", ".join(f"{name} = {_shown(value)}" for name, value in settings.items())
            patches.append(_Patch(found, settings, "; ".join(filter(None, (given, rule.note)))))
    return patches


def _explain(note: Note) -> None:
    """Say why a key becomes nothing."""
    if reason := DROPPED.get(note.name) or DROPPED.get(note.section):
        _settle([note], "dropped", reason)
        return
    known = [key for key in (*RULES, *DROPPED) if key.startswith(f"{note.section}.")]
    hint = did_you_mean(note.name, known) if known else "This section is not known."
    _settle([note], "unusable", f"not known. {hint}")


def _shown(value: Any) -> str:
    transforms = isinstance(value, tuple) and all(isinstance(one, Config) for one in value)
    return ", ".join(one.name for one in value) if transforms else shown(value)


def _fitted(patches: list[_Patch]) -> RunConfig:
    """Fit all settings together, or, where they do not fit, those of one patch after the other."""
    run = RunConfig.model_validate({"train": {"augment": "none"}})
    for some in patches, *([patch] for patch in patches):
        try:
            run = _with(run, some)
        except SettingError as error:
            _settle((note for patch in some for note in patch.notes), "unusable", str(error))
            continue
        for patch in some:
            _settle(patch.notes, "converted", patch.text)
        if some is patches:
            break
    for patch in patches:
        if patch.notes[0].outcome == "converted" and not _holds(run, patch.settings):
            _settle(patch.notes, "unusable", "another key undoes it")
    return run


def _with(run: RunConfig, patches: list[_Patch]) -> RunConfig:
    given: Any = run.model_dump(exclude_unset=True)
    for name, value in (item for patch in patches for item in patch.settings.items()):
        before = given["train"]["augment"]
        nested = (*(() if before == "none" else before), *value) if name == _AUGMENT else value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        given = laid_over(given, nested)
    return RunConfig.model_validate(given)


def _holds(run: RunConfig, settings: dict[str, Any]) -> bool:
    try:
        return all(operator.attrgetter(name)(run) == settings[name] for name in settings.keys() - {_AUGMENT})
    except AttributeError:  # another key chose a network, a loss or a schedule without this setting
        return False


def _settle(notes: Iterable[Note], outcome: Outcome, text: str) -> None:
    for note in notes:
        note.outcome, note.text = outcome, text
