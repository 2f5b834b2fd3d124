"""Settings of the preparation of pixels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tiledseg.config.base import Config
from tiledseg.config.fields import Count, Micrometres, Positive, as_numbers, as_tuple

_MOST_STEPS = 2**24  # whole numbers that float32 holds
_MOST_STD = 1e30
_LARGEST = {"uint8": 255, "uint16": 65535, "float32": 1}


class PreprocessingConfig(Config):
    """The one preparation of pixels, the same in training and prediction."""

    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    """Dtype of the images. Integers are divided by `white`; floats stay."""
    white: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Value of white, for example 4095 for a camera of 12 bits whose images are uint16; an image with a value
    above it is refused. None for the largest of the dtype."""
    channels: Count = 3
    """Channels of the images: 3 for RGB, 1 for grey."""
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor in (0, 1] by which an image is shrunk (area average) before tiling; the probabilities are
    enlarged by the same factor afterwards."""
    pixel_size: Micrometres | None = None
    """Height and width in µm of a px of the training images (before `scale`): one number, or two, (y, x).
    An image of another px size is brought to it, enlarged where it has to be. Sizes within 2 % count as
    the same. None: px sizes do not count."""
    sharpen: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Unsharp masking of the shrunk image: its difference from the blurred image is added to it, times
    this factor; 0 for none. Integers stay in their range. Tiles of a tile set count as images."""
    sharpen_sigma: Annotated[float, Field(gt=0, le=50)] = 1.0
    """Standard deviation of that blur in px of the shrunk image."""
    gamma: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Power of the shares of white (values divided by `white`; floats as they are) after that; 1 changes
    nothing, more than 1 darkens."""
    colour: Literal["rgb", "bgr", "hsv", "lab", "grey3"] = "rgb"
    """What RGB is converted to after that. ``hsv``: hue as a share of the circle. ``lab``: CIELAB of sRGB,
    L / 100, (a + 128) / 255 and (b + 128) / 255. ``grey3``: the luma of Rec. 601, three times."""
    percentiles: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], as_numbers] | None = None
    """In place of the division: two percentiles of the whole image, per channel, that become 0 and 1;
    nothing is cut off. Where both are the same value, as in an image that is almost black, it becomes 0, and
    the others are divided by `white`. Of the image as it is read, after `gamma`. For uint8 and
    uint16. Tiles of a tile set count as images."""
    mean: Annotated[tuple[float, ...], as_numbers] = (0.0,)
    """Value that is subtracted from each channel after that; one for all channels, or one for each."""
    std: Annotated[tuple[Positive, ...], as_numbers] = (1.0,)
    """Value by which each channel is divided after that; one for all channels, or one for each; positive."""

    @property
    def largest(self) -> float:
        """The value that becomes 1: `white`, or the largest of the dtype."""
        return float(self.white or _LARGEST[self.dtype])

    def _check(self) -> None:
        self._check_white()
        self._check_lengths()
        self._check_distinct()
        self._check_percentiles()
        self._check_colour()

    def _check_white(self) -> None:
        if self.white is not None and (self.dtype == "float32" or self.white > _LARGEST[self.dtype]):
            must = f"be at most {_LARGEST['uint8']} with dtype=uint8, and left out with dtype=float32"
            raise self._invalid("white", must, "Set `dtype` to that of the images.")

    def _check_lengths(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, self.channels}:
                fix = "Give one value for all channels, or one for each."
                raise self._invalid(name, f"have 1 or {self.channels} values", fix)

    def _check_distinct(self) -> None:
        """Refuse what leaves of the values of an image none that float32 can tell apart."""
        for mean in self.mean:
            least = min(self.std) if self.dtype == "float32" else min(*self.std, 1.0)
            if abs(mean) > _MOST_STEPS * least:
                must = f"be at most {_MOST_STEPS} times std, or float32 cannot tell values apart"
                raise self._invalid("mean", must, "Give the mean of the images' values, from 0 to 1.")
        if not 1 / _MOST_STD <= min(self.std) <= max(self.std) <= _MOST_STD:
            fix = "Give the standard deviation of the images' values, from 0 to 1."
            raise self._invalid("std", f"be from {1 / _MOST_STD:g} to {_MOST_STD:g}, for float32", fix)

    def _check_percentiles(self) -> None:
        if self.percentiles is None:
            return
        if len(self.percentiles) != 2 or self.percentiles[0] >= self.percentiles[1]:
            raise self._invalid("percentiles", "be two, the first below the second", "Try (1.0, 99.0).")
        if self.dtype == "float32":
            raise self._invalid(
                "percentiles",
                "be left out with dtype=float32, for which they are not exact",
                "Scale floats to their range yourself.",
            )

    def _check_colour(self) -> None:
        if self.colour == "rgb":
            return
        if self.channels != 3:
            must, got, fix = (
                "be rgb, since other colours take 3 channels",
                f"{self.channels} of them",
                "Leave it out.",
            )
        elif self.colour in {"hsv", "lab"} and self.dtype == "float32":
            must, got = "be rgb, bgr or grey3 with dtype=float32, whose range is not known", self.colour
            fix = "Convert floats yourself."
        elif self.colour != "bgr" and self.percentiles is not None:
            must, got = "be rgb or bgr with percentiles, which are taken per channel", self.colour
            fix = "Leave one of them out."
        else:
            return
        raise self._invalid("colour", must, fix, got=got)


class PixelStep(Config):
    """One step of a preparation of px, as a BioImage.IO package states it."""

    op: Literal["cast", "linear", "clip", "binarize", "standardize", "range", "sigmoid", "softmax"]
    """``linear``: times `gain` plus `offset`. ``standardize``: minus the mean, over the standard deviation.
    ``range``: two percentiles become 0 and 1. Statistics are those of the whole image as it is read."""
    gain: Annotated[tuple[float, ...], as_numbers] = (1.0,)
    """What px are multiplied by in ``linear``: one number, or one for each channel."""
    offset: Annotated[tuple[float, ...], as_numbers] = (0.0,)
    """What is added in ``linear``: one number, or one for each channel."""
    least: float | None = None
    """Lower bound of ``clip``."""
    most: float | None = None
    """Upper bound of ``clip``."""
    threshold: Annotated[tuple[float, ...], as_numbers] = (0.5,)
    """Px above it become 1 in ``binarize``: one number, or one for each channel."""
    percentiles: Annotated[tuple[float, ...], as_numbers] = (0.0, 100.0)
    """Percentiles that become 0 and 1 in ``range``, in [0, 100]."""
    per_channel: bool = False
    """Whether statistics are those of each channel, or of all channels together."""
    eps: float = 1e-6
    """What is added to a divisor."""
    dtype: str = "float32"
    """NumPy's name of the dtype that ``cast`` gives."""


class StepsConfig(PreprocessingConfig):
    """A preparation of px in steps, for networks of other libraries; it takes px of any dtype."""

    steps: Annotated[tuple[PixelStep, ...], as_tuple] = ()
    """What is done, in this order."""
