"""The package as a whole: what it promises, what it loads when, its errors."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiledseg
import tiledseg.errors
from benchmarks.shape import circles_of, imports_of, modules_of
from tiledseg._lazy import extra
from tiledseg._validate import invalid
from tiledseg.errors import FileError, SettingError

HEAVY = {"keras", "tensorflow", "torch", "jax"}
LOADED_LATER = HEAVY | {"numpy", "pydantic", "cv2"}
KERAS_PACKAGES = {"_backend", "cli", "models", "train"}
PACKAGES = sorted(package.name for package in pkgutil.iter_modules(tiledseg.__path__))
LIGHT_PACKAGES = sorted(set(PACKAGES) - KERAS_PACKAGES)
REFERENCE = (Path(__file__).parents[1] / "docs" / "reference").glob("*.md")
PROMISED = re.findall(
    r"^   ([\w.]+)$", "".join(page.read_text(encoding="utf-8") for page in REFERENCE), re.MULTILINE
)


def loaded_by(statement: str) -> set[str]:
    """Name the top-level modules that a fresh interpreter holds after a statement."""
    probe = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_by("import tiledseg") & LOADED_LATER


def test_the_probe_sees_what_a_name_loads() -> None:
    assert {"pydantic"} <= loaded_by("import tiledseg; tiledseg.TilingConfig")


def test_a_package_is_loaded_when_it_is_named() -> None:
    loaded = loaded_by("import tiledseg; tiledseg.io.read_mask, tiledseg.metrics.count")
    assert "numpy" in loaded
    assert not loaded & HEAVY


@pytest.fixture(scope="module")
def loaded_in_order() -> dict[str, set[str]]:
    """Name what each light package loads besides those before it, in one fresh interpreter."""
    loop = "for name in sys.argv[1:]:\n    importlib.import_module(name)\n    print(*sys.modules)"
    probe = f"import importlib, sys\n{loop}"
    names = [f"tiledseg.{package}" for package in LIGHT_PACKAGES]
    done = subprocess.run([sys.executable, "-c", probe, *names], capture_output=True, text=True, check=True)
    lines = [{name.partition(".")[0] for name in line.split()} for line in done.stdout.splitlines()]
    new = [later - before for before, later in zip([set(), *lines], lines, strict=False)]
    return dict(zip(LIGHT_PACKAGES, new, strict=True))


@pytest.mark.parametrize("package", LIGHT_PACKAGES)
def test_a_light_package_does_not_load_keras(package: str, loaded_in_order: dict[str, set[str]]) -> None:
    assert not loaded_in_order[package] & HEAVY


def test_what_the_light_packages_load_is_seen(loaded_in_order: dict[str, set[str]]) -> None:
    assert {"numpy", "pydantic"} <= set().union(*loaded_in_order.values())


def imports_among(root: Path) -> dict[str, set[str]]:
    """List what each module of a package imports of it, for typing alone as well."""
    names = modules_of(root)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in names.items()}
    return {name: imports_of(tree, set(names)) - {name} for name, tree in trees.items()}


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles_of(imports_among(Path(tiledseg.__file__).parents[1])) == []


def test_a_circle_of_imports_is_seen_inside_a_package_and_for_typing(tmp_path: Path) -> None:
    (tmp_path / "tiledseg" / "io").mkdir(parents=True)
    (tmp_path / "tiledseg" / "io" / "a.py").write_text("from tiledseg.io.b import x\n")
    typing = "if TYPE_CHECKING:\n    from tiledseg.io import a\n"
    (tmp_path / "tiledseg" / "io" / "b.py").write_text(typing)
    assert circles_of(imports_among(tmp_path)) == [["tiledseg.io.a", "tiledseg.io.b"]]


def test_version_is_the_installed_one() -> None:
    assert tiledseg.__version__ == importlib.metadata.version("tiledseg")


def test_the_library_hands_out_what_its_stub_lists() -> None:
    stub = (Path(tiledseg.__file__).parent / "__init__.pyi").read_text(encoding="utf-8")
    listed = re.findall(r'"(\w+)"', stub.partition("__all__")[2])
    assert sorted(listed) == sorted(tiledseg.__all__)
    assert [name for name in listed if not hasattr(tiledseg, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_hands_out_what_it_lists(package: str) -> None:
    module = importlib.import_module(f"tiledseg.{package}")
    assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []


@pytest.mark.parametrize("name", PROMISED)
def test_every_name_of_the_reference_is_handed_out(name: str) -> None:
    package, _, own = f"tiledseg.{name}".rpartition(".")
    module = importlib.import_module(package)
    assert own in module.__all__
    assert hasattr(module, own)


def test_the_reference_has_every_name_of_the_library() -> None:
    packages = {name.partition(".")[0] for name in PROMISED if "." in name} | {"errors"}
    assert set(tiledseg.__all__) - {"__version__", "TiledSegError"} - packages <= set(PROMISED)
    assert packages <= set(tiledseg.__all__)
    assert len(set(PROMISED)) > 100


@pytest.mark.parametrize("name", tiledseg.errors.__all__)
def test_every_error_is_ours(name: str) -> None:
    assert issubclass(getattr(tiledseg.errors, name), tiledseg.TiledSegError)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"\b(\w+Error)\b", tiledseg.errors.__doc__ or ""))
    assert drawn == set(tiledseg.errors.__all__)


def test_a_message_says_what_was_expected_what_was_found_and_the_fix() -> None:
    error = invalid(SettingError, "overlap", must="be in [0, 64)", got=64, fix="Use at most 63.")
    assert str(error) == "`overlap` must be in [0, 64); got 64. Use at most 63."


def test_message_stays_on_one_short_line() -> None:
    error = invalid(FileError, "path", must="be a file", got="a\nb" * 500, fix="Give a file.")
    assert "\n" not in str(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize(("name", "what"), [("plot", '"tiledseg[plot]"'), (None, "nowhere")])
def test_a_missing_library_is_told_with_what_installs_it(name, what):
    with pytest.raises(SettingError, match=re.escape(f"Run `pip install {what}`.")):
        extra("nowhere", name)
