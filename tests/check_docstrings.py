"""Check that public names have full docstrings, and internal ones a line at most.

Public are the names of docs/reference/, with the methods and properties of the classes among them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpydoc.docscrape import get_doc_object
from numpydoc.validate import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
NOT_ASKED = {"ES01", "EX01", "GL01", "GL02", "GL03", "SA01", "RT04"}  # longer forms, and the layout of lines
OF_CLASSES = {"PR01", "PR02"}  # fields of settings and of results are described below them, or as attributes
OF_PROPERTIES = {"PR01", "RT01", "SS05"}
PROPERTIES = (property, cached_property)
HELP = "tiledseg.cli"  # docstrings of commands are their help


def names() -> list[str]:
    """Read the public names: a name without a package is importable as ``tiledseg.<name>``."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"\.\. autosummary::\n.*?\n\n(.*?)```", text, re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def resolved(name: str) -> Any:
    """Import a public name."""
    package, _, own = f"tiledseg.{name}".rpartition(".")
    return getattr(importlib.import_module(package), own)


def public() -> Iterator[tuple[str, Any]]:
    """List all that is promised, by name."""
    errors = importlib.import_module("tiledseg.errors")
    for name in [*names(), *(f"errors.{name}" for name in errors.__all__)]:
        thing = resolved(name)
        yield f"tiledseg.{name}", thing
        for base in inspect.getmro(thing) if inspect.isclass(thing) else ():
            if base.__module__.startswith("tiledseg."):
                yield from members(base)


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """List the public methods and properties that a class defines itself."""
    for key, value in list(vars(kind).items()):  # pydantic may add to them
        thing = getattr(value, "__func__", value)
        if not key.startswith("_") and (inspect.isfunction(thing) or isinstance(thing, PROPERTIES)):
            yield f"{kind.__module__}.{kind.__qualname__}.{key}", thing


def faults_of(name: str, thing: Any) -> list[str]:
    """Check one docstring."""
    not_asked = NOT_ASKED
    if inspect.isclass(thing):
        not_asked = NOT_ASKED | OF_CLASSES
    elif isinstance(thing, PROPERTIES):
        not_asked = NOT_ASKED | OF_PROPERTIES
    found = validate(get_doc_object(thing))["errors"]
    return [f"{name}: {code} {text}" for code, text in found if code not in not_asked]


def place(thing: Any) -> tuple[str, str]:
    """Say in which module a thing is defined, and as what."""
    thing = getattr(thing, "fget", None) or getattr(thing, "func", thing)
    return thing.__module__, thing.__qualname__


def long_ones(path: Path) -> Iterator[tuple[str, str]]:
    """List the functions and classes of a module whose docstring is longer than a line."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[str, str]]:
        for one in ast.iter_child_nodes(node):
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                if "\n" in (ast.get_docstring(one) or ""):
                    yield module, inside + one.name
                yield from walk(one, f"{inside}{one.name}.")

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "")


def main() -> int:
    """Print every fault."""
    promised = dict(public())
    faults = [fault for name, thing in sorted(promised.items()) for fault in faults_of(name, thing)]
    bases = {base for thing in promised.values() if inspect.isclass(thing) for base in inspect.getmro(thing)}
    places = {place(thing) for thing in {*promised.values(), *bases}}
    for path in sorted((ROOT / "tiledseg").rglob("*.py")):
        for module, name in long_ones(path):
            if (module, name) not in places and not module.startswith(HELP):
                faults.append(f"{module}.{name}: is internal: one line, and comments that say why")
    sys.stdout.write("\n".join([*faults, f"{len(promised)} public docstrings, {len(faults)} faults\n"]))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
