"""What a bundle's folder holds: the names of its files and the entries of ``config.json``."""

from __future__ import annotations

from tiledseg._validate import invalid
from tiledseg.errors import BundleError

__all__ = [
    "CARD",
    "CONFIG",
    "FILES",
    "FORMAT",
    "KEYS",
    "LARGEST_CONFIG",
    "LARGEST_HEADER",
    "OPTIONAL",
    "WEIGHTS",
    "damaged",
]

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
FILES = frozenset({CONFIG, WEIGHTS, CARD})
KEYS = frozenset(
    {
        "format",
        "architecture",
        "labels",
        "preprocessing",
        "threshold",
        "tiling",
        "provenance",
        "written_with",
        "weights_sha256",
    }
)
OPTIONAL = frozenset({"views"})  # entries that bundles without them never had
LARGEST_CONFIG = 1_000_000
LARGEST_HEADER = 10_000_000


def damaged(what: object, *, must: str, got: object) -> BundleError:
    """Build the error of a file that only another copy of the bundle can mend."""
    fix = "Copy the bundle again from where it came from."
    return invalid(BundleError, str(what), must=must, got=got, fix=fix)
