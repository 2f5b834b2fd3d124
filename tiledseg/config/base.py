"""What all settings share: strictness, errors of ours, TOML and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from tiledseg._notebook import facts
from tiledseg._storage import json_of
from tiledseg._validate import did_you_mean, invalid, shown, text_of_path
from tiledseg.config.fields import (
    complaint,
    fields_within,
    joined,
    laid_over,
    named,
    names_of,
    settings_within,
)
from tiledseg.config.toml import in_toml, read_toml, write_toml
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from pydantic import ModelWrapValidatorHandler
    from pydantic_core import ErrorDetails

_FILE = "file"  # the context of validation, where settings come from a file
_BELOW = "[\0"  # begins the name of a table, until the tables around it are known
_LONGEST_TEXT = 100_000
_MOST_BITS = 63


def _check_text(text: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(text, kinds):
        fix = "Read the file's text first."
        raise invalid(SettingError, "settings", must="be text", got=type(text).__name__, fix=fix)
    if isinstance(text, str | bytes) and len(text) > _LONGEST_TEXT:
        must, fix = f"have at most {_LONGEST_TEXT} characters", "Give a settings file."
        raise invalid(SettingError, "settings", must=must, got=len(text), fix=fix)


class Config(BaseModel):
    """Base of all settings: unknown keys, wrong types and NaN are errors; values never change.

    Raises
    ------
    SettingError
        If a value cannot be used, or a key is not known; the message names the nearest one.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        defer_build=True,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        in_file = info.context == _FILE
        try:
            made = handler(cls._filled(data, in_file=in_file))
            made._check()
        except ValidationError as error:
            text = " ".join(cls._sentences(error.errors(), in_file=in_file))
            raise (ValueError if in_file else SettingError)(text) from None
        except SettingError as error:
            if in_file:  # pydantic then says in which table it is
                raise ValueError(str(error)) from None
            raise
        made.model_fields_set.update({"name"} & cls.model_fields.keys())  # what says which settings they are
        return made

    def _check(self) -> None:
        """Check what holds between several fields."""

    @classmethod
    def _filled(cls, data: Any, *, in_file: bool) -> Any:
        """Put what is given of nested settings over the field's default, not over their class's."""
        if not isinstance(data, dict):
            return data
        data = {name: _plain(value) for name, value in data.items()}
        for name, value in data.items():
            cls._check_bits(cls._place(name, in_file=in_file), value)
        for name, field in cls.model_fields.items():
            if name in data and isinstance(field.default, Choice):
                data[name] = cls._named(name, data[name], in_file=in_file)
            cls._check_table(name, settings_within(field), data, in_file=in_file)
        given = {
            name: laid_over(field.default.model_dump(exclude_unset=True), data[name])
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Config) and isinstance(data.get(name), dict)
        }
        return data | given

    @classmethod
    def _named(cls, name: str, value: object, *, in_file: bool) -> object:
        """Turn a name alone into settings; refuse what is neither, such as a network itself."""
        if not isinstance(value, str | dict | Config):
            known = cls.model_fields[name].default.name
            settings = "a table with its name and settings" if in_file else "its class, or a dict"
            must, fix = "be a name or settings", f'Give its name, as in "{known}", or {settings}.'
            raise invalid(SettingError, cls._place(name, in_file=in_file), must=must, got=value, fix=fix)
        return named(value)

    @classmethod
    def _check_table(
        cls, name: str, kind: type[BaseModel] | None, data: dict[str, Any], *, in_file: bool
    ) -> None:
        """Name the field to which something else than settings is given: its class alone does not say it."""
        if kind is not None and not isinstance(data.get(name), dict | kind | None):
            must, fix = "be a table of settings", f"Write it as {_BELOW}{name}]."
            if not in_file:
                must = f"{must}, {kind.__name__}"
                fix = f"Pass {kind.__name__}(...), or a dict of some of its settings."
            raise invalid(SettingError, cls._place(name, in_file=in_file), must=must, got=data[name], fix=fix)

    @staticmethod
    def _check_bits(where: str, value: Any) -> None:
        """Refuse whole numbers that no array holds: they overflow where they become a float."""
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, int) and one.bit_length() > _MOST_BITS:
                must, got = f"have at most {_MOST_BITS} bits", f"a number of {one.bit_length()} bits"
                raise invalid(SettingError, where, must=must, got=got, fix="Give a smaller number.")

    @classmethod
    def _sentences(cls, lines: list[ErrorDetails], *, in_file: bool) -> list[str]:
        """Say each wrong setting once: of a union's complaints that of the branch whose type fits."""
        best: dict[object, ErrorDetails] = {}
        for line in joined(lines):
            if line["type"] == "default_factory_not_called":  # for the sake of another line
                continue
            known = best.setdefault(line["loc"][:1], line)
            if known["type"].endswith("_type") and not line["type"].endswith("_type"):
                best[line["loc"][:1]] = line
        return [cls._sentence(line, in_file=in_file) for line in best.values()]

    @classmethod
    def _sentence(cls, line: ErrorDetails, *, in_file: bool) -> str:
        if line["type"] == "extra_forbidden":
            key, here = str(line["loc"][-1]), "here" if in_file else f"of {cls.__name__}"
            return f"`{shown(key)}` is not a setting {here}. {cls._instead_of(key, in_file=in_file)}"
        if line["type"] == "value_error":  # of the settings in a table: the text is whole
            return _in_table(str(line["loc"][0]), str(line["ctx"]["error"]))
        fields = [str(part) for part in line["loc"] if str(part) in cls.model_fields]
        if line["type"].startswith("union_tag"):
            return cls._unnamed(line, cls._place(f"{fields[0]}.name", in_file=in_file))
        return complaint(cls._place(*fields, in_file=in_file), line)

    @classmethod
    def _place(cls, *fields: str, in_file: bool) -> str:
        """Name a field; a file has no classes."""
        return ".".join(fields if in_file else (cls.__name__, *fields))

    @classmethod
    def _instead_of(cls, key: str, *, in_file: bool) -> str:
        """Say what could be meant by a setting that is not known."""
        homes = [name for name, field in cls.model_fields.items() if key in fields_within(field.annotation)]
        if len(homes) == 1 and in_file:
            return f"Write it below {_BELOW}{homes[0]}]."
        if len(homes) == 1:
            return f"`{homes[0]}` has it: {homes[0]}={{{key!r}: ...}}."
        several = " or ".join(f"{home}.{key}" for home in homes)
        return f"Several settings have it: set {several}." if homes else did_you_mean(key, cls.model_fields)

    @classmethod
    def _unnamed(cls, line: ErrorDetails, where: str) -> str:
        """Say that settings which are chosen by their `name` have none that is known."""
        field = str(line["loc"][0])
        names = names_of(cls.model_fields[field].annotation)
        tag = line["ctx"].get("tag", "nothing")
        return f"`{where}` must be a known name; got {tag}. {did_you_mean(tag, names)}"

    def _invalid(self, field: str, must: str, fix: str, *, got: object = None) -> SettingError:
        """Build the error about one field, whose value stands in it unless another is given."""
        got = getattr(self, field) if got is None else got
        return invalid(SettingError, field, must=must, got=got, fix=fix)

    def _frozen(self, name: str, got: object, change: str) -> SettingError:
        fix = f"Settings are frozen: make a copy with settings.changed({change})."
        what = f"{type(self).__name__}.{name}"
        return invalid(SettingError, what, must="stay as it was made", got=got, fix=fix)

    def __setattr__(self, name: str, value: object) -> None:
        raise self._frozen(name, value, f"{name}=...")

    def __delattr__(self, name: str) -> None:
        raise self._frozen(name, "a deletion", "")

    def _repr_html_(self) -> str:
        rows = {name: getattr(self, name) for name in type(self).model_fields}
        return facts(rows, type(self).__name__)

    def changed(self, **changes: object) -> Self:
        """Copy these settings with some changed, all of them checked again.

        Parameters
        ----------
        **changes : object
            New values by field name.

        Returns
        -------
        Config
            New settings of the same class.

        Raises
        ------
        SettingError
            If a changed value cannot be used.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(fields | changes))

    def to_json(self) -> str:
        """Write the settings as JSON text.

        Returns
        -------
        str
            Indented JSON.
        """
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read settings from JSON text.

        Parameters
        ----------
        text : str or bytes
            JSON, UTF-8, at most 100 kB.

        Returns
        -------
        Config
            The settings.

        Raises
        ------
        SettingError
            If the text is too large, not JSON, or a value cannot be used.
        """
        _check_text(text, (str, bytes))
        try:
            json_of(text, nan=True)  # pydantic takes the last of two values for a key
            return cls.model_validate_json(text)
        except ValueError as error:  # of pydantic: not JSON at all, so `_explain` was never reached
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise SettingError(f"The settings are not valid JSON: {reason}. Correct the text.") from None

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read settings from TOML text; ``"none"`` stands for None.

        Parameters
        ----------
        text : str
            TOML, at most 100 kB.

        Returns
        -------
        Config
            The settings.

        Raises
        ------
        SettingError
            If the text is too large, not TOML, or a value cannot be used.
        """
        _check_text(text, str)
        settings = read_toml(text, cls)
        try:
            return cls.model_validate_json(json.dumps(settings, default=str), context=_FILE)
        except ValidationError as error:
            found = error.errors()[0]  # all in one: `_explain` gathered them
            text = str(found["ctx"]["error"]) if found["type"] == "value_error" else found["msg"]
            raise SettingError(in_toml(text.replace(_BELOW, "["))) from None

    def to_toml(self) -> str:
        """Write the settings as TOML text, each with a comment that says what it means.

        Returns
        -------
        str
            TOML that `from_toml` reads back.

        Examples
        --------
        >>> from tiledseg.config import StatsConfig
        >>> print(StatsConfig(sheet_images=6).to_toml())
        # What is shown of a dataset. "none" stands for no value.
        ...
        # Most images on the contact sheet of a split; 0 for no sheets.
        sheet_images = 6
        ...
        """
        return write_toml(self)


def _in_table(name: str, text: str) -> str:
    """Say in which table of a file something is wrong."""
    text = text.replace(_BELOW, f"{_BELOW}{name}.")
    return text if text.startswith(_BELOW) else f"{_BELOW}{name}]: {text}"


def _plain(value: Any) -> object:
    """Write pathlib's paths as text, and NumPy's numbers and lists as those of Python."""
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in {list, tuple} else value
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, str) else text_of_path(value) or value


class Choice(Config):
    """Base of settings of several kinds, of which one is chosen by its name."""

    name: str
    """Which kind these settings are of."""
