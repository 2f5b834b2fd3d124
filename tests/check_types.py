"""Check the types of what is public and of what is documented: ``python -m tests.check_types``.

Pyright knows the type of every public symbol, which is what docs/reference/ lists; internal classes that
derive from Keras have no known type. Pyright and mypy, both strict, accept how the Python code of README and
docs calls the library; what pages leave without types of their own does not count.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.check_docstrings import ROOT, names, resolved

_CALLS = {
    "ArgumentType",
    "AttributeAccessIssue",
    "CallIssue",
    "IndexIssue",
    "OptionalMemberAccess",
    "ReturnType",
}
_SETTINGS = """
import tiledseg as ts

settings = ts.TrainConfig(loss={"name": "tversky"}, network={"name": "unet", "levels": 3}, optimizer="sgd")
name: str = settings.loss.name
finer = settings.changed(loss={"name": "focal"}, tiling={"tile_size": 256, "overlap": "exact"})
run = ts.RunConfig(train={"epochs": 3}, predict={"write": ("mask",), "runtime": {"precision": "bf16"}})
probs = ts.load_model("demo").predict("image.tif", {"tile_size": 256}, output="mask")
"""


def main() -> None:
    """Stop where a type is not known, or where documented code does not fit the types."""
    faults = [*of_symbols(), *of_pages()]
    sys.exit("\n".join(faults) if faults else None)


def of_pages() -> list[str]:
    """List the calls in documented code that strict type checkers refuse."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "settings.py")
        settings.write_text(_SETTINGS, encoding="utf-8")
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
            blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
            Path(folder, f"page_{page.stem.lower()}.py").write_text("\n".join(blocks), encoding="utf-8")
        options = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
        Path(folder, "pyrightconfig.json").write_text(json.dumps(options), encoding="utf-8")
        command = ["pyright", "--project", folder, "--outputjson"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = json.loads(done.stdout)["generalDiagnostics"]
        places = [(Path(one["file"]).stem, one.get("rule", "").removeprefix("report"), one) for one in found]
        options = ["--strict", "--config-file", "", "--follow-imports", "silent"]
        checked = subprocess.run(
            ["mypy", *options, settings], capture_output=True, text=True, check=False, cwd=ROOT
        )
    own = [checked.stdout] if checked.returncode else []
    return own + [
        f"{page}: {one['message']}" for page, rule, one in places if rule in _CALLS or page == "settings"
    ]


def of_symbols() -> list[str]:
    """Ask pyright for public symbols whose type is not known."""
    command = ["pyright", "--verifytypes", "tiledseg", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    things = map(resolved, names())
    public = {
        f"{thing.__module__}.{thing.__qualname__}" for thing in things if hasattr(thing, "__qualname__")
    }
    seen, faults = set(), []
    for symbol in symbols:
        parts = symbol["name"].split(".")
        owners = {".".join(parts[:end]) for end in range(3, len(parts) + 1)} & public
        seen |= owners
        if owners and not symbol["isTypeKnown"]:
            faults.append(f"{symbol['name']}: its type is not known")
    faults += [f"{name}: pyright does not see it" for name in sorted(public - seen)]
    return faults


if __name__ == "__main__":
    main()
