"""The package as a whole: its door, its laziness, its errors."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from numpydoc.validate import validate

import tiledseg
import tiledseg.errors
from tiledseg._validate import invalid
from tiledseg.errors import FileError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAVY = {"keras", "tensorflow", "torch", "jax"}
AT_THE_DOOR = HEAVY | {"numpy", "pydantic", "cv2"}
KERAS_ROOMS = {"_backend", "cli", "models", "train"}
ROOMS = sorted(room.name for room in pkgutil.iter_modules(tiledseg.__path__))
LIGHT_ROOMS = sorted(set(ROOMS) - KERAS_ROOMS)


def loaded_by(statement: str) -> set[str]:
    """Name the top-level modules that a fresh interpreter holds after a statement."""
    probe = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_by("import tiledseg") & AT_THE_DOOR


def test_the_probe_sees_what_a_name_loads() -> None:
    assert {"pydantic"} <= loaded_by("import tiledseg; tiledseg.TilingConfig")


def test_the_probe_sees_keras() -> None:
    assert {"keras"} <= loaded_by("from tiledseg import _backend")


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_room_does_not_load_keras(room: str) -> None:
    assert not loaded_by(f"import tiledseg.{room}") & HEAVY


def test_version_is_the_installed_one() -> None:
    assert tiledseg.__version__ == importlib.metadata.version("tiledseg")


def test_the_door_hands_out_what_the_stub_lists() -> None:
    stub = (Path(tiledseg.__file__).parent / "__init__.pyi").read_text(encoding="utf-8")
    listed = re.findall(r'"(\w+)"', stub.partition("__all__")[2])
    assert sorted(listed) == sorted(tiledseg.__all__)
    assert [name for name in listed if not hasattr(tiledseg, name)] == []


def test_each_room_hands_out_what_it_lists() -> None:
    for room in LIGHT_ROOMS:
        module = importlib.import_module(f"tiledseg.{room}")
        assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []


def documented(room: str) -> Iterator[str]:
    """Name the functions and the methods that a room hands out."""
    module = importlib.import_module(f"tiledseg.{room}")
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if inspect.isfunction(thing):
            yield f"tiledseg.{room}.{name}"
        elif inspect.isclass(thing):
            public = [(key, getattr(value, "__func__", value)) for key, value in vars(thing).items()]
            for key, value in public:
                if inspect.isfunction(value) and not key.startswith("_"):
                    yield f"tiledseg.{room}.{name}.{key}"


@pytest.mark.parametrize("room", [room for room in ROOMS if not room.startswith("_")])
def test_docstrings_name_every_argument_and_result(room: str) -> None:
    faults = [
        f"{name}: {text}"
        for name in documented(room)
        for code, text in validate(name)["errors"]
        if code in {"GL08", "PR01", "PR02", "RT01", "SS05", "YD01"}
    ]
    assert faults == []


def test_docstrings_are_found() -> None:
    assert {"tiledseg.config.Config.changed", "tiledseg.config.Config.from_json"} <= set(documented("config"))


@pytest.mark.parametrize("name", tiledseg.errors.__all__)
def test_every_error_is_ours(name: str) -> None:
    assert issubclass(getattr(tiledseg.errors, name), tiledseg.TiledSegError)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"\b(\w+Error)\b", tiledseg.errors.__doc__ or ""))
    assert drawn == set(tiledseg.errors.__all__)


def test_message_says_what_must_be_what_was_found_and_how_to_mend_it() -> None:
    error = invalid(SettingError, "overlap", must="be in [0, 64)", got=64, fix="Use at most 63.")
    assert str(error) == "`overlap` must be in [0, 64); got 64. Use at most 63."


def test_message_stays_on_one_short_line() -> None:
    error = invalid(FileError, "path", must="be a file", got="a\nb" * 500, fix="Give a file.")
    assert "\n" not in str(error)
    assert len(str(error)) < 200
