"""Pictures as arrays: an image as RGB, a mask in colours, classes drawn over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tiledseg._arrays import array_of, check_finite, check_image, check_labels, read_bands
from tiledseg._lazy import cv2
from tiledseg._validate import invalid, items_of, real_number, real_pair, whole_number
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray, Source

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, each in [0, 255]."""

Rgb: TypeAlias = npt.NDArray[np.uint8]
"""A picture, (H, W, 3) uint8."""

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (0, 158, 115),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (0, 114, 178),
    (204, 121, 167),
)
"""Colours of the labels 1, 2, …: those of Okabe and Ito (2008), which colour-blind people can distinguish."""

ERROR_COLOURS: tuple[Colour, Colour, Colour] = ((0, 158, 115), (213, 94, 0), (0, 114, 178))
"""Colours of px that are found, false and missed."""

_MOST_LABELS = 2**16
_OUTLINES_PER_SIDE = 600
_THICKEST = 100


def as_rgb(image: AnyArray, limits: tuple[float, float] | None = None) -> Rgb:
    """Show an image as 8-bit RGB.

    Parameters
    ----------
    image : ndarray, shape (H, W), (H, W, 1) or (H, W, 3)
        Grey or RGB, boolean, integer or real, finite.
    limits : tuple of float, optional
        Values that become black and white, the lower first; values beyond them are clipped. By
        default the range of the dtype: [0, 255] for uint8, [0, 65535] for uint16 (a division by
        257), [0, 1] for reals; a real value beyond it is an error.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        A new array of rounded values; grey is repeated three times.

    Raises
    ------
    ArrayError
        If `image` has another shape, or values that are not finite or beyond [0, 1] without
        `limits`, or a dtype whose range is not known without `limits`.
    SettingError
        If `limits` are not two finite numbers, the lower first.

    Examples
    --------
    >>> as_rgb(np.array([[0, 257, 65535]], dtype=np.uint16))[..., 0]
    array([[  0,   1, 255]], dtype=uint8)
    """
    channels = check_image(image)[2]
    if channels not in {1, 3}:
        raise invalid(
            ArrayError,
            "image",
            must="be grey or RGB",
            got=image.shape,
            fix="Select the channels to show, for example image[..., :3].",
        )
    image = array_of(image, "image")
    check_finite(image, "image")
    grey = _to_bytes(image, limits).reshape(*image.shape[:2], channels)
    return np.repeat(grey, 3, axis=2) if channels == 1 else np.asarray(grey, np.uint8)


def as_picture(pixels: AnyArray, limits: tuple[float, float] | None = None) -> Rgb:
    """Show any image: three channels as RGB, else the first one; other dtypes than uint8 by their range."""
    shown = (
        pixels if pixels.ndim == 3 and pixels.shape[2] == 3 else pixels.reshape(*pixels.shape[:2], -1)[..., 0]
    )
    return as_rgb(shown, limits or limits_of(shown))


def limits_of(pixels: AnyArray) -> tuple[float, float] | None:
    """Return what is shown as black and white: of bytes their range, of others the values that there are."""
    return None if pixels.dtype == np.uint8 else full_range(pixels)


def full_range(pixels: AnyArray) -> tuple[float, float]:
    """Return the limits that show the least value black and the largest one white."""
    low, high = float(pixels.min()), float(pixels.max())
    return low, high if high > low else low + 1


def every_nth(source: Source, step: int) -> AnyArray:
    """Read every n-th px."""
    bands = read_bands(source, max(1, 1024 // step) * step)
    return np.concatenate([band[::step, ::step] for _, band in bands])


def thumbnail(source: Source, longest: int) -> Rgb:
    """Draw an image small enough for `longest` px a side, from every n-th px."""
    return as_picture(every_nth(source, -(-max(source.shape[:2]) // longest)))


def heat(picture: Rgb) -> Rgb:
    """Colour a grey picture from dark blue over green to yellow."""
    coloured = cv2.applyColorMap(picture[..., 0], cv2.COLORMAP_VIRIDIS)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), np.uint8)


def as_png(picture: Rgb) -> bytes:
    """Encode a picture as PNG."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def _to_bytes(image: AnyArray, limits: tuple[float, float] | None) -> Rgb:
    if image.dtype == np.uint8 and limits is None:
        return np.array(image, order="C")
    must, fix = "be finite, the lower first", "Use (0, 4095), for example."
    low, high = _range(image) if limits is None else real_pair("limits", limits, must, fix)
    if low >= high:
        raise invalid(SettingError, "limits", must=must, got=limits, fix=fix)
    many = image.dtype.itemsize > 2 and image.dtype != np.float32  # more digits than float32 holds
    real: Any = np.float64 if many else np.float32
    shown = np.clip((image.astype(real) - real(low)) * real(255 / (high - low)), 0, 255)  # in place, in NumPy
    return np.asarray(np.rint(shown), np.uint8)


def _range(image: AnyArray) -> tuple[float, float]:
    if image.dtype.kind == "b":
        return (0.0, 1.0)
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        return (0.0, float(np.iinfo(image.dtype).max))
    low, high = float(image.min()), float(image.max())
    if image.dtype.kind != "f" or low < 0 or high > 1:
        raise invalid(
            ArrayError,
            "image",
            must="be uint8, uint16 or real in [0, 1] to be shown without `limits`",
            got=f"{image.dtype} from {low:g} to {high:g}",
            fix=f"Use limits=({low:g}, {high:g}), for example.",
        )
    return (0.0, 1.0)


def colourise(mask: AnyArray, colours: Sequence[Colour] = PALETTE, background: Colour = (0, 0, 0)) -> Rgb:
    """Paint each label of a mask in its colour.

    Parameters
    ----------
    mask : ndarray, shape (H, W)
        Labels: boolean, or integers in [0, 65535]; 0 is the background.
    colours : sequence of tuple of int
        (R, G, B) of the labels 1, 2, …, at most 255; more labels repeat them.
    background : tuple of int
        (R, G, B) of label 0.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        The picture.

    Raises
    ------
    ArrayError
        If `mask` is not of shape (H, W) or its labels are out of range.
    SettingError
        If a colour is not three integers in [0, 255].

    Examples
    --------
    >>> colourise(np.array([[0, 1]]), [(255, 0, 0)]).tolist()
    [[[0, 0, 0], [255, 0, 0]]]
    """
    table = _table(colours, background)
    labels = _labels(mask, check_image(mask)[:2])
    return _painted(_numbered(labels, len(colours)), table)


def _labels(mask: AnyArray, shape: tuple[int, ...], name: str = "mask") -> npt.NDArray[np.uint16]:
    """Check labels and lay them out for OpenCV: C-contiguous, uint8 where they fit, else uint16."""
    if not isinstance(mask, np.ndarray):
        raise invalid(
            ArrayError,
            name,
            must="be a NumPy array of labels",
            got=type(mask).__name__,
            fix="Convert it with numpy.asarray.",
        )
    check_labels(mask, name, shape, _MOST_LABELS)
    return np.ascontiguousarray(mask, dtype=np.uint8 if mask.max() < 256 else np.uint16)


def _table(colours: object, background: Colour = (0, 0, 0)) -> npt.NDArray[np.uint8]:
    """Lay colours out as OpenCV's look-up table, (1, 256, 3)."""
    must, fix = "be a sequence of 1 to 255 colours", "Leave it out to use the palette."
    given = list(items_of(colours, "colours", must, fix))
    if not 0 < len(given) < 256:
        raise invalid(SettingError, "colours", must=must, got=colours, fix=fix)
    table = np.zeros((1, 256, 3), np.uint8)
    table[0, : len(given) + 1] = [_rgb(one) for one in (background, *given)]
    return table


def _rgb(colour: object) -> Colour:
    must, fix = "each be three integers in [0, 255]", "Use (230, 159, 0), for example."
    parts = [whole_number("colours", part, 0, 255, fix) for part in items_of(colour, "colours", must, fix)]
    if len(parts) != 3:
        raise invalid(SettingError, "colours", must=must, got=colour, fix=fix)
    return (parts[0], parts[1], parts[2])


def _numbered(labels: npt.NDArray[np.uint16], n_colours: int) -> npt.NDArray[np.uint8]:
    """Return the index of the colour of each px: 0 for the background, else 1 to `n_colours`, repeated."""
    numbers = np.arange(256 if labels.itemsize == 1 else _MOST_LABELS)
    numbers[1:] = (numbers[1:] - 1) % max(n_colours, 1) + 1
    return np.take(numbers.astype(np.uint8), labels)


def _painted(numbers: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8]) -> Rgb:
    return np.asarray(cv2.LUT(cv2.merge([numbers] * 3), table), np.uint8)


def overlay(
    image: AnyArray,
    mask: AnyArray,
    *,
    colours: Sequence[Colour] = PALETTE,
    opacity: float = 0.35,
    outline_px: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Rgb:
    """Draw classes over an image: a tint on their areas, a line in full colour along their edges.

    Parameters
    ----------
    image : ndarray, shape (H, W), (H, W, 1) or (H, W, 3)
        Converted as by `as_rgb`.
    mask : ndarray, shape (H, W)
        Labels: boolean, or integers in [0, 65535]; 0 is the background, which stays unchanged.
    colours : sequence of tuple of int
        (R, G, B) of the labels 1, 2, …, at most 255; more labels repeat them.
    opacity : float
        Share of the colour in the tint, in [0, 1]; 0 draws only the lines.
    outline_px : int, optional
        Thickness of the lines in px, inside the area they surround; 0 draws none. By default one
        600th of the image's shorter side, at least 1.
    limits : tuple of float, optional
        Values of `image` that become black and white; see `as_rgb`.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        The picture.

    Raises
    ------
    ArrayError
        If `image` cannot be shown, or `mask` does not fit it.
    SettingError
        If `opacity`, `outline_px`, a colour or `limits` is out of its range.

    Examples
    --------
    >>> image, mask = np.full((1, 2), 100, np.uint8), np.array([[0, 1]])
    >>> overlay(image, mask, colours=[(200, 0, 0)], opacity=0.5, outline_px=0).tolist()
    [[[100, 100, 100], [150, 50, 50]]]
    """
    picture = as_rgb(image, limits)
    height, width = picture.shape[:2]
    labels = _labels(mask, (height, width))
    if outline_px is None:
        outline_px = max(1, round(min(height, width) / _OUTLINES_PER_SIDE))
    _check_style(opacity, outline_px)
    table = _table(colours)
    numbers = _numbered(labels, len(colours))
    painted = _painted(numbers, table)
    tinted = cv2.addWeighted(picture, 1 - opacity, painted, opacity, 0)
    cv2.copyTo(tinted, numbers, picture)
    if outline_px:
        cv2.copyTo(painted, _outline(labels, numbers, outline_px), picture)
    return picture


def _check_style(opacity: float, outline_px: int) -> None:
    if not 0 <= real_number("opacity", opacity, "Use 0.35, for example.") <= 1:
        raise invalid(SettingError, "opacity", must="be in [0, 1]", got=opacity, fix="Use 0.35, for example.")
    fix = "Leave it out to choose it by the image's size."
    whole_number("outline_px", outline_px, 0, _THICKEST, fix)


def _outline(
    labels: npt.NDArray[np.uint16], numbers: npt.NDArray[np.uint8], thickness: int
) -> npt.NDArray[np.uint8]:
    """Mark the px of an area that lie within a distance of another label, not of the image's edge."""
    side = 2 * thickness + 1
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    edge = cv2.compare(cv2.dilate(labels, near), cv2.erode(labels, near), cv2.CMP_NE)
    return np.asarray(cv2.bitwise_and(edge, edge, mask=numbers), np.uint8)


def outlined(picture: Rgb, labels: AnyArray, colours: npt.NDArray[np.uint8]) -> Rgb:
    """Draw a line along the inner edge of each object, in the colour of its label."""
    edge = np.zeros(labels.shape, bool)
    for one, other in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        edge[one] |= labels[one] != labels[other]
        edge[:, one] |= labels[:, one] != labels[:, other]
    thick = max(1, round(min(labels.shape) / _OUTLINES_PER_SIDE))
    edge = cv2.dilate(edge.astype(np.uint8), np.ones((thick, thick), np.uint8)).astype(bool) & (labels > 0)
    drawn = picture.copy()
    drawn[edge] = colours[labels[edge]]
    return drawn


def error_overlay(
    image: AnyArray, predicted: AnyArray, truth: AnyArray, *, limits: tuple[float, float] | None = None
) -> Rgb:
    """Show in a grey copy of an image where a prediction is right and where it is wrong.

    Parameters
    ----------
    image : ndarray, shape (H, W), (H, W, 1) or (H, W, 3)
        Converted as by `as_rgb`, then to grey.
    predicted, truth : ndarray, shape (H, W)
        Labels: boolean, or integers in [0, 65535]; 0 is the background.
    limits : tuple of float, optional
        Values of `image` that become black and white; see `as_rgb`.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        The picture. A px of a class has the first of `ERROR_COLOURS` if both masks agree, the
        second if the prediction has a wrong class, the third if the prediction has background.

    Raises
    ------
    ArrayError
        If `image` cannot be shown, or a mask does not fit it.
    SettingError
        If `limits` are not two finite numbers, the lower first.
    """
    grey = cv2.cvtColor(as_rgb(image, limits), cv2.COLOR_RGB2GRAY)
    found = _labels(predicted, grey.shape, "predicted")
    wanted = _labels(truth, grey.shape, "truth")
    kind = np.zeros(grey.shape, np.uint8)
    kind[(found == wanted) & (wanted > 0)] = 1
    kind[(found != wanted) & (found > 0)] = 2
    kind[(found == 0) & (wanted > 0)] = 3
    return overlay(grey, kind, colours=ERROR_COLOURS, opacity=0.6, outline_px=0)
