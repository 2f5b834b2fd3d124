"""Networks of the libraries of PyTorch: how each is built, and exported by both exporters.

The weights are random, the same in each process; batch normalization has statistics and scales, as after
training, because its defaults would make it the identity.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["NETWORKS", "built", "export"]

_EXAMPLE = (1, 3, 128, 192)
_WIDTHS = (16, 32, 64, 128, 256)
_TORCHVISION_OPERATORS = """
    nms qnms roi_align _roi_align_backward ps_roi_align _ps_roi_align_backward roi_pool _roi_pool_backward
    ps_roi_pool _ps_roi_pool_backward deform_conv2d _deform_conv2d_backward
""".split()  # noqa: SIM905
_INCOMPLETE = frozenset({"torchvision", "timm", "segmentation_models_pytorch", "monai"})  # after an error
_DEFINITIONS: list[Any] = []  # of operators: they end with the object that made them


class _Out(nn.Module):
    """A network of torchvision that returns its map alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)["out"]


def _load(module: str) -> Any:
    """Import a module that uses torchvision, whose operators in C++ no network here needs."""
    try:
        return import_module(module)
    except RuntimeError:  # torchvision was compiled for another build of PyTorch
        for name in [name for name in sys.modules if name.partition(".")[0] in _INCOMPLETE]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in _TORCHVISION_OPERATORS:
            library.define(f"{name}(Tensor a) -> Tensor")
        _DEFINITIONS.append(library)
        return import_module(module)


def _smp(name: str, encoder: str = "resnet18", **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        library = _load("segmentation_models_pytorch")
        return getattr(library, name)(encoder, encoder_weights=None, classes=2, **options)

    return build


def _monai(name: str, *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(_load("monai.networks.nets"), name)(*arguments, **options)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        library = _load("torchvision.models.segmentation")
        return _Out(getattr(library, name)(weights=None, weights_backbone=None, num_classes=2))

    return build


def _nnunet(name: str, norm: type[nn.Module], **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        library = _load("dynamic_network_architectures.architectures.unet")
        return getattr(library, name)(
            input_channels=3,
            n_stages=5,
            features_per_stage=_WIDTHS,
            conv_op=nn.Conv2d,
            kernel_sizes=3,
            strides=(1, 2, 2, 2, 2),
            num_classes=2,
            n_conv_per_stage_decoder=1,
            conv_bias=True,
            norm_op=norm,
            norm_op_kwargs={},
            nonlin=nn.LeakyReLU,
            **options,
        )

    return build


_UNET: dict[str, Any] = {"num_res_units": 2}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "smp Unet": _smp("Unet"),
    "smp UnetPlusPlus": _smp("UnetPlusPlus"),
    "smp Linknet": _smp("Linknet"),
    "smp Unet, MobileNetV2": _smp("Unet", "mobilenet_v2"),
    "smp Unet, EfficientNet": _smp("Unet", "efficientnet-b0"),
    "smp FPN": _smp("FPN"),
    "smp DeepLabV3Plus": _smp("DeepLabV3Plus"),
    "smp Segformer": _smp("Segformer"),
    "MONAI UNet, batch norm": _monai("UNet", 2, 3, 2, _WIDTHS, (2,) * 4, **_UNET, norm="batch"),
    "MONAI UNet": _monai("UNet", 2, 3, 2, _WIDTHS, (2,) * 4, **_UNET),
    "MONAI BasicUNet, batch norm": _monai("BasicUNet", 2, 3, 2, norm="batch"),
    "MONAI BasicUNet, pixel shuffle": _monai("BasicUNet", 2, 3, 2, norm="batch", upsample="pixelshuffle"),
    "MONAI SegResNet, batch norm": _monai("SegResNet", 2, in_channels=3, out_channels=2, norm="batch"),
    "MONAI AttentionUnet": _monai("AttentionUnet", 2, 3, 2, (16, 32, 64), (2, 2)),
    "torchvision FCN": _torchvision("fcn_resnet50"),
    "torchvision DeepLabV3": _torchvision("deeplabv3_resnet50"),
    "torchvision LR-ASPP": _torchvision("lraspp_mobilenet_v3_large"),
    "nnU-Net plain, batch norm": _nnunet("PlainConvUNet", nn.BatchNorm2d, n_conv_per_stage=2),
    "nnU-Net residual, batch norm": _nnunet("ResidualEncoderUNet", nn.BatchNorm2d, n_blocks_per_stage=2),
    "nnU-Net plain": _nnunet("PlainConvUNet", nn.InstanceNorm2d, n_conv_per_stage=2),
}
"""How each is built."""


def built(name: str) -> nn.Module:
    """Build a network with random weights, the same each time."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.7, 1.4)
            part.weight.data.uniform_(0.7, 1.3)
            part.bias.data.normal_(0, 0.1)
    return network


def export(name: str, exporter: str, path: Path) -> None:
    """Export a network, its height and width free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    example, free = torch.zeros(_EXAMPLE), torch.export.Dim.DYNAMIC
    if exporter == "legacy":
        axes = {0: "n", 2: "h", 3: "w"}
        torch.onnx.export(
            built(name),
            (example,),
            str(unfinished),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": axes, "y": axes},
        )
    else:
        torch.onnx.export(
            built(name),
            (example,),
            str(unfinished),
            dynamo=True,
            dynamic_shapes=({0: free, 2: free, 3: free},),
            external_data=False,
            verbose=False,
        )
    unfinished.rename(path)
