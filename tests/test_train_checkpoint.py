"""Checkpoints: one sealed file for the whole state of a run; what is no checkpoint is refused."""

from __future__ import annotations

import hashlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from tiledseg._backend import keras
from tiledseg.errors import FileError, SettingError
from tiledseg.train import latest_checkpoint
from tiledseg.train.checkpoint import Checkpointer, Restorer, restore_variables


def test_checkpoints_that_may_not_be_looked_at_are_not_taken_for_none(tmp_path, closed):
    assert latest_checkpoint(tmp_path) is latest_checkpoint(tmp_path / "missing") is None
    with closed(tmp_path), pytest.raises(FileError, match=r"must be readable; got .*Permission denied"):
        latest_checkpoint(tmp_path)


def sealed_header(header: dict[str, object]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def seal(folder, content):
    line = f"tiledseg checkpoint 1 sha256:{hashlib.sha256(content).hexdigest()}\n"
    (folder / "epoch-000001.ckpt").write_bytes(line.encode() + content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02\0\0\0\0\0\0\0{}",
        b"\xff" * 64,
        sealed_header({"__metadata__": {"facts": "[]"}}),
        sealed_header(
            {
                "__metadata__": {"facts": "{}"},
                "a": {"dtype": "F32", "shape": [2**61], "data_offsets": [0, 2**63]},
            }
        ),
        sealed_header(
            {"__metadata__": {"facts": "{}"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
        ),
        sealed_header({"__metadata__": {"facts": "{}"}, "a": 3}),
        sealed_header({"__metadata__": {"facts": "[" * 100_000}}),
    ],
)
def test_a_file_that_another_program_sealed_is_refused(content, tmp_path):
    seal(tmp_path, content)
    with pytest.raises(FileError, match=r"epoch-000001\.ckpt.* must hold what a checkpoint"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
    ],
)
def test_an_array_of_another_size_than_its_bytes_is_refused(tmp_path, entry):
    content = sealed_header({"__metadata__": {"facts": "{}"}, "a": entry}) + bytes(8)
    seal(tmp_path, content)
    with pytest.raises(FileError, match=r"an array (has another size|is larger than the file)"):
        latest_checkpoint(tmp_path)


class Owner(keras.callbacks.Callback):
    """A callback with a state of every kind."""

    def __init__(self):
        super().__init__()
        self.rate, self.seen, self.none, self.open = np.float64(0.5), [1, 2], [], {1, 2}
        self.mixed = [np.zeros(1), 2]  # is not saved
        self.sums = [np.arange(3.0), np.zeros((0, 2), np.float32), np.array(True)]


def test_a_checkpoint_is_a_safetensors_file_behind_its_seal(tmp_path):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.BatchNormalization()])
    network.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    owner = Owner()
    writer = Checkpointer(tmp_path, SimpleNamespace(columns={"loss": [0.5]}), [owner], {"seed": 1})
    network.fit(np.ones((4, 2)), np.ones((4, 1)), epochs=3, verbose=0, callbacks=[owner, writer])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000002.ckpt", "epoch-000003.ckpt"]
    line, _, payload = (tmp_path / "epoch-000003.ckpt").read_bytes().partition(b"\n")
    assert line.decode() == f"tiledseg checkpoint 1 sha256:{hashlib.sha256(payload).hexdigest()}"
    assert int.from_bytes(payload[:8], "little") % 8 == 0  # so that arrays begin at their alignment
    stored, read = safetensors.numpy.load(payload), latest_checkpoint(tmp_path)
    assert {name: (one.dtype, one.tolist()) for name, one in read.arrays.items()} == {
        name: (one.dtype, one.tolist()) for name, one in stored.items()
    }
    wanted = [variable.numpy() for variable in (*network.weights, *network.optimizer.variables)]
    own = [one for name, one in sorted(stored.items()) if not name.startswith("callback/")]
    assert all(np.array_equal(one, other) for one, other in zip(own, wanted, strict=True))
    state = {"rate": 0.5, "seen": [1, 2], "none": []}
    assert read.facts == {
        "epoch": 3,
        "finished": True,
        "history": {"loss": [0.5]},
        "callbacks": [{"class": "Owner", "state": state}],
        "origin": {"seed": 1},
    }
    assert len(read.arrays) == len(wanted) + 3

    other = Owner()
    other.rate, other.seen, other.none, other.sums = 0.1, [], [3], []
    Restorer(read, [other]).on_train_begin()
    assert (other.rate, other.seen, other.none) == (0.5, [1, 2], [])
    assert [one.tolist() for one in other.sums] == [one.tolist() for one in owner.sums]
    with pytest.raises(SettingError, match="must be those of the run, Owner; got Owner, Owner"):
        Restorer(read, [other, other])
    network.set_weights([np.zeros(one.shape) for one in network.get_weights()])
    restore_variables(network, read)
    for variable, value in zip(network.weights, wanted, strict=False):
        assert np.array_equal(variable.numpy(), value)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_run_is_finished_after_its_last_epoch_or_once_it_is_stopped(tmp_path, epoch, stopped):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile("sgd")
    network.stop_training = stopped
    writer = Checkpointer(tmp_path, SimpleNamespace(columns={}), [])
    writer.set_model(network)
    writer.set_params({"epochs": 2})
    writer.on_epoch_end(epoch, {})
    read = latest_checkpoint(tmp_path)
    assert read.facts["epoch"] == epoch + 1
    assert read.facts["finished"] is (stopped or epoch == 1)


def test_a_checkpoint_that_somebody_removes_meanwhile_stops_no_run(tmp_path, monkeypatch):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile("sgd")
    writer = Checkpointer(tmp_path, SimpleNamespace(columns={"loss": [float("nan")]}), [])
    writer.set_model(network)
    writer.set_params({"epochs": 3})
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*listed(folder), "epoch-000000.ckpt"])
    for epoch in range(3):
        writer.on_epoch_end(epoch, {})
    assert sorted(listed(tmp_path)) == ["epoch-000002.ckpt", "epoch-000003.ckpt"]
    (loss,) = latest_checkpoint(tmp_path).facts["history"]["loss"]
    assert np.isnan(loss)


@pytest.mark.parametrize("units", [2, 1])
def test_a_checkpoint_of_another_network_is_refused(tmp_path, units):
    def network(units, optimizer):
        made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
        made.compile(optimizer)
        made.optimizer.build(made.trainable_variables)
        return made

    writer = Checkpointer(tmp_path, SimpleNamespace(columns={}), [])
    writer.set_model(network(1, "adam"))
    writer.set_params({"epochs": 2})
    writer.on_epoch_end(0, {})
    read = latest_checkpoint(tmp_path)
    changed = network(2, "adam") if units == 2 else network(1, "sgd")
    before = changed.get_weights()
    what = r"network/00000` must .*, \(2, 2\)" if units == 2 else "optimizer/.*got .*|optimizer/.*no such"
    with pytest.raises(FileError, match=what):
        restore_variables(changed, read)
    assert all(np.array_equal(one, other) for one, other in zip(before, changed.get_weights(), strict=True))
