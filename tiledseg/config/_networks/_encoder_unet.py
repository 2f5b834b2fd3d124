"""Settings of the U-Nets whose encoder is a network of ``keras.applications``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiledseg.config._base import Count, _plain
from tiledseg.config._networks._base import Activation, ArchitectureConfig, Norm
from tiledseg.config._networks._encoders import EfficientNet, EncoderName, check_weights, pixels_of

if TYPE_CHECKING:
    from tiledseg.config._preprocessing import PreprocessingConfig

__all__ = ["EfficientUNetConfig", "EncoderUNetConfig"]

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
