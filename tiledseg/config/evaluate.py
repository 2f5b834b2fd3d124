"""Settings of evaluation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiledseg.config.base import Config
from tiledseg.config.fields import Count, Given, Micrometres, Named, NotNegative, Regex, or_else
from tiledseg.config.losses import AnyLossConfig
from tiledseg.config.predict import TTA, ObjectsConfig, RuntimeConfig
from tiledseg.config.tiling import TilingConfig


class EvaluateConfig(Config):
    """How a segmenter is scored."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["valid"] | None = None
    """Threshold of probabilities, in (0, 1); ``"valid"`` for the one with the highest mean Dice
    on the validation images; None for the segmenter's own."""
    tiling: Given[TilingConfig | None] = or_else(None)
    """How images are tiled; None for the segmenter's own."""
    batch_size: Count | None = None
    """Tiles per call of the network; None to choose by memory."""
    runtime: Given[RuntimeConfig] = or_else(RuntimeConfig())
    """Engine, precision, devices and memory."""
    tta: TTA | None = None
    """Test-time augmentation: outputs of a tile and its mirror images are averaged; None for the
    segmenter's own."""
    pixel_size: Micrometres | None = None
    """Height and width in µm of a px of each image: one number, or two, (y, x), in place of what its file
    states. Needed where the segmenter was trained at a px size and an image states none."""
    boundary_px: NotNegative | None = None
    """How near two outlines must be to agree, in px; None for 0.75 % of the image's diagonal."""
    cell_px: Count | None = None
    """Smaller areas, in px, do not count as cells, in truth and prediction; None for a twentieth of a typical
    true cell of the image. The report says how many were left out."""
    objects: Given[ObjectsConfig | None] = or_else(None)
    """How predicted cells are made of the labels of a map, for example split; None for its connected
    areas."""
    loss: Named[AnyLossConfig] = or_else(None)
    """Loss that is computed beside the scores, of each stitched map as one sample: its settings or its name;
    None for the one that the segmenter was trained with, with its class weights."""
    group_regex: Regex | None = None
    """Regular expression that finds in an image's name what it shares with others, for example its slide; its
    first group, or all that it finds. Intervals then draw whole groups. None where each image is its
    own group."""

    @model_validator(mode="after")
    def _cut_once(self) -> Self:
        cut = None if self.objects is None else self.objects.threshold
        if cut is not None:
            must = "be left out, since cells are made of the labels that are scored"
            raise self._invalid("objects.threshold", must, "Set `threshold` of the evaluation.", got=cut)
        return self


def _several(value: object) -> object:
    """Turn one name, and a list of names, into a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value or ()


class EvaluateJobConfig(EvaluateConfig):
    """What is scored, how, and what is written of it."""

    model: str | None = None
    """Folder of a bundle, a .keras file, or ``maps:FOLDER`` for maps that were computed before."""
    trust: bool = False
    """Whether to load a .keras file, because you know who made it."""
    against: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    """Other models, which are compared with the first on the same images."""
    ensemble: bool = False
    """Whether the mean of the maps of all these models is scored as well."""
    output: str | None = None
    """New folder for tables, pictures and ``report.html``; None to only print a table."""
    pictures: Annotated[int, Field(ge=0, le=1000)] = 8
    """How many of the worst images are drawn, from 0."""
    triples: bool = False
    """Whether input, truth and prediction of every image are drawn: all on ``sheet.png``, and each enlarged
    in ``triples/``. Needs `output`."""
    tile_px: Count | None = None
    """Tile size in px with which earlier maps were computed, for the seam ratio; None for no ratio."""
