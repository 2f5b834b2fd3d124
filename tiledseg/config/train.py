"""Settings of training: the optimizer, the learning rate over time, and everything else of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from tiledseg._validate import pair_of
from tiledseg.config.architecture import ArchitectureConfig, multiples
from tiledseg.config.augment import NEEDS_RGB, AugmentSet, TransformConfig, Transforms, augmenting
from tiledseg.config.base import Choice, Config
from tiledseg.config.fields import (
    Count,
    Given,
    Named,
    Names,
    NotNegative,
    Pair,
    Positive,
    Seed,
    Share,
    as_numbers,
    as_tuple,
    by_name,
    laid_over,
    or_else,
    or_made,
)
from tiledseg.config.losses import OF_FOREGROUND, LossConfig, PlainLossConfig
from tiledseg.config.networks import NetworkConfig, UNetConfig
from tiledseg.config.preprocessing import PreprocessingConfig
from tiledseg.config.tiling import TilingConfig

_Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class _MomentsConfig(Choice):
    """Base of the settings of optimizers that keep the mean and the square of gradients."""

    beta_1: _Decay = 0.9
    """Decay per step of the mean of the gradients, in [0, 1)."""
    beta_2: _Decay = 0.999
    """Decay per step of the mean of their squares, in [0, 1)."""


class AdamConfig(_MomentsConfig):
    """Adam (Kingma and Ba, arXiv 1412.6980)."""

    name: Literal["adam"] = "adam"


class AdamWConfig(_MomentsConfig):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: NotNegative = 0.01
    """Share of each kernel that is subtracted per step, times the learning rate; biases and the parameters
    of normalisation do not decay."""


class SgdConfig(Choice):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: _Decay = 0.9
    """Share of the last step that is added to the next one, in [0, 1)."""
    nesterov: bool = True
    """Whether the gradient is computed after the step of the momentum (Nesterov; Sutskever et al., 2013)."""
    weight_decay: NotNegative = 0.0
    """As of `AdamWConfig`."""


OptimizerConfig: TypeAlias = Annotated[
    AdamConfig | AdamWConfig | SgdConfig, Field(discriminator="name"), by_name
]
"""An optimizer with its parameters, or only its name."""


class ConstantConfig(Choice):
    """A constant learning rate after a warm-up."""

    name: Literal["constant"] = "constant"
    warmup_epochs: NotNegative = 0.0
    """Epochs in which the rate rises linearly from 0; none where it is 0."""


class CosineConfig(Choice):
    """A learning rate that falls along half a cosine (arXiv 1608.03983) after a warm-up."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    """Epochs in which the rate rises linearly from 0; none where it is 0."""
    final: Share = 0.0
    """Share of the learning rate that is left at the end of the last epoch, in [0, 1]."""


class PlateauConfig(Choice):
    """A learning rate that is reduced when the validation loss does not improve."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor of the rate at each reduction, in (0, 1)."""
    patience: Count = 4
    """Epochs without a better validation loss after which the rate is reduced."""
    least: NotNegative = 1e-7
    """Lower limit of the rate."""


ScheduleConfig: TypeAlias = Annotated[
    ConstantConfig | CosineConfig | PlateauConfig, Field(discriminator="name"), by_name
]
"""A learning rate over time with its parameters, or only its name."""


def _expected(before: dict[str, Any]) -> PreprocessingConfig:
    """Give the preparation that suits a network, which is checked before it."""
    network = before.get("network")
    if not isinstance(network, ArchitectureConfig):  # it was refused
        return PreprocessingConfig()
    return network.preprocessing or PreprocessingConfig(channels=network.input_shape[2])


class TrainConfig(Config):
    """How a network is built and trained."""

    network: Named[NetworkConfig] = or_else(
        UNetConfig(input_shape=(None, None, 3), levels=5, base_filters=16, base_kernel=3, dropout=0.0)
    )
    """The architecture with its settings, or only its name."""
    start_from: str | None = None
    """Bundle whose weights training starts from, as `load_model` takes it; None for random ones."""
    preprocessing: Given[PreprocessingConfig] = or_made(_expected)
    """How pixels are prepared, the same in training and use; its ``scale`` is that of the training images.
    What is not given is as the network's weights expect it. Its ``pixel_size``: where it is given, images
    that state another are brought to it, and images that state none count as having it; where it is None,
    it is what all images state, and images that state different ones are refused."""
    crop_size: Pair | None = None
    """Height and width of the random crops in px after scaling; None for the network's input."""
    foreground_share: Share = 0.5
    """Share of the crops that are centred on a foreground px, in [0, 1]."""
    augment: Transforms | AugmentSet = "default"
    """Transforms of the crops, or the name of a set of them; those that move px change image and mask."""
    memory_mb: Annotated[int, Field(ge=0)] = 4096
    """Memory in megabytes for shrunk images and masks, those for validation included."""
    cache_dir: str | None = None
    """Folder for the images that need more memory than that; they are shrunk once and read by region; None
    to read their files again for every crop."""
    epochs: Count = 30
    """Largest number of passes over the training data."""
    steps_per_epoch: Count | None = None
    """Batches per epoch; None for as many as cover each image's area once."""
    batch_size: Count = 4
    """Crops per batch."""
    accumulate: Count = 1
    """Batches whose gradients are averaged into one step of the optimizer."""
    optimizer: Named[OptimizerConfig] = or_else(AdamConfig())
    """The optimizer: ``adam``, ``adamw`` or ``sgd``, with its parameters or by name."""
    learning_rate: Positive = 1e-3
    """Learning rate, the highest of the schedule; positive."""
    schedule: Named[ScheduleConfig] = or_else(ConstantConfig())
    """How the learning rate changes: ``constant``, ``cosine`` or ``plateau``, with its parameters or by
    name."""
    clip: Positive | None = None
    """Largest gradient element; None for no clipping."""
    clip_norm: Positive | None = None
    """Largest length of the gradient of all weights together; None for no clipping."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of a running average of the weights, in (0, 1), for example 0.99; the average is
    validated and saved. None for no average."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Numbers that the network computes with; weights stay in float32."""
    loss: Named[LossConfig] = or_else(PlainLossConfig())
    """What is minimised, with its parameters or by name: ``bce``, ``dice``, ``iou``, ``bce_dice``,
    ``bce_iou``, ``basnet``, ``focal``, ``tversky``, ``focal_tversky``, ``boundary``, ``bootstrap`` or
    ``missing_labels``."""
    class_weights: Annotated[tuple[NotNegative, ...], as_numbers] | None = None
    """Weight of each class in the loss; with one channel, background and foreground, for losses that have
    cross-entropy."""
    metrics: Annotated[
        tuple[Literal["dice", "iou", "sensitivity", "specificity", "accuracy"], ...], as_tuple
    ] = ()
    """Metrics besides ``dice``, shown and recorded, each over all px of an epoch: ``iou``, ``sensitivity``,
    ``specificity``, ``accuracy``."""
    curves: bool = True
    """Whether the history is drawn after each epoch; needs matplotlib."""
    preview_every: Count | None = None
    """Epochs from one preview to the next, in which whole images are predicted; None for no previews."""
    preview_images: Names = ()
    """Images of any size that are previewed: files, and folders of them, read as the validation images are;
    empty for the validation images themselves."""
    preview_count: Count = 6
    """Largest number of images in a preview, the first ones."""
    diagram: bool = False
    """Whether the network is drawn as ``model.png``, too; needs pydot and Graphviz."""
    tensorboard: bool = False
    """Whether Keras' log for TensorBoard is written, too; needs tensorboard."""
    validation: bool = True
    """Whether images that are not used for training choose the best epoch; without them the network of the
    last epoch is kept, and `patience` and the schedule ``plateau`` follow the training loss."""
    patience: Count | None = 10
    """Epochs without a better validation loss after which training stops; None for never."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Threshold of the trained segmenter's probabilities, in (0, 1)."""
    tiling: Given[TilingConfig | None] = or_else(None)
    """How the trained segmenter tiles; None for tiles of the crop size."""
    labels: Names = ("foreground",)
    """Name of each class; one name for one class against background."""
    seed: Seed = 0
    """Seed of weights, crops and dropout; the same seed and machine give the same run."""
    devices: Count | Literal["all"] = 1
    """Devices that share each batch: accelerators where there are any, else processors."""
    deterministic: bool = True
    """Whether the backend must give the same bits each time, as an exact resume needs; this holds for the
    rest of the process, and some losses cannot do it on a GPU."""
    feed_threads: Count = 2
    """Threads that cut crops while the network computes."""
    runs_dir: str = "runs"
    """Folder in which a new folder is made for each run."""

    @property
    def crop_shape(self) -> tuple[int, int]:
        """Height and width of the crops in px."""
        if self.crop_size is not None:
            return pair_of(self.crop_size)
        height, width, _ = self.network.input_shape
        return (height or 256, width or 256)

    @property
    def transforms(self) -> tuple[TransformConfig, ...]:
        """Transforms of the crops, as a list."""
        return augmenting(self.augment, self.preprocessing.channels)

    def _check_colours(self) -> None:
        channels = self.preprocessing.channels
        wrong = [one.name for one in self.transforms if channels != 3 and one.name in NEEDS_RGB]
        if wrong:
            raise self._invalid(
                "augment",
                f"do without {', '.join(wrong)}, which take RGB, with {channels} channels",
                "Leave them out.",
                got=wrong,
            )

    @field_validator("preprocessing", mode="before")
    @classmethod
    def _over_the_expected(cls, value: Any, info: ValidationInfo) -> Any:
        return laid_over(_expected(info.data).model_dump(), value)

    def _check(self) -> None:
        self._check_colours()
        stride = self.network.stride
        for axis, crop, fixed in zip("yx", self.crop_shape, self.network.input_shape[:2], strict=True):
            if fixed not in {None, crop}:
                raise self._invalid(
                    "crop_size",
                    f"be {fixed} px along {axis}, the network's input",
                    "Leave it out, or give the network a free input size.",
                    got=crop,
                )
            if crop % stride:
                must, fix = f"be a multiple of {stride} px along {axis}", f"Use {multiples(stride, crop)}."
                raise self._invalid("crop_size", must, fix, got=crop)
        self.network.check_preprocessing(self.preprocessing)
        if (named := len(self.labels)) != self.network.classes:
            must = f"name as many classes as the network has, {self.network.classes}"
            other = f"Set classes={named} of the network, or give" if named else "Give"
            raise self._invalid("labels", must, f"{other} one name for each class.")
        if self.network.final_activation == "linear":
            must, fix = "be sigmoid or softmax, since losses take probabilities", "Leave it out."
            raise self._invalid("network.final_activation", must, fix, got="linear")
        if self.network.classes > 2 and self.threshold != 0.5:
            must = f"be left out with {self.network.classes} classes"
            raise self._invalid("threshold", must, "The most probable class of each px counts.")
        self._check_gradients()
        self._check_weights()

    def _check_gradients(self) -> None:
        if self.clip is not None and self.clip_norm is not None:
            raise self._invalid(
                "clip_norm",
                "be left out where `clip` is given",
                "Clip either elements or the length of the gradient.",
            )
        if self.devices != 1 and self.accumulate > 1:
            raise self._invalid(
                "accumulate",
                "be 1 where several devices share a batch",
                "Use a larger batch, which they share.",
            )
        if isinstance(self.devices, int) and self.batch_size % self.devices:
            raise self._invalid(
                "batch_size",
                f"be a multiple of the {self.devices} devices that share it",
                f"Use {self.batch_size // self.devices * self.devices + self.devices}.",
            )

    def _check_weights(self) -> None:
        weights, classes = self.class_weights, max(2, self.network.classes)
        if weights is not None and (len(weights) != classes or sum(weights) == 0):
            raise self._invalid(
                "class_weights",
                f"be {classes} numbers from 0 that are not all 0",
                "Give one per class; with one channel, background and foreground.",
                got=weights,
            )
        if weights is not None and self.network.classes == 1 and self.loss.name in OF_FOREGROUND:
            raise self._invalid(
                "class_weights",
                f"be left out with the loss {self.loss.name} of one class, which they do not change",
                "Leave them out, or use a loss that has cross-entropy, for example bce_dice.",
                got=weights,
            )
