"""The encoders that networks can have: the networks of ``keras.applications``, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from tiledseg._validate import invalid
from tiledseg.config._preprocessing import PreprocessingConfig
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from tiledseg.config._networks._base import InputShape

__all__ = [
    "DilatedEncoder",
    "EfficientNet",
    "EncoderName",
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
