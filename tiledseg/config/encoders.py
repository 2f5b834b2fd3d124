"""Networks whose encoder is a network of ``keras.applications``, and what those encoders take."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from tiledseg.config.architecture import Activation, ArchitectureConfig, Dropout, InputShape, Norm
from tiledseg.config.fields import Count, as_numbers
from tiledseg.config.preprocessing import PreprocessingConfig

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

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        weights = self.encoder_weights
        if weights not in {None, "imagenet"} and not str(weights).lower().endswith(_FILES):
            must = "be imagenet, None, or the path of a .safetensors, .weights.h5 or .keras file"
            raise self._invalid("encoder_weights", must, "Give one of these.")
        if weights is not None and self.input_shape[2] != 3:
            fix = "Use 3 channels, or encoder_weights=None."
            raise self._invalid("input_shape", "have 3 channels, RGB, with encoder_weights", fix)
        return self


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
