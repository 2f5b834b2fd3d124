"""Check that pyright knows the type of every public symbol: ``python -m tests.check_types``.

Public is what docs/reference.md lists. Internal classes that derive from Keras have no known type.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.check_docstrings import names, resolved


def main() -> None:
    """Ask pyright, and stop where the type of a public symbol is not known."""
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
    sys.exit("\n".join(faults) if faults else None)


if __name__ == "__main__":
    main()
