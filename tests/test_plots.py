"""Pictures, px by px."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tiledseg as ts
from tiledseg.errors import ArrayError, SettingError
from tiledseg.plots import (
    ERROR_COLOURS,
    PALETTE,
    as_rgb,
    colourise,
    curves,
    error_overlay,
    overlay,
    plot_calibration,
    plot_histogram,
    plot_history,
    plot_overlay,
    plot_probabilities,
    plot_seams,
    plot_tiles,
    plot_worst,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_tint_is_the_stated_share_of_image_and_colour():
    image = np.array([[[100, 200, 0], [100, 200, 0]]], np.uint8)
    drawn = overlay(image, np.array([[0, 1]]), colours=[(200, 100, 255)], opacity=0.25, outline_px=0)
    assert drawn.tolist() == [[[100, 200, 0], [125, 175, 64]]]  # 0.75 of the image, 0.25 of the colour


@given(
    image=hnp.arrays(np.uint8, (4, 5, 3)),
    mask=hnp.arrays(np.uint8, (4, 5), elements=st.integers(0, 3)),
    opacity=st.floats(0, 1),
)
def test_a_tint_lies_between_image_and_colour(image, mask, opacity):
    drawn = overlay(image, mask, opacity=opacity, outline_px=0).astype(int)
    colour = colourise(mask).astype(int)
    low, high = np.minimum(image, colour), np.maximum(image, colour)
    tinted = mask > 0
    assert (drawn >= low)[tinted].all()
    assert (drawn <= high)[tinted].all()
    assert (drawn == image)[~tinted].all()


def test_outline_is_inside_the_area_and_not_along_the_edge_of_the_image():
    mask = np.zeros((6, 7), bool)
    mask[:4, :5] = True
    drawn = overlay(np.zeros((6, 7), np.uint8), mask, colours=[RED], opacity=0, outline_px=1)
    line = (drawn == RED).all(axis=-1)
    wanted = np.zeros((6, 7), bool)
    wanted[3, :5] = wanted[:4, 4] = True
    assert (line == wanted).all()


def test_neighbouring_labels_are_outlined_even_in_one_colour():
    mask = np.repeat(np.array([[1, 1, 1, 2, 2, 2]]), 5, axis=0)
    drawn = overlay(np.zeros((5, 6), np.uint8), mask, colours=[RED], opacity=0, outline_px=1)
    assert (drawn[2, :, 0] > 0).tolist() == [False, False, True, True, False, False]


def test_default_outline_grows_with_the_image():
    mask = np.zeros((1800, 1810), np.uint8)
    mask[:, 600:] = 1
    drawn = overlay(np.zeros(mask.shape, np.uint8), mask, colours=[RED], opacity=0)
    assert (drawn[900, :, 0] > 0).sum() == 3


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (np.array([[0, 7, 255]], np.uint8), [0, 7, 255]),
        (np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
        (np.array([[128, 129, 386]], np.uint16), [0, 1, 2]),  # 0.498, 0.502 and 1.502 of 257
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 0.25, 1]], np.float64), [0, 64, 255]),
        (np.array([[False, True, True]]), [0, 255, 255]),
    ],
)
def test_each_dtype_is_shown_over_its_own_range(image, shown):
    assert as_rgb(image).tolist() == [[[grey] * 3 for grey in shown]]


def test_limits_are_black_and_white_and_nothing_wraps_around():
    image = np.array([[-5, 0, 1000, 4095, 60000]], np.int32)
    assert as_rgb(image, (0, 4095))[0, :, 0].tolist() == [0, 0, 62, 255, 255]


def test_the_image_is_not_changed():
    image, mask = np.full((3, 3, 3), 9, np.uint8), np.ones((3, 3), np.uint8)
    picture = overlay(image, mask)
    assert (image == 9).all()
    assert not np.shares_memory(image, picture)
    assert not np.shares_memory(image, as_rgb(image))


@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda image: image[::-1][::-1], lambda image: image[:, :, ::-1][:, :, ::-1]],
)
def test_memory_layout_does_not_matter(change):
    rng = np.random.default_rng(1)
    image, mask = rng.integers(0, 256, (20, 30, 3), np.uint8), rng.integers(0, 4, (20, 30))
    assert (overlay(change(image), np.asfortranarray(mask)) == overlay(image, mask)).all()


def test_labels_past_the_palette_start_again():
    mask = np.array([[1, len(PALETTE), len(PALETTE) + 1, 65535]])
    last = PALETTE[(65535 - 1) % len(PALETTE)]
    assert colourise(mask)[0].tolist() == [
        list(colour) for colour in (PALETTE[0], PALETTE[-1], PALETTE[0], last)
    ]


def test_what_is_drawn_fits_together():
    pytest.importorskip("matplotlib")
    image = np.zeros((40, 60, 3), np.uint8)
    plan = ts.plan(lambda tiles: tiles, image, {"tile_size": 32, "overlap": 8})
    assert len(plot_tiles(plan, image).images) == 1
    assert len(plot_tiles(plan).images) == 0
    with pytest.raises(ArrayError, match=r"be 40 x 60 px as the plan; got \(40, 50"):
        plot_tiles(plan, image[:, :50])
    with pytest.raises(ArrayError, match=r"be a map; got None.*keep_map=True"):
        plot_probabilities(None)
    with pytest.raises(SettingError, match="be a score of an image; got beauty"):
        plot_worst([SimpleNamespace(name="a", dice=0.5)], "beauty")
    with pytest.raises(SettingError, match="be a score of an image; got hausdorff95"):
        plot_worst([SimpleNamespace(name="a", hausdorff95=0.5)], "hausdorff95")  # the lowest is the best


def test_each_image_has_its_bar_and_one_without_a_score_has_none():
    pytest.importorskip("matplotlib")
    scores = [("a$b$", 0.9), ("a", 0.5), ("a", 0.25), ("b", float("nan"))]
    drawn = plot_worst([SimpleNamespace(name=name, dice=dice) for name, dice in scores], n=4)
    assert [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in drawn.patches] == [
        (0, 0.25), (1, 0.5), (2, 0.9),
    ]  # fmt: skip
    assert [text.get_text() for text in drawn.get_yticklabels()] == ["a", "a", r"a\$b\$"]


def test_one_epoch_is_a_point_and_no_line():
    pytest.importorskip("matplotlib")
    (point,) = plot_history({"epoch": [1], "loss": [0.5]}, ("loss",)).lines
    (line,) = plot_history({"epoch": [1, 2], "loss": [0.5, 0.4]}, ("loss",)).lines
    assert (point.get_marker(), line.get_marker()) == ("o", "None")
    svg = curves("loss", "epoch", [1], {"loss": [0.5], "val_loss": [0.4]}).svg()
    assert svg.count("<circle") == 2


def test_tiles_that_agree_everywhere_are_drawn_dark():
    pytest.importorskip("matplotlib")
    report = SimpleNamespace(disagreement=np.zeros((20, 30)), score=0.0)
    (drawn,) = plot_seams(report).images
    assert drawn.get_clim() == (0, 1)


def test_a_map_of_bytes_is_drawn_by_their_range():
    pytest.importorskip("matplotlib")
    mask = np.array([[0, 1]], np.uint8)
    for values, largest in ((51 * mask, 0.2), (mask, 1), (mask[..., np.newaxis], 1 / 255)):
        (drawn,) = plot_probabilities(values).images
        assert drawn.get_array().max() == pytest.approx(largest)
        assert drawn.get_clim() == (0, 1)


def test_small_differences_of_large_numbers_are_shown():
    pytest.importorskip("matplotlib")
    (drawn,) = plot_overlay(np.array([[10**9, 10**9 + 1]]), np.zeros((1, 2), int)).images
    assert drawn.get_array()[..., 0].tolist() == [[0, 255]]


def test_curves_without_epochs_are_counted_and_texts_are_no_measurements():
    pytest.importorskip("matplotlib")
    (line,) = plot_history({"loss": [0.5, 0.25]}, ("loss",)).lines
    assert line.get_xdata().tolist() == [1, 2]
    with pytest.raises(SettingError, match="`column` must hold numbers; got name"):
        plot_histogram({"name": np.array(["a", "b"])}, "name")
    with pytest.raises(SettingError, match=r"tiledseg\.metrics\.reliability"):
        plot_calibration(None)


def test_background_has_the_colour_asked_for():
    assert colourise(np.array([[0, 1]]), [RED], background=BLUE)[0].tolist() == [[0, 0, 255], [255, 0, 0]]


def test_errors_are_drawn_by_kind():
    truth = np.array([[0, 1, 0, 1, 1]])
    predicted = np.array([[0, 1, 1, 0, 2]])
    drawn = error_overlay(np.zeros((1, 5, 3), np.uint8), predicted, truth)[0]
    found, false, missed = (np.rint(np.array(colour) * 0.6).tolist() for colour in ERROR_COLOURS)
    assert drawn.tolist() == [[0, 0, 0], found, false, missed, false]


@pytest.mark.parametrize(
    ("image", "mask", "options", "error", "text"),
    [
        (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2), int), {}, ArrayError, "grey or RGB"),
        (np.full((2, 2), 1.5), np.zeros((2, 2), int), {}, ArrayError, "limits"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), int), {}, ArrayError, "finite"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 2), int), {}, ArrayError, "limits"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 3), int), {}, ArrayError, r"\(2, 2\)"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2)), {}, ArrayError, "labels"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), -1), {}, ArrayError, "-1"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 65536), {}, ArrayError, "65536"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), {"opacity": 1.1}, SettingError, "opacity"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), {"outline_px": -1}, SettingError, "outline_px"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), {"outline_px": 1.5}, SettingError, "outline_px"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), {"colours": []}, SettingError, "colours"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), {"colours": [(0, 0, 256)]}, SettingError, "256"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), {"colours": [(0, 0)]}, SettingError, "three"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), int), {"limits": (5, 5)}, SettingError, "limits"),
    ],
)
def test_invalid_images_masks_and_options_are_named(image, mask, options, error, text):
    with pytest.raises(error, match=text):
        overlay(image, mask, **options)


@pytest.mark.parametrize("mask", [None, [[0, 1]], "mask.png"])
def test_a_mask_that_is_no_array_is_refused(mask: object) -> None:
    with pytest.raises(ArrayError, match="must be a NumPy array of labels"):
        overlay(np.zeros((1, 2, 3), np.uint8), mask)  # type: ignore[arg-type]


@pytest.mark.parametrize("look", [{"opacity": "much"}, {"colours": 3}, {"colours": ()}])
def test_a_look_of_the_wrong_kind_is_refused(look: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="must be"):
        overlay(np.zeros((1, 2, 3), np.uint8), np.ones((1, 2), np.uint8), **look)  # type: ignore[arg-type]
