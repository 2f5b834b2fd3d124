"""From the configuration file of the experiment that this package began with to settings of ours."""

from __future__ import annotations

import ast
import configparser
import re
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tiledseg._validate import did_you_mean, instance_of, invalid, shown
from tiledseg.config.base import laid_over
from tiledseg.config.founding_keys import (
    CONVERTED,
    DROPPED,
    PARAMETERS,
    SWITCHES,
    NotNeeded,
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
_TRANSFORMS = SWITCHES | {key: kind for key, (kind, *_) in PARAMETERS.items()}
_TOGETHER = {*_SIZE, *_SWITCHES, *_PAINT, *_TRANSFORMS}  # keys that mean something together


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
    return Imported(_Draft(notes).run, tuple(notes))


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
    said = [f"read the key {key} as {known}"] if known != key else []
    bare = _COMMENT.sub("", text).strip()
    quoted = repr(bare) if _OPENCV.fullmatch(bare) else bare  # a constant's name, which is never looked up
    words = [str(_WORDS[word]) for word in get_close_matches(bare.lower(), _WORDS, n=1)]
    for meant in (text.strip(), quoted, *words, _POINT_FOR_COMMA.sub(r"\1,\2", bare)):
        try:
            value = ast.literal_eval(meant)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if meant not in (text.strip(), quoted):
            said.append(f"read {bare} as {meant}")
        return Note(section, known, text, value, readable=True, corrected="; ".join(said))
    return Note(section, known, text, corrected="; ".join(said))


@dataclass(slots=True)
class _Patch:
    """Settings that some keys become, and what is said of them."""

    notes: list[Note]
    given: Any  # nested as in the settings
    text: str

    def give(self, setting: str, value: object) -> None:
        """Give one more setting, named as in ``train.network.levels``."""
        for part in reversed(setting.split(".")):
            value = {part: value}
        self.given = laid_over(self.given, value)


class _Draft:
    """Settings in the making: a key whose value does not fit is left out, and its note says so."""

    def __init__(self, notes: list[Note]) -> None:
        self.run: RunConfig = RunConfig.model_validate({"train": {"augment": "none"}})
        self._notes = {note.name: note for note in notes if note.readable}
        _settle(notes, "unusable", "the file has this key twice; the last one counts")
        _settle([note for note in notes if not note.readable], "unusable", "the value is no Python literal")
        self._patches: dict[str, _Patch] = {}
        self._take_size()
        for note in self._notes.values():
            if note.name not in _TOGETHER:
                self._take(note)
        self._take_transforms()
        self._take_colours()
        self._name_classes()
        self._fit()

    def _value(self, name: str) -> object:
        return self._notes[name].value if name in self._notes else None

    def _found(self, names: Iterable[str]) -> list[Note]:
        return [self._notes[name] for name in names if name in self._notes]

    def _take(self, note: Note) -> None:
        try:
            self._convert(note)
        except NotNeeded as reason:
            _settle([note], "dropped", str(reason))
        except (TypeError, ValueError) as reason:
            _settle([note], "unusable", str(reason))

    def _convert(self, note: Note) -> None:
        if note.name in DROPPED or note.section in DROPPED:
            raise NotNeeded(DROPPED.get(note.name) or DROPPED[note.section])
        if note.name not in CONVERTED:
            keys = (*CONVERTED, *DROPPED, *_TRANSFORMS)
            known = [key for key in keys if key.startswith(f"{note.section}.")]
            hint = did_you_mean(note.name, known) if known else "This section is not known."
            raise ValueError(f"not known. {hint}")
        self._check_effect(note)
        settings, convert, more = CONVERTED[note.name]
        value = convert(note.value)
        text = f"{settings.replace(' ', ', ')} = {shown(value)}{more and f'; {more}'}"
        patch = self._patches[note.name] = _Patch([note], {}, text)
        for setting in settings.split():
            patch.give(setting, value)

    def _check_effect(self, note: Note) -> None:
        if note.key.startswith("reducer_") and self._value("train.learning_rate_reducer") is not True:
            raise NotNeeded("train.learning_rate_reducer does not switch it on")
        if note.name == "tiledinfer.threshold":
            with suppress(ValueError):
                threshold_method(self._value("tiledinfer.algorithm"))
                raise NotNeeded("tiledinfer.algorithm finds one")

    def _take_size(self) -> None:
        """Set the input shape, which is one setting here, and tiles of that size."""
        found = self._found(_SIZE)
        if len(found) < len(_SIZE):
            _settle(found, "unusable", f"all of {', '.join(_SIZE)} are needed")
            return
        height, width, channels = (note.value for note in found)
        text = "input_shape and tile_size of train and predict, train.preprocessing.channels"
        patch = self._patches["size"] = _Patch(found, {}, text)
        patch.give("train.network.input_shape", (height, width, channels))
        patch.give("train.preprocessing.channels", channels)
        for table in ("train", "predict"):
            patch.give(f"{table}.tiling.tile_size", (height, width))

    def _take_transforms(self) -> None:
        switches, found = self._found(_SWITCHES), self._found(self._notes.keys() & _TRANSFORMS.keys())
        on = bool(switches) and all(note.value is True for note in switches)
        _settle(switches, "converted", f"train.augment is {'what the augmentor says' if on else 'none'}")
        if not on:
            _settle(found, "dropped", "no generator switches augmentation on")
            return
        transforms, problems = transforms_of({note.name: note.value for note in found})
        for note in found:
            note.text = problems.get(_TRANSFORMS[note.name], "")
        text = f"train.augment: {', '.join(one.name for one in transforms)}"
        patch = self._patches["augment"] = _Patch([note for note in found if not note.text], {}, text)
        patch.give("train.augment", tuple(one.model_dump() for one in transforms))

    def _take_colours(self) -> None:
        """Write painted masks beside the others, where the file does."""
        found = self._found(_PAINT)
        if self._value("segmentation.colorize") is not True:
            _settle(found, "dropped", "segmentation.colorize does not switch it on")
            return
        merged = self._patches.get("tiledinfer.merged_dir")
        overlay = ("overlay",) if self._value("tiledinfer.merged_dir") else ()
        write = ("mask", *overlay, "coloured")
        if merged is not None:
            merged.give("predict.write", write)
        colours = (self._value("segmentation.black") or "black", self._value("segmentation.white") or "white")
        patch = self._patches["colours"] = _Patch(found, {}, f"predict.mask_colours = {shown(colours)}")
        patch.give("predict.write", write)
        patch.give("predict.mask_colours", colours)

    def _name_classes(self) -> None:
        n_classes, patch = self._value("model.num_classes"), self._patches.get("model.num_classes")
        if patch and isinstance(n_classes, int) and 1 < n_classes < _MOST_CLASSES:
            patch.give("train.labels", tuple(f"class {number}" for number in range(n_classes)))

    def _fit(self) -> None:
        """Fit all together, or, where they do not fit, one after the other."""
        # the name of a network, a loss or a schedule comes first: it says what goes with it
        patches = sorted(self._patches.values(), key=lambda patch: "name = " not in patch.text)
        if not self._fits(patches):
            patches = [patch for patch in patches if self._fits([patch])]
        made = self.run.model_dump()
        for patch in patches:
            if _holds(made, patch.given):
                _settle(patch.notes, "converted", patch.text)
            else:
                _settle(patch.notes, "unusable", "another key undoes it")

    def _fits(self, patches: list[_Patch]) -> bool:
        given: Any = self.run.model_dump(exclude_unset=True)
        for patch in patches:
            given = laid_over(given, patch.given)
        try:
            self.run = RunConfig.model_validate(given)
        except SettingError as error:
            for patch in patches:
                _settle(patch.notes, "unusable", str(error))
            return False
        return True


def _settle(notes: Iterable[Note], outcome: Outcome, text: str) -> None:
    for note in notes:
        note.outcome, note.text = outcome, text


def _holds(made: object, given: object) -> bool:
    if isinstance(given, dict) and isinstance(made, dict):
        return all(key in made and _holds(made[key], value) for key, value in given.items())
    return made == given
