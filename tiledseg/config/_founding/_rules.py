"""What each key of the founding experiment's configuration is called here, or why it is not needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from tiledseg.config._networks import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DROPPED", "DROPPED_SECTIONS", "PUT", "UNUSABLE", "Put", "method_of"]


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
