"""The keys of the founding experiment's configuration: what each comes to here, or why it is not needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

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
from tiledseg.config.networks import NetworkConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tiledseg.config.augment import TransformConfig


def _same(value: object) -> object:
    return value


def _one_number(value: object) -> object:
    """Take one number out of what may be a pair of the same two."""
    parts = set(value) if isinstance(value, tuple | list) else {value}
    if len(parts) != 1:
        raise ValueError("the two axes must be alike here")
    return parts.pop()


def _real(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _switch(on: object, off: object) -> Callable[[object], object]:
    def convert(value: object) -> object:
        if value in (True, False):
            return on if value else off
        raise ValueError("known are True, False")

    return convert


def _lower(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be text")  # noqa: TRY004  one more value that cannot be used
    return value.lower()


def _loss(value: object) -> object:
    name = _lower(value).removesuffix("_loss")
    return {"basnet_hybrid": "basnet"}.get(name, name)


def _metrics(value: object) -> object:
    """Take names like ``val_iou_coef``; ``dice`` is always there, and ``val_`` as well."""
    if not isinstance(value, list | tuple):
        raise ValueError("it must be a list of names")  # noqa: TRY004  one more value that cannot be used
    names = [_lower(one).removeprefix("val_").removesuffix("_coef") for one in value]
    return tuple(dict.fromkeys({"binary_accuracy": "accuracy"}.get(name, name) for name in names))


def threshold_method(value: object) -> str:
    """Turn OpenCV's name of a method that finds a threshold into ours."""
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
    wanted = _lower(value).removeprefix("tensorflow")
    names = [str(one.model_fields["name"].default) for one in get_args(get_args(NetworkConfig)[0])]
    for name in names:
        if name.replace("_", "") == wanted:
            return name
    raise ValueError("there is no such architecture here")


def _inputs(value: object) -> object:
    return (_lower(value) and value,)


def _overlap(value: object) -> object:
    if not isinstance(value, int) or value < 0:
        raise ValueError("it must be a number of px")
    return 2 * value


def _colour(value: object) -> object:
    """Turn OpenCV's name of a conversion from its own order of channels into ours."""
    name = str(value).removeprefix("cv2.").upper()
    colours = {"BGR2RGB": "rgb", "BGR2HSV": "hsv", "BGR2LAB": "lab", "BGR2GRAY": "grey3"}
    known = {f"COLOR_{theirs}": ours for theirs, ours in colours.items()}
    if name not in known:
        raise ValueError(f"known are {', '.join(f'cv2.{one}' for one in known)}")
    return known[name]


def _sharpen(value: object) -> object:
    """Turn k of the kernel with 1 + 8k amid -k: 9k times the difference from the mean of 3 x 3 px."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it must be a number")  # noqa: TRY004  one more value that cannot be used
    return {"sharpen": 9.0 * value, "sharpen_sigma": round(math.sqrt(2 / 3), 3)}


def _write(value: object) -> object:
    return ("mask", "overlay") if value else ("mask",)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the value of a key goes."""

    settings: str  # as in ``train.network.levels``; several are set apart by spaces
    convert: Callable[[object], object] = _same  # a ValueError says why a value cannot be used
    note: str = ""  # what else is to know
    may_be_off: bool = False  # whether None, 0, False and "" switch it off, as it is without the setting


_MASKS = " ".join(f"{table}.mask_threshold" for table in ("train_data", "valid_data", "test_data"))

CONVERTED: dict[str, Place] = {
    "model.model": Place("train.network.name", _network),
    "model.num_classes": Place("train.network.classes", note="each class needs a name in train.labels"),
    "model.base_filters": Place("train.network.base_filters"),
    "model.base_kernels": Place("train.network.base_kernel", _one_number),
    "model.num_layers": Place("train.network.levels"),
    "model.dropout_rate": Place("train.network.dropout", _real, "of level i it is that times i, as there"),
    "model.dilation": Place("train.network.dilation", _one_number),
    "model.normalization": Place("train.network.norm", _switch("batch", "none")),
    "model.activation": Place("train.network.activation", _lower),
    "model.final_activation": Place("train.network.final_activation", _lower),
    "model.learning_rate": Place("train.learning_rate", _real),
    "model.clipvalue": Place("train.clip", _real),
    "model.optimizer": Place("train.optimizer.name", _lower),
    "model.loss": Place("train.loss.name", _loss),
    "model.metrics": Place("train.metrics", _metrics),
    "train.metrics": Place("train.metrics", _metrics),
    "train.epochs": Place("train.epochs"),
    "train.batch_size": Place("train.batch_size"),
    "train.steps_per_epoch": Place("train.steps_per_epoch"),
    "train.patience": Place("train.patience"),
    "train.learning_rate_reducer": Place("train.schedule.name", _switch("plateau", "constant")),
    "train.reducer_factor": Place("train.schedule.factor", _real),
    "train.reducer_patience": Place("train.schedule.patience"),
    "train.epoch_change_tiledinfer": Place("train.preview_every", _switch(1, None)),
    "train.num_infer_images": Place("train.preview_images"),
    "train.model_dir": Place("train.runs_dir", note="each run makes a new folder there"),
    "train.image_datapath": Place("train_data.images"),
    "train.mask_datapath": Place("train_data.masks"),
    "eval.image_datapath": Place("valid_data.images"),
    "eval.mask_datapath": Place("valid_data.masks"),
    "valid.image_datapath": Place("valid_data.images"),
    "valid.mask_datapath": Place("valid_data.masks"),
    "test.image_datapath": Place("test_data.images"),
    "test.mask_datapath": Place("test_data.masks"),
    "mask.threshold": Place(_MASKS),
    "tiledinfer.overlapping": Place(
        "predict.tiling.overlap train.tiling.overlap",
        _overlap,
        "a margin on each side is an overlap of twice as much",
    ),
    "tiledinfer.images_dir": Place("predict.inputs", _inputs),
    "tiledinfer.output_dir": Place("predict.output"),
    "tiledinfer.merged_dir": Place("predict.write", _write, "below the output folder"),
    "tiledinfer.threshold": Place("predict.threshold", _share_of_255, "of 255 there"),
    "tiledinfer.algorithm": Place(
        "predict.threshold",
        threshold_method,
        "found for each image; stands above tiledinfer.threshold",
        may_be_off=True,
    ),
    "image.color_converter": Place(
        "train.preprocessing.colour",
        _colour,
        "comes after gamma; each in [0, 1], the hue too",
        may_be_off=True,
    ),
    "image.gamma": Place("train.preprocessing.gamma", _real, may_be_off=True),
    "image.sharpening": Place(
        "train.preprocessing",
        _sharpen,
        "a Gaussian as wide as the mean of 3 x 3 px; comes before gamma and colour",
        may_be_off=True,
    ),
}
"""Keys that have a setting here."""

_FOLDER = "what a run makes is in its own new folder"
_FORMAT = "the first bytes of a file say what it is"
_LABELS = "masks are labels: cut at the threshold, never blurred"
_COLOURS = "masks are written as labels; predict.mask_colours paints them"
_PREPARED = "prepared as in training"
_NOTHING = "there is nothing to switch"
_WHOLE = "a whole image is predicted in tiles; to see it shrunk, set train.preprocessing.scale"

DROPPED: dict[str, str] = {
    "model.show_summary": "each run writes it, as model.txt; train.diagram draws the network as well",
    "model.input_normalize": "pixel values are always divided by the largest of their dtype",
    "dataset.datasetclass": "images are paired by stem",
    "dataset.datasets_class": "images are paired by stem",
    "dataset.color_order": "images are RGB in training and in use",
    "dataset.resize_interpolation": "images are cropped, not resized",
    "dataset.image_format": _FORMAT,
    "dataset.mask_format": _FORMAT,
    "dataset.debug": _NOTHING,
    "generator.debug": _NOTHING,
    "train.validation_steps": "validation covers each image once",
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
    "tiledinfer.binarize": "a mask is always cut; probabilities are written with predict.write",
    "tiledinfer.background": _COLOURS,
    "tiledinfer.mask_colorize": _COLOURS,
    "tiledinfer.color_converter": _PREPARED,
    "tiledinfer.gamma": _PREPARED,
    "tiledinfer.sharpening": _PREPARED,
    "segmentation.blursize": _COLOURS,
    "distortion.gaussian_filter_sigma": "one smooth field is drawn, with one sigma",
    "infer": _WHOLE,
}
"""Keys, and a section, that are not needed here, and why."""

UNUSABLE: dict[str, str] = {
    "tiledinfer.blur": "how wide it was is not said there: set predict.blur, its sigma in px",
}
"""Keys whose meaning is lost here, and why."""

_CHANCE = 0.3  # the experiment made a sample of each transform; here one sample meets some of them
_SIGMAS = ("deformation.sigmoid", "deformation.sigmoids", "deformation.sigma")
_LENSES = {"barrdistortion": 1, "pincdistortion": -1}  # and the sign of the amount
_AUGMENTOR = {
    "augmentor": "hflip vflip rotation angles shrinks shears deformation distortion barrdistortion "
    "pincdistortion sharpening brightening",
    "deformation": "alpha sigma sigmoid sigmoids",
    "distortion": "gaussian_filter_rsigma distortions",
    "barrdistortion": "radius amount centers",
    "pincdistortion": "radius amount centers",
    "sharpening": "k",
    "brightening": "alpha beta",
}  # sections beside `augmentor` count where its switch of that name is on
AUGMENTOR_KEYS = {f"{section}.{key}" for section, keys in _AUGMENTOR.items() for key in keys.split()}
"""Keys that describe transforms."""


def transforms_of(values: dict[str, Any]) -> tuple[list[TransformConfig], dict[str, str]]:
    """Make the transforms that an augmentor switches on; say which of them cannot be made, and why."""
    transforms: list[TransformConfig] = []
    problems: dict[str, str] = {}
    flips = [0.5 if values.get(f"augmentor.{key}") is True else 0.0 for key in ("hflip", "vflip")]
    if any(flips):
        transforms.append(FlipConfig(horizontal=flips[0], vertical=flips[1]))
    for kind, make in _MAKERS.items():
        if values.get(f"augmentor.{kind}"):
            try:
                transforms.append(make(values))
            except (TypeError, ValueError, KeyError, IndexError, SettingError) as error:
                problems[kind] = f"its values cannot be used ({type(error).__name__}: {error})"
    return transforms, problems


def _elastic(values: dict[str, Any]) -> TransformConfig:
    sigma = next((_first(values[key]) for key in _SIGMAS if key in values), 8.0)
    return ElasticConfig(alpha=float(values.get("deformation.alpha", 1300)), sigma=sigma, probability=_CHANCE)


def _warp(values: dict[str, Any]) -> TransformConfig:
    magnitude = _first(values.get("distortion.distortions", 0.02))
    sigma = float(values.get("distortion.gaussian_filter_rsigma", 40))
    return WarpConfig(magnitude=magnitude, sigma=sigma, probability=_CHANCE)


def _lens(values: dict[str, Any], kind: str) -> TransformConfig:
    amount = _LENSES[kind] * abs(float(values.get(f"{kind}.amount", 0.3)))
    radius = float(values.get(f"{kind}.radius", 0.3))
    lens = LensConfig(amounts=(amount, amount), radius=radius, probability=_CHANCE)
    centres = values.get(f"{kind}.centers")
    return lens if centres is None else lens.changed(centres=tuple(map(_floats, centres)))


def _brightness(values: dict[str, Any]) -> TransformConfig:
    gains = _range([values.get("brightening.alpha", 1.2)])
    offsets = _range([values.get("brightening.beta", 10) / 255])
    return BrightnessConfig(gains=gains, offsets=offsets, probability=_CHANCE)


_MAKERS: dict[str, Callable[[dict[str, Any]], TransformConfig]] = {
    "rotation": lambda v: RotateConfig(angles=_floats(v["augmentor.angles"]), probability=0.5),
    "shrinks": lambda v: ZoomConfig(factors=_range(v["augmentor.shrinks"]), probability=_CHANCE),
    "shears": lambda v: ShearConfig(degrees=_degrees(v["augmentor.shears"]), probability=_CHANCE),
    "deformation": _elastic,
    "distortion": _warp,
    "barrdistortion": lambda v: _lens(v, "barrdistortion"),
    "pincdistortion": lambda v: _lens(v, "pincdistortion"),
    "sharpening": lambda v: SharpenConfig(amounts=_range([v.get("sharpening.k", 1.0)]), probability=_CHANCE),
    "brightening": _brightness,
}


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
