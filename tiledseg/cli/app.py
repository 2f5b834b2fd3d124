"""The command line: which commands there are, what they log, and what becomes of their errors."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from cyclopts import App, CycloptsError
from tqdm import tqdm

from tiledseg._version import __version__
from tiledseg.errors import TiledSegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

_CANNOT_START, _INTERRUPTED, _PIPE_CLOSED, _TERMINATED = 2, 130, 141, 143
_COMMANDS = {  # module and function, loaded when the command is called: the list of commands needs none
    "predict:predict": """Segment image files.

Masks go to OUTPUT/masks, probabilities to OUTPUT/probs, overlays to OUTPUT/overlays. A file that cannot be
read does not stop the others. Names that start with a hyphen go behind --.""",
    "predict:plan": """Say what predicting an image would do, without doing it.

Prints tiles, overlap, calls of the network and memory.""",
    "data:stats": """Count a dataset, and draw it.

Prints images, groups, foreground and sizes of each split; with --output, writes them as JSON and CSV, a
chart of the splits, and contact sheets of images, masks and both. Options that begin with --split- split
the data first.""",
    "data:split": """Split a dataset by image or by group, and write the manifest of it.

The manifest is data to train on: train --train-layout manifest --train-path manifest.jsonl --train-split
train. The same images get the same splits on any machine.""",
    "data:tile": """Cut a dataset into a set of tiles on disk.

Training does not need them: it crops from the images. Tiles are lossless and named after image and place; a
manifest says where each comes from. Options that begin with --split- split the data first.""",
    "train:train": """Train a network on images and their masks.

Each image has a mask of the same stem. Each run gets a new folder in RUNS-DIR; the best network is kept
there as a bundle, whatever ends the run.""",
    "evaluate:evaluate": """Score a segmenter on images whose masks are known.

Prints a table; with --output, writes tables, pictures of the worst images and report.html. --against
compares with another one on the same images. maps:FOLDER stands for maps that are ready, whoever made
them.""",
    "export:export": """Write the cells of masks for other programs.

GeoJSON as QuPath imports it goes to OUTPUT/geojson, COCO instances to OUTPUT/coco.json. A mask that cannot
be read does not stop the others.""",
    "settings:import_config": """Convert the founding experiment's configuration into a file of settings.

Prints what became of each key: converted, dropped and why, or unusable. Exit code 1 where some are
unusable.""",
    "demo:demo": """Train, segment and score on made-up images.

Trains a small network on generated bone-marrow smears, segments a large one that it never saw, and writes
OUTPUT/report.html, pictures and the trained bundle. Needs no download.""",
}

app = App(
    name="tiledseg",
    help="Segment images larger than your network.",
    version=__version__,
    help_epilogue="Exit code: 0 done, 1 some files failed, 2 could not start or go on.",
    suppress_keyboard_interrupt=False,
)
for _place, (_where, _help) in enumerate(_COMMANDS.items()):
    _name = _where.partition(":")[2].replace("_", "-")
    app.command(f"tiledseg.cli.{_where}", name=_name, help=_help, sort_key=_place)


class _TerminatedError(SystemExit):
    """The system asked the process to end."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings are nobody's business
    for stream in (sys.stdout, sys.stderr):
        _show_any_name(stream)
    try:
        with _terminable():
            code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()
    except (CycloptsError, TiledSegError) as error:
        return _fail(error, debug="--debug" in tokens)
    except KeyboardInterrupt:
        return _stopped("Interrupted", _INTERRUPTED)
    except _TerminatedError:
        return _stopped("Terminated", _TERMINATED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush fails again
        return _PIPE_CLOSED
    return code or 0


def _show_any_name(stream: TextIO | object) -> None:
    """Escape what the terminal cannot show, names of files above all."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _fail(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(f"tiledseg: {error}\n")
    return _CANNOT_START


def _stopped(how: str, code: int) -> int:
    sys.stderr.write(f"tiledseg: {how}; what was finished is kept.\n")
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """Leave in order at the first SIGTERM, at once at the second."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _TerminatedError(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def logging_shown(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Show the log of the package on standard error, for as long as the context lasts."""
    logger, handler = logging.getLogger("tiledseg"), _Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Lines(logging.Handler):
    """Writes each record on a line of its own, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        tqdm.write(f"{level}{record.getMessage()}", file=sys.stderr)


def load_keras() -> None:
    """Load Keras now; what its backend prints is shown only where that fails."""
    with _stderr_held_back():
        importlib.import_module("tiledseg._backend")


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Hold standard error back, also that of compiled code, which bypasses ``sys.stderr``."""
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except Exception:
            kept.seek(0)
            os.write(own, kept.read())
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)
