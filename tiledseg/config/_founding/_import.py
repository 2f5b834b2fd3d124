"""Putting the keys together, one after the other, so that each that is no use is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from tiledseg._validate import did_you_mean, shown
from tiledseg.config._base import laid_over
from tiledseg.config._founding._note import Note
from tiledseg.config._founding._parse import entries_of
from tiledseg.config._founding._rules import DROPPED, DROPPED_SECTIONS, PUT, UNUSABLE, method_of
from tiledseg.config._founding._transforms import AUGMENTOR_KEYS, transforms_of
from tiledseg.config._run import RunConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.config._founding._note import Entry, Outcome
    from tiledseg.config._founding._rules import Put

__all__ = ["Imported", "import_founding"]

_SIZE = ("model.image_height", "model.image_width", "model.image_channels")
_SWITCHES = ("generator.augmentation", "generator.generator", "model.generator", "train.generator")
_PAINT = ("segmentation.colorize", "segmentation.black", "segmentation.white")
_TOGETHER = {*_SIZE, *_SWITCHES, *_PAINT}  # keys that mean something together
_MOST_CLASSES = 256


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
    entries = entries_of(text)
    draft = _Draft(entries)
    return Imported(draft.run, tuple(draft.notes[id(entry)] for entry in entries))


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
        self._entries = {f"{entry.section}.{entry.key}": entry for entry in entries if entry.readable}
        self._patches: list[_Patch] = []
        for entry in entries:
            self._take(entry)
        self._take_size()
        self._take_transforms()
        self._take_colours()
        self._fit()

    def _take(self, entry: Entry) -> None:
        name = f"{entry.section}.{entry.key}"
        if not entry.readable:
            self._note(entry, "unusable", "the value is no Python literal")
        elif name in _TOGETHER or name in AUGMENTOR_KEYS:
            return
        elif name in PUT:
            self._put(entry, PUT[name])
        elif name in UNUSABLE:
            off = entry.value in (None, False)
            self._note(entry, *(("dropped", "off here as there") if off else ("unusable", UNUSABLE[name])))
        elif name in DROPPED or entry.section in DROPPED_SECTIONS:
            self._note(entry, "dropped", DROPPED.get(name) or DROPPED_SECTIONS[entry.section])
        else:
            known = [
                key
                for key in (*PUT, *DROPPED, *UNUSABLE, *AUGMENTOR_KEYS)
                if key.startswith(f"{entry.section}.")
            ]
            hint = did_you_mean(name, known) if known else "This section is not known."
            self._note(entry, "unusable", f"not known. {hint}")

    def _put(self, entry: Entry, rule: Put) -> None:
        if entry.key.startswith("reducer_") and self._value("train.learning_rate_reducer") is not True:
            self._note(entry, "dropped", "train.learning_rate_reducer does not switch it on")
            return
        if entry.key == "threshold" and entry.section == "tiledinfer" and self._finds_threshold():
            self._note(entry, "dropped", "tiledinfer.algorithm finds one")
            return
        if rule.may_be_off and entry.value in (None, 0, "", "none", "None"):
            self._note(entry, "dropped", "off here as there")
            return
        try:
            value = rule.convert(entry.value)
        except ValueError as error:
            self._note(entry, "unusable", str(error))
            return
        given: dict[str, Any] = {}
        for place in rule.places:
            given = _over(given, _nested(place, value))
        text = f"{', '.join(rule.places)} = {shown(value)}{f'; {rule.text}' if rule.text else ''}"
        self._patches.append(_Patch((entry,), given, text))

    def _finds_threshold(self) -> bool:
        try:
            return bool(method_of(self._value("tiledinfer.algorithm")))
        except ValueError:
            return False

    def _take_size(self) -> None:
        """Height, width and channels are one setting here, and the tiles have that size as well."""
        found = tuple(self._entries[name] for name in _SIZE if name in self._entries)
        if len(found) < len(_SIZE):
            for entry in found:
                self._note(entry, "unusable", f"all of {', '.join(_SIZE)} are needed")
            return
        height, width, channels = (entry.value for entry in found)
        given: dict[str, Any] = {
            "train": {
                "network": {"input_shape": (height, width, channels)},
                "preprocessing": {"channels": channels},
            },
            "predict": {"tiling": {"tile_size": (height, width)}},
        }
        given["train"]["tiling"] = given["predict"]["tiling"]
        text = "input_shape and tile_size of train and predict, train.preprocessing.channels"
        self._patches.insert(0, _Patch(found, given, text))

    def _take_transforms(self) -> None:
        switches = [self._entries[name] for name in _SWITCHES if name in self._entries]
        found = [entry for name, entry in self._entries.items() if name in AUGMENTOR_KEYS]
        on = bool(switches) and all(entry.value is True for entry in switches)
        for entry in switches:
            self._note(entry, "converted", f"train.augment is {'what the augmentor says' if on else 'none'}")
        if not on:
            for entry in found:
                self._note(entry, "dropped", "no generator switches augmentation on")
            return
        transforms, problems = transforms_of(found)
        good = []
        for entry in found:
            kind = entry.section if entry.section != "augmentor" else entry.key
            if kind in problems:
                self._note(entry, "unusable", problems[kind])
            else:
                good.append(entry)
        names = ", ".join(one.name for one in transforms)
        given = {"train": {"augment": tuple(one.model_dump() for one in transforms)}}
        self._patches.append(_Patch(tuple(good), given, f"train.augment: {names}"))

    def _take_colours(self) -> None:
        """Paint masks beside what else is written, if they were."""
        found = tuple(self._entries[name] for name in _PAINT if name in self._entries)
        if self._value("segmentation.colorize") is not True:
            for entry in found:
                self._note(entry, "dropped", "segmentation.colorize does not switch it on")
            return
        merged = bool(self._value("tiledinfer.merged_dir"))
        write = ("mask", "overlay", "coloured") if merged else ("mask", "coloured")
        both = {"predict": {"write": write}}
        self._patches = [
            _Patch(one.entries, both, one.text) if one.entries[0].key == "merged_dir" else one
            for one in self._patches
        ]
        colours = (self._value("segmentation.black") or "black", self._value("segmentation.white") or "white")
        given = _over(both, _nested("predict.mask_colours", colours))
        self._patches.append(_Patch(found, given, f"predict.mask_colours = {shown(colours)}"))

    def _fit(self) -> None:
        """Fit all together, or, where they do not fit, one after the other."""
        n_classes = self._value("model.num_classes")
        if isinstance(n_classes, int) and 1 < n_classes < _MOST_CLASSES:
            labels = tuple(f"class {number}" for number in range(n_classes))
            self._patches = [
                _Patch(one.entries, _over(one.given, {"train": {"labels": labels}}), one.text)
                if one.entries[0].key == "num_classes"
                else one
                for one in self._patches
            ]
        self._patches.sort(key=lambda patch: "name = " not in patch.text)  # a name says what goes with it
        try:
            self.run = self._with(self._patches)
            done = self._patches
        except SettingError:
            done = [patch for patch in self._patches if self._fits(patch)]
        made = self.run.model_dump()
        for patch in done:
            kept = _holds(made, patch.given)
            for entry in patch.entries:
                self._note(
                    entry, *(("converted", patch.text) if kept else ("unusable", "another key undoes it"))
                )

    def _fits(self, patch: _Patch) -> bool:
        try:
            self.run = self._with([patch])
        except SettingError as error:
            for entry in patch.entries:
                self._note(entry, "unusable", str(error))
            return False
        return True

    def _with(self, patches: list[_Patch]) -> RunConfig:
        given = self.run.model_dump(exclude_unset=True)
        for patch in patches:
            given = _over(given, patch.given)
        return RunConfig.model_validate(given)

    def _value(self, name: str) -> object:
        return self._entries[name].value if name in self._entries else None

    def _note(self, entry: Entry, outcome: Outcome, text: str) -> None:
        self.notes[id(entry)] = Note(entry, outcome, text)


def _nested(place: str, value: object) -> dict[str, Any]:
    """Turn ``a.b`` into ``{"a": {"b": value}}``."""
    first, _, rest = place.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _holds(made: object, given: object) -> bool:
    if isinstance(given, dict) and isinstance(made, dict):
        return all(key in made and _holds(made[key], value) for key, value in given.items())
    return made == given


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", laid_over(below, above))
