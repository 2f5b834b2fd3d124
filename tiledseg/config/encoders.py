"""Networks whose encoder is a network of ``keras.applications``, and what those encoders take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from tiledseg._validate import invalid
from tiledseg.config.architecture import Activation, ArchitectureConfig, Norm
from tiledseg.config.base import Count, _plain
from tiledseg.config.preprocessing import PreprocessingConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.config.architecture import InputShape

__all__ = [
    "DeepLabV3PlusConfig",
    "DilatedEncoder",
    "EfficientNet",
    "EfficientUNetConfig",
    "EncoderName",
    "EncoderUNetConfig",
    "check_weights",
    "pixels_of",
]

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


def pixels_of(encoder: str) -> PreprocessingConfig:
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


def check_weights(encoder_weights: str | None, input_shape: InputShape) -> None:
    """Check that weights learnt elsewhere are named rightly and fit the image."""
    if encoder_weights is None:
        return
    if encoder_weights != "imagenet" and not encoder_weights.lower().endswith(_FILES):
        raise invalid(
            SettingError,
            "encoder_weights",
            must="be imagenet, None, or the path of a .safetensors, .weights.h5 or .keras file",
            got=encoder_weights,
            fix="Give one of these.",
        )
    if input_shape[2] != 3:
        raise invalid(
            SettingError,
            "input_shape",
            must="have 3 channels, RGB, with encoder_weights",
            got=input_shape,
            fix="Use 3 channels, or encoder_weights=None.",
        )


_Filters = Annotated[tuple[Count, ...], Field(min_length=3, max_length=5), BeforeValidator(_plain)]


class _EncoderUNet(ArchitectureConfig):
    """What both have."""

    encoder: str
    encoder_weights: str | None = None
    decoder_filters: _Filters = (256, 128, 64, 32, 16)
    norm: Norm = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation: Activation = "relu"

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return int(2 ** len(self.decoder_filters))

    @property
    def preprocessing(self) -> PreprocessingConfig | None:
        """Preparation of pixels that the encoder's weights were learnt with; None from scratch."""
        return pixels_of(self.encoder) if self.encoder_weights else None

    def _because(self) -> tuple[str, str]:
        return f" with {len(self.decoder_filters)} decoder_filters", ""

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        check_weights(self.encoder_weights, self.input_shape)
        return self


class EncoderUNetConfig(_EncoderUNet):
    """A U-Net (arXiv 1505.04597) with a network of ``keras.applications`` as its encoder.

    The encoder is tapped at the last map of each size; each level of the decoder is a transposed
    convolution by 2, the concatenation with the tap of that size, where there is one, and two
    convolutions of 3 px.

    Attributes
    ----------
    name : {"encoder_unet"}
        The architecture.
    input_shape : tuple
        (height, width, channels); height and width in px, multiples of the stride, or None for a
        free size. With `encoder_weights` 3 channels, RGB.
    classes : int
        Output channels: 1 for one class against background, else one per class.
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.
    encoder : str
        The encoder: ``efficientnetv2-b0``, ``resnet50``, ``mobilenetv2`` ... Besides those of
        ``keras.applications`` there is ``efficientnet-lite0``, which is EfficientNet B0 without
        squeeze-and-excite and with ReLU6, so that tiles can be exact.
    encoder_weights : str or None
        None to learn from scratch; ``imagenet`` for the weights that Keras downloads; or the path
        of a file with weights of the encoder: ``.weights.h5``, ``.h5`` or ``.keras`` of the
        network of ``keras.applications`` without its top, or ``.safetensors`` with the names of
        the encoder's variables. Read when the network is first built, not when it is loaded.
    decoder_filters : tuple of int
        Filters of the decoder by level, the deepest first: five at stride 16, 8, 4, 2 and 1. With
        four or three the encoder is cut off one or two halvings earlier, and the stride, 32, is
        16 or 8.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation in the decoder; the encoder keeps its own.
    dropout : float
        Fraction of the features that each level of the decoder drops, in [0, 1).
    activation : str
        Keras name of the activation in the decoder, or ``mish``; the encoder keeps its own.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["encoder_unet"] = "encoder_unet"
    encoder: EncoderName = "efficientnetv2-b0"


class EfficientUNetConfig(_EncoderUNet):
    """A U-Net (arXiv 1505.04597) with an EfficientNet (arXiv 1905.11946) as its encoder.

    Attributes
    ----------
    name : {"efficient_unet"}
        The architecture.
    input_shape : tuple
        (height, width, channels); height and width in px, multiples of the stride, or None for a
        free size. With `encoder_weights` 3 channels, RGB.
    classes : int
        Output channels: 1 for one class against background, else one per class.
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.
    encoder : str
        ``efficientnet-b0`` to ``efficientnet-b7``.
    encoder_weights : str or None
        None to learn from scratch; ``imagenet`` for the weights that Keras downloads; or the path
        of a file with weights of the encoder: ``.weights.h5``, ``.h5`` or ``.keras`` of the
        network of ``keras.applications`` without its top, or ``.safetensors`` with the names of
        the encoder's variables. Read when the network is first built, not when it is loaded.
    decoder_filters : tuple of int
        Filters of the decoder by level, the deepest first: five at stride 16, 8, 4, 2 and 1. With
        four or three the encoder is cut off one or two halvings earlier, and the stride, 32, is
        16 or 8.
    norm : {"batch", "batch_renorm", "group", "none"}
        Normalisation in the decoder; the encoder keeps its own.
    dropout : float
        Fraction of the features that each level of the decoder drops, in [0, 1).
    activation : str
        Keras name of the activation in the decoder, or ``mish``; the encoder keeps its own.

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["efficient_unet"] = "efficient_unet"
    encoder: EfficientNet = "efficientnet-b0"


class DeepLabV3PlusConfig(ArchitectureConfig):
    """DeepLabV3+ of Chen et al. (arXiv 1802.02611).

    The strides of the encoder beyond `output_stride` are exchanged for dilation. Its deepest map
    goes through a convolution of 1 px, three separable dilated ones of 3 px and the mean over the
    whole map, is enlarged to stride 4, joined with the encoder's map of that stride (48 channels)
    and refined by two separable convolutions.

    Attributes
    ----------
    name : {"deeplabv3plus"}
        The architecture.
    input_shape : tuple
        (height, width, channels); height and width in px, multiples of `output_stride`, or None
        for a free size. With `encoder_weights` 3 channels, RGB.
    classes : int
        Output channels: 1 for one class against background, else one per class.
    final_activation : str or None
        Keras name of the activation of the output; None for ``sigmoid`` with one class and
        ``softmax`` with several.
    encoder : str
        The encoder: ``resnet50`` to ``resnet152`` and their second version (``resnet50v2``),
        ``mobilenet``, ``mobilenetv2``, ``efficientnet-b0`` to ``-b7``.
    encoder_weights : str or None
        None to learn from scratch; ``imagenet`` for the weights that Keras downloads; or the path
        of a file with weights of the encoder: ``.weights.h5``, ``.h5`` or ``.keras`` of the
        network of ``keras.applications`` without its top, or ``.safetensors`` with the names of
        the encoder's variables. Read when the network is first built, not when it is loaded.
    output_stride : {16, 8}
        Stride of the encoder's deepest map.
    rates : tuple of int
        Dilations of the three convolutions at stride 16; doubled at stride 8, as in the paper.
    filters : int
        Channels of each part of the pyramid and of the decoder.
    image_pooling : bool
        Whether the pyramid has the mean over the whole map. Without it, and with an encoder that
        does not look at the whole image either, tiles can be exact.
    dropout : float
        Fraction of the pyramid's features that is dropped in training, in [0, 1).

    Raises
    ------
    SettingError
        If a value is out of its range or does not fit the others.
    """

    name: Literal["deeplabv3plus"] = "deeplabv3plus"
    encoder: DilatedEncoder = "resnet50"
    encoder_weights: str | None = None
    output_stride: Literal[8, 16] = 16
    rates: Annotated[tuple[Count, Count, Count], BeforeValidator(_plain)] = (6, 12, 18)
    filters: Count = 256
    image_pooling: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return self.output_stride

    @property
    def preprocessing(self) -> PreprocessingConfig | None:
        """Preparation of pixels that the encoder's weights were learnt with; None from scratch."""
        return pixels_of(self.encoder) if self.encoder_weights else None

    def _because(self) -> tuple[str, str]:
        return f" with output_stride={self.output_stride}", ""

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        check_weights(self.encoder_weights, self.input_shape)
        return self
