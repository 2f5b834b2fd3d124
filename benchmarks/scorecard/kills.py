"""Processes that are killed, interrupted and ended at random moments."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.scorecard._processes import (
    command,
    digests,
    kill_after,
    parts_in,
    results_of,
    run_script,
    start,
)
from benchmarks.scorecard._rows import Figure, Trial, good, row
from tiledseg.samples import write_samples

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

_TRAINING = """
import sys
from pathlib import Path
from tiledseg.config import TrainConfig, UNetConfig
from tiledseg.train import Trainer, latest_checkpoint
folder, run = Path(sys.argv[1]), sys.argv[2]
network = UNetConfig(input_shape=(None, None, 3), levels=2, base_filters=4, base_kernel=3, dropout=0.2)
config = TrainConfig(
    network=network, crop_size=32, curves=False, epochs=6, steps_per_epoch=6, batch_size=2,
    learning_rate=1e-2, ema=0.8, optimizer="adamw", schedule={"name": "plateau", "patience": 1}, patience=4,
    runs_dir=str(folder / run),
)
def pairs(part):
    images = sorted((folder / part / "images").iterdir())
    return [(one, one.parents[1] / "masks" / one.name) for one in images]
known = sorted((folder / run).glob("*"))
if known:
    Trainer.resume(known[0], progress=False)
else:
    Trainer(config).fit(pairs("train"), pairs("valid"), progress=False)
"""
_STATE = """
import sys, json, hashlib
from pathlib import Path
from tiledseg.train import latest_checkpoint
(run,) = Path(sys.argv[1]).glob("*")
found = latest_checkpoint(run / "checkpoints")
state = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in found.arrays.items()}
print("STATE", json.dumps([state, (run / "history.csv").read_text()], sort_keys=True))
"""


def _state(folder: Path) -> str:
    """Read weights, optimizer and history of the only run of a folder."""
    _, text = run_script(_STATE, folder)
    return next((line for line in text.splitlines() if line.startswith("STATE")), text)


@row(1, "SIGKILL at random moments of training, resumed: the same weights, optimizer and history")
def killed_training(trial: Trial) -> Iterator[Figure]:
    rng, kills, folder = random.Random(trial.seed), trial.count(50), trial.folder
    write_samples(folder / "train", n_images=3, height=64, width=96, seed=0)
    write_samples(folder / "valid", n_images=1, height=64, width=64, seed=9)
    started = time.monotonic()
    code, text = run_script(_TRAINING, folder, "whole", seconds=600)
    seconds, wanted = time.monotonic() - started, _state(folder / "whole")
    if code:
        raise RuntimeError(text)
    faults: list[str | None] = []
    while kills > 0:
        name = f"killed-{kills}"
        for _ in range(min(kills, 5)):
            kill_after(start(_TRAINING, folder, name), rng.uniform(0.3, 1) * seconds, signal.SIGKILL)
            kills -= 1
            faults.append(None)
        code, text = run_script(_TRAINING, folder, name, seconds=600)
        if code or _state(folder / name) != wanted:
            faults[-1] = f"{name}: exit code {code}, {text[-200:]}"
    yield good("kills after which the run ends as an undisturbed one", faults)


_PRODUCTS = "mask,probs,labels,objects,geojson"


def _predict(folder: Path, out: str, *more: str) -> subprocess.Popen[str]:
    formats = ("--mask-format", "ome-tiff", "--probs-format", "ome-zarr", "--probs-dtype", "float32")
    options = (*formats, "--pixel-size", "0.25", "--resume", *more)
    return command(
        "predict", "demo", folder / "images", "--output", folder / out, "--write", _PRODUCTS, *options
    )


def _finals(folder: Path) -> dict[str, str]:
    """Return the digests of all results, without what is hidden or says when it was made."""
    found = digests(folder)
    return {name: digest for name, digest in found.items() if "tiledseg" not in name}


@row(3, "SIGKILL at random moments of a prediction of many images, run again with resume")
def killed_prediction(trial: Trial) -> Iterator[Figure]:
    rng, count, kills = random.Random(trial.seed), trial.count(200, 6), trial.count(20, 2)
    write_samples(trial.folder, n_images=count, height=160, width=224, seed=trial.seed)
    started = time.monotonic()
    text, _ = _predict(trial.folder, "whole").communicate(timeout=600)
    seconds, wanted = time.monotonic() - started, _finals(trial.folder / "whole")
    if not wanted:
        raise RuntimeError(text)
    half, wrong, twice = [], [], 0
    for kill in range(kills):
        name = f"killed-{kill}"
        kill_after(_predict(trial.folder, name), rng.uniform(0.3, 1) * seconds, signal.SIGKILL)
        standing = _finals(trial.folder / name) if (trial.folder / name).exists() else {}
        half += [
            f"{one} after kill {kill}"
            for one in standing
            if ".zarr/" not in one and standing[one] != wanted.get(one)
        ]
        n_done = sum(one.startswith("geojson/") for one in standing)
        text, _ = _predict(trial.folder, name).communicate(timeout=600)
        wrong += [f"{one} after kill {kill}" for one in results_of(wanted, _finals(trial.folder / name))]
        wrong += [f"{part} is left after kill {kill}" for part in parts_in(trial.folder / name)]
        again = next((int(line.split()[0]) for line in text.splitlines() if " predicted, " in line), count)
        twice = max(twice, again - (count - n_done))
    yield Figure("results that are half written", len(half), most=0, faults=tuple(half[:5]))
    yield Figure("results that differ in the end", len(wrong), most=0, faults=tuple(wrong[:5]))
    yield Figure("images done twice for each kill", twice, most=1)


def _jobs(folder: Path) -> dict[str, Callable[[int], subprocess.Popen[str]]]:
    """Return commands that take a while, by name."""
    masks = folder / "masks"
    return {
        "predict": lambda n: _predict(folder, f"predict-{n}"),
        "tile": lambda n: command(
            "tile",
            "--images",
            folder / "images",
            "--masks",
            masks,
            "--output",
            folder / f"tile-{n}",
            "--tile-size",
            64,
        ),
        "export": lambda n: command("export", masks, "--output", folder / f"export-{n}"),
        "train": lambda n: command(
            "train",
            "--images",
            folder / "images",
            "--masks",
            masks,
            "--runs-dir",
            folder / f"train-{n}",
            "--epochs",
            4,
            "--steps-per-epoch",
            4,
            "--crop-size",
            32,
            "--batch-size",
            2,
        ),
    }


@row(19, "Ctrl-C and SIGTERM at random moments of a command")
def interrupted(trial: Trial) -> Iterator[Figure]:
    rng, folder, count = random.Random(trial.seed), trial.folder, trial.count(40, 4)
    write_samples(folder, n_images=60, height=160, width=224, seed=trial.seed)
    faults: list[str | None] = []
    jobs = _jobs(folder)
    seconds = {name: _undisturbed(job) for name, job in jobs.items()}
    for attempt in range(count):
        name = list(jobs)[attempt % len(jobs)]
        number, before = rng.choice([signal.SIGINT, signal.SIGTERM]), set(psutil.pids())
        process = jobs[name](attempt)
        code, text = kill_after(process, rng.uniform(0.1, 1) * seconds[name], number)
        out = folder / f"{name}-{attempt}"
        orphans = [
            one for one in psutil.process_iter() if one.pid not in before and _is_child(one, process.pid)
        ]
        left = (
            [part for part in parts_in(folder) if not part.endswith(("-part", "-journal"))]
            if out.exists()
            else []
        )
        fault = f"exit code {code}, {text[-200:]}" if code not in {0, 128 + number, -number} else None
        fault = f"processes left: {orphans}" if orphans else f"files left: {left}" if left else fault
        faults.append(fault and f"{name}, {number.name}: {fault}")
    yield good("clean stops", faults)


def _undisturbed(job: Callable[[int], subprocess.Popen[str]]) -> float:
    """Measure how long a command takes."""
    started = time.monotonic()
    process = job(-1)
    text, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(text)
    return time.monotonic() - started


def _is_child(process: Any, parent: int) -> bool:
    try:
        return bool(process.ppid() == parent)
    except psutil.Error:
        return False
