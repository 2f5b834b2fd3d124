"""The networks of ``keras.applications`` that can be encoders: where to tap them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BACKBONES", "Backbone"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network of ``keras.applications`` as an encoder.

    A tap is the last map of its size: what the layer that shrinks, or the block that shrinks,
    takes in. It never stands inside a block, where the channels are widened or narrowed.
    """

    source: str  # its name in ``keras.applications``
    # layers whose input is a tap, the finest first; the last tap is the backbone's output
    taps: tuple[str, ...]
    first: int = 2  # stride of the first tap; it doubles from tap to tap
    bgr: bool = False  # whether its published weights take the channels in the order blue, green, red
    lite: bool = False  # whether it is brought into the lite form: without squeeze-and-excite, with ReLU6


def _efficientnets() -> dict[str, Backbone]:
    taps = tuple(f"block{block}a_expand_conv" for block in (2, 3, 4, 6))
    first = {f"efficientnet-b{n}": Backbone(f"EfficientNetB{n}", taps) for n in range(8)}
    small = {f"efficientnetv2-b{n}": Backbone(f"EfficientNetV2B{n}", taps) for n in range(4)}
    large = {f"efficientnetv2-{n.lower()}": Backbone(f"EfficientNetV2{n}", taps) for n in "SML"}
    lite = {"efficientnet-lite0": Backbone("EfficientNetB0", taps, lite=True)}
    return first | lite | small | large


def _resnets() -> dict[str, Backbone]:
    starts = ("pool1_pad", *(f"conv{stage}_block1_1_conv" for stage in (3, 4, 5)))
    backbones = {f"resnet{depth}": Backbone(f"ResNet{depth}", starts, bgr=True) for depth in (50, 101, 152)}
    # The second version shrinks in the last block of a stage.
    for depth, blocks in ((50, (3, 4, 6)), (101, (3, 4, 23)), (152, (3, 8, 36))):
        ends = (f"conv{stage}_block{block}_1_conv" for stage, block in zip((2, 3, 4), blocks, strict=True))
        backbones[f"resnet{depth}v2"] = Backbone(f"ResNet{depth}V2", ("pool1_pad", *ends))
    return backbones


def _mobilenets() -> dict[str, Backbone]:
    first = tuple(f"conv_pad_{block}" for block in (2, 4, 6, 12))
    second = tuple(f"block_{block}_expand" for block in (1, 3, 6, 13))
    large = tuple(f"expanded_conv_{block}_expand" for block in (1, 3, 6, 12))
    small = ("expanded_conv_depthwise_pad", *(f"expanded_conv_{block}_expand" for block in (1, 3, 8)))
    return {
        "mobilenet": Backbone("MobileNet", first),
        "mobilenetv2": Backbone("MobileNetV2", second),
        "mobilenetv3-small": Backbone("MobileNetV3Small", small),
        "mobilenetv3-large": Backbone("MobileNetV3Large", large),
    }


def _others() -> dict[str, Backbone]:
    pools = tuple(f"block{block}_pool" for block in range(1, 6))
    vggs = {f"vgg{depth}": Backbone(f"VGG{depth}", pools, first=1, bgr=True) for depth in (16, 19)}
    densenets = {
        f"densenet{depth}": Backbone(
            f"DenseNet{depth}", ("zero_padding2d_1", "pool2_conv", "pool3_conv", "pool4_conv")
        )
        for depth in (121, 169, 201)
    }
    convnexts = {
        f"convnext-{size}": Backbone(
            f"ConvNeXt{size.title() if size != 'xlarge' else 'XLarge'}",
            tuple(f"convnext_{size}_downsampling_block_{n}" for n in range(3)),
            first=4,
        )
        for size in ("tiny", "small", "base", "large", "xlarge")
    }
    halved = ("block2_sepconv1", "block3_sepconv1_act", "block4_sepconv1_act", "block13_sepconv1_act")
    poolings = tuple(f"max_pooling2d_{n}" for n in range(4))
    return {
        **vggs,
        **densenets,
        **convnexts,
        "xception": Backbone("Xception", halved),
        "inceptionv3": Backbone("InceptionV3", poolings),
        "inceptionresnetv2": Backbone("InceptionResNetV2", poolings),
    }


BACKBONES: dict[str, Backbone] = {**_efficientnets(), **_resnets(), **_mobilenets(), **_others()}
"""The backbones by the names that settings have for them."""
