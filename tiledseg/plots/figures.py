"""Curves and bars on matplotlib's axes, and figures as PNG without a window."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tiledseg._lazy import extra
from tiledseg._validate import instance_of, invalid, items_of, one_of, whole_number
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Protocol

    from tiledseg._types import AnyArray

    class _Curve(Protocol):  # what a ThresholdCurve has
        thresholds: Sequence[float]
        dice_mean: Sequence[float]
        precision: Sequence[float]
        recall: Sequence[float]
        best: float

    class _Calibration(Protocol):  # what a Reliability has
        predicted: AnyArray
        observed: AnyArray


Axes: TypeAlias = Any
"""A matplotlib.axes.Axes; matplotlib may be missing."""

COLOURS: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Colours of lines, of Okabe and Ito (2008)."""

_DPI = 150
_RELIABILITY = "Pass tiledseg.metrics.reliability(result.probabilities)."
_SCORES = (
    "dice",
    "iou",
    "precision",
    "recall",
    "specificity",
    "accuracy",
    "boundary_f1",
    "average_precision",
    "panoptic_quality",
)  # in [0, 1], the lowest of which is the worst


def new_figure(width: float, height: float) -> Any:  # a Figure of matplotlib, which may not be installed
    """Make an empty figure."""
    return extra("matplotlib.figure", "plot").Figure(
        figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white"
    )


def png_of(figure: Any) -> bytes:
    """Encode a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def check_has(value: object, attribute: str, name: str, what: str, fix: str) -> None:
    """Refuse what lacks an attribute of the class that is wanted."""
    if not hasattr(value, attribute):
        raise invalid(SettingError, name, must=f"be {what}", got=value, fix=fix)


def axes_of(ax: Axes) -> Axes:
    """Return the axes, or those of a new figure."""
    if ax is not None:
        check_has(ax, "imshow", "ax", "axes of matplotlib", "Leave it out to draw a new figure.")
        return ax
    return extra("matplotlib.pyplot", "plot").subplots(figsize=(6, 5), layout="constrained")[1]


def plot_history(
    history: Mapping[str, Sequence[float]],
    columns: Sequence[str] = ("loss", "val_loss"),
    *,
    ax: Axes = None,
) -> Axes:
    """Draw curves of a training over its epochs.

    Parameters
    ----------
    history : mapping of str to sequence of float
        ``TrainingResult.history``, or the content of ``history.json`` in a run's folder; without a column
        ``epoch`` epochs are counted from 1.
    columns : sequence of str
        What is drawn, for example ``("dice", "val_dice")``.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    SettingError
        If there is no such column, or matplotlib is not installed; the extra ``plot`` installs it.
    """
    check_has(history, "keys", "history", "a mapping of columns", "Pass result.history.")
    for name in items_of(columns, "columns", "list names", "Use ('loss',), for example."):
        one_of("columns", name, tuple(history))
    ax = axes_of(ax)
    for colour, name in zip(COLOURS * len(columns), columns, strict=False):
        epochs = history.get("epoch", range(1, len(history[name]) + 1))
        marker = "o" if len(history[name]) == 1 else None  # a line needs two points
        ax.plot(epochs, history[name], marker=marker, color=colour, label=plain_text(name))
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return _plain(ax)


def plot_thresholds(curve: _Curve, *, ax: Axes = None) -> Axes:
    """Draw scores over the threshold of the probabilities.

    Parameters
    ----------
    curve : ThresholdCurve
        What ``EvaluationResult.threshold_curve()`` returns.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; a vertical line marks the threshold with the highest mean Dice.

    Raises
    ------
    SettingError
        If there is no curve, or matplotlib is not installed; the extra ``plot`` installs it.
    """
    fix = "Evaluate a model of one output channel by its probabilities."
    check_has(curve, "dice_mean", "curve", "a ThresholdCurve", fix)
    ax = axes_of(ax)
    columns = {"mean Dice": curve.dice_mean, "precision": curve.precision, "recall": curve.recall}
    for colour, (name, values) in zip(COLOURS, columns.items(), strict=False):
        ax.plot(curve.thresholds, values, color=colour, label=name)
    ax.axvline(curve.best, color="0.5", linestyle=":", label=f"best: {curve.best:.2f}")
    ax.set(xlabel="threshold", ylabel="score", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(frameon=False)
    return _plain(ax)


def plot_calibration(calibration: _Calibration, *, ax: Axes = None) -> Axes:
    """Draw how often px of a probability are foreground.

    Parameters
    ----------
    calibration : Reliability
        What ``tiledseg.metrics.reliability(result.probabilities)`` returns.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; below the diagonal the network is overconfident.

    Raises
    ------
    SettingError
        If matplotlib is not installed; the extra ``plot`` installs it.
    """
    check_has(calibration, "predicted", "calibration", "a Reliability", _RELIABILITY)
    ax = axes_of(ax)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    ax.plot(calibration.predicted, calibration.observed, "o-", color=COLOURS[0])
    ax.set(xlabel="probability", ylabel="share that is foreground", xlim=(0, 1), ylim=(0, 1.02))
    return _plain(ax)


def plot_worst(images: Sequence[Any], score: str = "dice", n: int = 10, *, ax: Axes = None) -> Axes:
    """Draw the images with the lowest scores.

    Parameters
    ----------
    images : sequence of ImageScores
        ``EvaluationResult.images``.
    score : str
        Which score, for example ``"dice"`` or ``"boundary_f1"``.
    n : int
        How many images, 1 or more.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, the worst image on top; without images that have no score.

    Raises
    ------
    SettingError
        If there is no such score, or matplotlib is not installed; the extra ``plot`` installs it.
    """
    whole_number("n", n, 1, 1000, "Use 10, for example.")
    instance_of(str, score, "score", "Use dice, for example.")
    images = list(items_of(images, "images", "list scores of images", "Pass result.images."))
    if score not in _SCORES or any(getattr(one, score, None) is None for one in images):
        fix = "Use dice, iou, precision, recall or boundary_f1, for example."
        raise invalid(SettingError, "score", must="be a score of an image", got=score, fix=fix)
    known = [one for one in images if not np.isnan(getattr(one, score))]
    worst = sorted(known, key=lambda one: float(getattr(one, score)))[:n]
    ax = axes_of(ax)
    ax.barh(range(len(worst)), [getattr(one, score) for one in worst], color=COLOURS[0])
    ax.set_yticks(range(len(worst)), [plain_text(one.name) for one in worst])
    ax.invert_yaxis()
    ax.set(xlabel=score, xlim=(0, 1))
    return _plain(ax)


def plot_histogram(
    table: Mapping[str, AnyArray], column: str = "area", *, bins: int = 40, ax: Axes = None
) -> Axes:
    """Draw the distribution of a measurement.

    Parameters
    ----------
    table : mapping of str to array
        ``Segmentation.objects.table``, or a pandas.DataFrame.
    column : str
        Which measurement.
    bins : int
        Number of bars, 1 to 1000.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; values that are not known are left out.

    Raises
    ------
    SettingError
        If there is no such column, or matplotlib is not installed; the extra ``plot`` installs it.
    """
    check_has(table, "keys", "table", "a mapping of columns", "Pass result.objects.table.")
    one_of("column", column, tuple(table))
    whole_number("bins", bins, 1, 1000, "Use 40, for example.")
    try:
        values = np.asarray(table[column], np.float64)
    except ValueError as error:
        fix = "Choose one of numbers, for example area."
        raise invalid(SettingError, "column", must="hold numbers", got=column, fix=fix) from error
    ax = axes_of(ax)
    ax.hist(values[np.isfinite(values)], bins=bins, color=COLOURS[0])
    ax.set(xlabel=column.replace("_", " "), ylabel="objects")
    return _plain(ax)


def plain_text(text: object) -> str:
    """Let matplotlib show a text as it is: what stands between two dollars would be a formula."""
    return str(text).replace("$", r"\$")


def _plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
