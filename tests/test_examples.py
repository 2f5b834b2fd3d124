"""The programs of ``examples/``, each run as a user runs it, where what it needs is installed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiledseg as ts
from tiledseg.io import write_image
from tiledseg.samples import smear, write_samples

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
pytestmark = pytest.mark.slow


def needs(*modules: str) -> None:
    for name in modules:
        pytest.importorskip(name, reason=f"needs {name}: pip install --group programs")


def run(*command: object, cwd: Path) -> str:
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    write_samples(folder, n_images=2, height=480, width=640)
    return folder / "images"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cells_of(path: Path) -> list[int]:
    return ts.segment(ts.load_model("demo"), path).objects.table["area"].tolist()


def test_snakemake_segments_each_image_once_and_joins_the_tables(images: Path, tmp_path: Path) -> None:
    needs("snakemake")
    shutil.copy(EXAMPLES / "snakemake" / "Snakefile", tmp_path)
    command = ("-m", "snakemake", "--cores", 2, "--config", f"images={images}")
    run(*command, cwd=tmp_path)
    found = [(one["image"], float(one["area"])) for one in rows_of(tmp_path / "results" / "cells.csv")]
    assert found == [(path.stem, area) for path in sorted(images.iterdir()) for area in cells_of(path)]
    again = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_dask_cluster_segments_a_folder_and_can_go_on(images: Path, tmp_path: Path) -> None:
    needs("distributed")
    command = (EXAMPLES / "dask_cluster.py", images, tmp_path / "results")
    assert run(*command, cwd=tmp_path).startswith("2 predicted, 0 skipped, 0 failed")
    for path in images.iterdir():
        found = [float(one["area"]) for one in rows_of(tmp_path / "results" / "objects" / f"{path.stem}.csv")]
        assert found == cells_of(path)
    assert run(*command, cwd=tmp_path).startswith("0 predicted, 2 skipped, 0 failed")


def test_mlflow_records_a_training_and_its_bundle(tmp_path: Path) -> None:
    needs("mlflow")
    run_id = run(EXAMPLES / "mlflow_training.py", "--epochs", 2, cwd=tmp_path).split()[-1]
    import mlflow  # noqa: PLC0415

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    metrics = mlflow.get_run(run_id).data.metrics
    assert {"loss", "val_loss", "val_dice", "test_dice"} <= set(metrics)
    history = mlflow.MlflowClient().get_metric_history(run_id, "val_loss")
    assert [one.step for one in history] == [0, 1]
    (bundle,) = tmp_path.rglob("model.safetensors")
    assert ts.load_model(bundle.parent).labels == ("plasma cell",)


@pytest.fixture
def service(tmp_path: Path):
    """Start the service with small limits, wait until it is ready, stop it."""
    needs("fastapi", "uvicorn", "httpx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = {"TILEDSEG_MAX_BYTES": "3000000", "TILEDSEG_MAX_PIXELS": "1000000", "TILEDSEG_AT_ONCE": "2"}
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    options = {"cwd": EXAMPLES / "service", "env": {**ENVIRONMENT, **limits, "TILEDSEG_WAITING": "2"}}
    process = subprocess.Popen(command, **options)
    import httpx  # noqa: PLC0415

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        for _ in range(600):
            try:
                client.get("/health").raise_for_status()
                break
            except httpx.TransportError:
                assert process.poll() is None
                time.sleep(0.1)
        yield client
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in {0, -signal.SIGINT}


def test_the_service_answers_many_at_once_and_refuses_what_it_cannot_take(service, tmp_path: Path) -> None:
    image = smear(480, 640, seed=3, cell_px=(120, 200)).image
    write_image(tmp_path / "image.png", image)
    upload = (tmp_path / "image.png").read_bytes()
    expected = ts.segment(ts.load_model("demo"), image, objects={"min_area": 30})
    assert service.get("/health").json()["status"] == "ok"

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: service.post("/segment", content=upload), range(12)))
    good = [one.json() for one in answers if one.status_code == 200]
    assert len(good) >= 4
    assert all(one == {"counts": expected.counts(), "shape": [480, 640]} for one in good)
    busy = [one for one in answers if one.status_code != 200]
    assert all(one.status_code == 503 and one.headers["retry-after"] for one in busy)

    outlines = service.post("/segment?format=geojson", content=upload).json()
    assert len(outlines["features"]) == len(expected.objects)
    table = service.post("/segment?format=csv", content=upload).text.splitlines()
    assert len(table) == 1 + len(expected.objects)

    Image.fromarray(np.zeros((1001, 1000, 3), np.uint8)).save(tmp_path / "large.png")
    large = service.post("/segment", content=(tmp_path / "large.png").read_bytes())
    assert (large.status_code, "1000000" in large.text.replace(",", "")) == (415, True), large.text
    assert service.post("/segment", content=b"x" * 3_000_001).status_code == 413
    assert service.post("/segment", content=b"").status_code == 400
    assert service.post("/segment", content=b"no image").status_code == 415
    assert service.post("/segment?min_area=-1", content=upload).status_code == 422
    assert json.loads(service.get("/health").text)["requests"] == 0
