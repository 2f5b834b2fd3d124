"""Draws layers, their arguments and small graphs, and compares OpenVINO with Keras: equal, or refused.

``python -m tests.fuzz_openvino 0 2000`` draws those seeds. Each comparison runs in a process that may crash:
an operation of OpenVINO can end the process, which no exception shows.
"""

from __future__ import annotations

import collections
import os
import subprocess
import sys

import keras
import numpy as np
from keras import layers, ops

from tiledseg.engine.layers import UnsupportedError, read_layers
from tiledseg.engine.openvino.layers import build
from tiledseg.engine.openvino.predictor import compiled
from tiledseg.models.architectures.deeplabv3plus import Spread
from tiledseg.models.architectures.swin_unet import DepthToSpace, SpaceToDepth, WindowAttention
from tiledseg.models.architectures.trans_unet import Placed, StandardisedConv2D
from tiledseg.models.encoder import ReversedChannels

MOST = 1e-5  # of the largest output
CHUNK = 250  # seeds of one process


def _run(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env, check=False
    )


def outcomes(first: int, stop: int, run=_run) -> dict[int, str]:
    """Return the outcome of each seed: ``equal``, ``refused: why``, ``differs: what`` or ``crash``."""
    found: dict[int, str] = {}
    start = first
    while start < stop:
        end = min(start + CHUNK, stop)
        code = f"from tests.fuzz_openvino import work; work({start}, {end})"
        done = run(code, env={"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""})
        for line in done.stdout.splitlines():
            seed, _, text = line.partition("\t")
            found[int(seed)] = text
        reached = max([seed for seed in found if start <= seed < end], default=start)
        if done.returncode and found.get(reached, "started") == "started":
            if start not in found:
                raise RuntimeError(done.stderr[-3000:])
            found[reached] = f"crash with code {done.returncode}"
        start = reached + 1
    return found


def _say(seed: int, text: str) -> None:
    sys.stdout.write(f"{seed}\t{text}\n")
    sys.stdout.flush()


def work(first: int, stop: int) -> None:
    """Compare the networks of some seeds, and print one line when each starts and when it ends."""

    for seed in range(first, stop):
        _say(seed, "started")
        keras.utils.clear_session()
        rng = np.random.default_rng(seed)
        try:
            model, tiles = drawn(rng)
        except Exception as error:  # noqa: BLE001  Keras refuses some arguments
            _say(seed, f"not built: {type(error).__name__}")
            continue
        text = "equal"
        try:
            weights = {one.path: one.numpy() for one in model.weights}
            call = compiled(build(read_layers(model), weights, tiles.shape), "f32")
            found, wanted = call(tiles), keras.ops.convert_to_numpy(model(tiles, training=False))
            worst = _furthest(found, wanted) if found.shape == wanted.shape else np.inf
            if not worst <= MOST and not worst <= 4 * _sensitivity(model, tiles, wanted, rng):
                text = f"differs: {worst:.1e} {found.shape} {wanted.shape} {described(model)}"
        except UnsupportedError as error:
            text = f"refused: {str(error).splitlines()[0][:150]}"
        except Exception as error:  # noqa: BLE001
            text = f"failed: {type(error).__name__}: {str(error)[:300]} {described(model)}"
        _say(seed, text)


def _furthest(found, wanted) -> float:
    return float(np.abs(found - wanted).max()) / max(float(np.abs(wanted).max()), 1e-30)


def _sensitivity(model, tiles, wanted, rng) -> float:
    """Measure how far the rounding of its input alone moves the output of Keras, as before an exponential."""
    ends = (np.nextafter(tiles, np.float32(end * np.inf)) for end in rng.choice([-1, 1], 8))
    outputs = (keras.ops.convert_to_numpy(model(one, training=False)) for one in ends)
    return max(_furthest(output, wanted) for output in outputs)


def described(model) -> str:
    """Say what a network is made of."""
    return "; ".join(f"{type(one).__name__} {one.get_config()}"[:400] for one in model.layers[1:])


def drawn(rng):
    """Draw a network of one or several layers, and tiles for it."""
    size = tuple(int(one) for one in rng.integers(5, 24, 2))
    n, channels = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 32, 64]))
    x = inputs = keras.Input((*size, channels))
    many = 1 if rng.random() < 0.6 else int(rng.integers(2, 8))
    if many > 1:
        x = layers.Conv2D(int(rng.choice([2, 4, 8, 16, 32])), 3, padding="same")(x)
    before = [x]
    for _ in range(many):
        draw = _LAYERS[int(rng.integers(len(_LAYERS)))] if many == 1 else _draw_one(rng)
        x = draw(rng, x)
        if many > 1 and rng.random() < 0.4:
            x = _joined(rng, x, before[int(rng.integers(len(before)))])
        before.append(x)
    model = keras.Model(inputs, x)
    for variable in model.weights:
        shape, low = variable.shape, 0.3
        positive = any(word in variable.path for word in ("variance", "stddev", "gamma"))
        values = rng.uniform(low, 2, shape) if positive else rng.normal(0, 1, shape)
        if "gamma" in variable.path and values.flat[0] < 1:  # of some layers a part is negative
            values = np.where(values < 0.8, -values, values)
        if len(shape) > 1:
            values = values / np.sqrt(np.prod(shape[:-1]))
        variable.assign(values.astype(np.float32))
    scale = float(rng.choice([0.1, 1.0, 10.0]))
    return model, (scale * rng.normal(0, 1, (n, *size, channels))).astype(np.float32)


def _draw_one(rng):
    return _COMMON[int(rng.integers(len(_COMMON)))]


def _pick(rng, *values):
    return values[int(rng.integers(len(values)))]


def _joined(rng, x, y):
    if x.shape != y.shape:
        if x.shape[:3] != y.shape[:3]:
            return x
        return layers.Concatenate()([x, y])
    kind = _pick(
        rng, layers.Add, layers.Multiply, layers.Subtract, layers.Average, layers.Maximum, layers.Concatenate
    )
    return kind()([x, y])


def _activation(rng):
    names = [
        "linear",
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "tanh",
        "softplus",
        "hard_sigmoid",
        "hard_silu",
        "exponential",
        "softmax",
        "softsign",
        "celu",
        "log_softmax",
        "hard_tanh",
    ]
    if rng.random() < 0.1:
        return _pick(rng, layers.LeakyReLU(0.1), layers.ReLU(6.0), layers.ELU())
    return _pick(rng, None, *names)


def _kernel(rng):
    return (
        (int(rng.integers(1, 8)), int(rng.integers(1, 8))) if rng.random() < 0.5 else int(rng.integers(1, 6))
    )


def _strides(rng):
    return _pick(rng, 1, 1, 2, 3, (1, 2), (2, 1), (3, 2))


def _padding(rng):
    return _pick(rng, "same", "same", "valid")


def _conv(rng, x):
    groups = _pick(rng, 1, 1, 2, x.shape[-1])
    filters = int(rng.integers(1, 9)) * groups
    strides = _strides(rng)
    dilation = _pick(rng, 1, 2, 3, (1, 2)) if strides == 1 else 1
    return layers.Conv2D(
        filters, _kernel(rng), strides=strides, padding=_padding(rng), dilation_rate=dilation, groups=groups,
        activation=_activation(rng), use_bias=bool(rng.random() < 0.7),
    )(x)  # fmt: skip


def _depthwise(rng, x):
    strides = _pick(rng, 1, 1, 2)
    return layers.DepthwiseConv2D(
        _kernel(rng), strides=strides, padding=_padding(rng), depth_multiplier=int(rng.integers(1, 4)),
        dilation_rate=_pick(rng, 1, 2) if strides == 1 else 1, activation=_activation(rng),
    )(x)  # fmt: skip


def _separable(rng, x):
    strides = _pick(rng, 1, 1, 2)
    return layers.SeparableConv2D(
        int(rng.integers(1, 9)), _kernel(rng), strides=strides, padding=_padding(rng),
        depth_multiplier=int(rng.integers(1, 4)), dilation_rate=_pick(rng, 1, 2) if strides == 1 else 1,
        activation=_activation(rng), use_bias=bool(rng.random() < 0.5),
    )(x)  # fmt: skip


def _transposed(rng, x):
    strides = _strides(rng)
    return layers.Conv2DTranspose(
        int(rng.integers(1, 9)), _kernel(rng), strides=strides, padding=_padding(rng),
        output_padding=_pick(rng, None, None, None, 0, 1),
        dilation_rate=_pick(rng, 1, 1, 1, 2) if strides == 1 else 1,
        activation=_activation(rng), use_bias=bool(rng.random() < 0.7),
    )(x)  # fmt: skip


def _pool(rng, x):
    kind = _pick(rng, layers.MaxPooling2D, layers.AveragePooling2D)
    size = _pick(rng, 1, 2, 3, (2, 3), 5)
    return kind(size, strides=_pick(rng, None, 1, 2, (2, 1), 4), padding=_padding(rng))(x)


def _upsample(rng, x):
    return layers.UpSampling2D(
        _pick(rng, 1, 2, 3, (2, 3), 4), interpolation=_pick(rng, "nearest", "bilinear", "bilinear", "bicubic")
    )(x)


def _norm(rng, x):
    channels = x.shape[-1]
    eps, flags = (
        _pick(rng, 1e-3, 1e-5, 0.1),
        {"center": bool(rng.random() < 0.7), "scale": bool(rng.random() < 0.7)},
    )
    which = rng.random()
    if which < 0.35:
        return layers.BatchNormalization(
            axis=_pick(rng, -1, -1, 3, 1), epsilon=eps, renorm=bool(rng.random() < 0.2), **flags
        )(x)
    if which < 0.8:
        divisors = [one for one in range(1, channels + 1) if channels % one == 0]
        return layers.GroupNormalization(_pick(rng, -1, channels, *divisors), epsilon=eps, **flags)(x)
    if which < 0.95:
        return layers.LayerNormalization(axis=_pick(rng, -1, -1, 3, (1, 2, 3)), epsilon=eps, **flags)(x)
    return _pick(rng, layers.UnitNormalization(), layers.RMSNormalization())(x)


def _edges(rng, x):
    kind = _pick(rng, layers.ZeroPadding2D, layers.Cropping2D)
    return kind(tuple(tuple(int(one) for one in rng.integers(0, 3, 2)) for _ in range(2)))(x)


def _activated(rng, x):
    return _pick(
        rng, layers.Activation(_activation(rng) or "relu"), layers.ReLU(), layers.ReLU(max_value=6.0),
        layers.ReLU(negative_slope=0.1), layers.ReLU(max_value=2, negative_slope=0.1),
        layers.ReLU(threshold=0.5),
        layers.LeakyReLU(float(rng.random())), layers.ELU(float(rng.random() + 0.1)), layers.Softmax(),
        layers.Softmax(axis=1), layers.PReLU(), layers.PReLU(shared_axes=(1, 2)), layers.Dropout(0.5),
        layers.GaussianNoise(0.1), layers.SpatialDropout2D(0.1), layers.Rescaling(1 / 255, offset=-0.5),
        layers.Rescaling(2), layers.Identity(), layers.ActivityRegularization(0.1),
    )(x)  # fmt: skip


def _dense(rng, x):
    return layers.Dense(
        int(rng.integers(1, 9)), activation=_activation(rng), use_bias=bool(rng.random() < 0.7)
    )(x)


def _operation(rng, x):
    number = float(rng.normal())
    constant = rng.normal(0, 1, (x.shape[-1],)).astype(np.float32)
    return _pick(
        rng, lambda: x * number, lambda: number - x, lambda: x + constant, lambda: x / 3,
        lambda: 1 / (x * x + 1),
        lambda: ops.relu(x), lambda: ops.relu6(x), lambda: ops.silu(x), lambda: ops.sigmoid(x),
        lambda: ops.tanh(x),
        lambda: ops.leaky_relu(x, 0.3), lambda: ops.maximum(x, 0.1), lambda: ops.minimum(x, number),
        lambda: ops.gelu(x), lambda: ops.clip(x, -1, 1), lambda: x**2, lambda: ops.flip(x, axis=1),
        lambda: ops.mean(x, axis=-1, keepdims=True), lambda: x * ops.mean(x, axis=(1, 2), keepdims=True),
        lambda: ops.hard_silu(x), lambda: ops.add(2, x), lambda: x - x,
    )()  # fmt: skip


def _squeezed(rng, x):
    kind = _pick(rng, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    kept = rng.random() < 0.5
    y = kind(keepdims=True)(x) if kept else layers.Reshape((1, 1, x.shape[-1]))(kind()(x))
    y = _pick(rng, layers.Dense, lambda n, **more: layers.Conv2D(n, 1, **more))(
        x.shape[-1], activation="sigmoid"
    )(y)
    return layers.Multiply()([y, x] if rng.random() < 0.5 else [x, y])


def _nested(rng, x):
    inner = keras.Input(x.shape[1:])
    block = keras.Model(inner, _conv(rng, _norm(rng, inner)))
    return block(x)


def _own(rng, x):

    def windows():
        heads = _pick(rng, 1, 2)
        y = layers.Conv2D(4 * heads, 1)(layers.Resizing(16, 16)(x) if rng.random() < 0.1 else x)
        window = _pick(rng, 2, 3, 4)
        y = layers.Cropping2D(((0, y.shape[1] % window), (0, y.shape[2] % window)))(y)
        return WindowAttention(heads, window, _pick(rng, 0, window // 2))(y)

    return _pick(
        rng,
        lambda: Spread()([layers.GlobalAveragePooling2D(keepdims=True)(x), x]),
        lambda: SpaceToDepth(2)(layers.Cropping2D(((0, x.shape[1] % 2), (0, x.shape[2] % 2)))(x)),
        lambda: DepthToSpace(2)(layers.Conv2D(8, 1)(x)),
        lambda: StandardisedConv2D(
            4, _kernel(rng), strides=_strides(rng), padding=_padding(rng), use_bias=bool(rng.random() < 0.5)
        )(x),
        lambda: Placed()(x),
        lambda: ReversedChannels()(x),
        windows,
        lambda: layers.MultiHeadAttention(2, 3, attention_axes=(1, 2), use_bias=bool(rng.random() < 0.5))(
            x, x
        ),
    )()


_COMMON = [
    _conv,
    _conv,
    _conv,
    _depthwise,
    _separable,
    _transposed,
    _pool,
    _upsample,
    _norm,
    _norm,
    _activated,
    _dense,
]
_COMMON += [_squeezed, _operation, _nested]
_LAYERS = [*_COMMON, _edges, _own, _norm, _transposed, _activated]


if __name__ == "__main__":
    everything = outcomes(int(sys.argv[1]), int(sys.argv[2]))
    counts = collections.Counter(text.partition(":")[0] for text in everything.values())
    sys.stdout.write(f"{dict(counts)}\n")
    for seed, text in everything.items():
        if not text.startswith(("equal", "not built", "refused")):
            _say(seed, text)
