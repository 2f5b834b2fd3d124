"""What every test can rely on: the processor alone, quiet logs, the same random numbers each time."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import re
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import hypothesis
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # before TensorFlow loads
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

hypothesis.settings.register_profile(
    "tiledseg",
    deadline=None,  # a busy machine is no failure
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("tiledseg")


EXTRAS = ["dask", "distributed", "imagecodecs", "jax", "matplotlib", "ome_types", "openvino"]
EXTRAS += ["pycocotools", "pydot", "shapely", "tensorboard", "zarr"]
MISSING = [name for name in EXTRAS if find_spec(name) is None]
_NAME = f"({'|'.join(MISSING)})"
_NEEDED = re.compile(
    rf"\b{_NAME}\b.*pip install .tiledseg|(?:No module named|requires the) '{_NAME}\b"
    rf"|module '{_NAME}' has no attribute",
    re.DOTALL | re.IGNORECASE,
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Skip a test whose fixtures need an extra that is not installed."""
    yield from _skipped_without_extra()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip a test that fails because an extra is not installed."""
    yield from _skipped_without_extra()


def _skipped_without_extra() -> Iterator[None]:
    try:
        return (yield)
    except Exception as error:
        found = _NEEDED.search(f"{error} {error.__cause__}") if MISSING else None
        if found is None:
            raise
        pytest.skip(f"needs {found[found.lastindex]}, which is not installed")


_GROWTH = 150 << 20  # bytes: cleaning takes a tenth of a second, compiled graphs are some 10 MB each
_cleaned: dict[str, int] = {"bytes": 0}


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Let the graphs of earlier tests go, which Keras keeps for the whole process."""
    yield
    if "keras" in sys.modules and psutil.Process().memory_info().rss > _cleaned["bytes"] + _GROWTH:
        sys.modules["keras"].utils.clear_session()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # or what was freed stays with the process
        _cleaned["bytes"] = psutil.Process().memory_info().rss


@pytest.fixture(autouse=True)
def nothing_kept_at_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep converted networks where the tests' other files are."""
    monkeypatch.setenv("TILEDSEG_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Seed whatever draws from a global generator; Keras only where the test's module has loaded it."""
    random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
