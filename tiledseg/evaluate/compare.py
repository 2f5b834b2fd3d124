"""Two evaluations of the same images, side by side."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiledseg._notebook import aligned, table
from tiledseg._validate import all_of, counted, instance_of, invalid, listed, shown
from tiledseg.data import group_of
from tiledseg.errors import SettingError
from tiledseg.evaluate.result import EvaluationResult
from tiledseg.evaluate.scores import SCORES, mean
from tiledseg.evaluate.tables import number
from tiledseg.metrics import Interval, bootstrap_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg.evaluate.scores import ImageScores

_SHOWN = 8  # labels
_COLUMNS = (
    "",
    "dice",
    "95 %",
    "iou",
    "outline",
    "ap50",
    "ap75",
    "cell dice",
    "found",
    "missed",
    "false",
    "s/image",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One score of two evaluations."""

    first: float  # mean of the first, over the images that both have scored
    second: float  # mean of the second, over the same images
    difference: Interval  # mean of second minus first; an interval that contains 0 decides nothing
    better: int  # images on which the second scores higher
    worse: int  # images on which it scores lower


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations of the same images; ``print`` shows it as a table.

    Attributes
    ----------
    names : tuple of str
        Names of the two.
    pairs : tuple of tuple of ImageScores
        Scores of the first and of the second for each image that both have scored.
    left_out : tuple of str
        Images that one of the two has not scored.
    differences : dict
        A `Difference` for each score by name.
    """

    names: tuple[str, str]
    pairs: tuple[tuple[ImageScores, ImageScores], ...]
    left_out: tuple[str, ...]
    differences: dict[str, Difference]

    def __repr__(self) -> str:
        first, second = map(shown, self.names)
        gain = self.differences["dice"].difference.value
        return f"Comparison({second} with {first}: {counted(len(self.pairs), 'image')}, dice {gain:+.3f})"

    def _repr_html_(self) -> str:
        head = ("mean of images", *self.names, "difference", "95 %", "better", "worse")
        rows = ((name, *_cells(one), one.better, one.worse) for name, one in self.differences.items())
        return table(head, rows)

    def __str__(self) -> str:
        widths = tuple(max(14, 2 + len(name)) for name in self.names)  # whole: paths often begin alike
        first, second = (f"{name:>{width}}" for name, width in zip(self.names, widths, strict=True))
        heading = (
            f"{'mean of images':<18}{first}{second}{'difference':>12}{'95 %':>18}{'better':>8}{'worse':>7}"
        )
        lines = (_line(name, one, widths) for name, one in self.differences.items())
        return "\n".join([heading, "-" * len(heading), *lines])


def _line(name: str, one: Difference, widths: tuple[int, ...]) -> str:
    parts = zip(_cells(one), (*widths, 12, 18), strict=True)
    scores = "".join(f"{text:>{width}}" for text, width in parts)
    return f"{name:<18}{scores}{one.better:>8}{one.worse:>7}"


def _cells(one: Difference) -> tuple[str, ...]:
    """Write both means, their difference and its interval."""
    bounds = f"{one.difference.low:+.3f} to {one.difference.high:+.3f}"
    return f"{one.first:.3f}", f"{one.second:.3f}", f"{one.difference.value:+.3f}", bounds


def compare(
    first: EvaluationResult,
    second: EvaluationResult,
    *,
    names: tuple[str, str] = ("first", "second"),
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two evaluations image by image.

    An image that is hard for both hardly changes their difference, so that the interval of the
    difference is narrower than those of the two means.

    Parameters
    ----------
    first, second : EvaluationResult
        Results for the same images; images are identified by name.
    names : tuple of str
        Names of the two.
    level, resamples, seed : float, int, int
        As in `tiledseg.metrics.bootstrap_interval`, which draws images with replacement, or whole groups
        of them if one of the two was evaluated with a ``group_regex``.

    Returns
    -------
    Comparison
        The scores of the images that both have scored.

    Raises
    ------
    SettingError
        If no image is in both, the two have different classes or groups, an image has another size or
        another mask in the two, a name occurs twice, or an argument is of another type.

    Examples
    --------
    >>> import numpy as np
    >>> from tiledseg.evaluate import EvaluationResult, score_map
    >>> truth = np.array([[1, 1, 0, 0]])
    >>> bad, good = (EvaluationResult((score_map(map, truth),)) for map in (1 - truth, truth))
    >>> compare(bad, good).differences["dice"].difference.value
    1.0
    """
    fix = 'Use ("first", "second"), for example.'
    called = all_of(str, names, "names", fix)
    if len(called) != 2:
        raise invalid(SettingError, "names", must="be two names", got=names, fix=fix)
    ours, theirs = _by_name("first", first), _by_name("second", second)
    classes = {"first": (len(first.counts), first.labels), "second": (len(second.counts), second.labels)}
    check_classes("second", classes)
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise invalid(
            SettingError,
            "second",
            must="share an image with `first`",
            got="no image of the same name",
            fix="Evaluate both on the same images.",
        )
    pairs = tuple((ours[name], theirs[name]) for name in shared)
    _check_truth(pairs)
    regex = _group_regex(first, second)
    groups = None if regex is None else [group_of(name, regex) for name in shared]
    interval = functools.partial(
        bootstrap_interval, groups=groups, level=level, resamples=resamples, seed=seed
    )
    differences = {
        name: _difference([(getattr(a, name), getattr(b, name)) for a, b in pairs], interval)
        for name in SCORES
    }
    left_out = tuple(sorted((ours.keys() | theirs.keys()) - set(shared)))
    return Comparison((called[0], called[1]), pairs, left_out, differences)


def check_classes(what: str, models: Mapping[str, tuple[int | None, tuple[str, ...]]]) -> None:
    """Refuse models, by the number and the names of their classes, whose scores are not of the same ones."""
    known = {name: (max(2, number), labels) for name, (number, labels) in models.items() if number}
    first, *others = known or [""]
    for name in others:
        (wanted, labels), (number, own) = known[first], known[name]
        moved = own != labels and sorted(own) == sorted(labels)
        if number != wanted or moved:
            raise invalid(
                SettingError,
                what,
                must=f"have the classes of {first}, {_described(*known[first])}",
                got=f"{_described(number, own)} of {name}",
                fix="Compare only models of the same classes, in the same order.",
            )


def _described(number: int, labels: tuple[str, ...]) -> str:
    return f"{number} with the background" + (f" ({listed(labels, _SHOWN)})" if labels else "")


def side_by_side(results: Mapping[str, EvaluationResult]) -> str:
    """Write several evaluations of the same images as a table, one row for each.

    Parameters
    ----------
    results : mapping of str to EvaluationResult
        The results by name.

    Returns
    -------
    str
        For each result mean Dice with its 95 % interval, mean IoU and outline F1 of the images; AP at
        IoU 0.5 and 0.75, Dice and numbers of the cells; and the seconds per image.

    Raises
    ------
    SettingError
        If `results` is not a mapping of results.

    Examples
    --------
    >>> import numpy as np
    >>> from tiledseg.evaluate import EvaluationResult, score_map
    >>> truth = np.array([[1, 1, 0, 0]])
    >>> print(side_by_side({"a": EvaluationResult((score_map(truth, truth),))}))
        dice  95 %    iou  outline   ap50   ap75  cell dice  found  missed  false  s/image
    a  1.000        1.000    1.000  1.000  1.000      1.000      1       0      0        -
    """
    fix = "Pass for example {'first': result, 'second': other}."
    instance_of(Mapping, results, "results", fix)  # type: ignore[type-abstract]
    all_of(EvaluationResult, list(results.values()), "results", fix)
    return "\n".join(aligned([_COLUMNS, *(_row(str(name), one) for name, one in results.items())]))


def _row(name: str, result: EvaluationResult) -> tuple[str, ...]:
    sums, dice = result.summary(), result.intervals()["dice_mean"]
    scores = (sums[one] for one in ("iou_mean", "boundary_f1_mean", "cells_ap50", "cells_ap75", "cells_dice"))
    known = any(one.instances for one in result.images)
    counts = (str(sums[f"cells_{how}"]) if known else "-" for how in ("found", "missed", "false"))
    bounds = "" if math.isnan(dice.low) else f"{dice.low:.3f} to {dice.high:.3f}"
    seconds = mean(one.seconds for one in result.images)
    return name, number(dice.value), bounds, *map(number, scores), *counts, number(seconds, 2)


def _group_regex(first: EvaluationResult, second: EvaluationResult) -> str | None:
    """Return how images are grouped in one of two results, or in both alike."""
    known = {one.config.group_regex for one in (first, second)} - {None}
    if len(known) > 1:
        must, got = f"group images as `first` does, by {first.config.group_regex}", second.config.group_regex
        fix = "Evaluate both with one group_regex."
        raise invalid(SettingError, "second", must=must, got=got, fix=fix)
    return known.pop() if known else None


def _by_name(which: str, result: EvaluationResult) -> dict[str, ImageScores]:
    instance_of(EvaluationResult, result, which, "Pass what Evaluator.evaluate returns.")
    images = {one.name: one for one in result.images}
    if len(images) < len(result.images):
        raise invalid(
            SettingError,
            which,
            must="name each image once",
            got=f"{len(result.images) - len(images)} repeated names",
            fix="Give each pair a different name: Pair(name, image, mask).",
        )
    return images


def _check_truth(pairs: Sequence[tuple[ImageScores, ImageScores]]) -> None:
    """Check that both have scored each image with the same mask."""
    for pair in pairs:
        first, second = map(_truth_of, pair)
        if first != second:
            must = f"be scored with the mask that `first` has for {shown(pair[0].name)}, {first}"
            fix = "Evaluate both with the same pairs and the same classes."
            raise invalid(SettingError, "second", must=must, got=second, fix=fix)


def _truth_of(scores: ImageScores) -> str:
    """Describe a mask: its size, the px that count, and those of each class except the background."""
    classes = scores.counts[-max(1, len(scores.counts) - 1) :]
    n_px = sum(getattr(classes[0], name) for name in ("tp", "fp", "fn", "tn"))
    px = " and ".join(f"{one.tp + one.fn:,}" for one in classes)
    return f"{scores.shape[0]} x {scores.shape[1]} px, {px} of {n_px:,} px in classes"


def _difference(
    scores: Sequence[tuple[float, float]], interval: Callable[[list[float]], Interval]
) -> Difference:
    known = [(one, two) for one, two in scores if not math.isnan(two - one)]
    gains = [two - one for one, two in known]
    return Difference(
        mean(one for one, _ in known),
        mean(two for _, two in known),
        interval([two - one for one, two in scores]),
        sum(gain > 0 for gain in gains),
        sum(gain < 0 for gain in gains),
    )
