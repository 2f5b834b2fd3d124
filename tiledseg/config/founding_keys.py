"""The keys of the founding experiment's configuration: what each becomes here, or why it is not needed."""

from __future__ import annotations

import math
import operator
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tiledseg.config.augment import FlipConfig, augmenting
from tiledseg.config.fields import names_of
from tiledseg.config.networks import NetworkConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg.config.augment import TransformConfig

_Values: TypeAlias = dict[str, Any]  # by section and key, or by setting as in ``train.network.levels``
_Convert: TypeAlias = "Callable[[Any], object]"

_ALIASES = {name.replace("_", ""): name for name in names_of(NetworkConfig)} | {
    "basnet_hybrid": "basnet",
    "binary_crossentropy": "bce",
    "binary_accuracy": "accuracy",
    "bgr2rgb": "rgb",
    "bgr2hsv": "hsv",
    "bgr2lab": "lab",
    "bgr2gray": "grey3",
}
_AROUND = re.compile(r"^(tensorflow|val_|cv2\.thresh_|cv2\.color_|thresh_|color_)|_(loss|coef)$")


class NotNeeded(Exception):
    """A key has no effect in this file."""


class Rule(NamedTuple):
    """What some keys become together."""

    keys: tuple[str, ...]
    convert: Callable[[_Values], _Values]  # all values of the file to settings; NotNeeded, ValueError
    note: str = ""  # what else a user needs to know


def _expect(fits: object, text: str) -> None:
    if not fits:
        raise ValueError(text)


def _name(value: object) -> str:
    """Return our name: ``TensorflowAttentionUNet`` is ``attention_unet``, ``val_iou_coef`` is ``iou``."""
    bare = _AROUND.sub("", str(value).lower())
    return _ALIASES.get(bare, bare)


def _one_number(value: Any) -> object:
    """Return the one number of a pair, whose two have to be equal."""
    parts = set(value) if isinstance(value, tuple | list) else {value}
    _expect(len(parts) == 1, "the two axes must be alike here")
    return parts.pop()


def _switch(on: object, off: object) -> _Convert:
    def convert(value: object) -> object:
        _expect(value in (True, False), "known are True, False")
        return on if value else off

    return convert


def _names(value: Any) -> object:
    _expect(isinstance(value, list | tuple), "it must be a list of names")
    return tuple(dict.fromkeys(map(_name, value)))


def _unless_off(convert: _Convert = lambda value: value) -> _Convert:
    """Convert a value unless it switches the key off."""

    def converted(value: Any) -> object:
        if value in (None, 0, "", "none", "None"):
            raise NotNeeded("it is off")
        return convert(value)

    return converted


def _to(key: str, settings: str, convert: _Convert = lambda value: value, note: str = "") -> Rule:
    """Give the value of one key to one setting or several, whose names stand apart by spaces."""
    return Rule((key,), lambda values: dict.fromkeys(settings.split(), convert(values[key])), note)


def _reducer(key: str, setting: str) -> Rule:
    def convert(values: _Values) -> _Values:
        if values.get("train.learning_rate_reducer") is not True:
            raise NotNeeded("train.learning_rate_reducer does not switch it on")
        return {setting: values[key]}

    return Rule((key,), convert)


def _size(values: _Values) -> _Values:
    _expect(all(key in values for key in _SIZE), f"all of {', '.join(_SIZE)} are needed")
    height, width, channels = (values[key] for key in _SIZE)
    tiles = dict.fromkeys(("train.tiling.tile_size", "predict.tiling.tile_size"), (height, width))
    shape = {"train.network.input_shape": (height, width, channels)}
    return {**shape, **tiles, "train.preprocessing.channels": channels}


def _classes(values: _Values) -> _Values:
    classes = values["model.num_classes"]
    several = isinstance(classes, int) and 1 < classes < 256
    labels = {"train.labels": tuple(f"class {number}" for number in range(classes))} if several else {}
    return {"train.network.classes": classes} | labels


def _threshold(values: _Values) -> _Values:
    value = values["tiledinfer.threshold"]
    if _name(values.get("tiledinfer.algorithm")) in {"otsu", "triangle"}:
        raise NotNeeded("tiledinfer.algorithm finds one")
    return {"predict.threshold": None if value is None else round(value / 255, 6)}


def _blur(value: object) -> None:
    raise ValueError(f"{value} does not say its width; set predict.blur, the sigma in px")


def _sharpen(values: _Values) -> _Values:
    """Convert the strength: 1 + 8k amid -k adds 9k times the difference from the mean of 3 x 3 px."""
    value: Any = _unless_off()(values["image.sharpening"])
    _expect(type(value) in {int, float}, "it must be a number")
    table = "train.preprocessing."
    return {f"{table}sharpen": 9.0 * value, f"{table}sharpen_sigma": round(math.sqrt(2 / 3), 3)}


def _written(values: _Values) -> _Values:
    overlay = ("overlay",) if values.get("tiledinfer.merged_dir") else ()
    coloured = ("coloured",) if values.get("segmentation.colorize") is True else ()
    return {"predict.write": ("mask", *overlay, *coloured)}


def _colours(values: _Values) -> _Values:
    if values.get("segmentation.colorize") is not True:
        raise NotNeeded("segmentation.colorize does not switch it on")
    colours = (values.get("segmentation.black") or "black", values.get("segmentation.white") or "white")
    return _written(values) | {"predict.mask_colours": colours}


def _is_augmented(values: _Values) -> bool:
    switches = [values[key] for key in _SWITCHES if key in values]
    return bool(switches) and all(value is True for value in switches)


def _augmented(kind: str) -> Rule:
    """Make the rule of all keys of one transform."""
    switches = [f"augmentor.{name}" for name in kind.split()]
    parameters, usual = _PARAMETERS[kind], _TRANSFORMS[kind]

    def convert(values: _Values) -> _Values:
        if not _is_augmented(values):
            raise NotNeeded("no generator switches augmentation on")
        if not any(map(values.get, switches)):
            raise NotNeeded(f"{' and '.join(switches)} is off")
        stated = {key: way for key, way in parameters.items() if values.get(key) is not None}
        _expect(stated or kind != "rotation", "augmentor.angles is needed")
        # of several keys for one setting, the last one counts
        given = {name: convert(values[key]) for key, (name, convert) in stated.items()}
        return {"train.augment": (usual.changed(**given),)}

    return Rule(tuple(dict.fromkeys([*switches, *parameters])), convert)


def _twice(value: Any) -> int:
    return 2 * operator.index(value)


def _share(value: object) -> float:
    return 0.5 * bool(value)


def _floats(values: Any) -> Any:  # a tuple of as many floats
    return tuple(map(float, values))


def _first(value: Any) -> float:
    """Return a number, or the first of a list: this package draws one strength for all samples."""
    return float(value[0] if isinstance(value, list | tuple) else value)


def _degrees(values: Any) -> tuple[float, float]:
    """Turn the tangents of shears into degrees, to either side."""
    most = math.degrees(math.atan(max(map(abs, _floats(values)))))
    return -most, most


_SIZE = ("model.image_height", "model.image_width", "model.image_channels")
_SWITCHES = ("generator.augmentation", "generator.generator", "model.generator", "train.generator")
_SIDES = "a margin on each side is an overlap of twice as much"
_PAINT = ("segmentation.colorize", "segmentation.black", "segmentation.white")

_PARAMETERS: dict[str, dict[str, tuple[str, _Convert]]] = {
    "hflip vflip": {"augmentor.hflip": ("horizontal", _share), "augmentor.vflip": ("vertical", _share)},
    "rotation": {"augmentor.angles": ("angles", _floats)},
    "shrinks": {"augmentor.shrinks": ("factors", lambda value: (min(_floats(value)), max(_floats(value))))},
    "shears": {"augmentor.shears": ("degrees", _degrees)},
    "deformation": {
        "deformation.alpha": ("alpha", float),
        "deformation.sigma": ("sigma", _first),
        "deformation.sigmoids": ("sigma", _first),
        "deformation.sigmoid": ("sigma", _first),
    },
    "distortion": {
        "distortion.distortions": ("magnitude", _first),
        "distortion.gaussian_filter_rsigma": ("sigma", float),
    },
    "barrdistortion": {
        "barrdistortion.radius": ("radius", float),
        "barrdistortion.amount": ("amounts", lambda value: (abs(float(value)),) * 2),
        "barrdistortion.centers": ("centres", lambda value: tuple(map(_floats, value))),
    },
    "pincdistortion": {
        "pincdistortion.radius": ("radius", float),
        "pincdistortion.amount": ("amounts", lambda value: (-abs(float(value)),) * 2),
        "pincdistortion.centers": ("centres", lambda value: tuple(map(_floats, value))),
    },
    "sharpening": {"sharpening.k": ("amounts", lambda value: (float(value),) * 2)},
    "brightening": {
        "brightening.alpha": ("gains", lambda value: (float(value),) * 2),
        "brightening.beta": ("offsets", lambda value: (value / 255,) * 2),
    },
}
"""The transforms in their order, and the keys that describe each: into which of its settings, and how."""

_OFF = FlipConfig(horizontal=0.0, vertical=0.0)
_TRANSFORMS: dict[str, TransformConfig] = dict(
    zip(_PARAMETERS, (_OFF, *augmenting("founding", channels=3)[1:]), strict=True)
)

_RULES = [
    _to("model.model", "train.network.name", _name),
    Rule(("model.num_classes",), _classes, "train.labels names the classes"),
    _to("model.loss", "train.loss.name", _name),
    _to("model.base_filters", "train.network.base_filters"),
    _to("model.base_kernels", "train.network.base_kernel", _one_number),
    _to("model.num_layers", "train.network.levels"),
    _to("model.dropout_rate", "train.network.dropout", note="at level i it is that times i, as there"),
    _to("model.dilation", "train.network.dilation", _one_number),
    _to("model.normalization", "train.network.norm", _switch("batch", "none")),
    _to("model.activation", "train.network.activation", _name),
    _to("model.final_activation", "train.network.final_activation", _name),
    Rule(_SIZE, _size),
    _to("model.learning_rate", "train.learning_rate"),
    _to("model.clipvalue", "train.clip"),
    _to("model.optimizer", "train.optimizer.name", _name),
    _to("model.metrics", "train.metrics", _names),
    _to("train.metrics", "train.metrics", _names),
    *(_to(f"train.{key}", f"train.{key}") for key in ("epochs", "batch_size", "steps_per_epoch", "patience")),
    _to("train.learning_rate_reducer", "train.schedule.name", _switch("plateau", "constant")),
    _reducer("train.reducer_factor", "train.schedule.factor"),
    _reducer("train.reducer_patience", "train.schedule.patience"),
    _to("train.epoch_change_tiledinfer", "train.preview_every", _switch(1, None)),
    _to("train.num_infer_images", "train.preview_count"),
    _to("train.model_dir", "train.runs_dir", note="each run makes a new folder there"),
    *(
        _to(f"{section}.{kind}_datapath", f"{table}_data.{kind}s")
        for section, table in (("train", "train"), ("eval", "valid"), ("valid", "valid"), ("test", "test"))
        for kind in ("image", "mask")
    ),
    _to("mask.threshold", " ".join(f"{table}_data.mask_threshold" for table in ("train", "valid", "test"))),
    _to(
        "tiledinfer.overlapping",
        "predict.tiling.overlap train.tiling.overlap",
        lambda value: 2 * operator.index(value),
        _SIDES,
    ),
    _to("tiledinfer.images_dir", "predict.inputs train.preview_images", lambda value: (value,)),
    _to("tiledinfer.output_dir", "predict.output"),
    Rule(("tiledinfer.merged_dir",), _written, "below the output folder"),
    Rule(("tiledinfer.threshold",), _threshold, "of 255 there"),
    _to("tiledinfer.algorithm", "predict.threshold", _unless_off(_name), "found for each image"),
    _to("tiledinfer.blur", "predict.blur", _unless_off(_blur)),
    Rule(_PAINT, _colours),
    _to(
        "image.color_converter",
        "train.preprocessing.colour",
        _unless_off(_name),
        "after gamma; all in [0, 1]",
    ),
    _to("image.gamma", "train.preprocessing.gamma", _unless_off()),
    Rule(("image.sharpening",), _sharpen, "before gamma and colour; a Gaussian as wide as 3 x 3 px"),
    Rule(_SWITCHES, lambda _: {}, "transforms are used where all of these are True"),
    *map(_augmented, _TRANSFORMS),
]
RULES = {key: rule for rule in _RULES for key in rule.keys}
"""The rule of each key, in the order in which they are fitted: a network before its settings."""

_REASONS = {
    "each run writes it, as model.txt; train.diagram draws the network as well": "model.show_summary",
    "pixel values are always divided by the largest of their dtype": "model.input_normalize",
    "images are paired by stem": "dataset.datasetclass dataset.datasets_class",
    "images are RGB in training and in use": "dataset.color_order",
    "images are cropped, not resized": "dataset.resize_interpolation",
    "the first bytes of a file say what it is": "dataset.image_format dataset.mask_format",
    "there is nothing to switch": "dataset.debug generator.debug",
    "validation covers each image once": "train.validation_steps",
    "what a run makes is in its own new folder": "train.eval_dir train.epoch_change_tiledinfer_dir",
    "nothing is overwritten": "train.create_backup",
    "a bundle holds settings and weights": "train.save_weights_only",
    "masks are labels: cut at the threshold, never blurred": "mask.blur mask.blur_size mask.blursize "
    "mask.binarize mask.algorithm",
    "a mask is always cut; probabilities are written with predict.write": "tiledinfer.binarize",
    "masks are written as labels; predict.mask_colours paints them": "tiledinfer.background "
    "tiledinfer.mask_colorize segmentation.blursize",
    "prepared as in training": "tiledinfer.color_converter tiledinfer.gamma tiledinfer.sharpening",
    "one smooth field is drawn, with one sigma": "distortion.gaussian_filter_sigma",
    "a whole image is predicted in tiles; to see it shrunk, set train.preprocessing.scale": "infer "
    "train.epoch_change_infer train.epoch_change_infer_dir",
}
DROPPED = {key: reason for reason, keys in _REASONS.items() for key in keys.split()}
"""Keys, and a section, that are not needed here, and why."""
