"""Images, maps and tiles on matplotlib's axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tiledseg._arrays import array_of, by_name, check_image, check_labels, check_unmasked, dtype_of
from tiledseg._validate import counted, invalid, whole_number
from tiledseg.errors import ArrayError
from tiledseg.plots.figures import COLOURS, axes_of, check_has
from tiledseg.plots.render import as_picture, colourise, every_nth, overlay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from tiledseg._types import AnyArray, Source
    from tiledseg.plots.figures import Axes

    class _Box(Protocol):  # the ends of a Box
        @property
        def y1(self) -> int: ...
        @property
        def x1(self) -> int: ...

    class _Tile(Protocol):  # what a Tile has
        @property
        def read_box(self) -> _Box: ...

    class _Plan(Protocol):  # what a Plan has
        @property
        def shape(self) -> tuple[int, int]: ...
        @property
        def n_tiles(self) -> int: ...
        @property
        def borders(self) -> tuple[Sequence[int], Sequence[int]]: ...
        def tile(self, tile_id: int) -> _Tile: ...

    class _Seams(Protocol):  # what a SeamReport has
        @property
        def disagreement(self) -> AnyArray: ...
        @property
        def score(self) -> float: ...


_SHOWN_PX = 2048  # of the longer side: more is more than a figure shows


def plot_overlay(image: Source, mask: AnyArray, *, ax: Axes = None, opacity: float = 0.35) -> Axes:
    """Draw the classes of a mask over an image, with a line along their edges.

    Parameters
    ----------
    image : array_like, shape (H, W) or (H, W, C)
        Any number of channels and any dtype; without three channels the first one is shown.
    mask : ndarray, shape (H, W)
        Labels of classes: boolean, or integers in [0, 65535]; 0 is the background.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.
    opacity : float
        Share of the colour in the tint, in [0, 1].

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in px of the image.

    Raises
    ------
    ArrayError
        If the two do not fit each other.
    SettingError
        If matplotlib is not installed; the extra ``plot`` installs it.
    """
    height, width, _ = check_image(image)
    check_labels(mask, "mask", (height, width), 1 << 16)
    step = _step((height, width))
    drawn = overlay(as_picture(every_nth(image, step)), mask[::step, ::step], opacity=opacity)
    return on_axes(drawn, (height, width), ax)


def plot_labels(labels: AnyArray, *, ax: Axes = None) -> Axes:
    """Draw a label image: each object in a colour that differs from its neighbours' where possible.

    Parameters
    ----------
    labels : ndarray, shape (H, W)
        Numbers of objects, 0 for the background.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in px of the image.

    Raises
    ------
    ArrayError
        If `labels` are no integers of shape (H, W).
    SettingError
        If matplotlib is not installed; the extra ``plot`` installs it.
    """
    labels = by_name(labels, "labels")
    check_unmasked(labels, "labels")
    if getattr(labels, "ndim", 0) != 2 or dtype_of(getattr(labels, "dtype", None)).kind not in "ui":
        got = f"{getattr(labels, 'dtype', type(labels).__name__)} {getattr(labels, 'shape', '')}"
        fix = "Pass the labels of a Segmentation as an array."
        raise invalid(ArrayError, "labels", must="be integers of shape (H, W)", got=got, fix=fix)
    step = _step(labels.shape)
    shown = array_of(labels[::step, ::step], "labels").astype(np.int64)
    # A prime step through the palette: neighbours in reading order get colours far apart.
    return on_axes(colourise(np.where(shown > 0, shown * 5 % 7 + 1, 0)), labels.shape, ax)


def plot_probabilities(probabilities: AnyArray | None, channel: int = 0, *, ax: Axes = None) -> Axes:
    """Draw a channel of a map with a colour bar from 0 to 1.

    Parameters
    ----------
    probabilities : ndarray, shape (H, W) or (H, W, K)
        What `tiledseg.tiled_predict` returns; of uint8, 255 stands for 1, but in a mask (H, W) of 0 and 1.
    channel : int
        Which channel is drawn.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in px of the image.

    Raises
    ------
    ArrayError
        If `probabilities` has another shape.
    SettingError
        If there is no such channel, or matplotlib is not installed; the extra ``plot`` installs it.
    """
    if probabilities is None:
        fix = "Ask for it: segment(..., keep_map=True)."
        raise invalid(ArrayError, "probabilities", must="be a map", got="None", fix=fix)
    height, width, channels = check_image(probabilities)
    whole_number("channel", channel, 0, channels - 1, f"Count channels from 0 to {channels - 1}.")
    step = _step((height, width))
    shown = every_nth(probabilities, step).reshape(-(-height // step), -(-width // step), channels)
    is_mask = len(probabilities.shape) == 2 and shown.max() <= 1  # a file of a map may have no channels
    shown = shown[..., channel] / (255 if shown.dtype == np.uint8 and not is_mask else 1)
    ax = axes_of(ax)
    drawn = ax.imshow(shown, vmin=0, vmax=1, cmap="viridis", extent=(0, width, height, 0))
    ax.figure.colorbar(drawn, ax=ax, label="probability", shrink=0.8)
    ax.set_axis_off()
    return ax


def plot_tiles(plan: _Plan, image: Source | None = None, *, ax: Axes = None) -> Axes:
    """Draw where the cores of tiles meet, and the first tile whole, over the image or an empty frame.

    Parameters
    ----------
    plan : Plan
        What `tiledseg.plan` returns.
    image : array_like, optional
        The image that was planned.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in px of the image.

    Raises
    ------
    ArrayError
        If `image` has another size than the plan.
    SettingError
        If matplotlib is not installed; the extra ``plot`` installs it.
    """
    check_has(plan, "borders", "plan", "a Plan", "Make one with tiledseg.plan.")
    height, width = plan.shape
    if image is not None and check_image(image)[:2] != (height, width):
        fix = "Pass the image that the plan was made for."
        must = f"be {height} x {width} px as the plan"
        raise invalid(ArrayError, "image", must=must, got=tuple(image.shape), fix=fix)
    ax = axes_of(ax)
    if image is not None:
        shown = as_picture(every_nth(image, _step((height, width))))
        ax.imshow(shown, extent=(0, width, height, 0))
    down, across = plan.borders
    ax.hlines(down, 0, width, colors=COLOURS[0], linewidth=0.8)
    ax.vlines(across, 0, height, colors=COLOURS[0], linewidth=0.8)
    box = plan.tile(0).read_box
    ax.plot([0, box.x1, box.x1, 0, 0], [0, 0, box.y1, box.y1, 0], color=COLOURS[1], linewidth=1.6)
    ax.set(xlim=(0, max(width, box.x1)), ylim=(max(height, box.y1), 0), aspect="equal")
    ax.set_title(f"{counted(plan.n_tiles, 'tile')}; the first in orange")
    return ax


def plot_seams(report: _Seams, *, ax: Axes = None) -> Axes:
    """Draw how far neighbouring tiles disagree.

    Parameters
    ----------
    report : SeamReport
        What `tiledseg.segment` or `tiledseg.predict.seam_report` returns.
    ax : matplotlib.axes.Axes, optional
        Where it is drawn; axes of a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in px of the image.

    Raises
    ------
    SettingError
        If matplotlib is not installed; the extra ``plot`` installs it.
    """
    check_has(report, "disagreement", "report", "a SeamReport", "Pass result.seams.")
    shown = report.disagreement
    step = _step(shown.shape)
    ax = axes_of(ax)
    height, width = shown.shape
    most = float(shown.max(initial=0)) or 1.0  # without any, all is as dark as it is in other pictures
    look = {"cmap": "viridis", "vmin": 0, "vmax": most, "extent": (0, width, height, 0)}
    drawn = ax.imshow(shown[::step, ::step], **look)
    ax.figure.colorbar(drawn, ax=ax, label="largest difference", shrink=0.8)
    ax.set_title(f"mean disagreement {report.score:.4f}")
    ax.set_axis_off()
    return ax


def on_axes(drawn: AnyArray, shape: tuple[int, ...], ax: Axes) -> Axes:
    """Draw a picture of an image of a shape, in px of the image."""
    ax = axes_of(ax)
    ax.imshow(drawn, extent=(0, shape[1], shape[0], 0))
    ax.set_axis_off()
    return ax


def _step(shape: tuple[int, ...]) -> int:
    return -(-max(shape[:2]) // _SHOWN_PX)
