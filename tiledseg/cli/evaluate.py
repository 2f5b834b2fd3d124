"""``tiledseg evaluate``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

import tiledseg
from tiledseg._storage import check_new_folder
from tiledseg._validate import invalid
from tiledseg.cli import lazy
from tiledseg.cli.data import pairs_in
from tiledseg.cli.options import Table
from tiledseg.cli.predict import MODEL_HELP, TILING, check_model, check_tiling, tiling_for
from tiledseg.cli.settings import Settings, needed, with_options
from tiledseg.config import RunConfig
from tiledseg.errors import SettingError, TiledSegError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg.config import EvaluateConfig, EvaluateJobConfig
    from tiledseg.data import Pair
    from tiledseg.evaluate import EvaluationResult, ScoredImage
    from tiledseg.report import Triples, WorstCases

_RUN = RunConfig()
_MAPS, _ENSEMBLE = "maps:", "ensemble"
_DATA = Table("test_data", _RUN.test_data, "Data")
_VALID = Table("valid_data", _RUN.valid_data, "Validation data, to choose the threshold", prefix="valid-")
_SCORING = Table("evaluate", _RUN.evaluate, "Evaluation", without=("model", "tiling", "objects"))
_CELLS = Table("evaluate", _RUN.evaluate, "Predicted cells", prefix="objects-", only=("objects",))

_Model: TypeAlias = Annotated[
    str | None,
    Parameter(
        help=f"{MODEL_HELP} Or maps:FOLDER for precomputed maps.",
        negative_none=(),
    ),
]


@dataclass(frozen=True, slots=True)
class _Task:
    """Scores models, or maps, on the same images."""

    pairs: list[Pair]  # test images and masks
    valid: list[Pair] | None  # validation images, to choose the threshold
    config: EvaluateJobConfig
    settings: Settings

    def loaded(self, model: str) -> Any:
        """Load a model, or find the maps of the pairs."""
        if model.startswith(_MAPS):
            return lazy.evaluate.find_maps(model.removeprefix(_MAPS), self.pairs)
        return tiledseg.load_model(model, trust=self.config.trust)

    def scored(self, model: Any, callback: Callable[[ScoredImage], None]) -> EvaluationResult:
        """Score a loaded model, maps as a list, or the mean of several models as a tuple."""
        if isinstance(model, list):
            px = self.config.tile_px
            tiles = None if px is None else (px, px)
            config = self.config.changed(threshold=None) if self.valid else self.config
            return lazy.evaluate.Evaluator(config).score_maps(
                model, self.pairs, tile_px=tiles, callback=callback
            )
        first = model[0] if isinstance(model, tuple) else model
        config = self.config.changed(tiling=tiling_for(first, self.settings, self.config.tiling))
        return lazy.evaluate.Evaluator(config).evaluate(
            model, self.pairs, valid=self.valid, progress=self.settings.progress, callback=callback
        )


@with_options(_DATA, _SCORING, _CELLS, TILING, _VALID)
def evaluate(model: _Model = None, /, *, settings: Settings) -> int:
    """Score a segmenter on images whose masks are known; print a table."""
    config = settings.over(settings.run.evaluate, "evaluate")
    config = config.changed(model=needed(model or config.model, "model", "evaluate.model"))
    models = (config.model or "", *config.against)
    names = _names(models, config)
    for one in models:
        _check(one, settings, config)
    if config.output is not None:
        check_new_folder(config.output)
    elif config.triples:
        fix = "Add --output FOLDER, or leave --triples out."
        raise invalid(SettingError, "--output", must="be given with --triples", got="nothing", fix=fix)
    task = _Task(_test_pairs(settings), _valid_pairs(settings, config), config, settings)
    worst = lazy.report.WorstCases(config.pictures if config.output is not None else 0)
    with lazy.report.Triples() as triples:
        results = _results(task, dict(zip(names, models, strict=False)), worst, triples)
        first, *others = results.items()
        compared = [lazy.evaluate.compare(first[1], other, names=(first[0], name)) for name, other in others]
        if others:
            tables = [*(f"{one}\n" for one in compared), lazy.evaluate.side_by_side(results)]
            settings.say("\n".join(["", *map(str, tables)]))
        if config.output is not None:
            output = Path(config.output)
            facts = {"Model": config.model} | ({"Compared with": ", ".join(names[1:])} if others else {})
            lazy.report.write_evaluation(
                output,
                title=f"Evaluation of {names[0]}",
                result=first[1],
                pictures=worst.rows,
                comparison=compared,
                facts=facts,
                triples=triples,
            )
            settings.keep(output, evaluate=config, tiling=None)
            settings.say(f"\n{output / 'report.html'}")
    differences = {
        one.names[1]: {name: asdict(part) for name, part in one.differences.items()} for one in compared
    }
    models_scored = {name: one.to_dict() for name, one in results.items()}
    settings.give(models=models_scored, against=differences, output=config.output)
    return 1 if any(one.failed for one in results.values()) else 0


def _results(
    task: _Task, models: dict[str, str], worst: WorstCases, triples: Triples
) -> dict[str, EvaluationResult]:
    """Score each model, and the mean of their maps where it is wanted; print the tables."""
    results: dict[str, EvaluationResult] = {}
    loaded = {name: task.loaded(path) for name, path in models.items()}
    _check_classes(loaded, ensemble=task.config.ensemble)

    def add(name: str, model: Any) -> None:
        def draw(one: ScoredImage) -> None:
            worst.add_other(one, name) if results else worst(one)
            if task.config.triples and not results:
                triples(one)

        result = task.scored(model, draw)
        task.settings.say(f"\n{name}\n\n{result}" if results else result)
        results[name] = result

    for name, model in loaded.items():
        add(name, model)
    if task.config.ensemble:
        add(_ENSEMBLE, tuple(loaded.values()))
    return results


def _check_classes(models: dict[str, Any], *, ensemble: bool) -> None:
    """Check that models have the same classes, before any of them is scored."""
    classes = {name: _classes_of(model) for name, model in models.items()}
    lazy.evaluate.check_classes("--against", classes)
    labels = {name: ", ".join(of) for name, (_, of) in classes.items()}
    if ensemble and len(set(labels.values())) > 1:
        got = "; ".join(f"{name}: {of or 'no names'}" for name, of in labels.items())
        fix = "Average only segmenters of the same classes."
        raise invalid(SettingError, "--ensemble", must="have models of the same classes", got=got, fix=fix)


def _classes_of(model: Any) -> tuple[int | None, tuple[str, ...]]:
    """Return number and names of a model's classes; of maps the channels of the first one."""
    if isinstance(model, list):
        try:
            return lazy.evaluate.classes_of_map(model[0]), ()
        except TiledSegError:  # its scoring says why
            return None, ()
    network = lazy.engine.Network.of(model)
    return network.classes or len(network.labels), network.labels


def _check(model: str, settings: Settings, config: EvaluateJobConfig) -> None:
    """Check a model's path and tiling before anything is loaded."""
    if not model.startswith(_MAPS):
        check_model(model, trust=config.trust)
        check_tiling(model, settings, config.tiling)


def _names(models: tuple[str, ...], config: EvaluateJobConfig) -> list[str]:
    """Name each after its folder, or after its path if several folders have the same name."""
    twice = [one for one in models if models.count(one) > 1]
    if twice:
        fix = "Leave it out of --against."
        raise invalid(SettingError, "--against", must="name other models", got=twice[0], fix=fix)
    if config.ensemble and (len(models) < 2 or any(one.startswith(_MAPS) for one in models)):
        must, fix = "have two models or more, and no maps", "Add --against with other bundles."
        raise invalid(SettingError, "--ensemble", must=must, got=", ".join(models), fix=fix)
    short = [*map(_name, models), *([_ENSEMBLE] if config.ensemble else [])]
    named = [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=False)]
    return named + short[len(models) :]


def _name(model: str) -> str:
    """Name a model after its folder; the best one of a training after the run's folder."""
    path = Path(model)
    return f"{path.parent.name}/best" if path.name == "best" and path.parent.name else path.name


def _test_pairs(settings: Settings) -> list[Pair]:
    given, config = settings.given.get("test_data", {}), settings.over(settings.run.test_data, "test_data")
    if "test_data" not in settings.run.model_fields_set and config.layout == "folders":
        for name in ("images", "masks"):
            if name not in given:
                raise invalid(
                    SettingError,
                    f"--{name}",
                    must="be given",
                    got="nothing",
                    fix="Give the folder, or the table test_data in the file of --config.",
                )
    return lazy.data.pairs_of(config)


def _valid_pairs(settings: Settings, config: EvaluateConfig) -> list[Pair] | None:
    known = "valid_data" in settings.run.model_fields_set or "valid_data" in settings.given
    if config.threshold != "valid":
        if "valid_data" in settings.given:
            raise invalid(
                SettingError,
                "--threshold",
                must="be valid if validation data is given",
                got=config.threshold,
                fix="Add --threshold valid, or leave the validation data out.",
            )
        return None
    if not known:
        raise invalid(
            SettingError,
            "--valid-images",
            must="be given with --threshold valid",
            got="nothing",
            fix="Give validation images and masks, or state a threshold.",
        )
    return pairs_in(settings, "valid_data")
