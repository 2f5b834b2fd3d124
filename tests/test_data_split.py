"""Splits: by image or by group, the same in any order."""

from __future__ import annotations

import contextlib
import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiledseg.config import Record, SplitConfig
from tiledseg.data import check_disjoint, split_folds, split_records
from tiledseg.errors import SettingError


def record(name, foreground=0.1, digest=None, **more):
    text = f"{digest:064x}" if digest is not None else hashlib.sha256(name.encode()).hexdigest()
    return Record(
        name=name,
        image=f"images/{name}.png",
        masks=(f"masks/{name}.png",),
        group=name,
        height=4,
        width=4,
        foreground=foreground,
        digest=f"sha256:{text}",
        mask_digests=(f"sha256:{0:064x}",),
        **more,
    )


def counts(records, names=("train", "valid", "test")):
    return [sum(one.split == name for one in records) for name in names]


def refused(records, config):
    """Say whether there are too few images or groups for the splits."""
    with contextlib.suppress(SettingError):
        split_records(records, config)
        return False
    return True


shares = st.lists(st.integers(1, 100), min_size=1, max_size=5)


@settings(max_examples=25)
@given(
    numbers=st.lists(st.integers(0, 10**6), min_size=1, max_size=120, unique=True),
    shares=shares,
    seed=st.integers(0, 99),
    stratify=st.booleans(),
    data=st.data(),
)
def test_splits_by_image_meet_their_shares_in_any_order(numbers, shares, seed, stratify, data):
    foreground = data.draw(
        st.lists(st.floats(0, 1), min_size=len(numbers), max_size=len(numbers)), label="foreground"
    )
    records = [record(str(n), f, digest=n) for n, f in zip(numbers, foreground, strict=True)]
    names = tuple(f"s{place}" for place in range(len(shares)))
    config = SplitConfig(names=names, shares=tuple(shares), seed=seed, stratify=stratify)
    wanted = [len(records) * share / sum(shares) for share in shares]
    if refused(records, config):
        assert min(wanted) < 1
        return
    done = split_records(records, config)
    assert all(abs(got - want) < 1 for got, want in zip(counts(done, names), wanted, strict=True))
    assert [one.name for one in done] == [one.name for one in records]
    check_disjoint(done)
    mixed = data.draw(st.permutations(records), label="order")
    assert {one.name: one.split for one in split_records(mixed, config)} == {
        one.name: one.split for one in done
    }


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=20),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_splits_by_group_are_disjoint_and_as_near_as_groups_allow(sizes, seed, data):
    records = [
        record(f"g{group}_{one}", data.draw(st.floats(0, 1)), digest=100 * group + one)
        for group, size in enumerate(sizes)
        for one in range(size)
    ]
    config = SplitConfig(shares=(2, 1, 1), group_by="regex", group_regex=r"^(g\d+)_", seed=seed)
    done = split_records(records, config)
    splits = {}
    for one in done:
        splits.setdefault(one.group, set()).add(one.split)
    assert len(splits) == len(sizes)
    assert all(len(some) == 1 for some in splits.values())
    assert min(counts(done)) > 0
    for got, share in zip(counts(done), (0.5, 0.25, 0.25), strict=True):
        assert abs(got - share * len(records)) < max(sizes) + 1
    mixed = data.draw(st.permutations(records), label="order")
    assert {one.name: one.split for one in split_records(mixed, config)} == {
        one.name: one.split for one in done
    }


@given(
    names=st.lists(st.sampled_from([f"{a}{n}" for a in "ab" for n in range(12)]), min_size=4, unique=True),
    digests=st.lists(st.integers(0, 8), min_size=24, max_size=24),
)
def test_copies_are_never_separated(names, digests):
    records = [record(name, digest=digest) for name, digest in zip(names, digests, strict=False)]
    config = SplitConfig(names=("train", "valid"), shares=(3, 1), group_by="run")
    if refused(records, config):
        loose = config.changed(names=("all",), shares=(1,))
        assert len({one.group for one in split_records(records, loose)}) == 1
        return
    done = split_records(records, config)
    for one, other in itertools.combinations(done, 2):
        if one.digest == other.digest or one.group == other.group:
            assert one.split == other.split


def test_a_split_never_changes():
    records = [record(str(number), number / 40, digest=number) for number in range(1, 21)]
    config = SplitConfig(seed=7)
    done = {one.name: one.split for one in split_records(records, config)}
    assert [name for name, split in done.items() if split == "valid"] == ["5", "12", "14"]
    assert [name for name, split in done.items() if split == "test"] == ["17"]
    other = {one.name: one.split for one in split_records(records, config.changed(seed=8))}
    assert other != done


def test_stratified_splits_have_the_same_foreground():
    rng = np.random.default_rng(0)
    records = [record(str(n), float(rng.beta(0.5, 5)), digest=n) for n in range(400)]

    def spread(*, stratify):
        worst = []
        for seed in range(5):
            done = split_records(records, SplitConfig(seed=seed, stratify=stratify))
            means = [
                np.mean([one.foreground for one in done if one.split == name])
                for name in ("train", "valid", "test")
            ]
            worst.append(max(means) - min(means))
        return np.mean(worst)

    assert spread(stratify=True) < 0.25 * spread(stratify=False)


def test_neighbouring_numbers_are_one_group():
    names = ["a1", "a2", "a4", "a5", "b2", "7", "slide3_09", "slide3_10", "slide4_11"]
    records = [record(name, digest=place) for place, name in enumerate(names)]
    groups = {
        gap: [one.group for one in split_records(records, SplitConfig(group_by="run", run_gap=gap))]
        for gap in (1, 2)
    }
    ends = ["b2", "7", "slide3_9-10", "slide3_9-10", "slide4_11"]
    assert groups[1] == ["a1-2", "a1-2", "a4-5", "a4-5", *ends]
    assert groups[2] == ["a1-5"] * 4 + ends


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (SplitConfig(group_by="run"), "`x` has no number"),
        (SplitConfig(group_by="regex", group_regex=r"^\d"), "every name; got x"),
        (
            SplitConfig(group_by="regex", group_regex=".", shares=(2, 1, 1)),
            "at least one group for each of the 3 parts; got 1 group of 4 images",
        ),
        (
            SplitConfig(names=tuple("abcde"), shares=(1,) * 5),
            "`images` must be at least 5 images, .* got 4. Give more",
        ),
        (SplitConfig(shares=(80, 15, 1)), "at least one image; got none for test of 4"),
    ],
)
def test_an_impossible_split_is_refused(config, found):
    with pytest.raises(SettingError, match=found):
        split_records([record("x" * n, digest=n) for n in range(1, 5)], config)


@pytest.mark.parametrize(
    "settings",
    [
        {"names": ("a", "a", "b")},
        {"names": ("a", "../b", "c")},
        {"shares": (1, 2)},
        {"shares": (1, 2, 0)},
        {"group_by": "regex"},
        {"group_regex": "a"},
        {"group_by": "regex", "group_regex": "("},
    ],
)
def test_impossible_split_settings_are_refused(settings):
    with pytest.raises(SettingError, match=r"names|shares|group_regex"):
        SplitConfig(**settings)


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=9),
    folds=st.integers(2, 6),
    seed=st.integers(0, 9),
)
def test_each_image_is_valid_in_one_fold_and_groups_stay_together(sizes, folds, seed):
    records = [record(f"g{group}_{one}") for group, size in enumerate(sizes) for one in range(size)]
    config = SplitConfig(folds=folds, group_by="regex", group_regex=r"^(g\d+)_", seed=seed)
    if folds > len(sizes):
        with pytest.raises(
            SettingError,
            match=f"({folds} parts.* {len(sizes)} groups|at least {folds} images).*fewer splits or folds",
        ):
            split_folds(records, config)
        return
    done = split_folds(records, config)
    valid = [{one.name for one in fold if one.split == "valid"} for fold in done]
    assert sorted(itertools.chain(*valid)) == sorted(one.name for one in records)
    assert all(abs(len(some) - len(records) / folds) < max(sizes) + 1 for some in valid)
    for number, fold in enumerate(done, start=1):
        assert {one.split for one in fold} == {"train", "valid"}
        check_disjoint(fold)  # no group is in both
        assert split_records(records, config.changed(fold=number)) == fold


def test_folds_take_the_place_of_shares():
    records = [record(str(n)) for n in range(4)]
    with pytest.raises(SettingError, match=r"fold.*folds=2.*None.*split_folds"):
        split_records(records, SplitConfig(folds=2))
    with pytest.raises(SettingError, match=r"folds.*given for cross-validation"):
        split_folds(records, SplitConfig())
    with pytest.raises(SettingError, match=r"shares.*left out with folds=2"):
        SplitConfig(folds=2, shares=(1, 1, 1))
    for fold in (3, 0):
        with pytest.raises(SettingError, match="fold"):
            SplitConfig(folds=2, fold=fold)
    with pytest.raises(SettingError, match=r"fold.*one of the folds.*folds=5"):
        SplitConfig(fold=1)
