"""The command: ``python -m benchmarks.scorecard [--quick] [--seed N] [--list] [number ...]``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.scorecard import (  # noqa: F401  they register their rows
    bad_input,
    damage,
    disk,
    drawn,
    environment,
    finite,
    fuzzing,
    hostile,
    kills,
    mutation,
    sharing,
)
from benchmarks.scorecard._rows import ROWS, Figure, Row, Trial

_COMMAND = "python -m benchmarks.scorecard"
_QUICK = 0.02
_HERE = Path(__file__).parent


def main() -> int:
    """Run rows, print and store their figures; return 1 if one falls short."""
    options = _options()
    rows = [ROWS[number] for number in options.numbers or sorted(ROWS)]
    if options.list:
        print("\n".join(f"{one.number:2} {one.name}" for one in rows))
        return 0
    logging.getLogger("tiledseg").setLevel(logging.ERROR)  # damage is expected here
    size = _QUICK if options.quick else options.size
    figures = {}
    for one in rows:
        print(f"{one.number} {one.name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        figures[one.number] = measured(one, options.seed, size)
        print(f"    {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    _show(figures, options.seed, size)
    print(_stored(figures, options.seed, size))
    return int(not all(one.passed for found in figures.values() for one in found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=_COMMAND, description="Measure what is survived.")
    parser.add_argument("numbers", nargs="*", type=int, metavar="number", help="rows; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument("--size", type=float, default=1.0, help="share of the attempts (default 1)")
    parser.add_argument("--quick", action="store_true", help=f"a share of {_QUICK}: a test that it runs")
    parser.add_argument("--list", action="store_true", help="name the rows")
    options = parser.parse_args()
    unknown = [str(number) for number in options.numbers if number not in ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(map(str, sorted(ROWS)))}")
    return options


def measured(one: Row, seed: int, size: float) -> list[Figure]:
    """Measure a row; a row that fails itself falls short."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="scorecard-") as folder:
        try:
            found.extend(one.measure(Trial(Path(folder), seed, size)))
        except Exception as error:  # noqa: BLE001  the other rows are still wanted
            traceback.print_exc()
            found.append(Figure("the row itself fails", 1, most=0, faults=(repr(error),)))
    return found


def replay(number: int, seed: int, size: float) -> str:
    """Return the command that measures a row again."""
    return f"{_COMMAND} {number} --seed {seed}" + ("" if size == 1 else f" --size {size:g}")


def _show(figures: dict[int, list[Figure]], seed: int, size: float) -> None:
    table = Table("row", "figure", "value", "target", "", title=f"seed {seed}", title_justify="left")
    for number, found in figures.items():
        table.add_section()
        table.add_row(str(number), f"[bold]{ROWS[number].name}[/]", "", "", replay(number, seed, size))
        for one in found:
            verdict = "[green]pass[/]" if one.passed else "[bold red]falls short[/]"
            table.add_row("", one.what, f"{one.value:g}", one.target, verdict)
    console = Console()
    console.width = max(console.width, 130)
    console.print(table)
    for number, found in figures.items():
        for one in found:
            for fault in () if one.passed else one.faults:
                console.print(f"{number} {one.what}: {fault}", markup=False, highlight=False)


def _stored(figures: dict[int, list[Figure]], seed: int, size: float) -> Path:
    """Write the figures beside the rows, and return the path."""
    path = _HERE / "results" / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.json"
    path.parent.mkdir(exist_ok=True)
    rows = [
        {
            "row": number,
            "name": ROWS[number].name,
            "replay": replay(number, seed, size),
            "figures": [one.as_dict() for one in found],
        }
        for number, found in figures.items()
    ]
    path.write_text(json.dumps({"seed": seed, "size": size, "rows": rows}, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
