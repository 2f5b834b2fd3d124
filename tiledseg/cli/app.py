"""The command line: the list of commands, their log and their errors."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import re
import signal
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from tiledseg._lazy import lazy
from tiledseg._validate import abbreviated
from tiledseg._version import __version__
from tiledseg.errors import TiledSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    import tqdm
else:
    tqdm = lazy("tqdm")

_OF_A_KIND = 3  # warnings that are shown
_NAMES = re.compile(r"^[^:]+: |`[^`]*`|\d+|\S+[./]\S+")
_OBJECTS = 150_000  # that are made before unreachable ones are searched for; a start makes 100,000
_CANNOT_START, _PIPE_CLOSED, _TERMINATED = 2, 141, 143
_SAVING = {"predict", "train"}  # commands that save each result as soon as it is finished
_COMMANDS = {  # by module and function, which are imported when the command is called
    "predict:predict": """Segment image files.

Masks are written to OUTPUT/masks, and each other product of --write to a folder of its own. A file that
cannot be read does not stop the others. Put -- before file names that start with a hyphen.

Example: tiledseg predict demo images/ --output results

Example: tiledseg predict bundle slide.svs --output results --write labels,objects,geojson --roi tissue""",
    "predict:plan": """Show how an image would be predicted, without predicting it.

Prints the tiles, their overlap, the calls of the network and the memory.

Example: tiledseg plan demo 1920x2560

Example: tiledseg plan bundle slide.svs --json""",
    "data:init": """Look at a dataset, and write settings for it.

Pairs the files of IMAGES and MASKS, says what is wrong and what the values of the masks were taken for, and
writes OUTPUT/run.toml, with a comment for each setting, and OUTPUT/sheet.png, some images with their masks.

Example: tiledseg init images/ masks/ --output project""",
    "data:stats": """Show statistics of a dataset.

Prints the images, groups, foreground and sizes of each split. With --output, writes them as JSON and CSV,
with a chart of the splits and contact sheets of images and masks. Options that begin with --split- split the
data first. Where the file of --config names data for training, validation and test, and no whole dataset,
these three are shown.

Example: tiledseg stats --images images --masks masks --output statistics""",
    "data:split": """Split a dataset by image or by group, and write a manifest.

The same images get the same splits on any machine. To train on a split, use:
train --layout manifest --path manifest.jsonl.

Example: tiledseg split --images images --masks masks --shares 70,15,15 --manifest manifest.jsonl""",
    "data:tile": """Cut a dataset into a set of tiles on disk.

Training does not need tiles: it takes crops from the images. Tiles are lossless. Their names hold the image
and the position, and a manifest lists them. Options that begin with --split- split the data first.

Example: tiledseg tile --images images --masks masks --output tiles --tile-size 512""",
    "train:train": """Train a network on images and their masks.

Each image needs a mask with the same file name, apart from the suffix. Where no --valid- option says which
images choose the best epoch, a fifth of the images is set apart (--split- options say how), and split.jsonl
in the run's folder lists them; with --no-validation all images are used for training. Each run makes a
new folder in RUNS-DIR. The best network so far is saved there as a bundle, even if the run is interrupted.

Example: tiledseg train --images images --masks masks --epochs 50

Example: tiledseg train --resume runs/RUN""",
    "evaluate:evaluate": """Score a segmenter on images whose masks are known.

Prints a table. With --output, writes tables, pictures of the worst images and report.html; with --triples
also input, truth and prediction of every image. --against compares the model with others on the same
images, and --ensemble with the mean of all their maps. maps:FOLDER scores precomputed maps in place of a
model.

Example: tiledseg evaluate bundle --images images --masks masks --output scores""",
    "export:export": """Write the objects of masks for other programs.

GeoJSON for QuPath is written to OUTPUT/geojson, ImageJ regions to OUTPUT/roi, COCO instances to
OUTPUT/coco.json. A mask that cannot be read does not stop the others.

Example: tiledseg export results/masks --output objects --write geojson,coco""",
    "export:export_model": """Write a model for other programs.

onnx writes one file for ONNX Runtime and other engines, openvino writes model files of OpenVINO, bioimageio
writes a package of the BioImage Model Zoo. The outputs are compared with those of this library before
anything is written.

Example: tiledseg export-model bundle network.onnx --to onnx""",
    "demo:demo": """Segment and score a generated image.

Segments a large generated bone-marrow smear with the included model, and writes OUTPUT/report.html, pictures
and the bundle. With --train, trains a small network first. Needs no download.

Example: tiledseg demo --output demo""",
    "info:doctor": """Check the installation.

Prints versions, libraries that are missing, cores and memory, segments a generated image and measures the
speed. The exit code is 1 if something is wrong.

Example: tiledseg doctor --json""",
    "info:info": """Say what is in image files, slides, bundles and ONNX files.

Prints size, dtype, levels and px size of an image; architecture, input, classes, tiling, stride and receptive
field of a model. Nothing is predicted.

Example: tiledseg info slide.svs bundle/ net.onnx --json""",
    "settings:import_config": """Convert the founding experiment's configuration into a file of settings.

Prints for each key whether it is converted, dropped (with the reason) or unusable, then the commands that go
on from there. The exit code is 1 if a key is unusable.

Example: tiledseg import-config train_eval_infer.config run.toml""",
}
_PREDICT, _DATA, _TRAIN, _CHECK, _OPTIONS = (
    Group(title, sort_key=place)
    for place, title in enumerate(("Predict", "Data", "Train and score", "First steps and checks", "Options"))
)
_GROUPS = {  # of the help, by module
    "predict": _PREDICT,
    "export": _PREDICT,
    "data": _DATA,
    "train": _TRAIN,
    "evaluate": _TRAIN,
    "demo": _CHECK,
    "info": _CHECK,
    "settings": _CHECK,
}
app = App(
    name="tiledseg",
    help="Segment images larger than your network. Begin with: tiledseg demo",
    version=__version__,
    group_commands=_OPTIONS,
    help_epilogue="Exit codes: 0 success, 1 some files failed, 2 the command could not start or continue.",
    suppress_keyboard_interrupt=False,
)
for _place, (_where, _help) in enumerate(_COMMANDS.items()):
    _module, _, _name = _where.replace("_", "-").partition(":")
    app.command(f"tiledseg.cli.{_where}", name=_name, help=_help, group=_GROUPS[_module], sort_key=_place)
app.register_install_completion_command(
    help="Let the shell (bash, zsh, fish) complete commands and options, by a script in your home folder."
)


def _quicken() -> None:
    """Set what shortens a start by a fifth, and is the process's to choose."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of NumPy: they spin for longer than they compute
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looks through all installed packages
    gc.set_threshold(_OBJECTS)  # the default is 700
    atexit.register(gc.freeze)  # else Python looks through all objects once more at its end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    _quicken()
    tokens = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        _escape_unprintable(stream)
    received: list[int] = []
    try:
        with _stoppable(received):
            code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()
        if code and received:  # an interruption may have been taken for a failure of one file
            return _stopped(received[0], tokens, KeyboardInterrupt())
    except BaseException as error:  # noqa: BLE001  a library may have turned an interruption into another
        if received or isinstance(error, KeyboardInterrupt):
            return _stopped((received or [signal.SIGINT])[0], tokens, error)
        return _fail(error, debug="--debug" in tokens)
    return code or 0


def _escape_unprintable(stream: TextIO | object) -> None:
    """Escape characters that the terminal cannot show, for example in file names."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _fail(error: BaseException, *, debug: bool) -> int:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush fails again
        return _PIPE_CLOSED
    if not isinstance(error, CycloptsError | TiledSegError):
        raise error
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(f"tiledseg: {_parser_message(error)}\n")
    return _CANNOT_START


def _parser_message(error: BaseException) -> str:
    """Say what the parser did not understand as the other messages do."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        problem = f"`{error.unused_tokens[0]}` is one argument too many."
    elif isinstance(error, MissingArgumentError) and error.keyword is None and error.argument is not None:
        problem = f"`{error.argument.name}` must be given; got nothing."
    elif isinstance(error, UnknownCommandError) and (tokens := error.unused_tokens or [""])[0][:1] == "-":
        called = next((one for one in tokens if one in app), "predict")
        problem = f"`{tokens[0]}` must come after the command, as in tiledseg {called} {tokens[0]}."
    elif isinstance(error, UnknownOptionError):
        problem = _unknown_option(error)
    else:
        return str(error)
    command = " ".join(["tiledseg", *(error.command_chain or ())])
    return f"{problem} See {command} --help."


def _unknown_option(error: UnknownOptionError) -> str:
    """Say what to type in place of an option that the command does not have."""
    typed = error.token.keyword or error.token.value
    if typed == "-":
        return "`-` must be a file, since standard input is not read. Give ./- for a file of this name."
    if name := _abbreviated(error):
        return f"Unknown option: {typed}. Did you mean {name}?"
    if typed[:2] == "--":
        return str(error)
    return f"Unknown option: {typed}. Put -- before file names that start with a hyphen."


def _abbreviated(error: UnknownOptionError) -> str | None:
    """Find the option whose words begin with these letters, as in --lr."""
    names = [name for argument in error.argument_collection for name in argument.names]
    found = abbreviated((error.token.keyword or "")[2:], [name[2:] for name in names if name[:2] == "--"])
    return f"--{found[0]}" if found else None


def _stopped(number: int, tokens: Sequence[str], error: BaseException) -> int:
    """Say that the command was stopped, and what is there; return the exit code."""
    notes = getattr(error, "__notes__", [])
    if not notes and tokens[0] in _SAVING:
        notes = ["finished results are saved"]
    how = "Interrupted" if number == signal.SIGINT else "Terminated"
    sys.stderr.write(f"tiledseg: {'; '.join([how, *notes])}.\n")
    return 128 + number


@contextmanager
def _stoppable(received: list[int]) -> Iterator[None]:
    """Shut down cleanly at the first SIGINT or SIGTERM, which is noted; at once at the second SIGTERM."""

    def leave(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(_TERMINATED)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def logging_shown(*, quiet: bool, verbose: bool, told: Callable[[str], str] = str) -> Iterator[None]:
    """Show the package's log on standard error inside the context; `told` words its records."""
    logger, handler = logging.getLogger("tiledseg"), _Lines(told)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        handler.close()
        logger.removeHandler(handler)
        logger.setLevel(before)


def _is_verbose() -> bool:
    return logging.getLogger("tiledseg").isEnabledFor(logging.DEBUG)


class _Lines(logging.Handler):
    """Writes each record on a line, above a progress bar; of many warnings of a kind the first three."""

    def __init__(self, told: Callable[[str], str]) -> None:
        super().__init__()
        self._told = told
        self._seen: Counter[str] = Counter()  # warnings by their text without names and numbers

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        warns, text = record.levelno >= logging.WARNING, self._told(record.getMessage())
        if warns and self._is_repeated(text):
            return
        self._write(f"{record.levelname.lower()}: {text}" if warns else text)

    def close(self) -> None:
        """Say how many warnings were not written."""
        more = sum(max(0, count - _OF_A_KIND) for count in self._seen.values())
        if more and not _is_verbose():
            self._write(f"warning: {more} more of these kinds; --verbose shows all")
        self._seen.clear()
        super().close()

    def _is_repeated(self, text: str) -> bool:
        kind = _NAMES.sub("", text)
        self._seen[kind] += 1
        return self._seen[kind] > _OF_A_KIND and not _is_verbose()

    def _write(self, line: str) -> None:
        if "tqdm" in sys.modules:  # a bar may be shown
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            sys.stderr.write(f"{line}\n")
