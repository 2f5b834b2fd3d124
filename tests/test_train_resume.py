"""A run that is killed, stopped or damaged is resumed, bit for bit."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import signal
import time
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import warm_python

from tiledseg._backend import keras
from tiledseg.cli import main
from tiledseg.config import RunConfig, TrainConfig, UNetConfig
from tiledseg.data import CropSampler
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.models import load_model
from tiledseg.samples import write_samples
from tiledseg.train import Trainer, latest_checkpoint

EPOCHS = 5
NETWORK = UNetConfig(input_shape=(None, None, 3), levels=1, base_filters=4, base_kernel=3, dropout=0.2)
PLAIN = NETWORK.changed(norm="none", dropout=0.0)  # its step is compiled sooner
CONFIG = TrainConfig(
    network=NETWORK,
    crop_size=32,
    curves=False,
    epochs=EPOCHS,
    steps_per_epoch=4,
    batch_size=2,
    learning_rate=1e-2,
    ema=0.8,
    accumulate=2,
    optimizer="adamw",
    schedule={"name": "plateau", "patience": 1},
)


SCRIPT = """
import os, pathlib, signal, sys
folder, run_dir, writes, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
sys.path.insert(0, sys.argv[5])
from test_train_resume import Fail, Trainer, config_in, pairs

class Die:
    left = writes
    def __call__(self, source, target):
        if not str(target).endswith(".ckpt"):
            return replace(source, target)
        self.left -= 1
        if self.left == 0:  # in the middle of a write: the temporary file is there, the checkpoint is not
            os.kill(os.getpid(), signal.SIGKILL)
        if seconds and not any(signal.getitimer(signal.ITIMER_PROF)):  # of processor time, not of the clock
            signal.setitimer(signal.ITIMER_PROF, seconds)
        return replace(source, target)

replace, die = pathlib.Path.replace, Die()
pathlib.Path.replace = lambda source, target: die(source, target)
if run_dir == "new":
    Trainer(config_in(folder)).fit(*pairs(folder), progress=False, callbacks=[Fail(0)])
else:
    Trainer.resume(run_dir, progress=False, callbacks=[Fail(0)])
"""


def config_in(folder):
    return CONFIG.changed(runs_dir=f"{folder}/runs")


def pairs(folder):
    return [
        [
            (path, path.parents[1] / "masks" / path.name)
            for path in sorted(Path(folder, part, "images").iterdir())
        ]
        for part, prefix in (("train", ""), ("valid", "valid-"))
    ]


class Fail(keras.callbacks.Callback):
    """Fails in an epoch, counted from 1; its state belongs to the run."""

    def __init__(self, epoch):
        super().__init__()
        self.when, self.seen, self.sums = {epoch}, [], [np.zeros(2)]  # JSON has no sets: not saved

    def on_epoch_begin(self, epoch, logs=None):
        if epoch + 1 in self.when:
            raise RuntimeError("on purpose")

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(logs["val_loss"])
        self.sums = [self.sums[0] + epoch]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    write_samples(root / "train", n_images=3, height=64, width=96, seed=0)
    write_samples(root / "valid", n_images=1, height=64, width=64, seed=9)
    (root / "runs").mkdir()
    return root


@pytest.fixture(scope="module")
def unkilled(folder):
    return Trainer(config_in(folder)).fit(*pairs(folder), progress=False)


@pytest.fixture(scope="module")
def killed(folder):
    """The folder of a run that was killed while it wrote its fourth checkpoint."""
    return run_and_kill(folder, "new", 4, 0)


@pytest.fixture
def stepwise(monkeypatch):
    """Run a few steps without a graph, which takes longer to make."""
    step_by_step = partialmethod(keras.Model.compile, run_eagerly=True)
    monkeypatch.setattr(keras.Model, "compile", step_by_step)


@pytest.fixture
def copy(killed, tmp_path):
    return Path(shutil.copytree(killed, tmp_path / "run"))


def same(one, other):
    """Check that two runs left the same state and files."""
    first, second = (latest_checkpoint(run_dir / "checkpoints") for run_dir in (one, other))
    assert first.facts["history"] == second.facts["history"]
    own = [name for name in first.arrays if not name.startswith("callback")]
    assert own == [name for name in second.arrays if not name.startswith("callback")]
    different = [name for name in own if not np.array_equal(first.arrays[name], second.arrays[name])]
    assert different == []
    for name in ("history.csv", "history.json", "best/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def wait_for(process, there):
    while not there() and process.poll() is None:
        time.sleep(0.01)


def run_and_kill(folder, run_dir, write, seconds):
    """Kill a run in its nth write, or so many seconds of processor time after a write; return its folder."""
    before = set((folder / "runs").iterdir()) - {run_dir}
    done = warm_python.run(SCRIPT, folder, run_dir, write, seconds, Path(__file__).parent)
    assert done.returncode == -(signal.SIGPROF if seconds else signal.SIGKILL), done.stderr
    (run_dir,) = set((folder / "runs").iterdir()) - before
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_in_writes_and_at_random_is_resumed_bit_for_bit(folder, unkilled, seed):
    rng, run_dir = random.Random(seed), "new"
    for write, seconds in ((1, 0), (0, 0.001 + rng.random() * 0.2), (2, 0)):
        run_dir = run_and_kill(folder, run_dir, write, seconds)
    resumed = Trainer.resume(run_dir, progress=False, callbacks=[Fail(0)])
    same(resumed.run_dir, unkilled.run_dir)
    assert (resumed.history, resumed.best_epoch) == (unkilled.history, unkilled.best_epoch)


def test_a_finished_run_is_read_and_not_trained(unkilled):
    before = {path: path.stat().st_mtime_ns for path in unkilled.run_dir.rglob("*.*")}
    again = Trainer.resume(unkilled.run_dir, progress=False)
    assert again.history == unkilled.history
    assert {path: path.stat().st_mtime_ns for path in unkilled.run_dir.rglob("*.*")} == before


def test_a_killed_run_is_resumed_bit_for_bit_without_its_damaged_checkpoint(copy, unkilled, caplog):
    files = sorted((copy / "checkpoints").iterdir())
    assert [path.suffix for path in files] == [".part", ".ckpt", ".ckpt"]
    assert [path.name for path in files[1:]] == ["epoch-000002.ckpt", "epoch-000003.ckpt"]
    content = bytearray(files[-1].read_bytes())
    content[len(content) // 2] ^= 1
    files[-1].write_bytes(content)
    callback = Fail(0)
    resumed = Trainer.resume(copy, progress=False, callbacks=[callback])
    assert "epoch-000003.ckpt` must be a checkpoint with the SHA-256 checksum" in caplog.text
    same(copy, unkilled.run_dir)
    assert (resumed.history, resumed.best_epoch) == (unkilled.history, unkilled.best_epoch)
    assert not list(copy.rglob(".*"))
    # the callback resumed from the second epoch, with the attributes that it had then
    assert callback.seen == unkilled.history["val_loss"]
    assert callback.sums[0].tolist() == [sum(range(EPOCHS))] * 2


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(copy):
    for path in (copy / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileError, match="SHA-256"):
        Trainer.resume(copy, progress=False, callbacks=[Fail(0)])


def test_other_settings_are_refused_with_what_differs(copy):
    other = RunConfig.from_toml((copy / "run.toml").read_text()).train.changed(loss="dice", ema=0.5)
    with pytest.raises(SettingError, match=r"`ema` 0\.8 -> 0\.5; `loss\.name` bce_dice -> dice"):
        Trainer.resume(copy, progress=False, config=other)


@pytest.mark.parametrize("changed", ["learning_rate = 0.5", "epochs = 9"])
def test_settings_that_were_changed_in_the_folder_are_refused(changed, copy):
    name = changed.split(" ")[0]
    text = (copy / "run.toml").read_text()
    (copy / "run.toml").write_text(re.sub(rf"(?m)^{name} = .*$", changed, text, count=1))
    with pytest.raises(SettingError, match=rf"run\.toml` must .* `{name}` \S+ -> {changed.split(' ')[2]}\."):
        Trainer.resume(copy, progress=False, callbacks=[Fail(0)])


def test_the_best_network_of_another_run_is_refused(copy):
    best = load_model(copy / "best")
    for facts in ({"settings": best.provenance["settings"] | {"seed": 5}}, {"data_digest": "other"}):
        best.changed(provenance=best.provenance | facts).save(copy / "best", overwrite=True)
        with pytest.raises(SettingError, match=r"best` must be that .*`(seed|data_digest)` \S+ -> "):
            Trainer.resume(copy, progress=False, callbacks=[Fail(0)])
    best.changed(provenance={}).save(copy / "best", overwrite=True)
    with pytest.raises(SettingError, match=r"best` must be that of the run .* -> None"):
        Trainer.resume(copy, progress=False, callbacks=[Fail(0)])


def test_other_data_are_refused_by_name(copy, folder):
    train, valid = pairs(folder)
    other, name = (np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.uint8)), Path(valid[0][0]).stem
    with pytest.raises(SettingError, match=rf"got added: valid\[0\]; removed: {name}\."):
        Trainer.resume(copy, train, [other])
    with pytest.raises(SettingError, match=rf"got removed: {Path(train[0][0]).stem}\."):
        Trainer.resume(copy, train[1:], valid)
    with pytest.raises(SettingError, match=rf"got changed: {Path(train[1][0]).stem}\."):
        Trainer.resume(copy, [train[0], (train[1][0], train[0][1]), *train[2:]], valid)
    with pytest.raises(SettingError, match="got the same in another order"):
        Trainer.resume(copy, train[::-1], valid)


def test_other_callbacks_are_refused(copy):
    with pytest.raises(SettingError, match=r"callbacks.*Fail"):
        Trainer.resume(copy, progress=False)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"folder of a run, with run\.toml"):
        Trainer.resume(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 9999, '{"data": 5}', '{"data": {"train": [3]}}'])
def test_a_record_that_describes_no_run_is_refused(text, copy):
    (copy / "run.json").write_text(text)
    with pytest.raises(FileError, match=r"run\.json` must describe a run"):
        Trainer.resume(copy)


def test_settings_seed_and_data_of_a_run_are_recorded(unkilled):
    about = json.loads((unkilled.run_dir / "run.json").read_text())
    assert about["versions"]["keras"] == keras.__version__
    assert about["seed"] == 0
    assert about["data_digest"] == unkilled.segmenter.provenance["data_digest"]
    entry = about["data"]["train"][0]
    assert Path(entry["files"]["image"]).is_file()
    assert entry["image"][0].startswith("sha256:")


def test_images_that_become_nan_are_named_by_batch(folder, monkeypatch, stepwise):
    good = CropSampler.batch

    def spoilt(self, epoch, ids):
        images, masks = good(self, epoch, ids)
        return (images * np.nan if epoch == 1 else images), masks

    monkeypatch.setattr(CropSampler, "batch", spoilt)
    with pytest.raises(ArrayError, match="NaN or infinity in batch 1 of epoch 2"):
        Trainer(config_in(folder).changed(network=PLAIN)).fit(*pairs(folder), progress=False)


# --- stopping --------------------------------------------------------------------------------------


def command(folder, **changes):
    """Return the arguments of a small training run."""
    options = {"epochs": 99_999, "steps-per-epoch": 2, **changes}
    data = [
        f"--{prefix}{what}={folder}/{part}/{what}"
        for part, prefix in (("train", ""), ("valid", "valid-"))
        for what in ("images", "masks")
    ]
    small = ["--levels=1", "--base-filters=2", "--crop-size=32", "--patience=none", "--no-curves"]
    return ["train", *data, *small, *(f"--{name}={value}" for name, value in options.items())]


@contextlib.contextmanager
def running(folder, tmp_path, **changes):
    arguments = command(folder, **{"runs-dir": tmp_path / "runs", **changes})
    with warm_python.start(
        "import sys; from tiledseg.cli import main; sys.exit(main())", *arguments
    ) as process:
        yield process


def only_run(tmp_path):
    (run_dir,) = (tmp_path / "runs").iterdir()
    return run_dir


def test_control_c_ends_the_epoch_and_the_run_can_be_resumed(folder, tmp_path, capsys):
    with running(folder, tmp_path) as process:
        wait_for(process, lambda: list(tmp_path.glob("runs/*/checkpoints/*.ckpt")))
        with pytest.raises(FileError, match=f"a run in process {process.pid}"):
            Trainer.resume(only_run(tmp_path), progress=False)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors.decode()
    run_dir = only_run(tmp_path)
    done = latest_checkpoint(run_dir / "checkpoints").facts["epoch"]
    assert json.loads((run_dir / "history.json").read_text())["epoch"] == list(range(1, done + 1))
    assert load_model(run_dir / "best").provenance["best_epoch"] <= done
    (run_dir / "stop").touch()
    assert main(["train", "--resume", str(run_dir), "--batch-size", "3"]) == 2
    assert "`--batch-size` 4 -> 3" in capsys.readouterr().err
    assert main(["train", "--resume", str(run_dir), "--feed-threads", "1"]) == 0
    assert f"epochs  {done + 1}" in capsys.readouterr().out
    assert not (run_dir / "stop").exists()


def test_sigterm_ends_the_command_after_an_epoch_with_its_own_exit_code(folder, tmp_path):
    with running(folder, tmp_path) as process:
        wait_for(process, lambda: list(tmp_path.glob("runs/*/checkpoints/*.ckpt")))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 143, errors.decode()
    assert "Traceback" not in errors.decode()
    done = latest_checkpoint(only_run(tmp_path) / "checkpoints").facts["epoch"]
    history = json.loads((only_run(tmp_path) / "history.json").read_text())
    assert history["epoch"] == list(range(1, done + 1))


def test_the_first_sigterm_ends_the_epoch_and_the_second_the_run_at_once(folder, tmp_path, stepwise):
    config = config_in(tmp_path).changed(network=PLAIN, epochs=2)
    seen = []

    class Terminate(keras.callbacks.Callback):
        def __init__(self, batches):
            super().__init__()
            self.left = set(batches)

        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)
            if batch in self.left:
                signal.raise_signal(signal.SIGTERM)

    def terminated(number, frame):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        for batches, reached in (({0}, CONFIG.steps_per_epoch), ({0, 2}, 3)):
            seen.clear()
            with pytest.raises(SystemExit, match="143"):
                Trainer(config).fit(*pairs(folder), progress=False, callbacks=[Terminate(batches)])
            assert seen == list(range(reached))
    finally:
        signal.signal(signal.SIGTERM, before)
    checkpoints = [path.parent.parent for path in tmp_path.glob("runs/*/checkpoints/*")]
    assert len(checkpoints) == 1  # of the run whose epoch could end


def test_a_run_without_a_checkpoint_starts_again(folder, tmp_path, stepwise):
    trainer = Trainer(config_in(tmp_path).changed(network=PLAIN, epochs=1, steps_per_epoch=2))
    with pytest.raises(SettingError, match="a Fail, failed: RuntimeError: on purpose"):
        trainer.fit(*pairs(folder), progress=False, callbacks=[Fail(1)])
    run_dir = only_run(tmp_path)
    assert latest_checkpoint(run_dir / "checkpoints") is None
    Trainer.resume(run_dir, progress=False, callbacks=[Fail(0)])
    same(run_dir, trainer.fit(*pairs(folder), progress=False).run_dir)


@pytest.mark.parametrize("text", ["a = [", "[train]\nepochs = 0\n"])
def test_a_damaged_settings_file_of_a_run_is_named(text, tmp_path):
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(SettingError, match=re.escape(str(tmp_path / "run.toml"))):
        Trainer.resume(tmp_path)
