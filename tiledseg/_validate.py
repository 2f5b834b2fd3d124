"""The form of error messages, and checks of arguments and arrays."""

from __future__ import annotations

import math
import operator
import os
import re
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from tiledseg._axes import by_name, check_order
from tiledseg._lazy import cv2, lazy
from tiledseg.errors import ArrayError, FileError, SettingError, TiledSegError, failing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    import numpy as np

    from tiledseg._types import AnyArray, Source
else:
    np = lazy("numpy")  # help and settings do not need them

ELSEWHERE = "which takes this"
"""Says in an error that another function than the one that was called takes the option."""

_FEW, _AT_ONCE = 1 << 20, 1 << 24  # numbers
_LONGEST, _LONGEST_NAME = 120, 100  # letters
_REAL = "have a boolean, integer or real dtype"
_LARGEST_32 = 3.4028234e38  # of float32, in which maps are computed
_MOST_LABEL, _MOST_LABELS = (1 << 63) - 1, 5  # what int64 holds; labels that are listed in one message
_CHANNELS_FIRST, _LEAST_IMAGE = {1, 3, 4}, 16  # lengths of a first axis that may be that of the channels
_MOST_CHANNELS, _LEAST_SIDE = 16, 64  # if the other two are at least so long; also of maps of classes
_ROUNDING = 1e-3  # of a network, by which its probabilities may lie outside [0, 1]
_Error = TypeVar("_Error", bound=TiledSegError)
_Kind = TypeVar("_Kind")


def invalid(error: type[_Error], what: str, *, must: str, got: object, fix: str) -> _Error:
    """Build an error whose message says what is wrong, what was found and how to fix it."""
    return error(f"`{shown(what)}` must {must}; got {shown(got)}. {fix}")


def shown(value: object) -> str:
    """Show a value on one short line, control characters escaped."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001  of a class of the user's
        text = f"an object of the class {type(value).__name__}, which cannot be shown"
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def named(path: object) -> str:
    """Show a path on one short line; a long path is cut at its beginning, not at its file name."""
    text = str(path)
    return shown(text if len(text) <= _LONGEST_NAME else f"…{text[-_LONGEST_NAME:]}")


def listed(values: Iterable[object], most: int) -> str:
    """Show the first values, and count those that are left out."""
    texts = [shown(value if isinstance(value, str) else str(value)) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def abbreviated(text: str, known: Iterable[str]) -> list[str]:
    """List the words of several parts whose first letters are a text: `lr` is learning_rate."""
    parts = {word: re.split("[-_]", word) for word in known}
    return [word for word, of in parts.items() if len(of) > 1 and "".join(one[:1] for one in of) == text]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is closest to a wrong one."""
    words, text = sorted(known), shown(word)  # `word` may be any object
    near = abbreviated(text, words) or get_close_matches(text, words, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(words)}."


def whole_number(name: str, value: object, least: int = 1, most: int | None = None, fix: str = "") -> int:
    """Check that an option is a whole number."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        above, rest = ("", "or more") if most is None else (f" and at most {most}", f"to {most}")
        must = f"be a whole number of at least {least}{above}"
        raise invalid(SettingError, name, must=must, got=value, fix=fix or f"Use {least} {rest}.")
    return number


def real_number(name: str, value: object, fix: str = "Give a number.") -> float:
    """Check that an option is a real number that is finite as float32."""
    one = not isinstance(value, bool | str | bytes | complex) and getattr(value, "shape", ()) == ()
    try:
        number = float(value) if one else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= _LARGEST_32:
        raise invalid(SettingError, name, must="be a finite number, as float32", got=value, fix=fix)
    return number


def fraction(name: str, value: object, fix: str) -> float:
    """Check that an option is a number greater than 0 and less than 1."""
    number = real_number(name, value, fix)
    if not 0 < number < 1:
        raise invalid(SettingError, name, must="be in (0, 1)", got=value, fix=fix)
    return number


def real_pair(name: str, value: object, must: str, fix: str) -> tuple[float, float]:
    """Check that an option is two finite real numbers."""
    first, second = _two(name, value, must, fix)
    return real_number(name, first, fix), real_number(name, second, fix)


def whole_pair(name: str, value: object, least: int = 1) -> tuple[int, int]:
    """Check that an option is two whole numbers, one for each axis."""
    y, x = _two(name, value, "be two whole numbers, (y, x)", "Give one for each axis.")
    return whole_number(name, y, least), whole_number(name, x, least)


def _two(name: str, value: Any, must: str, fix: str) -> tuple[object, object]:  # noqa: ANN401
    try:
        first, second = value
    except Exception:  # noqa: BLE001  of a class of the user's
        raise invalid(SettingError, name, must=must, got=value, fix=fix) from None
    return first, second


def pair_of(value: _Kind | tuple[_Kind, _Kind]) -> tuple[_Kind, _Kind]:
    """Spell one number for both axes out."""
    return value if isinstance(value, tuple) else (value, value)


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Check that an option is one of the known words."""
    if not isinstance(value, str) or value not in known:
        must = f"be one of {', '.join(known)}"
        raise invalid(SettingError, name, must=must, got=value, fix=did_you_mean(shown(value), known))


def instance_of(kind: type[_Kind], value: object, name: str, fix: str = "") -> _Kind:
    """Check that an argument is an object of a class."""
    if not isinstance(value, kind):
        fix = fix or f"Pass {kind.__name__}({'**settings' if isinstance(value, dict) else '...'})."
        raise invalid(SettingError, name, must=f"be of type {kind.__name__}", got=value, fix=fix)
    return value


def settings_of(kind: type[_Kind], value: object, name: str, *, optional: bool = True) -> _Kind:
    """Return settings given as their class, as a dict of some of them, or as None for the defaults."""
    if value is None and optional:
        return kind()
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return instance_of(
            kind, value, name, f"Pass {kind.__name__}(...), or a dict of some of its settings."
        )
    try:
        return kind(**value)
    except SettingError as error:
        raise SettingError(f"`{name}`: {error}") from None


def items_of(
    values: object, name: str, must: str, fix: str, error: type[TiledSegError] = SettingError
) -> Iterator[Any]:
    """Iterate over an argument that must be a sequence; a text is refused, since its letters are no items."""
    try:
        found = None if isinstance(values, str | bytes) else iter(values)  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001  of a class of the user's
        found = None
    if found is None:
        raise invalid(error, name, must=must, got=values, fix=fix)
    return found  # type: ignore[no-any-return]


def all_of(kind: type[_Kind], values: object, name: str, fix: str) -> list[_Kind]:
    """Check that an argument is a sequence of objects of a class."""
    items = items_of(values, name, f"be a sequence of {kind.__name__}", fix)
    return [instance_of(kind, one, f"{name}[{place}]", fix) for place, one in enumerate(items)]


def check_callable(name: str, value: object) -> None:
    """Check that an argument can be called, or is None."""
    if value is not None and not callable(value):
        fix = "Pass a function, or leave it out."
        raise invalid(SettingError, name, must="be a callable or None", got=value, fix=fix)


def text_of_path(path: object) -> str | None:
    """Return a path as text; None for what is none."""
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001  of a class of the user's
        return None
    return text if isinstance(text, str) else None


def path_text(path: object, name: str = "path", error: type[TiledSegError] = FileError) -> str:
    """Return a path as text; refuse what cannot be a path."""
    text = text_of_path(path)
    if not text:
        got = "''" if text == "" else path
        raise invalid(error, name, must="be a path as text", got=got, fix="Pass a str or a pathlib.Path.")
    if "\0" in text:
        raise invalid(error, name, must="not contain a NUL character", got=repr(text), fix="Rename the file.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        must, fix = "be a name that this system can write", "Check the text."
        raise invalid(error, name, must=must, got=ascii(text), fix=fix) from None
    return text


def check_unmasked(values: object, name: str) -> None:
    """Refuse an array with a mask of its own, which NumPy would drop without a word."""
    if "numpy.ma" in sys.modules and isinstance(values, np.ma.MaskedArray):  # its import takes a while
        fix = f"Fill it with {name}.filled(value); to predict a part of an image, pass `roi`."
        raise ArrayError(f"`{name}` must not be a masked array. {fix}")


def array_of(values: object, name: str) -> AnyArray:
    """Convert numbers to an array; refuse what cannot be converted."""
    check_unmasked(values, name)
    try:
        array = np.asarray(values)
    except Exception:  # noqa: BLE001  rows of different lengths, or a class of the user's
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        of_torch = hasattr(type(values), "detach")  # with gradients, bfloat16 or on a GPU
        how = f"{name}.detach().cpu().float().numpy()" if of_torch else "numpy.asarray"
        fix = f"Read or convert it first, for example with {how}."
        got = type(values).__name__ if array.dtype.kind == "O" else str(array.dtype)
        raise invalid(ArrayError, name, must=_REAL, got=got, fix=fix)
    return array


def check_image(image: Source, channels: int | None = None, name: str = "image") -> tuple[int, int, int]:
    """Check that an array can be an image, and return its height, width and channels."""
    with failing(ArrayError, f"`{name}` does not say its shape and dtype", "See the object's own code."):
        described = all(hasattr(image, one) for one in ("shape", "dtype", "__getitem__"))
        shape, dtype = (image.shape, image.dtype) if described else ((), None)
    if not described:
        must = "be an array with shape and dtype"
        fix = "Read a file with tiledseg.io.read_image, or convert with numpy.asarray."
        raise invalid(ArrayError, name, must=must, got=type(image).__name__, fix=fix)
    check_unmasked(image, name)
    check_order(image, name)
    if dtype_of(dtype).kind not in set("biuf"):
        how = f"{name}.astype(numpy.float32)" if isinstance(dtype, np.dtype) else "numpy.asarray"
        raise invalid(ArrayError, name, must=_REAL, got=str(dtype), fix=f"Convert it with {how}.")
    return check_shape(shape, channels, name)


def check_shape(
    shape: Sequence[int], channels: int | None = None, name: str = "image"
) -> tuple[int, int, int]:
    """Check the shape of an image, and return its height, width and channels."""
    shape = _whole(shape)
    if len(shape) not in {2, 3}:
        fix = "Give one image at a time, channels last."
        raise invalid(ArrayError, name, must="have shape (H, W) or (H, W, C)", got=shape, fix=fix)
    if min(shape) < 1:
        must, fix = "have at least 1 px and 1 channel", "Check how it was read: an empty image has no map."
        raise invalid(ArrayError, name, must=must, got=shape, fix=fix)
    _check_channels(shape, channels, name)
    return (shape[0], shape[1], shape[2] if len(shape) == 3 else 1)


def dtype_of(dtype: object) -> np.dtype[Any]:
    """Return a dtype of NumPy; object for one of another library."""
    try:
        return np.dtype(dtype)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        return np.dtype(object)


def _whole(shape: Iterable[Any]) -> tuple[int, ...]:
    """Return the lengths of a shape as ints."""
    try:
        lengths = [None if isinstance(one, bool) else operator.index(one) for one in shape]
    except Exception:  # noqa: BLE001  of a class of the user's
        lengths = [None]
    whole = tuple(one for one in lengths if one is not None)
    if len(whole) < len(lengths):
        must = "hold whole numbers of px, (H, W) or (H, W, C)"
        raise invalid(ArrayError, "shape", must=must, got=shape, fix="Pass image.shape.")
    return whole


def looks_channels_first(shape: Sequence[int]) -> bool:
    """Say whether a shape is that of an image with its channels first."""
    first = shape[0] if len(shape) == 3 else _MOST_CHANNELS + 1
    least = _LEAST_IMAGE if first in _CHANNELS_FIRST else _LEAST_SIDE
    return first <= _MOST_CHANNELS and min(shape[1:]) >= least


def _check_channels(shape: tuple[int, ...], channels: int | None, name: str) -> None:
    found = shape[2] if len(shape) == 3 else 1
    if channels is None and looks_channels_first(shape):
        fix = f"It looks like (C, H, W): move the axis with numpy.moveaxis({name}, 0, -1)."
        raise invalid(ArrayError, name, must="be channels last, (H, W, C)", got=shape, fix=fix)
    if channels in {None, found}:
        return
    fix = f"Give an image of shape (H, W, {channels})."
    if len(shape) == 3 and shape[0] == channels:
        fix = "It looks like (C, H, W): move the axis with numpy.moveaxis(image, 0, -1)."
    elif found == 1 and channels == 3:
        fix = f"Repeat the grey channel with numpy.repeat(image.reshape{(*shape[:2], 1)}, 3, axis=2)."
        fix += " Read a file with channels=(0, 0, 0)."
    elif found == 4 and channels == 3:
        fix = "If the fourth channel is alpha, drop it with image[..., :3]."
    must = f"have {channels} channels, as the network expects"
    raise invalid(ArrayError, "image", must=must, got=shape, fix=fix)


def check_labels(
    mask: object, name: str, shape: Sequence[int] | None = None, classes: int | None = None
) -> AnyArray:
    """Check that an array holds labels (H, W) from 0 to classes - 1."""
    array = array_of(by_name(mask, name), name)
    if array.dtype.kind == "f":
        must, fix = "hold labels: be boolean or integer", "Apply a threshold first, as in probs >= 0.5."
        raise invalid(ArrayError, name, must=must, got=str(array.dtype), fix=fix)
    if array.ndim != 2 or (shape is not None and array.shape != tuple(shape)):
        size = "shape (H, W)" if shape is None else f"the size of its image, (H, W) = {tuple(shape)}"
        fix = "Give one label for each px; remove an axis of one channel with mask[..., 0]."
        raise invalid(ArrayError, name, must=f"have {size}", got=array.shape, fix=fix)
    most = math.inf if classes is None else classes - 1
    if array.size and array.dtype.kind != "b" and not 0 <= array.min() <= array.max() <= most:
        must = "hold labels from 0 up" if classes is None else f"hold labels in [0, {classes - 1}]"
        wrong = array[(array < 0) | (array > most)]
        got = f"{listed(np.unique(wrong), _MOST_LABELS)} in {wrong.size} of {array.size} px"
        fix = "Use 0 for the background and 1, 2, … for the classes, or more classes."
        if classes == 2 and array.max() == 255:
            fix = "It looks like a picture of a mask: apply a threshold, as in mask >= 128."
        elif classes == 2 and array.min() >= 0:
            fix = f"Give {name} > 0 if its numbers count cells; for several classes, state their number."
        raise invalid(ArrayError, name, must=must, got=got, fix=fix)
    if array.dtype == np.uint64 and array.size and array.max() > _MOST_LABEL:
        fix = "Number them anew, for example with numpy.unique(mask, return_inverse=True)."
        raise invalid(ArrayError, name, must="hold labels below 2^63", got=str(array.max()), fix=fix)
    return array


def is_finite(pixels: AnyArray) -> bool:
    """Return whether a float32 array, of 2 axes or more, has no NaN and no infinity."""
    if pixels.size <= _FEW:
        return bool(np.isfinite(pixels).all())
    rows = pixels if pixels.ndim == 2 else pixels.reshape(math.prod(pixels.shape[:-2]), -1)
    few = max(1, _AT_ONCE // rows.shape[1])  # OpenCV sums in float64, which holds it, but fails above 2^31
    return all(math.isfinite(cv2.sumElems(rows[top : top + few])[0]) for top in range(0, len(rows), few))


def check_finite(pixels: AnyArray, name: str, origin: tuple[int, int] = (0, 0)) -> None:
    """Check that an array has no NaN and no infinity."""
    if pixels.dtype.kind != "f" or (pixels.dtype == np.float32 and is_finite(pixels)):
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(pixels.astype(np.float32, copy=False))
    if bad.any():
        y, x = (start + int(place) for start, place in zip(origin, np.argwhere(bad)[0], strict=False))
        got = f"{int(bad.sum())} NaN or infinite values, the first at (y, x) = ({y}, {x})"
        fix = "Replace them, for example with numpy.nan_to_num."
        raise invalid(ArrayError, name, must="be finite as float32", got=got, fix=fix)


def check_unit_interval(
    values: AnyArray, name: str, must: str, fix: str, error: type[TiledSegError] = ArrayError
) -> None:
    """Check that probabilities lie in [0, 1], up to the rounding of a network."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise invalid(error, name, must=must, got=f"values from {low:.4g} to {high:.4g}", fix=fix)


def read_region(image: Source, rows: slice, columns: slice) -> AnyArray:
    """Read a region, and check that it has the shape and dtype that the source states."""
    where = f"at (y, x) = ({rows.start}, {columns.start})"
    with failing(ArrayError, f"`image` cannot be read {where}", "Correct the source, or read it first."):
        pixels = np.asarray(found := image[rows, columns])
    check_unmasked(found, "image")
    wanted = (rows.stop - rows.start, columns.stop - columns.start, *tuple(image.shape)[2:])
    if pixels.shape != wanted or not np.can_cast(pixels.dtype, np.dtype(image.dtype), "safe"):
        must = f"give {wanted} px of {image.dtype} {where}"
        fix = "Correct the source: a slice of it must have the shape and dtype that it states."
        raise invalid(ArrayError, "image", must=must, got=f"{pixels.shape} px of {pixels.dtype}", fix=fix)
    return pixels
