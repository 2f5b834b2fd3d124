"""Settings of the documentation's build."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import tiledseg
from tiledseg.config import Config
from tiledseg.config.toml import descriptions_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "tiledseg"
author = "The tiledseg developers"
copyright = author
version = release = tiledseg.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery", "examples/*.ipynb"]
templates_path = ["_templates"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types
numpydoc_show_class_members = False  # autodoc shows them

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "auto"  # those without outputs run, which are all
nb_execution_timeout = 600
nb_merge_streams = True
nb_execution_raise_on_error = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "min_reported_time": 3600,  # the machine that builds the pages says nothing about the reader's
    "reset_modules": ("matplotlib",),
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = f"tiledseg {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False


def list_fields(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """List the fields of settings, their defaults and meanings, as attributes in the form of numpydoc."""
    if what != "class" or not issubclass(obj, Config):
        return
    lines += ["", "Attributes", "----------"]
    for field, text in descriptions_of(obj).items():
        info = obj.model_fields[field]
        lines.append(field if info.is_required() else f"{field} : default {info.get_default()!r}")
        lines += [f"    {line}" for line in inspect.cleandoc(text).splitlines()]


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:  # noqa: ARG001, FBT001
    """Leave out what is listed already, and pydantic's own settings."""
    return True if name in FIELDS and not (inspect.isroutine(obj) or isinstance(obj, property)) else None


def drop_unknown(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Leave out of the parameters what only serves to name a wrong argument."""
    if "**unknown : Never" in lines:
        start = lines.index("**unknown : Never")
        after = (place for place in range(start + 1, len(lines)) if not lines[place].startswith(" "))
        del lines[start : next(after, len(lines))]


def hide_unknown(*given: Any) -> tuple[str | None, str | None]:
    """Leave out of a signature what only serves to name a wrong argument."""
    signature, returns = given[-2:]
    return signature and signature.replace(", **unknown", ""), returns


NAMED = [getattr(tiledseg.config, name) for name in tiledseg.config.__all__]  # each is loaded by its name
MODELS = [one for one in NAMED if inspect.isclass(one) and issubclass(one, Config)]
FIELDS = {"model_config"}.union(*(model.model_fields for model in MODELS))


def setup(app: Sphinx) -> None:
    """Show settings as numpydoc shows attributes; it works at the priority 500."""
    app.connect("autodoc-process-docstring", list_fields, priority=400)
    app.connect("autodoc-process-docstring", drop_unknown, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", hide_unknown)
