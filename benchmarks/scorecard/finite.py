"""NaN and infinity in images, losses, weights and outputs: found before a checkpoint holds them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scorecard._processes import run_each
from benchmarks.scorecard._rows import Figure, Trial, good, row

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACES = ("input", "loss", "weights", "output")
_ACTIVATIONS = ("relu", "leaky_relu", "gelu", "silu")
_NORMS = ("batch", "none")
_VALUES = ("nan", "inf")

# Each case trains twice two steps; what goes wrong happens in the second epoch, after a good checkpoint.
_TRAIN = """
import sys
from pathlib import Path
import numpy as np, keras
import tiledseg as ts
from tiledseg.config import TrainConfig, UNetConfig
from tiledseg.errors import ArrayError, ModelError
from tiledseg.train import Trainer, latest_checkpoint

class Break(keras.callbacks.Callback):
    def __init__(self, place, value):
        super().__init__()
        self.place, self.value, self.epoch = place, value, 0
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_begin(self, batch, logs=None):
        if self.epoch == 1 and self.place in {"loss", "weights", "output"}:
            weights = [one for one in self.model.trainable_weights if "kernel" in one.path]
            one = weights[-1 if self.place == "output" else 0]
            values = one.numpy()
            values.flat[0] = self.value
            one.assign(values * np.float32(1e30) if self.place == "loss" else values)

def finite(folder):
    found = latest_checkpoint(folder / "checkpoints")
    return found is None or all(np.isfinite(one).all() for one in found.arrays.values())

rng = np.random.default_rng(0)
image, mask = rng.random((32, 32, 3)).astype("f4"), (rng.random((32, 32)) < 0.5).astype("u1")
for case in sys.argv[1:]:
    place, activation, norm, value, folder = case.split(":")
    bad = image.copy()
    if place == "input":
        bad[5, 6, 1] = float(value)
    try:
        network = UNetConfig(input_shape=(None, None, 3), levels=1, base_filters=2, base_kernel=3,
                             dropout=0.0, activation=activation, norm=norm)
        config = TrainConfig(network=network, crop_size=32, epochs=2, steps_per_epoch=2, batch_size=1,
                             curves=False, runs_dir=folder)
        valid = [(image[::-1].copy(), mask[::-1].copy())]
        callbacks = [Break(place, float(value))]
        Trainer(config).fit([(bad, mask)], valid, progress=False, callbacks=callbacks)
        kind = "silent"
    except (ArrayError, ModelError) as error:
        kind = "found"
    except BaseException as error:
        kind = "bare " + repr(error)[:200]
    runs = list(Path(folder).glob("*"))
    kind = kind if all(finite(one) for one in runs) else "committed"
    print("FOUND", kind, flush=True)
    keras.utils.clear_session()
"""


@row(16, "NaN and infinity in input, loss, weights and output, found before a checkpoint holds them")
def not_finite(trial: Trial) -> Iterator[Figure]:
    for mode in ("1", "0"):
        cases = [
            Path(f"{place}:{activation}:{norm}:{_VALUES[(n + m) % 2]}:{trial.folder}/{mode}{place}{n}{m}")
            for place in _PLACES
            for n, activation in enumerate(_ACTIVATIONS)
            for m, norm in enumerate(_NORMS)
        ]
        chosen = cases[:: round(1 / max(trial.size, 0.2))]
        found = run_each(_TRAIN, chosen, seconds=60, TF_ENABLE_ONEDNN_OPTS=mode)
        faults = (None if kind == "found" else f"{case}: {kind} {text}" for case, kind, text in found)
        yield good(f"places, activations and norms, oneDNN {('off', 'on')[int(mode)]}", faults)
