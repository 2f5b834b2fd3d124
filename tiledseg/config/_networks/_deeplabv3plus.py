"""Settings of DeepLabV3+."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tiledseg.config._base import Count, _plain
from tiledseg.config._networks._base import ArchitectureConfig
from tiledseg.config._networks._encoders import DilatedEncoder, check_weights, pixels_of

if TYPE_CHECKING:
    from tiledseg.config._preprocessing import PreprocessingConfig

__all__ = ["DeepLabV3PlusConfig"]


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
