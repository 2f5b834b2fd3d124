"""What a package of a model says of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tiledseg.config.base import Config
from tiledseg.config.fields import Names, as_numbers, as_tuple
from tiledseg.config.preprocessing import PreprocessingConfig


class PackageConfig(Config):
    """What a BioImage.IO package says of its model: who made it, and how it may be used."""

    title: Annotated[str, Field(max_length=128, pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_+\- ()]*$")] = "segmenter"
    """Name of the model: letters, digits, spaces and ``_+-()``."""
    description: Annotated[str, Field(max_length=1024)] = ""
    """What it segments; made from the labels where it is left out."""
    authors: Annotated[Names, Field(min_length=1)]
    """Names of the authors."""
    license: Annotated[str, Field(min_length=1, max_length=100)]
    """Licence of the weights as an SPDX identifier, for example ``CC-BY-4.0``."""
    cite: Names = ()
    """Publications to cite, each ending in its DOI or URL: ``"Author (2026). Title. 10.1234/5678"``."""
    tags: Names = ()
    """Words by which it is found."""
    documentation: Annotated[str, Field(max_length=1_000_000)] = ""
    """Text in Markdown: training data, limits, how it was validated."""


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
