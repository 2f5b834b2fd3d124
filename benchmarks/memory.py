"""Peak memory of one image in memory, above the network's own.

What: a 2560 x 1920 px RGB uint8 image to a float32 map, once with the founding network (64 px of
overlap), once with a predictor that returns the first channel, beside the other libraries with the
same one (128 px of overlap). How: in a fresh process, the kernel's peak of resident memory, reset
before each run, while the image is made and predicted. From this is subtracted: for the network, the
peak of bare calls of it on one batch; for the others, what is resident when nothing runs. The
allocator returns large blocks at once (MALLOC_MMAP_THRESHOLD_), so that no round reuses memory of an
earlier one unseen. In turn, three rounds with the network and five without, medians. Target: the
image, the output and two bands of rows as high as a tile.
"""

from __future__ import annotations

from benchmarks._fresh import call_fresh
from benchmarks._rows import Row, of_samples

__all__ = ["run"]

_PIXELS, _BAND_PIXELS = 1920 * 2560, 512 * 2560
_ALLOWED_MB = (_PIXELS * (3 + 4) + 2 * _BAND_PIXELS * 4) / 1e6
_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
_OURS, *_OTHERS = (
    "tiledseg gaussian",
    "MONAI gaussian, from the array",
    "tiler, 4 tiles per batch, no visits",
)


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    rounds = 2 if quick else 5
    rows = (
        [] if quick else [_measured("tiledseg gaussian, founding network", "network", _ALLOWED_MB, rounds=3)]
    )
    rows.append(_measured(_OURS, "first_channel", _ALLOWED_MB, name=_OURS, rounds=rounds))
    return rows + [_measured(name, "first_channel", name=name, rounds=rounds) for name in _OTHERS]


def _measured(what: str, function: str, target: float | None = None, **arguments: str | int) -> Row:
    samples = call_fresh(f"benchmarks._one_image:{function}", _AT_ONCE, **arguments)
    return of_samples(what, samples, "MB", at_most=target)
