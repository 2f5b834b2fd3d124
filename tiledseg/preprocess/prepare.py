"""The preparation of pixels, the same in training and prediction: sharpening, colours, range of values.

Or the steps of a package, some of them with statistics of the whole image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._arrays import check_finite, check_image, read_region
from tiledseg._lazy import cv2
from tiledseg._validate import invalid, settings_of
from tiledseg.config import PreprocessingConfig, StepsConfig
from tiledseg.errors import ArrayError, SettingError
from tiledseg.preprocess.scale import Resampled, sampling_of, scaled_length
from tiledseg.preprocess.statistics import moments_of, percentiles_of, quantiles_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray, FloatArray, Source
    from tiledseg.config import PixelStep
    from tiledseg.io import PixelSize
    from tiledseg.preprocess.statistics import Limits

_CHANNELS_AT_ONCE = 4  # OpenCV takes at most 128
_SIGMAS = 4  # beyond this, a Gaussian changes an 8-bit value by less than half a level

_LAB_SPAN = np.array([100, 255, 255], np.float32)
_LAB_LEAST = np.array([0, -128, -128], np.float32)


def prepare(
    image: Source,
    config: PreprocessingConfig | dict[str, Any],
    limits: Limits | None = None,
    *,
    shape: tuple[int, int] | None = None,
) -> Prepared:
    """Prepare an image for a network: resample, sharpen, change colours, bring values into range.

    In this order: the image is shrunk, to the mean of the area that each new px covers, so that
    nothing aliases, or enlarged (bilinear); sharpened; integers are divided by the value of white;
    gamma; the colours are converted; two percentiles of the whole image become 0 and
    1; the mean is subtracted and the result divided by the standard deviation, per channel. A
    region is prepared as it is in the whole image, whatever lies around it.

    Parameters
    ----------
    image : array_like
        (H, W) or (H, W, C) in the configured dtype; read region by region, never changed.
    config : PreprocessingConfig or dict
        What the network was trained with.
    limits : tuple of ndarray, optional
        The `percentiles_of` the whole image, where `image` is a part of it.
    shape : tuple of int, optional
        Height and width to which the image is brought; by ``config.scale`` where it is None.

    Returns
    -------
    Prepared
        The prepared image, computed where it is sliced; ``numpy.asarray`` gives all of it.

    Raises
    ------
    ArrayError
        If `image` is not an image of the configured channels and dtype.
    SettingError
        If `config` is not a PreprocessingConfig.

    Examples
    --------
    >>> from tiledseg.config import PreprocessingConfig
    >>> image = np.full((4, 6), 51, np.uint8)
    >>> prepared = prepare(image, PreprocessingConfig(channels=1, scale=0.5))
    >>> prepared.shape, round(float(prepared[0:1, 0:1].item()), 3)
    ((2, 3, 1), 0.2)
    """
    return Prepared(image, config, limits, shape)


def shrunk(image: Source, config: PreprocessingConfig, pixel_size: PixelSize | None = None) -> AnyArray:
    """Resample and sharpen an image, the first half of `prepare`; dtype and range stay the same."""
    config = settings_of(PreprocessingConfig, config, "config", optional=False)
    height, width, _ = check_image(image, config.channels)
    return Prepared(image, config, None, sampling_of((height, width), config, pixel_size).shape).pixels()


def check_dtype(image: object, config: PreprocessingConfig) -> None:
    """Check that an image, if it is more than a shape, has the dtype that the network was trained on."""
    if hasattr(image, "dtype") and not isinstance(config, StepsConfig):
        _checked_dtype(image, config)


def _checked_dtype(image: Any, config: PreprocessingConfig) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(image.dtype)
    if (found.kind == "f") != (config.dtype == "float32") or (
        found.kind != "f" and found.newbyteorder("=") != np.dtype(config.dtype)
    ):
        raise invalid(
            ArrayError,
            "image",
            must=f"have dtype {config.dtype}, that of the images that the network was trained on",
            got=str(found),
            fix=f"{_converted(found, config.dtype)} To train on such images, set `preprocessing.dtype`.",
        )
    return found


def _converted(found: np.dtype[Any], wanted: str) -> str:
    """Say how an image comes to the dtype of a network."""
    if wanted == "float32" or found.kind not in "fu":
        return f"Convert its values to the range of the training images, as {wanted}."
    if found.kind == "f":
        how = f"(image * {np.iinfo(wanted).max}).round().astype(numpy.{wanted})"
        return f"If its values are in [0, 1], give {how}."
    return f"If its values fit, give image.astype(numpy.{wanted}); else bring them to that range first."


class Prepared:
    """A prepared image: float32 (h, w, C), computed where it is sliced."""

    def __init__(
        self,
        image: Source,
        config: PreprocessingConfig | dict[str, Any],
        limits: Limits | None = None,
        shape: tuple[int, int] | None = None,
    ) -> None:
        config = settings_of(PreprocessingConfig, config, "config", optional=False)
        if isinstance(config, StepsConfig):
            must, fix = (
                "be a PreprocessingConfig without steps",
                "Predict an array in memory or a file with it.",
            )
            raise invalid(SettingError, "preprocessing", must=must, got="steps of a package", fix=fix)
        height, width, channels = check_image(image, config.channels)
        found = _checked_dtype(image, config)
        seen = shape or (scaled_length(height, config.scale), scaled_length(width, config.scale))
        self.shape: tuple[int, int, int] = (*seen, channels)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._image: Source = image if config.white is None else UpToWhite(image, config.white)
        if seen != (height, width):
            self._image = Resampled(self._image, self.shape)
        largest = config.largest
        if config.sharpen:
            limit = None if found.kind == "f" else largest
            self._image = Sharpened(self._image, config, limit)
        self._rounded = (seen != (height, width) or config.sharpen > 0) and found.kind != "f"
        self._dtype, self._gamma, self._colour = np.dtype(config.dtype), config.gamma, config.colour
        self._to_unit = None if (config.gamma, config.colour) == (1, "rgb") else np.float32(1 / largest)
        if limits is None and config.percentiles is not None:
            limits = percentiles_of(image, config.percentiles)
        low, high = self._range(config, limits)
        # Where few px differ from the others, both percentiles are one value: they are told from it as a
        # share of the dtype's range, and a channel of one value becomes 0.
        wide = np.where(high > low, high - low, largest if self._to_unit is None else 1.0)
        mean, std = np.array(config.mean), np.array(config.std)
        self._factor = (1 / (wide * std)).astype(np.float32)
        self._shift = (-(low / wide + mean) / std).astype(np.float32)

    def _range(self, config: PreprocessingConfig, limits: Limits | None) -> Limits:
        """Return the values, after gamma and colour, that become 0 and 1."""
        largest = config.largest
        if limits is None:
            return np.zeros(1), np.array([largest if self._to_unit is None else 1.0])
        if self._to_unit is None:
            return limits
        low, high = ((one / largest) ** config.gamma for one in limits)
        return (low[::-1], high[::-1]) if config.colour == "bgr" else (low, high)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        prepared: FloatArray = self._read(*key).astype(np.float32)
        if self._to_unit is not None:
            prepared *= self._to_unit
            prepared = _CONVERSIONS[self._colour](_with_gamma(prepared, self._gamma))
        prepared *= self._factor
        prepared += self._shift
        return prepared

    def pixels(self) -> AnyArray:
        """Read the image shrunk and sharpened."""
        pixels = self._read(slice(None), slice(None))
        return np.ascontiguousarray(np.rint(pixels) if self._rounded else pixels, self._dtype)

    def _read(self, rows: slice, columns: slice) -> AnyArray:
        y0, y1, _ = rows.indices(self.shape[0])
        x0, x1, _ = columns.indices(self.shape[1])
        pixels = read_region(self._image, slice(y0, y1), slice(x0, x1))
        return pixels.reshape(*pixels.shape[:2], self.shape[2])

    def __array__(self, dtype: Any = None, copy: Any = None) -> AnyArray:
        return self[0 : self.shape[0], 0 : self.shape[1]].astype(dtype or np.float32, copy=False)


class UpToWhite:
    """An image whose values are checked where it is sliced: none is above that of white."""

    def __init__(self, image: Source, white: int) -> None:
        self.shape: tuple[int, ...] = tuple(image.shape)
        self.dtype: np.dtype[Any] = np.dtype(image.dtype)
        self._image, self._white = image, white

    def __getitem__(self, key: tuple[slice, slice]) -> AnyArray:
        pixels = read_region(self._image, *key)
        if (found := int(pixels.max(initial=0))) > self._white:
            must, fix = (
                f"have values up to `preprocessing.white`={self._white}",
                "Set it to the largest value.",
            )
            raise invalid(ArrayError, "image", must=must, got=found, fix=fix)
        return pixels


def _with_gamma(image: FloatArray, gamma: float) -> FloatArray:
    """Raise values in [0, 1] to a power; negative floats keep their sign."""
    if gamma == 1:
        return image
    return np.copysign(np.power(np.abs(image), np.float32(gamma)), image)


def _hsv(image: FloatArray) -> FloatArray:
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.float32)
    hsv[..., 0] /= 360
    return hsv


def _lab(image: FloatArray) -> FloatArray:
    lab = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2Lab), np.float32)
    return (lab - _LAB_LEAST) / _LAB_SPAN


def _grey(image: FloatArray) -> FloatArray:
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    return np.repeat(grey[..., None], 3, axis=2)


_CONVERSIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "rgb": lambda image: image,
    "bgr": lambda image: np.ascontiguousarray(image[..., ::-1]),
    "hsv": _hsv,
    "lab": _lab,
    "grey3": _grey,
}


def sharpen_margin(config: PreprocessingConfig) -> int:
    """Return how many px around a region its sharpening depends on."""
    return math.ceil(_SIGMAS * config.sharpen_sigma) if config.sharpen else 0


class Sharpened:
    """An image plus its difference from the blurred image, computed where it is sliced."""

    # A margin is read around each region, so that regions join as in the whole image. At its edges the image
    # is mirrored for the blur. Integers stay in the range of their dtype.

    def __init__(self, image: Source, config: PreprocessingConfig, largest: float | None) -> None:
        self.shape: tuple[int, ...] = tuple(image.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._image, self._largest = image, largest
        self._amount, self._sigma, self._margin = config.sharpen, config.sharpen_sigma, sharpen_margin(config)

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        regions = [
            slice(max(0, one.start - self._margin), min(length, one.stop + self._margin))
            for one, length in zip(key, self.shape, strict=False)
        ]
        around = read_region(self._image, regions[0], regions[1])
        check_finite(around, "image", (regions[0].start, regions[1].start))
        inside = tuple(
            slice(one.start - region.start, one.stop - region.start)
            for one, region in zip(key, regions, strict=True)
        )
        around = around.astype(np.float32)
        smooth = blurred(around, self._sigma, 2 * self._margin + 1)[inside]
        plain = around[inside]
        sharp: FloatArray = plain + np.float32(self._amount) * (plain - smooth)
        return sharp if self._largest is None else np.clip(sharp, 0, self._largest, out=sharp)


def blurred(pixels: FloatArray, sigma: float, size: int = 0) -> FloatArray:
    """Blur each channel with a Gaussian, mirrored at the edges; the size of its kernel follows from sigma."""
    wide = pixels.reshape(*pixels.shape[:2], -1)
    smooth = np.empty_like(wide)
    for first in range(0, wide.shape[2], _CHANNELS_AT_ONCE):
        some = slice(first, first + _CHANNELS_AT_ONCE)
        part = np.ascontiguousarray(wide[..., some])
        smooth[..., some] = cv2.GaussianBlur(
            part, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101
        ).reshape(part.shape)
    return smooth.reshape(pixels.shape)


class Stepped(Prepared):
    """An image that is prepared in steps: float32 (h, w, C), computed where it is sliced."""

    def __init__(self, image: Source, config: StepsConfig) -> None:
        height, width, channels = check_image(image, config.channels)
        self.shape: tuple[int, int, int] = (height, width, channels)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._image: Source = image
        self._steps = [(one, _statistic(image, channels, one)) for one in config.steps]

    def __getitem__(self, key: tuple[slice, slice]) -> FloatArray:
        pixels = self._read(*key)
        check_finite(pixels, "image", (key[0].start or 0, key[1].start or 0))
        for step, statistic in self._steps:
            pixels = _OPERATIONS[step.op](pixels, step, statistic)
        return np.ascontiguousarray(pixels, np.float32)


def _cast(pixels: AnyArray, step: PixelStep, _: Limits | None) -> AnyArray:
    with np.errstate(invalid="ignore"):
        return pixels.astype(step.dtype)


def _linear(pixels: AnyArray, step: PixelStep, _: Limits | None) -> AnyArray:
    return pixels * np.asarray(step.gain, np.float64) + np.asarray(step.offset, np.float64)


def _clipped(pixels: AnyArray, step: PixelStep, limits: Limits | None) -> AnyArray:
    low, high = (step.least, step.most) if limits is None else limits
    return np.clip(pixels, low, high)


def _binarized(pixels: AnyArray, step: PixelStep, _: Limits | None) -> AnyArray:
    return pixels > np.asarray(step.threshold)


def _standardized(pixels: AnyArray, step: PixelStep, found: Limits | None) -> AnyArray:
    mean, std = found or (0.0, 1.0)
    return (pixels - mean) / (std + step.eps)


def _ranged(pixels: AnyArray, step: PixelStep, found: Limits | None) -> AnyArray:
    low, high = found or (0.0, 1.0)
    return (pixels - low) / (high - low + step.eps)


def _sigmoid(pixels: AnyArray, _step: PixelStep, _: Limits | None) -> AnyArray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(pixels, np.float64)))


def _softmax(pixels: AnyArray, _step: PixelStep, _: Limits | None) -> AnyArray:
    powers = np.exp(pixels - pixels.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


_OPERATIONS: dict[str, Callable[[AnyArray, PixelStep, Limits | None], AnyArray]] = {
    "cast": _cast,
    "linear": _linear,
    "clip": _clipped,
    "binarize": _binarized,
    "standardize": _standardized,
    "range": _ranged,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}


def _statistic(image: Source, channels: int, step: PixelStep) -> Limits | None:
    """Return what a step needs to know of the whole image, per channel, or once for all channels."""
    if step.op == "standardize":
        return moments_of(image, channels, joint=not step.per_channel)
    if step.op == "range" or (step.op == "clip" and (step.least, step.most) == (None, None)):
        values = quantiles_of(
            image, channels, step.percentiles, joint=not step.per_channel, linear=step.op == "range"
        )
        return values[0], values[1]
    return None
