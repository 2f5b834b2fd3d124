"""From the configuration file of the experiment that this package began with to settings of ours."""

from __future__ import annotations

import ast
import configparser
import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from tiledseg._validate import did_you_mean, instance_of, invalid, shown
from tiledseg.config.augment import (
    BrightnessConfig,
    ElasticConfig,
    FlipConfig,
    LensConfig,
    RotateConfig,
    SharpenConfig,
    ShearConfig,
    WarpConfig,
    ZoomConfig,
)
from tiledseg.config.base import laid_over
from tiledseg.config.networks import NetworkConfig
from tiledseg.config.run import RunConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tiledseg.config.augment import TransformConfig

__all__ = [
    "AUGMENTOR_KEYS",
    "DROPPED",
    "DROPPED_SECTIONS",
    "PUT",
    "UNUSABLE",
    "Entry",
    "Imported",
    "Note",
    "Outcome",
    "Put",
    "entries_of",
    "import_founding",
    "method_of",
    "transforms_of",
]

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


Outcome: TypeAlias = Literal["converted", "dropped", "unusable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as the file has it."""

    section: str  # where it stands; a known misspelling of the key is mended
    key: str  # where it stands; a known misspelling of the key is mended
    text: str  # its value as written
    value: object  # its value as Python reads it; the text itself where it cannot be read
    readable: bool = True  # whether it could be read
    mended: str = ""  # what was misspelt and how it was read; empty for nothing


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a key."""

    entry: Entry  # the key
    outcome: Outcome  # whether its meaning was kept, is not needed here, or was lost
    text: str  # into which setting, or why

    def __str__(self) -> str:
        mended = f" ({self.entry.mended})" if self.entry.mended else ""
        where = f"{self.entry.section}.{self.entry.key} = {shown(self.entry.text)}"
        return f"{self.outcome:<9}  {where}{mended}: {self.text}"


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


def _same(value: object) -> object:
    return value


def _number(value: object) -> object:
    """Take one number out of what may be a pair of the same two."""
    parts = set(value) if isinstance(value, tuple | list) else {value}
    if len(parts) != 1:
        raise ValueError("the two axes must be alike here")
    return parts.pop()


def _real(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _words(*pairs: tuple[object, object]) -> Callable[[object], object]:
    def convert(value: object) -> object:
        for old, new in pairs:
            if value == old:
                return new
        raise ValueError(f"known are {', '.join(repr(old) for old, _ in pairs)}")

    return convert


def _lower(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("it must be text")  # noqa: TRY004  one more value that is no use
    return value.lower()


def _loss(value: object) -> object:
    name = str(_lower(value)).removesuffix("_loss")
    return {"basnet_hybrid": "basnet"}.get(name, name)


def _metrics(value: object) -> object:
    """Take names like ``val_iou_coef``; ``dice`` is always there, and ``val_`` as well."""
    if not isinstance(value, list | tuple):
        raise ValueError("it must be a list of names")  # noqa: TRY004  one more value that is no use
    names = [str(_lower(one)).removeprefix("val_").removesuffix("_coef") for one in value]
    renamed = {"binary_accuracy": "accuracy"}
    return tuple(dict.fromkeys(renamed.get(name, name) for name in names))


def method_of(value: object) -> str:
    """Turn the name of OpenCV's way to find a threshold into ours."""
    name = str(value).removeprefix("cv2.").removeprefix("THRESH_").lower()
    if name not in {"otsu", "triangle"}:
        raise ValueError("known are cv2.THRESH_OTSU and cv2.THRESH_TRIANGLE")
    return name


def _share_of_255(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < 255:
        raise ValueError("it must lie between 0 and 255")
    return round(value / 255, 6)


def _network(value: object) -> object:
    """Turn ``TensorflowAttentionUNet`` into ``attention_unet``: the name that has the same letters."""
    wanted = str(_lower(value)).removeprefix("tensorflow")
    for one in get_args(get_args(NetworkConfig)[0]):
        name = str(one.model_fields["name"].default)
        if name.replace("_", "") == wanted:
            return name
    raise ValueError("there is no such architecture here")


def _inputs(value: object) -> object:
    return (_lower(value) and value,)


def _gap(value: object) -> object:
    if not isinstance(value, int) or value < 0:
        raise ValueError("it must be a number of px")
    return 2 * value


def _colour(value: object) -> object:
    """Turn the name of OpenCV's conversion of its own order into ours."""
    name = str(value).removeprefix("cv2.").upper()
    colours = {
        "COLOR_BGR2RGB": "rgb",
        "COLOR_BGR2HSV": "hsv",
        "COLOR_BGR2LAB": "lab",
        "COLOR_BGR2GRAY": "grey3",
    }
    if name not in colours:
        raise ValueError(f"known are {', '.join(f'cv2.{one}' for one in colours)}")
    return colours[name]


def _unsharp(value: object) -> object:
    """Turn k of the kernel with 1 + 8k amid -k: 9k times the difference from the mean of 3 x 3 px."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it must be a number")  # noqa: TRY004  one more value that is no use
    return {"sharpen": 9.0 * value, "sharpen_sigma": round(math.sqrt(2 / 3), 3)}


@dataclass(frozen=True, slots=True)
class Put:
    """A key that has a setting here."""

    places: tuple[str, ...]  # where its value goes, as in ``train.network.levels``
    # what becomes of the value; a ValueError says why it is no use
    convert: Callable[[object], object] = _same
    text: str = ""  # what else is to know
    # whether None, 0, False and "" switch it off, as it is here without the setting
    may_be_off: bool = False


_DATA = {"train": ("train_data",), "eval": ("valid_data",), "valid": ("valid_data",), "test": ("test_data",)}

_TABLES = ("train_data", "valid_data", "test_data")
PUT: dict[str, Put] = {
    "model.model": Put(("train.network.name",), _network),
    "model.num_classes": Put(("train.network.classes",), text="each class needs a name in train.labels"),
    "model.base_filters": Put(("train.network.base_filters",)),
    "model.base_kernels": Put(("train.network.base_kernel",), _number),
    "model.num_layers": Put(("train.network.levels",)),
    "model.dropout_rate": Put(("train.network.dropout",), _real, "of level i it is that times i, as there"),
    "model.dilation": Put(("train.network.dilation",), _number),
    "model.normalization": Put(("train.network.norm",), _words((True, "batch"), (False, "none"))),
    "model.activation": Put(("train.network.activation",), _lower),
    "model.final_activation": Put(("train.network.final_activation",), _lower),
    "model.learning_rate": Put(("train.learning_rate",), _real),
    "model.clipvalue": Put(("train.clip",), _real),
    "model.optimizer": Put(("train.optimizer.name",), _lower),
    "model.loss": Put(("train.loss.name",), _loss),
    "train.epochs": Put(("train.epochs",)),
    "train.batch_size": Put(("train.batch_size",)),
    "train.steps_per_epoch": Put(("train.steps_per_epoch",)),
    "train.patience": Put(("train.patience",)),
    "train.learning_rate_reducer": Put(
        ("train.schedule.name",), _words((True, "plateau"), (False, "constant"))
    ),
    "train.reducer_factor": Put(("train.schedule.factor",), _real),
    "train.reducer_patience": Put(("train.schedule.patience",)),
    "train.epoch_change_tiledinfer": Put(("train.preview_every",), _words((True, 1), (False, None))),
    "train.num_infer_images": Put(("train.preview_images",)),
    "train.metrics": Put(("train.metrics",), _metrics),
    "model.metrics": Put(("train.metrics",), _metrics),
    "train.model_dir": Put(("train.runs_dir",), text="each run makes a new folder there"),
    "tiledinfer.overlapping": Put(
        ("predict.tiling.overlap", "train.tiling.overlap"),
        _gap,
        "a margin on each side is an overlap of twice as much",
    ),
    "tiledinfer.images_dir": Put(("predict.inputs",), _inputs),
    "tiledinfer.output_dir": Put(("predict.output",)),
    "tiledinfer.merged_dir": Put(
        ("predict.write",),
        lambda value: ("mask", "overlay") if value else ("mask",),
        "below the output folder",
    ),
    "tiledinfer.threshold": Put(("predict.threshold",), _share_of_255, "of 255 there"),
    "tiledinfer.algorithm": Put(
        ("predict.threshold",),
        method_of,
        "found for each image; stands above tiledinfer.threshold",
        may_be_off=True,
    ),
    "mask.threshold": Put(
        tuple(f"{one}.mask_threshold" for one in ("train_data", "valid_data", "test_data"))
    ),
    "image.color_converter": Put(
        ("train.preprocessing.colour",),
        _colour,
        "comes after gamma; each in [0, 1], the hue too",
        may_be_off=True,
    ),
    "image.gamma": Put(("train.preprocessing.gamma",), _real, may_be_off=True),
    "image.sharpening": Put(
        ("train.preprocessing",),
        _unsharp,
        "a Gaussian as wide as the mean of 3 x 3 px; comes before gamma and colour",
        may_be_off=True,
    ),
    **{
        f"{section}.{key}_datapath": Put(tuple(f"{table}.{key}s" for table in tables))
        for section, tables in _DATA.items()
        for key in ("image", "mask")
    },
}
"""Keys that have a setting here."""

_FOLDER = "what a run makes is in its own new folder"
_ONCE = "validation covers each image once"
_LABELS = "masks are labels: cut at the threshold, never blurred"
_COLOURS = "masks are written as labels; predict.mask_colours paints them"
_WHOLE = "a whole image is predicted in tiles; to see it shrunk, set train.preprocessing.scale"

DROPPED: dict[str, str] = {
    "model.show_summary": "each run writes it, as model.txt; train.diagram draws the network as well",
    "model.input_normalize": "pixel values are always divided by the largest of their dtype",
    "dataset.datasetclass": "images are paired by stem",
    "dataset.datasets_class": "images are paired by stem",
    "dataset.color_order": "images are RGB in training and in use",
    "dataset.resize_interpolation": "images are cropped, not resized",
    "dataset.image_format": "the first bytes of a file say what it is",
    "dataset.mask_format": "the first bytes of a file say what it is",
    "dataset.debug": "there is nothing to switch",
    "train.validation_steps": _ONCE,
    "train.eval_dir": _FOLDER,
    "train.create_backup": "nothing is overwritten",
    "train.save_weights_only": "a bundle holds settings and weights",
    "train.epoch_change_infer": _WHOLE,
    "train.epoch_change_infer_dir": _WHOLE,
    "train.epoch_change_tiledinfer_dir": _FOLDER,
    "mask.blur": _LABELS,
    "mask.blur_size": _LABELS,
    "mask.blursize": _LABELS,
    "mask.binarize": _LABELS,
    "mask.algorithm": _LABELS,
    "generator.debug": "there is nothing to switch",
    "tiledinfer.binarize": "a mask is always cut; probabilities are written with predict.write",
    "tiledinfer.background": _COLOURS,
    "tiledinfer.mask_colorize": _COLOURS,
    "tiledinfer.color_converter": "prepared as in training",
    "tiledinfer.gamma": "prepared as in training",
    "tiledinfer.sharpening": "prepared as in training",
    "segmentation.blursize": _COLOURS,
    "distortion.gaussian_filter_sigma": "one smooth field is drawn, with one sigma",
}
"""Keys that are not needed here, and why."""

DROPPED_SECTIONS = {"infer": _WHOLE}
"""Sections of which no key is needed."""

UNUSABLE: dict[str, str] = {
    "tiledinfer.blur": "how wide it was is not said there: set predict.blur, its sigma in px",
}
"""Keys whose meaning is lost here, and why."""


_CHANCE = 0.3  # the experiment made a sample of each; here one sample meets some of them
_KINDS = (
    "hflip",
    "vflip",
    "rotation",
    "deformation",
    "distortion",
    "barrdistortion",
    "pincdistortion",
    "sharpening",
    "brightening",
)
_SIGMAS = ("deformation.sigmoid", "deformation.sigmoids", "deformation.sigma")
_LENSES = ("barrdistortion", "pincdistortion")
AUGMENTOR_KEYS = {f"augmentor.{key}" for key in (*_KINDS, "angles", "shrinks", "shears")} | {
    "deformation.alpha",
    *_SIGMAS,
    "distortion.gaussian_filter_rsigma",
    "distortion.distortions",
    "sharpening.k",
    "brightening.alpha",
    "brightening.beta",
    *(
        f"{kind}.{key}"
        for kind in ("barrdistortion", "pincdistortion")
        for key in ("radius", "amount", "centers")
    ),
}
"""Keys that describe transforms; the sections beside ``augmentor`` count where its switch is on."""


def transforms_of(entries: Iterable[Entry]) -> tuple[list[TransformConfig], dict[str, str]]:
    """Make the transforms that an augmentor switches on."""
    values = {f"{entry.section}.{entry.key}": entry.value for entry in entries if entry.readable}
    makers: dict[str, Callable[[dict[str, Any]], TransformConfig]] = {
        "rotation": lambda v: RotateConfig(angles=_floats(v["augmentor.angles"]), probability=0.5),
        "shrinks": lambda v: ZoomConfig(factors=_range(v["augmentor.shrinks"]), probability=_CHANCE),
        "shears": lambda v: ShearConfig(degrees=_degrees(v["augmentor.shears"]), probability=_CHANCE),
        "deformation": lambda v: ElasticConfig(
            alpha=float(v.get("deformation.alpha", 1300)),
            sigma=next((_first(v[key]) for key in _SIGMAS if key in v), 8.0),
            probability=_CHANCE,
        ),
        "distortion": lambda v: WarpConfig(
            magnitude=_first(v.get("distortion.distortions", 0.02)),
            sigma=float(v.get("distortion.gaussian_filter_rsigma", 40)),
            probability=_CHANCE,
        ),
        "barrdistortion": lambda v: _lens(v, "barrdistortion", 1),
        "pincdistortion": lambda v: _lens(v, "pincdistortion", -1),
        "sharpening": lambda v: SharpenConfig(
            amounts=_range([v.get("sharpening.k", 1.0)]), probability=_CHANCE
        ),
        "brightening": lambda v: BrightnessConfig(
            gains=_range([v.get("brightening.alpha", 1.2)]),
            offsets=_range([v.get("brightening.beta", 10) / 255]),
            probability=_CHANCE,
        ),
    }
    transforms: list[TransformConfig] = []
    problems: dict[str, str] = {}
    flips = [0.5 if values.get(f"augmentor.{key}") is True else 0.0 for key in ("hflip", "vflip")]
    if any(flips):
        transforms.append(FlipConfig(horizontal=flips[0], vertical=flips[1]))
    for key, make in makers.items():
        if values.get(f"augmentor.{key}"):
            try:
                transforms.append(make(values))
            except (TypeError, ValueError, KeyError, IndexError, SettingError) as error:
                problems[key] = f"its values are no use ({type(error).__name__}: {error})"
    return transforms, problems


def _lens(values: dict[str, Any], kind: str, sign: int) -> LensConfig:
    amount = sign * abs(float(values.get(f"{kind}.amount", 0.3)))
    lens = LensConfig(
        amounts=(amount, amount), radius=float(values.get(f"{kind}.radius", 0.3)), probability=_CHANCE
    )
    centres = values.get(f"{kind}.centers")
    return lens if centres is None else lens.changed(centres=tuple(map(_floats, centres)))


def _floats(values: Iterable[Any]) -> Any:  # noqa: ANN401  a tuple of as many floats
    return tuple(float(value) for value in values)


def _first(value: Any) -> float:  # noqa: ANN401
    """Take a number, or the first of a list: this package draws one strength for all samples."""
    return float(value[0] if isinstance(value, list | tuple) else value)


def _range(values: Any) -> tuple[float, float]:  # noqa: ANN401
    some = _floats(values)
    return min(some), max(some)


def _degrees(values: Any) -> tuple[float, float]:  # noqa: ANN401
    """Turn the tangents of shears into degrees, to either side."""
    most = math.degrees(math.atan(max(map(abs, _floats(values)))))
    return -most, most
