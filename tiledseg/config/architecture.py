"""Settings that all architectures share, and those whose encoder is a network of ``keras.applications``."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from tiledseg._validate import invalid
from tiledseg.config.base import Choice
from tiledseg.config.fields import Count, as_numbers
from tiledseg.config.preprocessing import PreprocessingConfig
from tiledseg.errors import SettingError

InputShape: TypeAlias = Annotated[tuple[Count | None, Count | None, Count], as_numbers]
"""(height, width, channels) of a network's input in px; None for a free size."""

Activation: TypeAlias = Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish"]
"""Keras name of an activation inside a network."""

Norm: TypeAlias = Literal["batch", "batch_renorm", "group", "none"]
"""A normalisation of features."""

Dropout: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
"""Fraction of features that is dropped in training."""

EfficientNet: TypeAlias = Literal[
    "efficientnet-b0",
    "efficientnet-b1",
    "efficientnet-b2",
    "efficientnet-b3",
    "efficientnet-b4",
    "efficientnet-b5",
    "efficientnet-b6",
    "efficientnet-b7",
]
"""EfficientNet (arXiv 1905.11946)."""

_Residual: TypeAlias = Literal[
    "resnet50", "resnet101", "resnet152", "resnet50v2", "resnet101v2", "resnet152v2"
]
_Mobile: TypeAlias = Literal["mobilenet", "mobilenetv2", "efficientnet-lite0"]

DilatedEncoder: TypeAlias = EfficientNet | _Residual | _Mobile
"""Encoders whose strides can be exchanged for dilation without moving any px."""

EncoderName: TypeAlias = (
    DilatedEncoder
    | Literal[
        "convnext-base",
        "convnext-large",
        "convnext-small",
        "convnext-tiny",
        "convnext-xlarge",
        "densenet121",
        "densenet169",
        "densenet201",
        "efficientnetv2-b0",
        "efficientnetv2-b1",
        "efficientnetv2-b2",
        "efficientnetv2-b3",
        "efficientnetv2-l",
        "efficientnetv2-m",
        "efficientnetv2-s",
        "inceptionresnetv2",
        "inceptionv3",
        "mobilenetv3-large",
        "mobilenetv3-small",
        "vgg16",
        "vgg19",
        "xception",
    ]
)
"""Networks of ``keras.applications`` that can be encoders, and EfficientNet in its lite form."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
_SHIFTED = 128 / 255
_LITE_MEAN = 127 / 255
_FILES = (".keras", ".h5", ".safetensors")


def multiples(step: int, near: int) -> str:
    """Name the positive multiples of a step beside a number."""
    low = near // step * step
    return f"{low} or {low + step}" if low else str(step)


def _kinds(base: type[ArchitectureConfig]) -> list[type[ArchitectureConfig]]:
    """List the settings of all architectures that are derived from some."""
    below = base.__subclasses__()
    return [*below, *(one for kind in below for one in _kinds(kind))]


class ArchitectureConfig(Choice):
    """Base of the settings of an architecture.

    A subclass sets `name` to a ``Literal`` of its own, by which it is selected, and gives its
    `stride`.
    """

    input_shape: InputShape = (512, 512, 3)
    """(height, width, channels); height and width in px, multiples of `stride`, or None for a free size.
    """
    classes: Count = 1
    """Output channels: 1 for one class against background, else one per class."""
    final_activation: Literal["sigmoid", "softmax", "linear"] | None = None
    """Keras name of the activation of the output; None for ``sigmoid`` with one class and ``softmax`` with
    several."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> PreprocessingConfig | None:
        """Preparation of pixels that pretrained weights expect; None without such weights."""
        return None

    def portable(self) -> dict[str, Any]:
        """Give the settings as JSON has them, without the folders of this machine.

        Returns
        -------
        dict
            Of the path in ``encoder_weights`` only the file's name stays: the file is read when the
            network is first built, and not needed afterwards.
        """
        settings = self.model_dump(mode="json")
        if settings.get("encoder_weights"):
            settings["encoder_weights"] = PurePath(settings["encoder_weights"]).name
        return settings

    def check_preprocessing(self, given: PreprocessingConfig) -> None:
        """Check that a preparation of pixels gives what the network takes.

        Parameters
        ----------
        given : PreprocessingConfig
            The preparation.

        Raises
        ------
        SettingError
            If it gives another number of channels, or other values than pretrained weights expect.
        """
        channels = self.input_shape[2]
        if given.channels != channels:
            raise invalid(
                SettingError,
                "preprocessing.channels",
                must=f"be {channels}, the network's input channels",
                got=given.channels,
                fix=f"Use PreprocessingConfig(channels={channels}).",
            )
        wanted = self.preprocessing or given
        for part in ("mean", "std"):
            if getattr(given, part) != getattr(wanted, part):
                raise invalid(
                    SettingError,
                    f"preprocessing.{part}",
                    must=f"be {getattr(wanted, part)}, which the network's pretrained weights expect",
                    got=getattr(given, part),
                    fix="Leave it out, or take no pretrained weights.",
                )

    @classmethod
    def _instead_of(cls, key: str, *, in_file: bool) -> str:
        fields = (kind.model_fields for kind in _kinds(ArchitectureConfig) if key in kind.model_fields)
        names = sorted({one["name"].default for one in fields if not one["name"].is_required()})
        return (
            f"Networks that have it: {', '.join(names)}."
            if names
            else super()._instead_of(key, in_file=in_file)
        )

    def _because(self) -> tuple[str, str]:
        """Say what the stride follows from, and what else to change than the size."""
        return "", ""

    def _check(self) -> None:
        if self.final_activation == "softmax" and self.classes == 1:
            fix = "Use sigmoid, or classes=2 with the background as a class."
            raise self._invalid("final_activation", "not be softmax with one class", fix)
        reason, instead = self._because()
        for axis, size in zip("yx", self.input_shape[:2], strict=True):
            if size is not None and size % self.stride:
                fix = f"Use {multiples(self.stride, size)}{instead}."
                must = f"be a multiple of {self.stride} along {axis}{reason}"
                raise self._invalid("input_shape", must, fix, got=size)


class OnnxConfig(ArchitectureConfig):
    """What is known of a network in an ONNX file: it cannot be trained or built here."""

    name: Literal["onnx"] = "onnx"
    strides: Annotated[tuple[Count, Count], as_numbers] = (1, 1)
    """Total stride along y and x in px."""
    output: str
    """Name of the output."""
    layout: Literal["channels_first", "channels_last"]
    """Where the input has its channels."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return math.lcm(*self.strides)

    def _check(self) -> None:
        """Check nothing: the file says what it takes."""


class LevelsConfig(ArchitectureConfig):
    """Base of the settings of networks with levels, each of half the size of the one before."""

    levels: Annotated[Count, Field(le=12)] = 5
    """Resolutions, the deepest included."""
    base_filters: Count = 32
    """Filters of the first level; doubled at each deeper one."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** (self.levels - 1))

    def _because(self) -> tuple[str, str]:
        return f" with {self.levels} levels", ", or fewer levels"


class ConvolutionsConfig(ArchitectureConfig):
    """Base of the settings of networks whose convolutions have a normalisation and an activation."""

    norm: Norm = "batch"
    """Normalisation between convolution and activation."""
    activation: Activation = "relu"
    """Keras name of the activation after each convolution, or ``mish``."""


def _pixels_of(encoder: str) -> PreprocessingConfig:
    """Say what pixels the published weights of an encoder take, in RGB."""
    if encoder.startswith(("resnet", "vgg")) and not encoder.endswith("v2"):
        return PreprocessingConfig(mean=_CAFFE_MEAN, std=(1 / 255,))
    if encoder.startswith("efficientnetv2-") and encoder[-1] in "sml":
        return PreprocessingConfig(mean=(_SHIFTED,), std=(_SHIFTED,))
    if encoder.startswith("efficientnet-lite"):
        return PreprocessingConfig(mean=(_LITE_MEAN,), std=(_SHIFTED,))
    if encoder.startswith(("efficientnet", "densenet", "convnext")):
        return PreprocessingConfig(mean=_MEAN, std=_STD)
    return PreprocessingConfig(mean=(0.5,), std=(0.5,))


class EncodedConfig(ArchitectureConfig):
    """Base of the settings of networks with an encoder, which may be pretrained."""

    input_shape: InputShape = (512, 512, 3)
    """(height, width, channels); height and width in px, multiples of `stride`, or None for a free size.
    With `encoder_weights` 3 channels, RGB."""
    encoder: str
    """The encoder."""
    encoder_weights: str | None = None
    """None for random weights; ``imagenet`` for the weights that Keras downloads; or the path of a file
    with weights of the encoder: ``.weights.h5``, ``.h5`` or ``.keras`` of the network of
    ``keras.applications`` without its top, or ``.safetensors`` with the names of the encoder's
    variables. Read when the network is first built, not when it is loaded."""

    @property
    def preprocessing(self) -> PreprocessingConfig | None:
        """Preparation of pixels that the encoder's pretrained weights expect; None without them."""
        return _pixels_of(self.encoder) if self.encoder_weights else None

    def _check(self) -> None:
        super()._check()
        weights = self.encoder_weights
        if weights not in {None, "imagenet"} and not str(weights).lower().endswith(_FILES):
            must = "be imagenet, None, or the path of a .safetensors, .weights.h5 or .keras file"
            raise self._invalid("encoder_weights", must, "Give one of these.")
        if weights is not None and self.input_shape[2] != 3:
            fix = "Use 3 channels, or encoder_weights=None."
            raise self._invalid("input_shape", "have 3 channels, RGB, with encoder_weights", fix)


class _EncoderUNetConfig(EncodedConfig):
    """Base of the settings of U-Nets with an encoder."""

    decoder_filters: Annotated[tuple[Count, ...], Field(min_length=3, max_length=5), as_numbers] = (
        256,
        128,
        64,
        32,
        16,
    )
    """Filters of the decoder by level, the deepest first: five at stride 16, 8, 4, 2 and 1. With four or
    three the encoder ends one or two levels earlier, and the stride, 32, is 16 or 8."""
    norm: Norm = "batch"
    """Normalisation in the decoder; the encoder keeps its own."""
    dropout: Dropout = 0.0
    """Fraction of the features that each level of the decoder drops, in [0, 1)."""
    activation: Activation = "relu"
    """Keras name of the activation in the decoder, or ``mish``; the encoder keeps its own."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** len(self.decoder_filters))

    def _because(self) -> tuple[str, str]:
        return f" with {len(self.decoder_filters)} decoder_filters", ""


class EncoderUNetConfig(_EncoderUNetConfig):
    """A U-Net (arXiv 1505.04597) with a network of ``keras.applications`` as its encoder.

    The encoder is tapped at the last map of each size; each level of the decoder is a transposed
    convolution by 2, the concatenation with the tap of that size, where there is one, and two
    convolutions of 3 px.
    """

    name: Literal["encoder_unet"] = "encoder_unet"
    encoder: EncoderName = "efficientnetv2-b0"
    """The encoder: ``efficientnetv2-b0``, ``resnet50``, ``mobilenetv2`` ... Besides those of
    ``keras.applications`` there is ``efficientnet-lite0``, which is EfficientNet B0 without
    squeeze-and-excite and with ReLU6, so that tiles can be exact."""


class EfficientUNetConfig(_EncoderUNetConfig):
    """A U-Net (arXiv 1505.04597) with an EfficientNet (arXiv 1905.11946) as its encoder."""

    name: Literal["efficient_unet"] = "efficient_unet"
    encoder: EfficientNet = "efficientnet-b0"
    """``efficientnet-b0`` to ``efficientnet-b7``."""


class DeepLabV3PlusConfig(EncodedConfig):
    """DeepLabV3+ of Chen et al. (arXiv 1802.02611).

    The strides of the encoder beyond `output_stride` are exchanged for dilation. Its deepest map
    goes through a convolution of 1 px, three separable dilated ones of 3 px and the mean over the
    whole map, is enlarged to stride 4, joined with the encoder's map of that stride (48 channels)
    and refined by two separable convolutions.
    """

    name: Literal["deeplabv3plus"] = "deeplabv3plus"
    encoder: DilatedEncoder = "resnet50"
    """The encoder: ``resnet50`` to ``resnet152`` and their second version (``resnet50v2``), ``mobilenet``,
    ``mobilenetv2``, ``efficientnet-b0`` to ``-b7``."""
    output_stride: Literal[8, 16] = 16
    """Stride of the encoder's deepest map."""
    rates: Annotated[tuple[Count, Count, Count], as_numbers] = (6, 12, 18)
    """Dilations of the three convolutions at stride 16; doubled at stride 8, as in the paper."""
    filters: Count = 256
    """Channels of each part of the pyramid and of the decoder."""
    image_pooling: bool = True
    """Whether the pyramid has the mean over the whole map. Without it, and with an encoder that does not
    look at the whole image either, tiles can be exact."""
    dropout: Dropout = 0.1
    """Fraction of the pyramid's features that is dropped in training, in [0, 1)."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return self.output_stride

    def _because(self) -> tuple[str, str]:
        return f" with output_stride={self.output_stride}", ""
