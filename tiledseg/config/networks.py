"""Settings of the networks, and their union by `name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field

from tiledseg._validate import did_you_mean, invalid
from tiledseg.config.architecture import (
    ArchitectureConfig,
    ConvolutionsConfig,
    DeepLabV3PlusConfig,
    Dropout,
    EfficientUNetConfig,
    EncoderUNetConfig,
    LevelsConfig,
    Norm,
    OnnxConfig,
)
from tiledseg.config.fields import Count, Positive, as_numbers
from tiledseg.errors import SettingError

_Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=6), as_numbers]


class UNetConfig(ConvolutionsConfig, LevelsConfig):
    """The U-Net of Ronneberger et al. (arXiv 1505.04597) with large first kernels.

    Encoder level i has ``base_filters * 2**i`` filters, a kernel of
    ``max(3, base_kernel - 2 * i)`` px and a dilation of ``max(1, dilation - i)``.

    The defaults are the founding experiment's network, which is large: 125,045,745 parameters and
    115.7 GFLOP per tile of 512 px, about 0.5 s on two cores; its training takes hours on a GPU.
    For most tasks start with ``UNetConfig(levels=5, base_filters=16, base_kernel=3)``, which has
    1,946,993 parameters.
    """

    name: Literal["unet"] = "unet"
    levels: Annotated[Count, Field(le=12)] = 8
    base_filters: Count = 16
    base_kernel: Annotated[Count, Field(ge=3)] = 9
    """Kernel of the first level in px, odd, from 3 up; 2 less at each deeper level, never under 3."""
    dilation: Count = 1
    """Dilation of the first level; 1 less at each deeper level, never under 1."""
    norm: Norm = "batch"
    """Normalisation after each convolution; the statistics of the two batch norms move by a tenth per
    step."""
    dropout: Dropout = 0.05
    """Level i drops ``dropout * i`` of its features, in [0, 1)."""

    def _check(self) -> None:
        super()._check()
        if self.base_kernel % 2 == 0:
            raise self._invalid(
                "base_kernel", "be odd", f"Use {self.base_kernel - 1} or {self.base_kernel + 1}."
            )
        if self.dropout * (self.levels - 1) >= 1:
            raise self._invalid(
                "dropout",
                f"stay under 1 at the deepest of {self.levels} levels",
                f"Use less than {1 / (self.levels - 1):.3g}.",
            )


class AttentionUNetConfig(ConvolutionsConfig, LevelsConfig):
    """The Attention U-Net of Oktay et al. (arXiv 1804.03999), in two dimensions.

    Level i has ``base_filters * 2**i`` filters; the defaults are the widths of the authors' code
    (``feature_scale`` 4). A gate weighs each px of a skip by one coefficient in [0, 1], computed
    from the skip and the next coarser features; the finest skip has none, as in the paper.
    """

    name: Literal["attention_unet"] = "attention_unet"
    levels: Annotated[Count, Field(ge=3, le=12)] = 5
    """Resolutions, the deepest included; a gate needs 3."""
    base_filters: Count = 16
    norm: Norm = "batch"
    """Normalisation between convolution and activation, and after each gate."""


class SharpUNetConfig(ConvolutionsConfig, LevelsConfig):
    """The Sharp U-Net of Zunair and Ben Hamza (arXiv 2107.12461).

    A U-Net whose skips pass a fixed sharpening filter, each feature by itself. The defaults are
    the authors'.
    """

    name: Literal["sharp_unet"] = "sharp_unet"
    levels: Annotated[Count, Field(ge=2, le=12)] = 5
    """Resolutions, the deepest included; a skip needs 2."""
    norm: Norm = "none"
    """Normalisation after each convolution; the paper has none."""


class MultiResUNetConfig(ConvolutionsConfig, LevelsConfig):
    """The MultiResUNet of Ibtehaz and Rahman (arXiv 1902.04049).

    Level i has MultiRes blocks of ``W = alpha * base_filters * 2**i`` filters, in three
    convolutions of W/6, W/3 and W/2, and a ResPath of ``levels - 1 - i`` residual convolutions on
    its skip. The defaults are the paper's.
    """

    name: Literal["multires_unet"] = "multires_unet"
    alpha: Positive = 1.67
    """Factor of the filters inside MultiRes blocks, positive."""

    def widths(self, level: int) -> tuple[int, int, int]:
        """Give the filters of the three convolutions of a MultiRes block.

        Parameters
        ----------
        level : int
            Level, from 0.

        Returns
        -------
        tuple of int
            About W/6, W/3 and W/2, with the factors of the authors' code.
        """
        filters = self.alpha * self.base_filters * 2**level
        return int(filters * 0.167), int(filters * 0.333), int(filters * 0.5)

    def _check(self) -> None:
        super()._check()
        if self.widths(0)[0] < 1:
            raise self._invalid(
                "base_filters",
                f"give 6 filters or more with alpha={self.alpha}",
                f"Use {int(1 / (0.167 * self.alpha)) + 1} or more.",
            )


class UNet3PlusConfig(ConvolutionsConfig):
    """The UNet 3+ of Huang et al. (arXiv 2004.08790).

    Five levels; level i of the encoder has ``base_filters * 2**i`` filters. Each level of the
    decoder joins features of all five scales, brought to `skip_filters` each, so it has
    ``5 * skip_filters``. The defaults are the paper's, without its options.
    """

    name: Literal["unet3plus"] = "unet3plus"
    base_filters: Count = 64
    """Filters of the first level; doubled at each deeper one."""
    skip_filters: Count = 64
    """Filters that each scale has in each level of the decoder."""
    deep_supervision: bool = False
    """Whether training adds a loss at an output of each coarser level."""
    classification_guided: bool = False
    """Whether a branch decides which classes an image contains; the map of a class that it does not contain
    is set to 0. It looks at the whole tile, and needs a sigmoid at the end."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return 16

    def _check(self) -> None:
        super()._check()
        sigmoid = self.final_activation == "sigmoid" or (self.final_activation is None and self.classes == 1)
        if self.classification_guided and not sigmoid:
            raise self._invalid(
                "classification_guided",
                "stand with final_activation sigmoid",
                'Set final_activation="sigmoid", or leave the guide out.',
                got=f"final_activation={self.final_activation} with {self.classes} classes",
            )


class U2NetConfig(ConvolutionsConfig):
    """The U²-Net of Qin et al. (arXiv 2005.09007): a U-Net whose blocks are U-Nets."""

    name: Literal["u2net"] = "u2net"
    size: Literal["full", "lite"] = "full"
    """The paper's larger network, or its smaller one (with a dagger in the paper)."""
    width: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor of all filters, in (0, 1]; 1 is the paper's."""
    deep_supervision: bool = True
    """Whether training adds losses at the six outputs that are fused, as in the paper."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return 32


class ResEncUNetConfig(LevelsConfig):
    """The residual encoder U-Net of nnU-Net (Isensee et al., arXiv 2404.09556), in two dimensions.

    Level i has ``min(base_filters * 2**i, most_filters)`` filters. The defaults are what nnU-Net
    plans for patches of 512 px: poolings down to 4 px, and 1, 3, 4, 6, 6, ... residual blocks.
    """

    name: Literal["resenc_unet"] = "resenc_unet"
    levels: Annotated[Count, Field(ge=2, le=12)] = 8
    most_filters: Count = 512
    """Filters that no level exceeds."""
    blocks: Annotated[tuple[Count, ...], as_numbers] | None = None
    """Residual blocks of each level of the encoder; None for nnU-Net's 1, 3, 4 and then 6."""
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    """Normalisation after each convolution. ``instance`` is nnU-Net's; it looks at the whole tile, so that
    tiling cannot be exact."""
    deep_supervision: bool = True
    """Whether training adds losses of the coarser levels, each with half the weight of the next finer one, as
    in nnU-Net."""

    @property
    def blocks_per_level(self) -> tuple[int, ...]:
        """Residual blocks of each level of the encoder."""
        return self.blocks or ((1, 3, 4) + (6,) * self.levels)[: self.levels]

    def _check(self) -> None:
        super()._check()
        if len(self.blocks_per_level) != self.levels:
            raise self._invalid(
                "blocks",
                f"have one number for each of {self.levels} levels",
                "Give as many, or leave it out.",
            )


class SwinUNetConfig(ArchitectureConfig):
    """The Swin-Unet of Cao et al. (arXiv 2105.05537): a U-Net of shifted-window transformers.

    The paper's own has windows of 7 px and images of 224 px; windows of 8 px fit tiles of 256 and
    512 px.
    """

    name: Literal["swin_unet"] = "swin_unet"
    patch: Literal[2, 4, 8] = 4
    """Size of a patch in px, from which one token is made: 2, 4 or 8."""
    window: Annotated[Count, Field(ge=2)] = 8
    """Size of a window in tokens, within which they attend to each other; from 2 up."""
    embedding: Count = 96
    """Channels of the first level; doubled at each deeper one."""
    depths: _Counts = (2, 2, 2, 2)
    """Blocks of each level of the encoder, every second one with shifted windows; the decoder has the
    same, without the deepest level. Their number is the number of levels."""
    heads: _Counts = (3, 6, 12, 24)
    """Heads of the attention at each level; they divide its channels."""
    mlp_ratio: Count = 4
    """Channels between the two dense layers of a block, as a multiple of the block's."""
    drop_path: Dropout = 0.2
    """Largest share of the blocks that are skipped in training, in [0, 1): 0 at the first block of the
    encoder, this at its last one; as deep in the decoder as in the encoder."""

    @property
    def stride(self) -> int:
        """Total stride in px, windows included; input sizes are multiples of it."""
        return int(self.patch * 2 ** (len(self.depths) - 1) * self.window)

    def _because(self) -> tuple[str, str]:
        levels = len(self.depths)
        return f" with patch={self.patch}, {levels} levels and window={self.window}", ", or another window"

    def _check(self) -> None:
        super()._check()
        if len(self.heads) != len(self.depths):
            raise self._invalid(
                "heads", f"have {len(self.depths)} values, as many as `depths`", "Give one number per level."
            )
        for level, heads in enumerate(self.heads):
            channels = self.embedding * 2**level
            if channels % heads:
                raise self._invalid(
                    "heads",
                    f"divide the {channels} channels of level {level}",
                    "Use a divisor, or another `embedding`.",
                    got=heads,
                )


class TransUNetConfig(ArchitectureConfig):
    """The TransUNet of Chen et al. (arXiv 2102.04306): a residual network, a transformer, a U-Net's decoder.

    The defaults are the authors' R50-ViT-B_16. Every token attends to all of the tile, so that
    tiles are never exact; the embedding of the tokens' places fixes the size.
    """

    name: Literal["trans_unet"] = "trans_unet"
    width: Annotated[Count, Field(multiple_of=8)] = 64
    """Channels of the residual network's first convolution; a multiple of 8."""
    units: Annotated[tuple[Count, Count, Count], as_numbers] = (3, 4, 9)
    """Bottleneck units at stride 4, 8 and 16."""
    hidden: Count = 768
    """Channels of a token."""
    layers: Count = 12
    """Layers of the transformer."""
    heads: Count = 12
    """Heads of its attention; they divide `hidden`."""
    mlp: Count = 3072
    """Channels between the two dense layers of a transformer's layer."""
    decoder_filters: Annotated[tuple[Count, Count, Count, Count], as_numbers] = (
        256,
        128,
        64,
        16,
    )
    """Filters of the decoder at stride 8, 4, 2 and 1."""
    dropout: Dropout = 0.1
    """Fraction that the embedding and the dense layers of the transformer drop, in [0, 1)."""

    @property
    def stride(self) -> int:
        """Total stride in px; input sizes are multiples of it."""
        return 16

    def _because(self) -> tuple[str, str]:
        return ", the size of a token", ""

    def _check(self) -> None:
        super()._check()
        if None in self.input_shape:
            raise self._invalid(
                "input_shape",
                "have a height and a width, since the network has parameters for each token's place",
                "Use (512, 512, 3), for example.",
            )
        if self.hidden % self.heads:
            raise self._invalid(
                "heads", f"divide the {self.hidden} channels of a token", "Use a divisor of `hidden`."
            )


NetworkConfig: TypeAlias = Annotated[
    UNetConfig
    | AttentionUNetConfig
    | DeepLabV3PlusConfig
    | EfficientUNetConfig
    | EncoderUNetConfig
    | SwinUNetConfig
    | TransUNetConfig
    | MultiResUNetConfig
    | ResEncUNetConfig
    | SharpUNetConfig
    | U2NetConfig
    | UNet3PlusConfig,
    Field(discriminator="name"),
]
"""Settings of any architecture; ``name`` says of which."""

_CLASSES: dict[str, type[ArchitectureConfig]] = {
    kind.model_fields["name"].default: kind for kind in get_args(get_args(NetworkConfig)[0])
}


def architecture_of(config: ArchitectureConfig | Mapping[str, object] | str) -> Any:  # any of them
    """Return the settings of an architecture, for themselves, for a mapping of them, or for its name."""
    if isinstance(config, ArchitectureConfig):
        return config
    config = {"name": config} if isinstance(config, str) else config
    if not isinstance(config, Mapping):
        raise invalid(
            SettingError,
            "config",
            must="be settings of an architecture, a mapping of them, or its name",
            got=type(config).__name__,
            fix='Use {"name": "unet"}, for example.',
        )
    name = config.get("name")
    if name == "onnx":
        return OnnxConfig.model_validate(dict(config))
    if not isinstance(name, str) or name not in _CLASSES:
        fix = did_you_mean(str(name), _CLASSES)
        raise invalid(SettingError, "name", must="be an architecture", got=name, fix=fix)
    return _CLASSES[name].model_validate(dict(config))
