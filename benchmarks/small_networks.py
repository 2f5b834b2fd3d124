"""Small exported networks for the tests, which need no PyTorch: ``python -m benchmarks.small_networks``.

It writes MONAI's and nnU-Net's architectures with few features, by both exporters, into ``tests/networks``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import onnx
from torch import nn

from benchmarks._networks import NETWORKS, export

_FOLDER = Path(__file__).parents[1] / "tests" / "networks"
_FEW = (2, 4, 4)


def _monai(name: str, **options: object) -> nn.Module:
    library = import_module("monai.networks.nets")
    return getattr(library, name)(spatial_dims=2, in_channels=3, out_channels=2, **options)


def _plain() -> nn.Module:
    library = import_module("dynamic_network_architectures.architectures.unet")
    return library.PlainConvUNet(
        input_channels=3,
        n_stages=3,
        features_per_stage=_FEW,
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=(1, 2, 2),
        n_conv_per_stage=1,
        num_classes=2,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=nn.BatchNorm2d,
        norm_op_kwargs={},
        nonlin=nn.LeakyReLU,
    )


_SMALL = {
    "monai_unet": lambda: _monai("UNet", channels=_FEW, strides=(2, 2), num_res_units=1, norm="batch"),
    "monai_unet_instance": lambda: _monai("UNet", channels=_FEW, strides=(2, 2), num_res_units=1),
    "monai_segresnet": lambda: _monai(
        "SegResNet", init_filters=2, blocks_down=(1, 1), blocks_up=(1,), norm="batch"
    ),
    "nnunet_plain": _plain,
}


def main() -> None:
    """Export all of them by both exporters."""
    for name, build in _SMALL.items():
        NETWORKS[name] = build
        for exporter in ("legacy", "dynamo"):
            path = _FOLDER / f"{name}_{exporter}.onnx"
            export(name, exporter, path)
            _strip(path)
            print(path, path.stat().st_size)


def _strip(path: Path) -> None:
    """Remove what only describes the export, such as the lines of code of each operation."""
    model = onnx.load(path)
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.graph.ClearField("value_info")
    onnx.save(model, path)


if __name__ == "__main__":
    main()
