"""From the configuration file of the experiment that this package began with to settings of ours."""

from __future__ import annotations

import ast
import configparser
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from tiledseg._validate import did_you_mean, instance_of, invalid, shown
from tiledseg.config.base import laid_over
from tiledseg.config.founding_keys import (
    AUGMENTOR_KEYS,
    CONVERTED,
    DROPPED,
    UNUSABLE,
    threshold_method,
    transforms_of,
)
from tiledseg.config.run import RunConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable

Outcome: TypeAlias = Literal["converted", "dropped", "unusable"]
"""Whether the meaning of a key was kept, is not needed here, or was lost."""

_LONGEST = 100_000
_MOST_CLASSES = 256
_WORDS = {"true": True, "false": False, "none": None}
_POINT_FOR_COMMA = re.compile(r"(\d)\.(\s+)(?=[\d.-])")
_OPENCV = re.compile(r"cv2\.\w+")
_COMMENT = re.compile(r"\s[;#].*")

_SIZE = ("model.image_height", "model.image_width", "model.image_channels")
_SWITCHES = ("generator.augmentation", "generator.generator", "model.generator", "train.generator")
_PAINT = ("segmentation.colorize", "segmentation.black", "segmentation.white")
_TOGETHER = {*_SIZE, *_SWITCHES, *_PAINT}  # keys that mean something together


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as the file has it."""

    section: str  # where the key stands
    key: str  # its name, a known misspelling corrected
    text: str  # its value as written
    value: object  # its value as Python reads it; the text itself where it cannot be read
    readable: bool = True  # whether it could be read
    corrected: str = ""  # what was misspelt and how it was read; empty for nothing

    @property
    def name(self) -> str:
        """Section and key."""
        return f"{self.section}.{self.key}"


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a key."""

    entry: Entry  # the key
    outcome: Outcome
    text: str  # into which setting, or why

    def __str__(self) -> str:
        corrected = f" ({self.entry.corrected})" if self.entry.corrected else ""
        return f"{self.outcome:<9}  {self.entry.name} = {shown(self.entry.text)}{corrected}: {self.text}"


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a configuration file."""

    run: RunConfig  # the settings
    notes: tuple[Note, ...]  # what became of each key, in the order of the file

    def __str__(self) -> str:
        kinds = ("converted", "dropped", "unusable")
        counts = [f"{sum(note.outcome == kind for note in self.notes)} {kind}" for kind in kinds]
        return "\n".join([*map(str, self.notes), ", ".join(counts)])


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
    entries = _entries(text)
    draft = _Draft(entries)
    return Imported(draft.run, tuple(draft.notes[id(entry)] for entry in entries))


def _entries(text: str) -> list[Entry]:
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
    return [
        _entry(section, key, value) for section in parser.sections() for key, value in parser.items(section)
    ]


def _entry(section: str, key: str, text: str) -> Entry:
    """Read a value as a Python literal, or as one with the known misspellings."""
    known = "alpha" if key == "alpah" else key
    notes = [f"read the key {key} as {known}"] if known != key else []
    bare = _COMMENT.sub("", text).strip()
    for readable in (text, bare):
        found, value = _literal(readable)
        if found:
            return Entry(section, known, text, value, corrected="; ".join(notes))
    if _OPENCV.fullmatch(bare):  # a constant's name, which is never looked up
        return Entry(section, known, text, bare, corrected="; ".join(notes))
    word = get_close_matches(bare.lower(), _WORDS, n=1)
    if word:
        value = _WORDS[word[0]]
        return Entry(section, known, text, value, corrected="; ".join([*notes, f"read {bare} as {value}"]))
    commas = _POINT_FOR_COMMA.sub(r"\1,\2", bare)
    found, value = _literal(commas)
    if found:
        return Entry(section, known, text, value, corrected="; ".join([*notes, f"read {bare} as {commas}"]))
    return Entry(section, known, text, text, readable=False, corrected="; ".join(notes))


def _literal(text: str) -> tuple[bool, object]:
    try:
        return True, ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False, None


@dataclass(frozen=True, slots=True)
class _Patch:
    """Settings that some keys come to, and what is said of it."""

    entries: tuple[Entry, ...]
    given: dict[str, Any]
    text: str


class _Draft:
    """Settings in the making: a key whose value does not fit is left out, and says so."""

    def __init__(self, entries: list[Entry]) -> None:
        self.run: RunConfig = RunConfig.model_validate({"train": {"augment": "none"}})
        self.notes: dict[int, Note] = {}
        self._entries = {entry.name: entry for entry in entries if entry.readable}
        self._patches: dict[str, _Patch] = {}
        self._take_size()
        for entry in entries:
            self._take(entry)
        self._take_transforms()
        self._take_colours()
        self._name_classes()
        self._fit()

    def _note(self, entries: Iterable[Entry], outcome: Outcome, text: str) -> None:
        for entry in entries:
            self.notes[id(entry)] = Note(entry, outcome, text)

    def _value(self, name: str) -> object:
        return self._entries[name].value if name in self._entries else None

    def _found(self, names: Iterable[str]) -> tuple[Entry, ...]:
        return tuple(self._entries[name] for name in names if name in self._entries)

    def _take(self, entry: Entry) -> None:
        name = entry.name
        if not entry.readable:
            self._note([entry], "unusable", "the value is no Python literal")
        elif name in _TOGETHER or name in AUGMENTOR_KEYS:
            return
        elif name in CONVERTED:
            self._convert(entry)
        elif name in UNUSABLE and entry.value not in (None, False):
            self._note([entry], "unusable", UNUSABLE[name])
        elif name in UNUSABLE:
            self._note([entry], "dropped", "off here as there")
        elif name in DROPPED or entry.section in DROPPED:
            self._note([entry], "dropped", DROPPED.get(name) or DROPPED[entry.section])
        else:
            keys = (*CONVERTED, *DROPPED, *UNUSABLE, *AUGMENTOR_KEYS)
            known = [key for key in keys if key.startswith(f"{entry.section}.")]
            hint = did_you_mean(name, known) if known else "This section is not known."
            self._note([entry], "unusable", f"not known. {hint}")

    def _convert(self, entry: Entry) -> None:
        place = CONVERTED[entry.name]
        reason = self._off(entry)
        if reason:
            self._note([entry], "dropped", reason)
            return
        try:
            value = place.convert(entry.value)
        except ValueError as error:
            self._note([entry], "unusable", str(error))
            return
        given: dict[str, Any] = {}
        for setting in place.settings.split():
            given = _over(given, _nested(setting, value))
        note = f"; {place.note}" if place.note else ""
        text = f"{place.settings.replace(' ', ', ')} = {shown(value)}{note}"
        self._patches[entry.name] = _Patch((entry,), given, text)

    def _off(self, entry: Entry) -> str:
        """Say why a key has no effect in this file; nothing where it has."""
        if entry.key.startswith("reducer_") and self._value("train.learning_rate_reducer") is not True:
            return "train.learning_rate_reducer does not switch it on"
        if entry.name == "tiledinfer.threshold" and self._finds_threshold():
            return "tiledinfer.algorithm finds one"
        off = CONVERTED[entry.name].may_be_off and entry.value in (None, 0, "", "none", "None")
        return "off here as there" if off else ""

    def _finds_threshold(self) -> bool:
        try:
            return bool(threshold_method(self._value("tiledinfer.algorithm")))
        except ValueError:
            return False

    def _take_size(self) -> None:
        """Height, width and channels are one setting here, and the tiles have that size as well."""
        found = self._found(_SIZE)
        if len(found) < len(_SIZE):
            self._note(found, "unusable", f"all of {', '.join(_SIZE)} are needed")
            return
        height, width, channels = (entry.value for entry in found)
        tiling = {"tile_size": (height, width)}
        network = {"input_shape": (height, width, channels)}
        train = {"network": network, "preprocessing": {"channels": channels}, "tiling": tiling}
        text = "input_shape and tile_size of train and predict, train.preprocessing.channels"
        self._patches["size"] = _Patch(found, {"train": train, "predict": {"tiling": tiling}}, text)

    def _take_transforms(self) -> None:
        switches = self._found(_SWITCHES)
        found = tuple(entry for name, entry in self._entries.items() if name in AUGMENTOR_KEYS)
        on = bool(switches) and all(entry.value is True for entry in switches)
        self._note(switches, "converted", f"train.augment is {'what the augmentor says' if on else 'none'}")
        if not on:
            self._note(found, "dropped", "no generator switches augmentation on")
            return
        transforms, problems = transforms_of({entry.name: entry.value for entry in found})
        kinds = [entry.section if entry.section != "augmentor" else entry.key for entry in found]
        for entry, kind in zip(found, kinds, strict=True):
            if kind in problems:
                self._note([entry], "unusable", problems[kind])
        good = tuple(entry for entry, kind in zip(found, kinds, strict=True) if kind not in problems)
        given = {"train": {"augment": tuple(one.model_dump() for one in transforms)}}
        text = f"train.augment: {', '.join(one.name for one in transforms)}"
        self._patches["augment"] = _Patch(good, given, text)

    def _take_colours(self) -> None:
        """Paint masks beside what else is written, where the file does."""
        found = self._found(_PAINT)
        if self._value("segmentation.colorize") is not True:
            self._note(found, "dropped", "segmentation.colorize does not switch it on")
            return
        merged = bool(self._value("tiledinfer.merged_dir"))
        both = {"predict": {"write": ("mask", "overlay", "coloured") if merged else ("mask", "coloured")}}
        self._add("tiledinfer.merged_dir", both)
        colours = (self._value("segmentation.black") or "black", self._value("segmentation.white") or "white")
        given = _over(both, _nested("predict.mask_colours", colours))
        self._patches["colours"] = _Patch(found, given, f"predict.mask_colours = {shown(colours)}")

    def _name_classes(self) -> None:
        n_classes = self._value("model.num_classes")
        if isinstance(n_classes, int) and 1 < n_classes < _MOST_CLASSES:
            labels = tuple(f"class {number}" for number in range(n_classes))
            self._add("model.num_classes", {"train": {"labels": labels}})

    def _add(self, name: str, given: dict[str, Any]) -> None:
        """Let a key that is converted give some more settings."""
        if name in self._patches:
            patch = self._patches[name]
            self._patches[name] = replace(patch, given=_over(patch.given, given))

    def _fit(self) -> None:
        """Fit all together, or, where they do not fit, one after the other."""
        # the name of a network, a loss or a schedule comes first: it says what goes with it
        patches = sorted(self._patches.values(), key=lambda patch: "name = " not in patch.text)
        try:
            self.run = self._with(patches)
        except SettingError:
            patches = [patch for patch in patches if self._fits(patch)]
        made = self.run.model_dump()
        for patch in patches:
            if _holds(made, patch.given):
                self._note(patch.entries, "converted", patch.text)
            else:
                self._note(patch.entries, "unusable", "another key undoes it")

    def _fits(self, patch: _Patch) -> bool:
        try:
            self.run = self._with([patch])
        except SettingError as error:
            self._note(patch.entries, "unusable", str(error))
            return False
        return True

    def _with(self, patches: list[_Patch]) -> RunConfig:
        given = self.run.model_dump(exclude_unset=True)
        for patch in patches:
            given = _over(given, patch.given)
        return RunConfig.model_validate(given)


def _nested(place: str, value: object) -> dict[str, Any]:
    """Turn ``a.b`` into ``{"a": {"b": value}}``."""
    first, _, rest = place.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", laid_over(below, above))


def _holds(made: object, given: object) -> bool:
    if isinstance(given, dict) and isinstance(made, dict):
        return all(key in made and _holds(made[key], value) for key, value in given.items())
    return made == given
