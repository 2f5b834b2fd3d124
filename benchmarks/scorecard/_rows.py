"""The rows of the scorecard: each is a function that gives figures with their targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["ROWS", "Figure", "Row", "Trial", "row"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number, and the least or the most that it should be."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    faults: tuple[str, ...] = ()  # the first that were found

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    @property
    def target(self) -> str:
        """The target in words."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored as JSON."""
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True, slots=True)
class Trial:
    """What a row is given: an empty folder, a seed, and the share of its work that it does."""

    folder: Path
    seed: int
    size: float

    def count(self, whole: int, least: int = 1) -> int:
        """Scale a number of attempts."""
        return max(least, round(whole * self.size))


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its number, its name, and what measures it."""

    number: int
    name: str
    measure: Callable[[Trial], Iterable[Figure]]


MOST_FAULTS = 5  # that are told
ROWS: dict[int, Row] = {}
_HERE = "test_scorecard.py::test_a_short_version_meets_its_targets"
SHORT: dict[int, str] = {  # the test in tests/ that is the short version of a row
    1: "test_train_resume.py::test_a_killed_run_is_resumed_bit_for_bit_without_its_damaged_checkpoint",
    2: _HERE,
    3: "test_predict_products.py::test_killed_predictions_are_resumed_bit_for_bit",
    4: "test_io_sink.py::test_a_full_disk_is_an_error_and_leaves_nothing",
    5: "test_models_bundle.py::test_flipped_bit_in_the_weights_is_refused",
    6: "test_predict_files.py::test_a_broken_file_is_reported_and_stops_none_of_the_others",
    7: _HERE,
    8: "test_io_open.py::test_decompression_bombs_are_refused_before_memory_is_allocated",
    9: "test_scorecard.py::test_hostile_models_do_nothing_before_they_are_refused",
    10: _HERE,
    11: "test_scorecard.py::test_the_corpus_of_each_target_is_read_without_a_foreign_error",
    12: _HERE,
    13: "test_engine_onnx.py::test_a_graph_called_exact_is_equal_to_the_whole_in_the_middle_of_a_tile",
    14: _HERE,
    15: "test_scorecard.py::test_memory_that_runs_out_outside_the_network_is_a_typed_error",
    16: "test_train.py::test_a_nan_that_the_loss_does_not_show_is_found",
    17: "test_engine_openvino.py::test_predictions_in_several_threads_equal_those_of_keras",
    18: "test_scorecard.py::test_results_have_the_same_bytes_in_other_surroundings",
    19: "test_train_resume.py::test_sigterm_ends_the_command_after_an_epoch_with_its_own_exit_code",
    20: "test_scorecard.py::test_each_mutation_changes_the_code_in_one_place",
    21: "test_scorecard.py::test_every_requirement_has_a_floor_without_a_known_vulnerability",
}


def row(number: int, name: str) -> Callable[[Callable[[Trial], Iterable[Figure]]], Any]:
    """Register a function as a row."""

    def register(measure: Callable[[Trial], Iterable[Figure]]) -> Any:
        ROWS[number] = Row(number, name, measure)
        return measure

    return register


def good(what: str, faults: Iterable[str | None]) -> Figure:
    """Count the attempts without a fault, of which all should be without."""
    found = list(faults)
    bad = [one for one in found if one is not None]
    return Figure(what, len(found) - len(bad), least=len(found), faults=tuple(bad[:MOST_FAULTS]))
