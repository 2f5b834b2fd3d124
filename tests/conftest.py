"""What every test can rely on: the processor alone, quiet logs, the same random numbers each time."""

from __future__ import annotations

import contextlib
import ctypes
import doctest
import gc
import os
import random
import re
import signal
import sys
from functools import partial, partialmethod
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # before TensorFlow loads
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN keeps what it makes for each shape, 4 MB for each network that is trained, and making it takes time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
if sys.platform == "linux":
    ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX: the allocator keeps less of what was freed


def not_awaited(descriptor: int, look: Callable[[int], object] = os.fstat) -> None:
    """Check what `os.fsync` is given, and do not wait for the disk, milliseconds for each file."""
    look(descriptor)


if sys.platform == "linux":  # elsewhere, a file may have to be open for writing
    os.fsync = not_awaited

for _name, _examples in (("quick", 50), ("all", 100)):  # where a test states no number of its own
    hypothesis.settings.register_profile(
        _name,
        max_examples=_examples,
        deadline=None,  # a busy machine is no failure
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        derandomize=bool(os.environ.get("CI")),
    )


class JaxIsNotLoaded(Loader, MetaPathFinder):
    """TensorFlow Lite loads JAX if it can, which takes 100 MB; tests of JAX have processes of their own."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == "jax" else None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"`{module.__name__}` is not loaded in this process")


if find_spec("jax"):
    sys.meta_path.insert(0, JaxIsNotLoaded())


EXTRAS = [
    "aiohttp",
    "anndata",
    "dask",
    "distributed",
    "fsspec",
    "geopandas",
    "huggingface_hub",
    "imagecodecs",
    "jax",
    "matplotlib",
    "ome_types",
    "onnx",
    "onnxruntime",
    "openslide",
    "openvino",
    "pandas",
    "pyarrow",
    "pycocotools",
    "pydicom",
    "pydot",
    "roifile",
    "s3fs",
    "shapely",
    "skimage",
    "tensorboard",
    "xmlschema",
    "zarr",
]
MISSING = [name for name in EXTRAS if find_spec(name) is None]
_NAME = f"({'|'.join(MISSING)})"
_NEEDED = re.compile(
    rf"\b{_NAME}\b.*pip install|(?:No module named|requires the) '{_NAME}\b"
    rf"|module '{_NAME}' has no attribute",
    re.DOTALL | re.IGNORECASE,
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Keep what stays to the end out of every later search for garbage: a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)  # what is large is freed by `bounded_memory`
        gc.enable()


class WithoutExtras:
    """Skip what fails because an extra is missing: tests, their fixtures, and examples in docstrings."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        yield from _skipped_without_extra()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        yield from _skipped_without_extra()


def pytest_configure(config: pytest.Config) -> None:
    """Let these hooks see the modules of the package too, which are not in the folder of this file."""
    config.pluginmanager.register(WithoutExtras())
    quick = bool(config.option.markexpr)  # without the slow tests
    hypothesis.settings.load_profile("quick" if quick else "all")
    _read["files"] = 2 if quick else 6
    if "openvino" in MISSING:  # an import that fails leaves half a module behind, which others then use
        config.option.ignore_glob = [*(config.option.ignore_glob or ()), "*/engine/openvino/*"]


def _skipped_without_extra() -> Iterator[None]:
    try:
        return (yield)
    except Exception as raised:
        error = raised.exc_info[1] if isinstance(raised, doctest.UnexpectedException) else raised
        found = _NEEDED.search(f"{error} {error.__cause__}") if MISSING else None
        if found is None:
            raise
        pytest.skip(f"needs {found[found.lastindex]}, which is not installed")


_OPTIONS: tuple[dict[str, Any], ...] = (
    {"alpha": "keep"},
    {"alpha": "keep", "page": 0},
    {"alpha": "drop", "at": {"z": 0, "t": 0}},
)
_MOST_BYTES = 1 << 20  # larger files take too long to read several times
_read: dict[str, int] = {"files": 6}  # at most, for each test


def read_alike(path: Path) -> int:
    """Check that read_image and open_image give the same px, or refuse both; count what was read."""
    from tiledseg.errors import TiledSegError  # noqa: PLC0415  tests of imports begin without it
    from tiledseg.io import open_image, read_image  # noqa: PLC0415

    def outcome(read: Callable[[], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any] | None:
        try:
            return read()
        except TiledSegError:
            return None

    def by_region(**options: Any) -> np.ndarray[Any, Any]:
        with open_image(path, **options) as image:
            return image[:, :]

    count = 0
    for options in _OPTIONS:
        whole = outcome(partial(read_image, path, **options))
        region = outcome(partial(by_region, **options))
        assert (whole is None) == (region is None), f"{path} {options}"
        if whole is not None and region is not None:
            assert whole.dtype == region.dtype, f"{path} {options}"
            np.testing.assert_array_equal(whole, region, err_msg=f"{path} {options}")
            count += 1
    return count


@pytest.fixture
def alike() -> Callable[[Path], int]:
    """Hand out the check that a file is read alike."""
    return read_alike


@pytest.fixture(autouse=True)
def one_reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that every file that a test of reading or writing made is read alike, whole and by region."""
    made = request.path.name.startswith("test_io_") and "tmp_path" in request.fixturenames
    folder = request.getfixturevalue("tmp_path") if made else None
    yield
    if folder is None or request.session.testsfailed:
        return
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    zarrs = {path.parent for path in found if path.name in {"zarr.json", ".zarray", ".zgroup"}}
    inside = {folder: [path for path in found if folder in path.parents] for folder in zarrs}
    alone = [path for path in found if not zarrs & {*path.parents} and not path.name.startswith(".")]
    sizes = {
        path: sum(one.stat().st_size for one in inside.get(path, [path])) for path in [*sorted(zarrs), *alone]
    }
    for path in [path for path, size in sizes.items() if size <= _MOST_BYTES][: _read["files"]]:
        read_alike(path)


@contextlib.contextmanager
def closed_folder(folder: Path, mode: int = 0) -> Iterator[None]:
    """Let this process not enter a folder, or not write into it; root may, so that it becomes nobody."""
    root = os.geteuid() == 0
    above = [one for one in folder.parents if root and "pytest-of-" in str(one)]
    before = [(one, one.stat().st_mode) for one in (folder, *above)]
    for one in above:
        one.chmod(0o755)
    folder.chmod(mode)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for one, old in before:
            one.chmod(old)


@pytest.fixture
def closed() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """Hand out the context in which a folder is closed."""
    if not hasattr(os, "geteuid"):
        pytest.skip("the system knows no rights")
    return closed_folder


_LIMIT = 1.5e9  # bytes of a process
_cleaned: dict[str, float] = {"bytes": 0}


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Let the graphs of earlier tests go, which Keras keeps for the whole process."""
    yield
    if "keras" in sys.modules and _grown() and _grown(trim=True):
        sys.modules["keras"].utils.clear_session(free_memory=False)  # as the next line does
        gc.collect()
        _trim()
        _cleaned["bytes"] = psutil.Process().memory_info().rss


def _grown(*, trim: bool = False) -> bool:
    """Say whether it is time to clean, which takes a tenth of a second: the nearer the limit, the sooner."""
    if trim:
        _trim()
    growth = max(16e6, (_LIMIT - _cleaned["bytes"]) / 8)  # graphs are some 10 MB each
    return psutil.Process().memory_info().rss > _cleaned["bytes"] + growth


def _trim() -> None:
    """Give back what was freed, as arrays are, which stays with the process otherwise."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module")
def eager() -> Iterator[None]:
    """Let the networks of a module run step by step: making the graph of a step takes longer than a few."""
    model = import_module("keras").Model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "compile", partialmethod(model.compile, run_eagerly=True))
        yield


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Seed whatever draws from a global generator; Keras only where the test's module has loaded it."""
    random.seed(0)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
