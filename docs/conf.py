"""Settings of the documentation's build."""

from __future__ import annotations

import tiledseg

project = "tiledseg"
author = "The tiledseg developers"
copyright = author
version = release = tiledseg.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types
numpydoc_show_class_members = False  # autodoc shows them

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"tiledseg {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
