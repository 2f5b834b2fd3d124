"""Receptive field and halo of layers and networks, compared with their definition px by px."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tiledseg.tiling import UNKNOWN, Axis, Grow, ReceptiveField, Sample, Slide, Step, Windows, sides_of


def sources(rule, size):
    """List the input px that each output px takes, by its definition; some lie beyond the ends."""
    if isinstance(rule, Slide):
        left = rule.left
        if left is None:  # as many outputs as steps begin in the input
            outputs = -(-size // rule.step)
            needed = max((outputs - 1) * rule.step + rule.kernel - size, 0)
            left = needed // 2
        else:
            outputs = len(range(-left, size + rule.right - rule.kernel + 1, rule.step))
        return [[rule.step * i - left + tap for tap in range(rule.kernel)] for i in range(outputs)]
    if isinstance(rule, Grow):
        wide = (size - 1) * rule.factor + rule.kernel
        taken = [[] for _ in range(wide - rule.left - rule.right)]
        for j in range(-size, 2 * size):
            for tap in range(rule.kernel):
                i = rule.factor * j + tap - rule.left
                if 0 <= i < len(taken):
                    taken[i].append(j)
        return taken
    if isinstance(rule, Windows):
        return [
            [
                j
                for j in range(-size, 2 * size)
                if (j - rule.shift) // rule.size == (i - rule.shift) // rule.size
            ]
            for i in range(size)
        ]
    return [
        [
            j
            for j in range(-size, 2 * size)
            if rule.step * i - rule.before <= rule.factor * j <= rule.step * i + rule.after
        ]
        for i in range(int(size * rule.factor / rule.step + rule.added))
    ]


def window(rule, place):
    return (place - rule.shift) // rule.size


def run(axis, px):
    """Run a network on symbols: an output px is what it was made of, and "end" what lies beyond an end."""
    maps = {0: px}
    for number, step in enumerate(axis.steps):
        inputs = [maps[one] for one in step.inputs]
        size = len(inputs[0])
        maps[step.output] = [
            hash((number, *(one[j] if 0 <= j < size else "end" for one in inputs for j in taken)))
            for taken in sources(step.rule, size)
        ]
    return maps[axis.output]


def reached(axis, size, place):
    """List the input px that an output px in the middle of a long axis depends on."""
    maps = {0: [{j} for j in range(size)]}
    for step in axis.steps:
        inputs = [maps[one] for one in step.inputs]
        maps[step.output] = [
            set().union(*(one[j] for one in inputs for j in taken if 0 <= j < len(one)))
            for taken in sources(step.rule, len(inputs[0]))
        ]
    return maps[axis.output][place]


def chain(stride, *rules):
    return Axis(tuple(Step((n,), n + 1, rule) for n, rule in enumerate(rules)), len(rules), stride)


CONV, POOL = Slide(3, 1, None), Slide(2, 2)
UNET = Axis(
    (
        Step((0,), 1, CONV),
        Step((1,), 2, POOL),
        Step((2,), 3, Slide(5, 1, 1, 3)),
        Step((3,), 9, Slide(9, 1, 4, 4)),  # leads nowhere
        Step((3,), 4, Grow(2, 2)),
        Step((4, 1), 5, Slide()),
        Step((5,), 6, CONV),
    ),
    6,
    2,
)
NETWORKS = {
    "nothing": Axis((), 0, 1),
    "convolution": chain(1, CONV),
    "uneven padding": chain(1, Slide(4, 1, None), Slide(3, 1, 0, 2), Slide(3, 1, 2, 0)),
    "valid convolution, padded": chain(1, Slide(5), Slide(1, 1, 1, 3)),
    "cropping": chain(1, Slide(5, 1, 4, 4), Slide(1, 1, -1, -3)),
    "U-Net": UNET,
    "overlapping steps": chain(
        4, Slide(5, 2, None), CONV, Slide(3, 2, None), Grow(4, 2, 1, 1), Grow(3, 2, 0, 1)
    ),
    "steps that leave px out": chain(3, Slide(1, 3, None), CONV, Grow(1, 3, 0, -2), CONV),
    "px without any input": chain(2, POOL, Grow(1, 2, 0, -1)),
    "sampling up": chain(2, POOL, Sample(1, 2, 1, 2), CONV),
    "sampling down": chain(3, Sample(3, 1, 2, 4), Slide(2, 1, None), Sample(1, 3, 0, 5)),
    "sampling with a px more": chain(2, Slide(4, 2, 1, 1), Sample(1, 2, 3, 0, Fraction(1)), Slide(2)),
    "branches": Axis(
        (
            Step((0,), 1, Slide(9, 1, 8, 0)),
            Step((0,), 2, Slide(9, 1, 0, 8)),
            Step((0,), 3, CONV),
            Step((1, 2, 3), 4, Slide()),
        ),
        4,
        1,
    ),
    "branches, the farthest last": Axis(
        (
            Step((0,), 1, CONV),
            Step((0,), 2, Slide(9, 1, 0, 8)),
            Step((0,), 3, Slide(9, 1, 8, 0)),
            Step((0,), 4, CONV),
            Step((1, 2, 3, 4), 5, Slide()),
        ),
        5,
        1,
    ),
    "windows": chain(4, CONV, Windows(4)),
    "shifted windows": chain(4, Windows(4), Windows(4, 1), Slide(2, 1, None)),
    "windows shifted by more": chain(4, Windows(4, 6), Windows(2, -1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_halo_and_extent_are_those_of_the_layers_px_by_px(name):
    axis = NETWORKS[name]
    size, start, stop = 40 * axis.stride, 12 * axis.stride, 28 * axis.stride
    whole = run(axis, list(range(size)))
    assert axis.fits
    assert len(whole) == size
    tile = run(axis, list(range(start, stop)))
    differs = [one != other for one, other in zip(tile, whole[start:stop], strict=True)]
    half = len(tile) // 2
    left = max((place + 1 for place in range(half) if differs[place]), default=0)
    right = max((len(tile) - place for place in range(half, len(tile)) if differs[place]), default=0)
    found = [
        (place, reached(axis, size, place) or {place}) for place in range(20 * axis.stride, 21 * axis.stride)
    ]
    before = max(0, *(place - min(taken) for place, taken in found))
    after = max(0, *(max(taken) - place for place, taken in found))
    field = ReceptiveField((axis, chain(1, Slide(1, 1, 7, -7))))
    assert field.halo == ((left, right), (7, 0))
    assert field.extent == ((before, after), (7, 0))


@pytest.mark.parametrize(
    "rule",
    [
        *(Slide(3, 2, None), Slide(4, 3, None), Slide(1, 3, None)),
        *(Slide(3, 2, 1, 0), Slide(2, 2), Slide(1, 1, -2, 1)),
        *(Grow(3, 2), Grow(5, 2, 1, 2), Grow(2, 3, 0, -1)),
        *(Sample(2, 3, 1, 2), Sample(5, 2, 3, 1, Fraction(1, 2)), Sample()),
    ],
)
@pytest.mark.parametrize("size", [9, 10, 11])
def test_sizes_and_inputs_are_those_of_the_layer_for_sizes_of_any_remainder(rule, size):
    wanted = sources(rule, size)
    places = rule.places(size)
    assert places.size == len(wanted)
    for low in range(len(wanted)):
        for high in range(low, len(wanted)):
            if wanted[low] and wanted[high]:
                assert places.sources(low, high) == (wanted[low][0], wanted[high][-1])


def test_a_layer_without_settings_takes_each_px_as_it_is():
    for rule in (Slide(), Sample()):
        places = rule.places(9)
        assert (places.size, places.sources(2, 5), places.spoiled(9, 1, 2)) == (9, (2, 5), (1, 2))


@pytest.mark.parametrize("axis", [chain(2, POOL), chain(1, Slide(3)), Axis((), 1, 1)])
def test_a_network_with_an_output_of_another_size_does_not_fit(axis):
    assert not axis.fits


def test_maps_of_different_sizes_do_not_fit_together():
    steps = Step((0,), 1, POOL), Step((0, 1), 2, Slide())
    assert not Axis(steps, 2, 2).fits
    assert Axis((steps[0], Step((1,), 2, Grow(2, 2)), Step((0, 2), 3, Slide())), 3, 2).fits


def test_a_network_that_is_not_known_has_neither_halo_nor_extent():
    assert UNKNOWN.halo is UNKNOWN.extent is None
    assert sides_of(((1, 2), (3, 4))) == "1 px above, 2 below, 3 left, 4 right"
