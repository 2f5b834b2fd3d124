"""Crops of prepared pairs: where they lie, and that they are prepared as for prediction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiledseg.config import PreprocessingConfig, augmenting
from tiledseg.data import CropSampler, GridCrops, Pair, crops_to_cover, prepare_pair, prepare_pairs
from tiledseg.errors import ArrayError, TiledSegError
from tiledseg.preprocess import prepare

PLAIN = PreprocessingConfig()
FLIPS = augmenting("flips", 3)


def pair(image, mask, name="one"):
    return Pair(name, image, mask)


def marked(height, width, seed=0):
    """Make an image whose first channel is its mask, and whose others say where each px is."""
    mask = (np.random.default_rng(seed).random((height, width)) < 0.2).astype(np.uint8)
    y, x = np.indices((height, width), np.float32)
    return np.stack([mask.astype(np.float32), y, x], axis=-1), mask


def marked_pair(height, width):
    return prepare_pair(pair(*marked(height, width)), PreprocessingConfig(dtype="float32"))


def test_every_bad_pair_is_named():
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    pairs = [pair(image, mask), pair(image[..., 0], mask, "grey"), pair(image, mask + 2, "two")]
    with pytest.raises(
        TiledSegError, match=r"2 of 3 pairs cannot be used\. grey: .*channels.* two: .*labels"
    ):
        prepare_pairs(pairs, PLAIN)


def test_what_is_wrong_with_many_pairs_is_said_once():
    image, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    pairs = [pair(image, mask + 2 + number % 2, f"n{number}") for number in range(6)]
    with pytest.raises(
        TiledSegError, match=r"6 of 6 .* n0: .* The same with n1, n2, n3 and 2 more\.$"
    ) as caught:
        prepare_pairs(pairs, PLAIN)
    assert str(caught.value).count("labels") == 1


def test_an_image_with_nan_is_refused():
    image = np.zeros((8, 8, 3), np.float32)
    image[2, 3] = np.nan
    with pytest.raises(ArrayError, match=r"finite.*\(2, 3\)"):
        prepare_pair(pair(image, np.zeros((8, 8), np.uint8)), PreprocessingConfig(dtype="float32"))


@pytest.mark.parametrize("sharpen", [0.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
def test_images_are_prepared_as_for_prediction(scale, sharpen):
    config = PreprocessingConfig(scale=scale, sharpen=sharpen, colour="bgr", mean=(0.5,), std=(0.2,))
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    prepared = prepare_pair(pair(image, np.zeros((50, 61), np.uint8)), config)
    exact = np.asarray(prepare(image, config))
    half_a_level = 0.0 if scale == 1 and not sharpen else 0.5 / 255 / 0.2
    assert np.abs(np.asarray(prepared.image) - exact).max() <= half_a_level * (1 + 1e-4)
    images, _ = CropSampler([prepared], exact.shape[:2]).batch(0, [0])
    assert np.array_equal(images[0], np.asarray(prepared.image))
    assert prepared.mask.shape == prepared.image.shape[:2]


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_percentiles_of_a_crop_are_those_of_its_image(scale):
    image = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint16) * 5
    config = PreprocessingConfig(dtype="uint16", scale=scale, percentiles=(5.0, 90.0), gamma=1.5)
    prepared = prepare_pair(pair(image, np.zeros((64, 64), np.uint8)), config)
    whole = np.asarray(prepare(image, config))
    crops, _ = GridCrops([prepared], (16, 16)).batch(0, [0])
    assert np.abs(crops[0] - whole[:16, :16]).max() <= (0 if scale == 1 else 1e-4)


@given(small=st.integers(1, 40), large=st.integers(1, 200))
def test_shrunk_masks_take_the_label_at_each_centre(small, large):
    height = max(small, large)
    scale = max(small, 1) / height
    mask = np.arange(height, dtype=np.uint8)[:, None].repeat(2, axis=1)
    image = np.zeros((height, 2, 3), np.uint8)
    prepared = prepare_pair(pair(image, mask), PreprocessingConfig(scale=scale), classes=256)
    n = len(prepared.mask)
    assert prepared.mask[:, 0].tolist() == [int((i + 0.5) * height / n + 1e-9) for i in range(n)]


def test_small_images_are_mirrored_like_their_masks():
    images, masks = CropSampler([marked_pair(5, 3)], (12, 8)).batch(0, [0])
    assert np.array_equal(images[0, ..., :1], masks[0])
    assert images[0, :, 0, 1].tolist() == [4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize("crop", [(16, 16), (16, 24)])
@given(seed=st.integers(0, 1000), epoch=st.integers(0, 50), place=st.integers(0, 9))
def test_image_and_mask_are_turned_together(crop, seed, epoch, place):
    sampler = CropSampler([marked_pair(40, 37)], crop, length=10, transforms=FLIPS, seed=seed)
    images, masks = sampler.batch(epoch, [place])
    assert images.shape == (1, *crop, 3)
    assert images.dtype == masks.dtype == np.float32
    assert np.array_equal(images[..., :1], masks)


def _orientation(image):
    """Tell the orientation of a crop, by the places that its px have in the source."""
    down, right = image[1, 0] - image[0, 0], image[0, 1] - image[0, 0]
    return tuple(int(value) for value in (*down[1:], *right[1:]))


@pytest.mark.parametrize("crop", [(16, 16), (16, 24)])
def test_all_turns_occur_and_none_without_augmentation(crop):
    pairs = [marked_pair(40, 37)]
    images, _ = CropSampler(pairs, crop, length=200, transforms=FLIPS).batch(0, range(200))
    assert len({_orientation(image[1:, 1:]) for image in images}) == 8
    images, _ = CropSampler(pairs, crop, length=50).batch(0, range(50))
    assert {_orientation(image) for image in images} == {(1, 0, 0, 1)}


def test_a_crop_depends_only_on_seed_epoch_and_index():
    pairs = [marked_pair(40, 37), marked_pair(60, 37)]
    sampler = CropSampler(pairs, (16, 16), length=12, seed=3)
    forwards = [sampler.batch(2, [place])[0][0] for place in range(12)]
    sampler.batch(7, range(5))
    together = CropSampler(pairs, (16, 16), length=12, seed=3).batch(2, range(11, -1, -1))[0][::-1]
    assert np.array_equal(np.stack(forwards), together)
    for other in (
        sampler.batch(3, range(12)),
        CropSampler(pairs, (16, 16), length=12, seed=4).batch(2, range(12)),
    ):
        assert not np.array_equal(other[0], together)


def test_images_take_turns_in_proportion_to_their_area():
    shapes, shares = ((16, 16), (32, 16), (32, 40)), np.array([1, 2, 5]) / 8
    pairs = [
        prepare_pair(
            pair(np.full((*shape, 3), place, np.float32), np.zeros(shape, np.uint8)),
            PreprocessingConfig(dtype="float32"),
        )
        for place, shape in enumerate(shapes)
    ]
    images, _ = CropSampler(pairs, (16, 16), length=40).batch(1, range(40))
    counts = np.bincount(images[:, 0, 0, 0].astype(int), minlength=3)
    assert np.abs(counts - 40 * shares).max() <= 1


def test_an_epoch_covers_the_area():
    pairs = [marked_pair(33, 16), marked_pair(16, 16)]
    assert crops_to_cover(pairs, (16, 16)) == 4
    assert len(CropSampler(pairs, (16, 16))) == 4


def test_foreground_is_shown_as_often_as_asked():
    mask = np.zeros((300, 300), np.uint8)
    mask[150, 150] = 1
    prepared = prepare_pair(pair(np.zeros((300, 300, 3), np.uint8), mask), PLAIN)
    met = {}
    for share in (0.0, 0.5, 1.0):
        _, masks = CropSampler([prepared], (20, 20), length=200, foreground_share=share).batch(0, range(200))
        met[share] = float(masks.any(axis=(1, 2, 3)).mean())
    assert met[0.0] < 0.05
    assert 0.35 < met[0.5] < 0.65
    assert met[1.0] == 1.0


def test_foreground_at_the_edge_stays_inside():
    mask = np.zeros((30, 30), np.uint8)
    mask[0, 29] = 1
    prepared = prepare_pair(pair(np.zeros((30, 30, 3), np.uint8), mask), PLAIN)
    _, masks = CropSampler([prepared], (20, 20), length=30, foreground_share=1.0).batch(0, range(30))
    assert (masks.sum(axis=(1, 2, 3)) == 1).all()


def test_several_classes_get_a_channel_each():
    mask = np.array([[0, 1], [2, 1]], np.uint8)
    prepared = prepare_pair(pair(np.zeros((2, 2, 3), np.uint8), mask), PLAIN, classes=3)
    for crops in (
        CropSampler([prepared], (2, 2), classes=3),
        GridCrops([prepared], (2, 2), classes=3),
    ):
        masks = crops.batch(0, [0])[1][0]
        assert np.array_equal(masks, np.eye(3, dtype=np.float32)[mask])


@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_the_grid_covers_every_px_and_never_changes(height, width):
    crops = GridCrops([marked_pair(height, width), marked_pair(20, 20)], (16, 24))
    images, masks = crops.batch(0, range(len(crops)))
    assert np.array_equal(images, crops.batch(5, range(len(crops)))[0])
    counts = masks[..., 0] >= 0
    assert np.array_equal(images[counts][:, 0], masks[counts][:, 0])
    first = slice(len(crops) - 2)  # the other image takes two
    places = images[first][counts[first]][:, 1:].astype(int)
    assert sorted(map(tuple, places)) == list(np.ndindex(height, width))  # each px counts once
