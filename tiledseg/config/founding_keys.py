"""The keys of the founding experiment's configuration: what each becomes here, or why it is not needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from tiledseg.config.augment import FlipConfig, LensConfig, augmenting
from tiledseg.config.base import names_of
from tiledseg.config.networks import NetworkConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tiledseg.config.augment import TransformConfig


class NotNeeded(Exception):
    """A key has no effect in this file."""


def _expect(fits: object, text: str) -> None:
    if not fits:
        raise ValueError(text)


def _refuse(reason: str) -> Callable[[Any], object]:
    return lambda _value: _expect(None, reason)


def _unless_off(convert: Callable[[Any], object]) -> Callable[[Any], object]:
    """Convert a value unless it switches the key off."""

    def converted(value: Any) -> object:  # noqa: ANN401
        if value in (None, 0, "", "none", "None"):
            raise NotNeeded("off here as there")
        return convert(value)

    return converted


def _one_number(value: Any) -> object:  # noqa: ANN401
    """Return the one number of a pair, whose two have to be equal."""
    parts = set(value) if isinstance(value, tuple | list) else {value}
    _expect(len(parts) == 1, "the two axes must be alike here")
    return parts.pop()


def _switch(on: object, off: object) -> Callable[[Any], object]:
    def convert(value: object) -> object:
        _expect(value in (True, False), "known are True, False")
        return on if value else off

    return convert


def _lower(value: Any) -> str:  # noqa: ANN401
    _expect(isinstance(value, str), "it must be text")
    return str(value).lower()


def _loss(value: object) -> str:
    name = _lower(value).removesuffix("_loss")
    return "basnet" if name == "basnet_hybrid" else name


def _metrics(value: Any) -> object:  # noqa: ANN401
    """Return names like those of ``val_iou_coef``, each once."""
    _expect(isinstance(value, list | tuple), "it must be a list of names")
    names = [_lower(one).removeprefix("val_").removesuffix("_coef") for one in value]
    return tuple(dict.fromkeys("accuracy" if name == "binary_accuracy" else name for name in names))


def _share_of_255(value: Any) -> object:  # noqa: ANN401
    if value is None:
        return None
    _expect(isinstance(value, int | float) and 0 < value < 255, "it must lie between 0 and 255")
    return round(value / 255, 6)


def _network(value: object) -> str:
    """Return the name that has the same letters: ``TensorflowAttentionUNet`` is ``attention_unet``."""
    wanted = _lower(value).removeprefix("tensorflow")
    found = [name for name in names_of(NetworkConfig) if name.replace("_", "") == wanted]
    _expect(found, "there is no such architecture here")
    return found[0]


def _one_input(value: object) -> object:
    _lower(value)
    return (value,)


def _overlap(value: Any) -> object:  # noqa: ANN401
    _expect(isinstance(value, int) and value >= 0, "it must be a number of px")
    return 2 * value


def _opencv(prefix: str, known: dict[str, str]) -> Callable[[object], str]:
    """Return our names of some of OpenCV's constants, with or without ``cv2.`` and their prefix."""

    def convert(value: object) -> str:
        name = str(value).removeprefix("cv2.").upper().removeprefix(prefix)
        _expect(name in known, f"known are {', '.join(f'cv2.{prefix}{one}' for one in known)}")
        return known[name]

    return convert


threshold_method = _opencv("THRESH_", {"OTSU": "otsu", "TRIANGLE": "triangle"})
_colour = _opencv("COLOR_", {"BGR2RGB": "rgb", "BGR2HSV": "hsv", "BGR2LAB": "lab", "BGR2GRAY": "grey3"})


def _sharpen(value: Any) -> object:  # noqa: ANN401
    """Return the strength: 1 + 8k amid -k adds 9k times the difference from the mean of 3 x 3 px."""
    _expect(type(value) in {int, float}, "it must be a number")
    return {"sharpen": 9.0 * value, "sharpen_sigma": round(math.sqrt(2 / 3), 3)}


class To(NamedTuple):
    """Where the value of a key goes."""

    settings: str  # as in ``train.network.levels``; several are set apart by spaces
    convert: Callable[[Any], object] = lambda value: value  # raises ValueError where a value cannot be used
    note: str = ""  # what else is to know


CONVERTED = {
    "model.model": To("train.network.name", _network),
    "model.num_classes": To("train.network.classes", note="each class needs a name in train.labels"),
    "model.base_filters": To("train.network.base_filters"),
    "model.base_kernels": To("train.network.base_kernel", _one_number),
    "model.num_layers": To("train.network.levels"),
    "model.dropout_rate": To("train.network.dropout", note="of level i it is that times i, as there"),
    "model.dilation": To("train.network.dilation", _one_number),
    "model.normalization": To("train.network.norm", _switch("batch", "none")),
    "model.activation": To("train.network.activation", _lower),
    "model.final_activation": To("train.network.final_activation", _lower),
    "model.learning_rate": To("train.learning_rate"),
    "model.clipvalue": To("train.clip"),
    "model.optimizer": To("train.optimizer.name", _lower),
    "model.loss": To("train.loss.name", _loss),
    "model.metrics": To("train.metrics", _metrics),
    "train.metrics": To("train.metrics", _metrics),
    "train.epochs": To("train.epochs"),
    "train.batch_size": To("train.batch_size"),
    "train.steps_per_epoch": To("train.steps_per_epoch"),
    "train.patience": To("train.patience"),
    "train.learning_rate_reducer": To("train.schedule.name", _switch("plateau", "constant")),
    "train.reducer_factor": To("train.schedule.factor"),
    "train.reducer_patience": To("train.schedule.patience"),
    "train.epoch_change_tiledinfer": To("train.preview_every", _switch(1, None)),
    "train.num_infer_images": To("train.preview_images"),
    "train.model_dir": To("train.runs_dir", note="each run makes a new folder there"),
    "train.image_datapath": To("train_data.images"),
    "train.mask_datapath": To("train_data.masks"),
    "eval.image_datapath": To("valid_data.images"),
    "eval.mask_datapath": To("valid_data.masks"),
    "valid.image_datapath": To("valid_data.images"),
    "valid.mask_datapath": To("valid_data.masks"),
    "test.image_datapath": To("test_data.images"),
    "test.mask_datapath": To("test_data.masks"),
    "mask.threshold": To("train_data.mask_threshold valid_data.mask_threshold test_data.mask_threshold"),
    "tiledinfer.overlapping": To(
        "predict.tiling.overlap train.tiling.overlap",
        _overlap,
        "a margin on each side is an overlap of twice as much",
    ),
    "tiledinfer.images_dir": To("predict.inputs", _one_input),
    "tiledinfer.output_dir": To("predict.output"),
    "tiledinfer.merged_dir": To(
        "predict.write", lambda on: ("mask", "overlay") if on else ("mask",), "below the output folder"
    ),
    "tiledinfer.blur": To(
        "", _unless_off(_refuse("how wide it was is not said there: set predict.blur, its sigma in px"))
    ),
    "tiledinfer.threshold": To("predict.threshold", _share_of_255, "of 255 there"),
    "tiledinfer.algorithm": To(
        "predict.threshold",
        _unless_off(threshold_method),
        "found for each image; stands above tiledinfer.threshold",
    ),
    "image.color_converter": To(
        "train.preprocessing.colour", _unless_off(_colour), "comes after gamma; each in [0, 1], the hue too"
    ),
    "image.gamma": To("train.preprocessing.gamma", _unless_off(lambda value: value)),
    "image.sharpening": To(
        "train.preprocessing",
        _unless_off(_sharpen),
        "a Gaussian as wide as the mean of 3 x 3 px; comes before gamma and colour",
    ),
}
"""Keys that have a setting here."""

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

_KINDS = "rotation shrinks shears deformation distortion barrdistortion pincdistortion sharpening brightening"
SWITCHES = {f"augmentor.{kind}": kind for kind in f"hflip vflip {_KINDS}".split()}
"""Keys of the transforms; `augmenting` has them in this order, with the values of the experiment."""


def _floats(values: Iterable[Any]) -> Any:  # noqa: ANN401  a tuple of as many floats
    return tuple(float(value) for value in values)


def _first(value: Any) -> float:  # noqa: ANN401
    """Return a number, or the first of a list: this package draws one strength for all samples."""
    return float(value[0] if isinstance(value, list | tuple) else value)


def _range(values: Any) -> tuple[float, float]:  # noqa: ANN401
    return min(_floats(values)), max(_floats(values))


def _degrees(values: Any) -> tuple[float, float]:  # noqa: ANN401
    """Turn the tangents of shears into degrees, to either side."""
    most = math.degrees(math.atan(max(map(abs, _floats(values)))))
    return -most, most


def _points(values: Any) -> object:  # noqa: ANN401
    return LensConfig().centres if values is None else tuple(map(_floats, values))


PARAMETERS: dict[str, tuple[str, str, Callable[[Any], object]]] = {
    "augmentor.angles": ("rotation", "angles", _floats),
    "augmentor.shrinks": ("shrinks", "factors", _range),
    "augmentor.shears": ("shears", "degrees", _degrees),
    "deformation.alpha": ("deformation", "alpha", float),
    "deformation.sigma": ("deformation", "sigma", _first),
    "deformation.sigmoids": ("deformation", "sigma", _first),
    "deformation.sigmoid": ("deformation", "sigma", _first),
    "distortion.distortions": ("distortion", "magnitude", _first),
    "distortion.gaussian_filter_rsigma": ("distortion", "sigma", float),
    "barrdistortion.radius": ("barrdistortion", "radius", float),
    "barrdistortion.amount": ("barrdistortion", "amounts", lambda value: (abs(float(value)),) * 2),
    "barrdistortion.centers": ("barrdistortion", "centres", _points),
    "pincdistortion.radius": ("pincdistortion", "radius", float),
    "pincdistortion.amount": ("pincdistortion", "amounts", lambda value: (-abs(float(value)),) * 2),
    "pincdistortion.centers": ("pincdistortion", "centres", _points),
    "sharpening.k": ("sharpening", "amounts", lambda value: (float(value),) * 2),
    "brightening.alpha": ("brightening", "gains", lambda value: (float(value),) * 2),
    "brightening.beta": ("brightening", "offsets", lambda value: (value / 255,) * 2),
}
"""Keys that describe transforms: of which, into which of its settings, and how; of several the last one."""


def transforms_of(values: dict[str, Any]) -> tuple[list[TransformConfig], dict[str, str]]:
    """Make the transforms that an augmentor switches on; say which of them cannot be made, and why."""
    flips = [0.5 if values.get(f"augmentor.{key}") is True else 0.0 for key in ("hflip", "vflip")]
    made: list[TransformConfig] = [FlipConfig(horizontal=flips[0], vertical=flips[1])] if any(flips) else []
    problems = {}
    for kind, usual in zip(_KINDS.split(), augmenting("founding", channels=3)[1:], strict=True):
        if values.get(f"augmentor.{kind}"):
            try:
                made.append(usual.changed(**_settings(kind, values)))
            except (TypeError, ValueError, KeyError, IndexError, SettingError) as error:
                problems[kind] = f"its values cannot be used ({type(error).__name__}: {error})"
    return made, problems


def _settings(kind: str, values: dict[str, Any]) -> dict[str, object]:
    own = {key: one for key, one in PARAMETERS.items() if one[0] == kind and key in values}
    if kind == "rotation" and not own:
        raise KeyError("augmentor.angles")
    last = {setting: (convert, values[key]) for key, (_, setting, convert) in own.items()}
    return {setting: convert(value) for setting, (convert, value) in last.items()}
