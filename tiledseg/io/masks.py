"""What the values of a mask mean: one reading, for files and arrays and for every part of the library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tiledseg._arrays import check_shape
from tiledseg._lazy import cv2
from tiledseg._validate import invalid, listed
from tiledseg.errors import FileError, SettingError, TiledSegError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiledseg._types import AnyArray
    from tiledseg.config import MaskParts


IGNORED = 255
"""Label of px that do not count, in masks that were read with an `ignore_label`."""

Threshold: TypeAlias = 'float | Literal["auto"] | None'
"""Least value of foreground; None where values are labels; ``"auto"`` where the values decide."""

_LARGEST = 255
_TABLE = 2**16  # values up to here are counted in a table, which is faster than sorting
_WHITES = {1, 255, 65535}  # of a mask of two values, beside the largest of its dtype
_FEW = 20  # up to so many values may be classes, and with more they may be cell numbers
_LEAST_CELL, _LARGEST_CELL = 4, 0.5  # px of the median cell, and share of the foreground of the largest
_WITHIN_CELLS, _SMOOTH = 0.5, 0.9  # shares of neighbours with one value, and of others that differ by 1 or 2
_SOME, _LEAST_FILLED = 16, 0.1  # cells that are looked at; share of its box that half of them fill at least
_DARK, _LOW, _HIGH, _BETWEEN = 16, 64, 192, 0.2  # of 8-bit values in lossy files
_TINT = 32  # by 1 of so many parts of the range, a lossy codec may change grey into a colour
_PART = 1 << 22  # px that are counted at a time
_MIDDLE = (127, 128)
_VOID = (*_MIDDLE, 255, 65535)  # values that often mark px which do not count
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Advice:
    """What a function or command offers to say what values mean."""

    threshold: str  # name of the setting
    instances: str  # how to say that values number cells
    ignore: str = ""  # name of the setting; empty where there is none
    channels: str = ""  # likewise
    where: str = ""  # where the settings are, if that is not clear


_OF_PAIR = " These are arguments of tiledseg.data.Pair."
_SIGNED = "Convert them to numbers from 0: if 8 bits were saved as signed, -1 is 255."
OF_PAIRS = Advice("mask_threshold", 'mask_parts="instances"', "ignore_label", "mask_channels")
OF_ARRAYS = Advice("mask_threshold", 'mask_parts="instances"', "ignore_label", where=_OF_PAIR)
OF_EXPORT = Advice("mask_threshold", "instances=True", "ignore_label", "channels")
OF_READ_MASK = Advice("threshold", "threshold=None, too,", "ignore_label", "channels")


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask that was read."""

    labels: npt.NDArray[np.uint8]  # (H, W), 0, or 1, 2, … for the classes; IGNORED where a px does not count
    cells: AnyArray | None  # (H, W), 0 or the number of each cell; None where they are not numbered
    found: str  # what the values were taken for


@dataclass(frozen=True, slots=True)
class MaskRules:
    """How the values of a mask are read."""

    threshold: Threshold = "auto"
    parts: MaskParts = "merged"
    class_values: tuple[int, ...] = ()  # values of the labels 1, 2, …, for parts="classes"
    ignore_label: int | None = None  # value of the px that do not count
    classes: int | None = None  # of the network, background included; None where not known
    advice: Advice = OF_PAIRS
    error: type[TiledSegError] = FileError

    @property
    def is_array(self) -> bool:
        """Whether an array is read, whose values are labels where that is possible."""
        return self.advice is OF_ARRAYS

    def bad(self, name: str, must: str, got: object, fix: str) -> TiledSegError:
        """Build the error about a mask."""
        return invalid(self.error, name, must=must, got=got, fix=fix)


def mask_of(values: AnyArray, name: str, rules: MaskRules, *, lossy: bool = False) -> Mask:
    """Read the values (H, W) or (H, W, C) of a mask; with several channels these have to be equal."""
    check_shape(values.shape, name=name)
    plane = _whole_numbers(_one_plane(values, name, rules, lossy=lossy))
    ignored = None if rules.ignore_label is None else np.asarray(plane == rules.ignore_label)
    if rules.parts == "classes" and rules.ignore_label in (0, *rules.class_values):
        must, fix = "be the value of no class, and not 0", "Take it out of class_values, or give another one."
        raise invalid(SettingError, "ignore_label", must=must, got=rules.ignore_label, fix=fix)
    if ignored is not None and ignored.any():
        plane = np.where(ignored, plane.dtype.type(0), plane)
    mask = _read(plane, name, rules, lossy=lossy)
    if ignored is not None:
        if (mask.labels == IGNORED).any():
            must, fix = "hold labels below 255 with ignore_label", "Renumber the classes."
            raise rules.bad(name, must, "the label 255", fix)
        labels = mask.labels.copy()  # it may be the caller's array
        labels[ignored] = IGNORED
        return replace(mask, labels=labels)
    return mask


def _one_plane(values: AnyArray, name: str, rules: MaskRules, *, lossy: bool) -> AnyArray:
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        if _is_nearly_grey(values) and (lossy or _are_cut_alike(values, rules)):
            return np.ascontiguousarray(values[..., 1])
        setting = rules.advice.channels
        choice = f", or choose the channel that holds them, as in {setting}=0" if setting else ""
        fix = f"Convert it to one grey channel that holds the labels{choice}."
        raise rules.bad(name, "be grey to be a mask", f"{values.shape[2]} channels that differ", fix)
    return np.ascontiguousarray(values[..., 0])


def _is_nearly_grey(values: AnyArray) -> bool:
    """Say whether channels differ by no more than a lossy codec changes them."""
    if values.dtype.kind != "u" or values.shape[2] != 3:
        return False
    return bool(np.ptp(values, axis=2).max() <= np.iinfo(values.dtype).max // _TINT)


def _are_cut_alike(values: AnyArray, rules: MaskRules) -> bool:
    """Say whether a threshold makes the same mask of each channel."""
    if not isinstance(rules.threshold, int | float) or rules.parts != "merged":
        return False
    cut = values >= rules.threshold
    return rules.ignore_label is None and bool((cut == cut[..., :1]).all())


def _whole_numbers(values: AnyArray) -> AnyArray:
    """Give booleans, and real numbers that are all whole, as integers."""
    if values.dtype.kind == "b":
        return np.ascontiguousarray(values).view(np.uint8)
    if values.dtype.kind != "f" or not np.isfinite(values).all() or np.abs(values).max(initial=0) >= 2**53:
        return values
    whole = values.astype(np.int64)
    return whole if (whole == values).all() else values


def _read(values: AnyArray, name: str, rules: MaskRules, *, lossy: bool) -> Mask:
    if values.dtype.kind == "f" and np.isnan(values.max(initial=0)):
        raise rules.bad(name, "be finite", "NaN", "Export the mask again.")
    if rules.parts == "instances":
        return _cells(values, name, rules)
    if rules.parts == "classes":
        return _chosen_classes(values, name, rules)
    if rules.threshold is None:
        return _labels(values, name, rules)
    if isinstance(rules.threshold, str):
        return _decided(values, name, rules, lossy=lossy)
    _check_threshold_fits(values, name, rules, rules.threshold)
    labels = (values >= rules.threshold).astype(np.uint8)
    return Mask(labels, None, f"foreground (values from {rules.threshold:g})")


def _cells(values: AnyArray, name: str, rules: MaskRules) -> Mask:
    _check_labels(values, name, rules, "cell numbers", np.iinfo(np.int64).max)
    present = _present(values)
    counted = np.count_nonzero(present > 0)
    if counted == 1 and rules.threshold is not None and int(present[-1]) in _WHITES:
        _check_one_cell(values, name, rules)
    return Mask((values > 0).astype(np.uint8), values, f"cell numbers ({counted} cells)")


def _check_one_cell(values: AnyArray, name: str, rules: MaskRules) -> None:
    """Refuse a mask of several areas as the number of one cell."""
    areas = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)[0] - 1
    if areas > 1:
        fix = (
            "Number its areas, for example with tiledseg.metrics.components(mask > 0), or leave "
            f"{rules.advice.instances} out if all of it is foreground, or set {rules.advice.threshold}=None "
            "if it is one cell."
        )
        raise rules.bad(name, "hold a number for each cell", f"one value in {areas} areas", fix)


def _labels(values: AnyArray, name: str, rules: MaskRules) -> Mask:
    _check_labels(values, name, rules, "labels", _LARGEST)
    return Mask(np.asarray(values, np.uint8), None, f"labels (0 to {int(values.max(initial=0))})")


def _check_labels(values: AnyArray, name: str, rules: MaskRules, what: str, most: int) -> None:
    advice = rules.advice
    if values.dtype.kind == "f":
        fix = f"Convert the {what} to integers, or set `{advice.threshold}` to the least value of foreground."
        raise rules.bad(name, f"hold integers to be {what}", str(values.dtype), fix)
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < 0 or highest > most:
        fix = f"Renumber them, or set `{advice.threshold}` to 1 if every value but 0 is foreground."
        if lowest < 0:
            fix = _SIGNED
        if lowest < 0 and advice.ignore:
            fix += f" Set `{advice.ignore}` to {lowest} if its px do not count."
        must = f"hold {what} from 0" + (f" to {most}" if most == _LARGEST else "")
        raise rules.bad(name, must, f"{what} from {lowest} to {highest}", fix)


def _chosen_classes(values: AnyArray, name: str, rules: MaskRules) -> Mask:
    """Turn the values of classes into labels, 0 into 0."""
    known = rules.class_values
    present = _present(values)
    unknown = np.setdiff1d(present, [0, *known])
    if unknown.size:
        must = f"have only the grey values 0, {', '.join(map(str, known))}"
        fix = "Set `class_values` to the values of the classes, or `ignore_label` to one that does not count."
        raise rules.bad(name, must, listed(unknown, _SHOWN), fix)
    labels = np.zeros(values.shape, np.uint8)
    for label, value in enumerate(known, 1):
        labels[values == value] = label
    return Mask(labels, None, f"classes (values {', '.join(map(str, known))})")


def _decided(values: AnyArray, name: str, rules: MaskRules, *, lossy: bool) -> Mask:
    """Find what values mean; an error where they could mean two things."""
    if lossy:
        return _of_lossy(values, name, rules)
    present = _present(values)
    others = present[present != 0]
    if not others.size:
        return Mask(np.asarray(values, np.uint8), None, "no foreground")
    whole = values.dtype.kind != "f"
    if rules.classes is not None and rules.classes > 2 and whole and _are(others, 1, rules.classes - 1):
        return Mask(np.asarray(values, np.uint8), None, f"labels of {rules.classes} classes")
    whites = _WHITES if rules.classes is None or rules.classes <= 2 else {1}
    if whole and others.size == 1 and int(others[0]) in whites:
        labels = np.asarray(values if others[0] == 1 else values != 0, np.uint8)
        return Mask(labels, None, f"foreground (value {others[0]})")
    if whole and (rules.classes is None or rules.classes <= 2) and _number_cells(values, others):
        return replace(_cells(values, name, rules), found=f"cell numbers ({others.size} cells)")
    if rules.is_array and rules.classes is None and whole and _are(others, 1, _LARGEST - 1):
        return Mask(np.asarray(values, np.uint8), None, "labels")  # which the classes of a map are to confirm
    raise _unclear(present, name, rules)


def _are(others: AnyArray, lowest: int, highest: int) -> bool:
    return int(others[0]) >= lowest and int(others[-1]) <= highest


def _of_lossy(values: AnyArray, name: str, rules: MaskRules) -> Mask:
    """Cut a mask whose values a lossy codec changed in the middle, if they lie near black and white."""
    white = 255 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    scaled = values.astype(np.float32) * (255 / white)
    high, bright = float(scaled.max(initial=0)), scaled >= _LOW
    between = np.count_nonzero(bright & (scaled < _HIGH))
    odd = 0 < high < _HIGH and (high > _DARK or values.min() < values.max())  # also labels; not a plain black
    if odd or between > _BETWEEN * max(1, int(bright.sum())):
        fix = f"Set `{rules.advice.threshold}` to the least value of foreground, or export the mask as PNG."
        got = f"a lossy file with values up to {values.max()}, {between} px of them neither"
        raise rules.bad(name, "be nearly black and white", got, fix)
    return Mask((scaled >= 128).astype(np.uint8), None, f"foreground (values from {(white + 1) // 2}, lossy)")


def _number_cells(values: AnyArray, others: AnyArray) -> bool:
    """Say whether values can only be numbers of cells: many of them, each of one piece of the foreground."""
    if others.size <= _FEW or int(others[0]) < 0:
        return False
    sizes = np.array([count for count in _counted(values[values > 0]).tolist() if count], np.float64)
    if np.median(sizes) < _LEAST_CELL or float(sizes.max()) > _LARGEST_CELL * float(sizes.sum()):
        return False
    return all(_as_cells(values[first], values[second]) for first, second in _NEIGHBOURS) and _compact(
        values, others
    )


def _compact(values: AnyArray, others: AnyArray) -> bool:
    """Say whether px of one value lie together, unlike those of smooth edges; of some values."""
    some = others[np.linspace(0, others.size - 1, _SOME).astype(np.intp)]
    shares = []
    for one in some:
        where = (values == one).astype(np.uint8)
        *_, width, height = cv2.boundingRect(where)
        shares.append(cv2.countNonZero(where) / (width * height))
    return bool(np.median(shares) >= _LEAST_FILLED)


_NEIGHBOURS = (
    ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
)


def _as_cells(one: AnyArray, other: AnyArray) -> bool:
    """Say whether most neighbours have one value, and others differ by more than in a smooth image."""
    both = (one != 0) & (other != 0)
    first, second = one[both].astype(np.int64), other[both].astype(np.int64)
    apart = np.abs(first - second)
    different = apart[apart > 0]
    equal = first.size - different.size
    smooth = np.count_nonzero(different <= 2)
    return equal >= _WITHIN_CELLS * first.size and not (
        different.size > equal / 10 and smooth > _SMOOTH * different.size
    )


def _unclear(present: AnyArray, name: str, rules: MaskRules) -> TiledSegError:
    """Build the error for values that could mean several things."""
    name_of, whole = rules.advice.threshold, present.dtype.kind != "f"
    if whole and present[0] < 0:
        fix = f"{_SIGNED} Set `{name_of}` to the least value of foreground.{_advised_ignore(present, rules)}"
    elif whole:
        fix = (
            f"Set {name_of}=1 if every value but 0 is foreground, {name_of}=128 if dark ones are not, "
            f"{name_of}=None if these are labels of classes, and {rules.advice.instances} if each is the "
            f"number of a cell.{_advised_ignore(present, rules)}"
        )
    else:
        fix = f"Set `{name_of}` to the least value of foreground, for example 0.5 for probabilities."
    fix += rules.advice.where
    got = f"the values {listed(present, _SHOWN)}"
    classes = rules.classes or 2
    usual = f"labels from 0 to {classes - 1}" if classes > 2 else "0 and one of 1, 255 and 65535"
    return rules.bad(name, f"hold {usual}, or be said what its values mean", got, fix)


def _advised_ignore(present: AnyArray, rules: MaskRules) -> str:
    """Advise how to ignore a value that often marks px which do not count."""
    likely = [int(one) for one in present if int(one) < 0 or int(one) in _VOID]
    if not rules.advice.ignore or not likely or present.size < 3:
        return ""
    middle = [one for one in likely if one in _MIDDLE]
    value = likely[0] if likely[0] < 0 else middle[0] if middle and present.size == 3 else likely[-1]
    return f" Set {rules.advice.ignore}={value} if its px do not count."


def _counted(values: AnyArray) -> npt.NDArray[np.intp]:
    """Count the px of each value from 0, or of each that occurs where values are large."""
    if values.size and int(values.max()) < _TABLE:
        return _histogram(values)
    counts: npt.NDArray[np.intp] = np.unique(values, return_counts=True)[1]
    return counts


def _histogram(values: AnyArray) -> npt.NDArray[np.intp]:
    """Count the px of each value from 0, a part at a time: NumPy counts copies in 64 bits."""
    flat = values.reshape(-1)
    counts = np.zeros(int(values.max()) + 1, np.intp)
    for first in range(0, flat.size, _PART):
        part = flat[first : first + _PART].astype(np.uint16, copy=False)
        counts += np.bincount(part, minlength=len(counts))
    return counts


def _present(values: AnyArray) -> AnyArray:
    """List the values that occur, from the least."""
    if values.dtype.kind == "f" or not values.size:
        return np.unique(values)
    lowest, highest = int(values.min()), int(values.max())
    if highest - lowest >= _TABLE:
        return np.unique(values)
    shifted = values.astype(np.int64) - lowest if lowest < 0 or highest >= _TABLE else values
    return (
        np.flatnonzero(_histogram(shifted))
        + min(lowest, 0)
        + (lowest if lowest >= 0 and highest >= _TABLE else 0)
    )


def _check_threshold_fits(values: AnyArray, name: str, rules: MaskRules, threshold: float) -> None:
    highest, setting = values.max(initial=0), rules.advice.threshold
    lowest = values.min(initial=0)
    if highest < threshold and (highest > 0 or lowest < 0):
        fix = (
            _SIGNED
            if lowest < 0
            else (
                f"If every value other than 0 is foreground, set {setting}=1; if they are labels, "
                f"{setting}=None; if they are grey values, a lower `{setting}`."
            )
        )
        must = f"have values of at least {setting}={threshold:g}, or only 0"
        raise rules.bad(name, must, f"a largest value of {highest}", fix)
    if values.dtype == np.uint16 and highest > _LARGEST and 1 < threshold <= _LARGEST:
        _check_scale(values, name, rules, threshold)


def _check_scale(values: AnyArray, name: str, rules: MaskRules, threshold: float) -> None:
    """Refuse a threshold for 8 bits on values of 16 bits, unless there are only two values."""
    highest, setting = values.max(), rules.advice.threshold
    if ((values != 0) & (values != highest)).any():
        fix = (
            f"Set {setting}=32768, the middle of 16 bits, 1 for all values but 0, or None for labels, "
            f"and {rules.advice.instances} for cell numbers."
        )
        must = f"have 8-bit values for {setting}={threshold:g}"
        raise rules.bad(name, must, f"16-bit values up to {highest}", fix)
