"""The settings of a command: defaults, replaced by the file's values, replaced by options."""

from __future__ import annotations

import functools
import inspect
import json
import math
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Group, Parameter

from tiledseg._storage import exists, is_folder, write_text
from tiledseg._validate import invalid, shown
from tiledseg.cli import lazy
from tiledseg.cli.app import logging_shown
from tiledseg.cli.options import COMMON, by_setting, in_options, merged, options_of
from tiledseg.errors import FileError, SettingError, TiledSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiledseg.cli.options import Option, Table
    from tiledseg.config import Config, RunConfig

_Settings = TypeVar("_Settings", bound="Config")
_Value = TypeVar("_Value")
_LARGEST = 1_000_000  # bytes of a settings file


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the file and of the command line."""

    read: RunConfig | None = None  # settings of the file
    given: dict[str, dict[str, Any]] = field(default_factory=dict)  # values of the command line by table
    progress: bool = True  # whether to show progress bars
    file: Path | None = None
    tables: Mapping[str, Config] = field(default_factory=dict)  # that the command has options of
    as_json: bool = False  # whether results are printed for programs

    @property
    def run(self) -> RunConfig:
        """Settings of the file; the defaults without a file."""
        return self.read or lazy.config.RunConfig()

    def say(self, text: object) -> None:
        """Print a result for people; nothing where it is printed for programs."""
        if not self.as_json:
            sys.stdout.write(f"{text}\n")

    def give(self, **content: object) -> None:
        """Print a result for programs, where that is wanted, as one object; nan and infinity are null."""
        if self.as_json:
            sys.stdout.write(f"{json.dumps(_plain(content), indent=2)}\n")

    def own(self, table: str, default: _Settings) -> _Settings:
        """Return a table of the file; the default, which needs no other tables, without a file."""
        return default if self.read is None else getattr(self.read, table)

    def over(self, base: _Settings, table: str) -> _Settings:
        """Replace settings by the values of the command line for a table."""
        return merged(base, self.given.get(table, {}))

    def whole(self, **tables: Config | None) -> RunConfig:
        """Replace settings of the file by all values of the command line, and by the given tables."""
        fields = lazy.config.RunConfig.model_fields
        known = {name: getattr(self.run, name) for name in self.given if name in fields}
        made = {name: self.over(base, name) for name, base in known.items() if base is not None}
        made |= {name: table for name, table in tables.items() if table is not None}
        return self.run.changed(**made)

    def keep(self, folder: Path, name: str = "run.toml", **tables: Config | None) -> None:
        """Write the tables of the file, and those that the command used, into its output folder."""
        # the user's own file is never replaced
        target, text = folder / name, lazy.config.write_tables(self._used(tables))
        if exists(target):
            with target.open("rb") as file:
                ours = file.readline() == text.encode().splitlines(keepends=True)[0]
            if not ours or (self.file is not None and target.samefile(self.file)):
                return
        write_text(target, text)

    def _used(self, tables: dict[str, Config | None]) -> dict[str, Config]:
        """Return the settings of all tables that the file or the command has."""
        names = () if self.read is None else self.read.model_fields_set
        bases = {**self.tables, **{name: getattr(self.read, name) for name in names}, **tables}
        return {
            name: base if name in tables else self.over(base, name)
            for name, base in bases.items()
            if base is not None
        }


def with_options(*tables: Table, file: bool = True) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add the options of tables, and those that all commands have, to a command."""
    defaults = {table.name: table.settings for table in tables}
    options = [option for table in tables for option in options_of(table)]
    titles = dict.fromkeys(option.title for option in options)
    groups = {title: Group(title, sort_key=place) for place, title in enumerate(titles)}
    named = by_setting(options)
    parameters = [option.parameter(groups[option.title], named) for option in options] + _common(file=file)

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> int:
            taken = {parameter.name: kwargs.pop(parameter.name, None) for parameter in parameters}
            quiet, verbose = bool(taken["quiet"]), bool(taken["verbose"])
            given = _given(options, taken)
            told = functools.partial(
                in_options, options=named, used=given if taken.get("config") is None else ()
            )
            with logging_shown(quiet=quiet, verbose=verbose, told=told):
                file = taken.get("config")
                read = None if file is None else read_run(file)
                for_programs = bool(taken["json"])
                settings = Settings(read, given, not quiet, file, defaults, for_programs)
                try:
                    return command(*args, **kwargs, settings=settings)
                except TiledSegError as error:
                    raise type(error)(told(str(error))) from error

        own = inspect.signature(command, eval_str=True)
        kept = [parameter for name, parameter in own.parameters.items() if name != "settings"]
        run.__signature__ = own.replace(parameters=[*kept, *parameters])  # type: ignore[attr-defined]
        return run

    return decorate


def _given(options: list[Option], taken: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Collect the given values in nested dicts by table."""
    given: dict[str, dict[str, Any]] = {}
    for option in options:
        if taken[option.keyword] is not None:
            place = given.setdefault(option.table.name, {})
            for name in option.path[:-1]:
                place = place.setdefault(name, {})
            place[option.path[-1]] = option.value_of(taken[option.keyword])
    return given


def read_run(path: Path) -> RunConfig:
    """Read a settings file."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        return lazy.config.RunConfig.from_toml(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise invalid(
            FileError, str(path), must="be a TOML file in UTF-8", got=error, fix="Check the path."
        ) from None
    except SettingError as error:
        raise SettingError(f"{shown(str(path))}: {error}") from None


def _plain(value: object) -> object:
    """Bring values to what JSON has; paths and the like become text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value  # a number of NumPy
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def needed(value: _Value | None, option: str, where: str) -> _Value:
    """Return a value, or raise an error if neither the command line nor the file gives it."""
    if value is None or value == ():
        fix = f"Give it on the command line, or as {where} in the file of --config."
        raise invalid(SettingError, option, must="be given", got="nothing", fix=fix)
    return value


def _common(*, file: bool) -> list[inspect.Parameter]:
    """Return the options that all commands have."""
    texts = {
        "json": "Print the result as JSON, for programs; messages go to standard error.",
        "quiet": "Show only warnings and errors.",
        "verbose": "Show more messages.",
        "debug": "Show the traceback of an error.",
    }
    flags = [_flag(name, text) for name, text in texts.items()]
    return [_file(), *flags] if file else flags


def _flag(name: str, text: str) -> inspect.Parameter:
    look = Parameter(help=text, group=COMMON, negative=(), show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, look]
    )


def _file() -> inspect.Parameter:
    look = Parameter(
        help="TOML file of settings, for example a run.toml; options of the command line replace its values.",
        group=COMMON,
        metavar="FILE",
        negative_none=(),
    )
    return inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, look]
    )


@with_options(file=False)
def import_config(
    source: Annotated[Path, Parameter(help="The file to convert, for example train_eval_infer.config.")],
    target: Annotated[Path, Parameter(help="The TOML file to write; it must not exist yet.")] = Path(
        "run.toml"
    ),
    /,
    *,
    settings: Settings,
) -> int:
    """Convert the founding experiment's configuration into a file of settings."""
    if exists(target):
        fix = "Choose another name; no file is overwritten."
        raise invalid(FileError, str(target), must="be a new file", got="one that exists", fix=fix)
    try:
        with source.open("rb") as file:
            text = file.read(_LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        fix = "Check the path."
        raise invalid(FileError, str(source), must="be a text file in UTF-8", got=error, fix=fix) from None
    done = lazy.config.import_founding(text)
    write_text(target, done.run.to_toml())
    unusable = [str(note) for note in done.notes if note.outcome == "unusable"]
    lines = [str(done), *_next_commands(done.run, target)] if settings.progress else unusable
    if lines:
        settings.say("\n".join(lines))
    keys = {note.name: {"outcome": note.outcome, "text": note.text} for note in done.notes}
    settings.give(settings=target, keys=keys)
    return 1 if unusable else 0


def _next_commands(run: RunConfig, file: Path) -> list[str]:
    """List the commands that go on from converted settings; RUN is the folder that training makes."""
    unset = lazy.config.DataConfig()
    best, predict = f"{Path(run.train.runs_dir)}/RUN/best", run.predict
    steps = [("stats", "--output statistics"), ("train", "")] if run.train_data != unset else []
    steps += [(f"evaluate {best}", "--output evaluation")] if run.test_data != unset else []
    if predict.inputs:
        output = predict.output or "predicted"
        steps.append((f"predict {best}", "" if predict.output else f"--output {output}"))
        images = Path(predict.inputs[0])
        beside = images.parent / "masks"
        masks = shlex.quote(str(beside)) if images.name == "images" and is_folder(beside) else "MASKS"
        pairs = f"--images {shlex.quote(str(images))} --masks {masks}"
        maps = shlex.quote(f"maps:{Path(output) / 'masks'}")
        steps.append((f"evaluate {maps}", f"{pairs} --triples --output triples"))
    name = shlex.quote(str(file))
    lines = [f"  tiledseg {one} --config {name} {more}".rstrip() for one, more in steps]
    return [
        f"Settings: {file}",
        *(["Next, where RUN is the folder that training makes:", *lines] if lines else []),
    ]
