"""Settings of predictions: how a network is run, which areas are objects, what is written for files."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from tiledseg._validate import invalid
from tiledseg.config.base import Config
from tiledseg.config.fields import Count, Given, Micrometres, Names, as_numbers, as_tuple, or_else
from tiledseg.config.files import ObjectFormats, ReadConfig
from tiledseg.config.tiling import TilingConfig
from tiledseg.errors import SettingError

_NAMES = {
    "black": "#000000", "silver": "#c0c0c0", "gray": "#808080", "grey": "#808080", "white": "#ffffff",
    "maroon": "#800000", "red": "#ff0000", "purple": "#800080", "fuchsia": "#ff00ff", "magenta": "#ff00ff",
    "green": "#008000", "lime": "#00ff00", "olive": "#808000", "yellow": "#ffff00", "navy": "#000080",
    "blue": "#0000ff", "teal": "#008080", "aqua": "#00ffff", "cyan": "#00ffff", "orange": "#ffa500",
}  # fmt: skip
_HEX = re.compile(r"#[0-9a-f]{6}")


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Read a colour."""
    text = _NAMES.get(colour.lower(), colour.lower())
    if not _HEX.fullmatch(text):
        fix = f"Known are {', '.join(_NAMES)}."
        raise invalid(SettingError, "colour", must="be a name or #rrggbb", got=colour, fix=fix)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _known(colour: str) -> str:
    rgb_of(colour)
    return colour


ColourName: TypeAlias = Annotated[str, AfterValidator(_known)]
"""A colour in text."""

AutoThreshold: TypeAlias = Literal["otsu", "triangle"]
"""How a threshold is found on the histogram of an image's own probabilities."""

Product: TypeAlias = Literal[
    "mask", "probs", "overlay", "coloured", "labels", "objects", "geojson", "coco", "roi"
]
"""What is written for an image."""

OBJECT_PRODUCTS: tuple[Product, ...] = ("labels", "objects", "geojson", "coco", "roi")
"""What is made of the objects of an image."""

Engine: TypeAlias = Literal["auto", "keras", "openvino", "onnxruntime"]
"""What runs a Keras network; ``auto`` takes OpenVINO where it can."""

Precision: TypeAlias = Literal["f32", "bf16"]
"""Numbers that a network multiplies; only OpenVINO has ``bf16``."""

Activation: TypeAlias = Literal["sigmoid", "softmax"]
"""What turns logits into probabilities: a sigmoid for each channel, or a softmax over the channels."""

TTA: TypeAlias = Literal["flips", "d4"]
"""Test-time augmentation: a tile and its mirror images along y, x and both; ``d4`` adds their transposes."""

_Inner = Annotated[float, Field(gt=0, lt=1)]
"""A number between 0 and 1."""


class RuntimeConfig(Config):
    """How a network is run."""

    engine: Engine = "auto"
    """What runs a network. ``auto`` takes OpenVINO on a machine without a GPU, if it knows all layers of the
    network and agrees with Keras on a test tile within 1e-4 of the largest output; otherwise Keras."""
    precision: Precision = "f32"
    """Numbers that the network multiplies. ``bf16`` is faster and less accurate. It needs OpenVINO, and 99.9
    % of a test tile must agree with Keras within 0.05 of the largest output, or 0.05."""
    devices: Annotated[tuple[str, ...], as_tuple, Field(min_length=1)] | None = None
    """TensorFlow's names of the devices that run copies of a Keras network at the same time, for example
    ``("GPU:0", "GPU:1")``; None for all GPUs."""
    activation: Activation | None = None
    """Function that turns the network's outputs into probabilities, where they are logits; None where they
    are probabilities, or for the segmenter's own."""
    memory: Count | None = None
    """Bytes that the network may take for its activations; None for half of the free memory."""

    def _check(self) -> None:
        by_keras = self.engine == "keras" or (self.engine == "auto" and self.devices is not None)
        if self.precision == "bf16" and by_keras:
            raise self._invalid(
                "precision",
                "be f32 with engine='keras' or named devices",
                "Use engine='openvino', or set the network's own dtype policy.",
            )


class ObjectsConfig(Config):
    """How objects are extracted from a map.

    Examples
    --------
    >>> ObjectsConfig(min_area=30, fill_holes=True).connectivity
    4
    """

    threshold: _Inner | Annotated[tuple[_Inner, ...], as_tuple] | None = None
    """Probability from which a px belongs to an object, in a map of one class, or of background and
    foreground; None for that of the mask, or 0.5. With more classes a px has the class of its largest
    probability, and class 0 is the background; with a threshold for each of the classes 1, 2, …, a px below
    that of its class is background too."""
    connectivity: Annotated[Literal[4, 8], as_numbers] = 4
    """With 4, px that touch only at a corner belong to different objects; with 8, to the same one."""
    fill_holes: bool = False
    """Whether areas of background that touch only one object, and not the image's border, become part of
    that object. An area that holds other objects is not a hole."""
    split: Literal["none", "watershed"] = "none"
    """Whether objects that touch are split: by the distance to the background, or by a class of the
    network (`boundary_class`, `centre_class`)."""
    split_depth: Annotated[float, Field(gt=0)] = 1.0
    """How far, in px, the distance to the background must rise from the neck between two parts to the lower
    of their peaks, so that they are split. A larger value gives fewer parts."""
    boundary_class: Count | None = None
    """Class of the px between objects: areas of the other classes grow into it, each px to the nearest."""
    centre_class: Count | None = None
    """Class of the centres of objects: each of its areas becomes an object, and grows into the other
    classes. An area without a centre stays one object."""
    split_max_px: Count = 1 << 24
    """Objects whose bounding box has more px are not split; a log message says how many."""
    keep_border: bool = True
    """Whether objects that touch the image's border count."""
    min_area: Annotated[float, as_numbers, Field(ge=0)] = 1
    """Smaller objects are left out. Holes that were filled count as area."""
    max_area: Annotated[float, as_numbers, Field(gt=0)] | None = None
    """Larger objects are left out; None for no limit."""
    area_unit: Literal["px", "um2"] = "px"
    """Unit of `min_area` and `max_area`: px, or µm², which needs the size of a px."""

    def _check(self) -> None:
        if self.max_area is not None and self.max_area < self.min_area:
            raise self._invalid(
                "max_area", f"be at least min_area={self.min_area}", "Use a larger one, or None."
            )
        given = [name for name in ("boundary_class", "centre_class") if getattr(self, name) is not None]
        if given and self.split == "none":
            raise self._invalid(given[0], "be None without splitting", 'Set split="watershed".')
        if len(given) > 1:
            raise self._invalid("centre_class", "be None with a boundary_class", "Give one of them.")


class PredictConfig(ReadConfig):
    """What is written for each image, and how."""

    write: Annotated[tuple[Product, ...], as_tuple, Field(min_length=1)] = ("mask",)
    """What is written, each into a folder of its own: ``mask``, ``probs``, ``overlay``; ``coloured``, masks
    in `mask_colours`; ``labels``, the number of the object of each px; ``objects``, a table of measurements,
    and ``counts.csv`` with the number of objects of each image; ``geojson`` for QuPath; ``coco``, instances;
    ``roi``, ImageJ regions (extra ``roi``). All are written in one pass over the image. Overlays and coloured
    masks are PNG, and need the whole map in memory."""
    mask_format: Literal["png", "tiff", "ome-tiff", "ome-zarr", "npy"] = "png"
    """Format of masks. The last three are written while they are computed, so the image may have any size."""
    mask_colours: Annotated[tuple[ColourName, ...], as_tuple, Field(min_length=2, max_length=256)] | None = (
        None
    )
    """Colours of painted masks: of the background, then of each class, as ``"black"`` or ``"#00ff00"``;
    None for black and the palette of overlays."""
    blur: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Standard deviation, in px of the map, of the Gaussian that blurs probabilities before they are
    thresholded and written; 0 for no blur. Needs the whole map in memory."""
    probs_format: Literal["tiff", "ome-tiff", "ome-zarr", "npy"] = "tiff"
    """Format of probabilities."""
    probs_dtype: Literal["float16", "float32"] | None = None
    """Dtype of probabilities; None for float16 in a TIFF, and float32 in the other formats, which have no
    float16."""
    objects: Given[ObjectsConfig] = or_else(ObjectsConfig())
    """Which areas are one object, and which of them count."""
    labels_format: Literal["ome-tiff", "ome-zarr", "npy"] = "ome-tiff"
    """Format of labels."""
    table_format: Literal["csv", "parquet"] = "csv"
    """Format of tables of objects; Parquet needs the extra ``table``."""
    formats: ObjectFormats = ObjectFormats()
    """How outlines of objects are written for other programs."""
    pixel_size: Micrometres | None = None
    """Height and width in µm of a px of each image (of level 0): one number, or two, (y, x), in place of
    what its file states; None for the file's. Needed where the segmenter was trained at a px size and a
    file states none; outputs state it, too."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | AutoThreshold | None = None
    """Threshold of the probabilities of one class, in (0, 1); None for the segmenter's own, or 0.5.
    ``otsu`` and ``triangle`` compute it for each image from all its probabilities, in 256 levels: every image
    is then divided in two, even one that shows only background."""
    batch_size: Count | None = None
    """Tiles per call of the network; None to choose by memory."""
    runtime: Given[RuntimeConfig] = or_else(RuntimeConfig())
    """Engine, precision, devices and memory."""
    tta: TTA | None = None
    """Test-time augmentation: outputs of a tile and its mirror images are averaged; None for the
    segmenter's own."""
    roi: str | None = None
    """Where to predict; tiles elsewhere are not computed and count as 0. ``tissue`` finds the tissue of a
    bright-field image on a thumbnail. Otherwise a file of outlines (GeoJSON of QuPath, ImageJ ROI, COCO) or
    a mask, or a folder of them, named like the images. None for everywhere."""
    recursive: bool = False
    """Whether folders inside the given folders are searched too."""
    into_image: str | None = None
    """Name under which masks, or labels where no masks are written, also go into the images' own OME-Zarr,
    as labels/NAME; None to leave them unchanged. The image itself is not changed, and an existing name is
    refused."""
    existing: Literal["refuse", "skip", "overwrite"] = "refuse"
    """What to do where an output file exists: refuse before anything is computed; skip the image, unless its
    results are known to come from another model, setting or state of it; or overwrite the file."""
    resume: bool = False
    """Whether a killed run is resumed: its finished images are skipped, its unfinished maps completed.
    What this run writes stays if it is killed. For formats that are written while they are computed."""

    def _check(self) -> None:
        if "probs" in self.write and self.probs_format != "tiff" and self.probs_dtype == "float16":
            raise self._invalid(
                "probs_dtype",
                f"be float32 with probs_format={self.probs_format}",
                "Leave `probs_dtype` out, or set `probs_format` to tiff.",
            )
        if self.resume and isinstance(self.threshold, str):
            must, fix = (
                "be a number with resume: the others are known only at the end",
                "State a threshold.",
            )
            raise self._invalid("threshold", must, fix)
        if self.into_image is not None and (not {"mask", "labels"} & set(self.write) or self.level):
            must = "be left out unless masks or labels of level 0 are written"
            fix = "Add mask or labels to write, with level=0."
            raise self._invalid("into_image", must, fix)
        streamed = {"mask": self.mask_format, "probs": self.probs_format}
        maps = [what for what in self.write if what not in OBJECT_PRODUCTS]
        whole = [what for what in maps if streamed.get(what, "png") in {"png", "tiff"}]
        if self.blur and len(whole) < len(maps):
            must, fix = (
                "be 0 where a map is streamed",
                "Write masks as png, probs as tiff.",
            )
            raise self._invalid("blur", must, fix)
        if self.resume and len(maps) < len(self.write) and "probs" not in self.write:
            must = "hold probs to resume objects, which are made of the finished map"
            fix = "Add probs, with `probs_format` ome-tiff, ome-zarr or npy."
            raise self._invalid("write", must, fix)
        if self.resume and whole:
            raise self._invalid(
                "resume",
                "be off unless every output is written while it is computed",
                "Set `mask_format` and `probs_format` to ome-tiff, ome-zarr or npy, without overlays.",
                got=f"{whole[0]} as {streamed.get(whole[0], 'png')}",
            )


class PredictJobConfig(PredictConfig):
    """What is predicted by what, what is written for each image, and how."""

    model: str | None = None
    """Folder of a bundle, or a .keras file."""
    trust: bool = False
    """Whether to load a .keras file, because you know who made it."""
    inputs: Names = ()
    """Image files, and folders of them."""
    output: str | None = None
    """Folder to write to; it is created where it is missing."""
    tiling: Given[TilingConfig | None] = or_else(None)
    """How images are tiled; None for the model's own."""
