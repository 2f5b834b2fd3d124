"""Everything once, on made-up images: train, segment what was never seen, score, report."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tiledseg
from tiledseg._checks import broken
from tiledseg._progress import progress_bar
from tiledseg.config import PreprocessingConfig, TilingConfig, TrainConfig, UNetConfig
from tiledseg.data import Pair
from tiledseg.errors import FileError, SettingError
from tiledseg.evaluate import Evaluator
from tiledseg.io import check_writable, write_image, write_mask, write_text
from tiledseg.render import error_overlay, overlay
from tiledseg.report import picture_row, write_report
from tiledseg.samples import smear

if TYPE_CHECKING:
    from tiledseg._types import PathLike
    from tiledseg.evaluate import EvaluationResult, ScoredImage
    from tiledseg.models import Segmenter
    from tiledseg.train import TrainingResult

__all__ = ["DemoResult", "prepare_folder", "run_demo"]

_log = logging.getLogger("tiledseg")
_MARKER = ".tiledseg-demo"
_FIELD = (1024, 1280)  # of a training image, at the magnification of the whole smear
_CELL_PX = (250.0, 400.0)
_SEEDS_APART = 1000


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a demo came to; ``print`` shows it.

    Attributes
    ----------
    dice : float
        Of the smear that was held out, in [0, 1].
    seconds : float
        Time of the whole demo.
    predict_seconds : float
        Time of segmenting the smear.
    shape : tuple of int
        Height and width of the smear in px.
    folder : Path
        Where everything was written.
    """

    dice: float
    seconds: float
    predict_seconds: float
    shape: tuple[int, int]
    folder: Path

    def __str__(self) -> str:
        height, width = self.shape
        return (
            f"Dice {self.dice:.3f} on a smear of {height} x {width} px that was held out\n"
            f"{self.predict_seconds:.1f} s to segment it, {self.seconds:.0f} s in all\n"
            f"Open {self.folder / 'report.html'}"
        )


def run_demo(  # noqa: PLR0913  what makes a demo smaller
    output: PathLike = "demo",
    *,
    seed: int = 0,
    height: int = 1920,
    width: int = 2560,
    n_images: int = 24,
    epochs: int = 8,
    progress: bool = True,
) -> DemoResult:
    """Train a small network on made-up smears, and segment a large one that it never saw.

    No image is downloaded. The smear that is segmented and those that train differ in stain,
    light, crowding and every cell. Written are ``input.png``, ``mask.png``, ``truth.png``,
    ``overlay.png``, ``agreement.png``, ``report.html`` and the bundle ``bundle/``.

    Parameters
    ----------
    output : path
        Folder to write to: one that is new, empty, or an earlier demo's, whose files are replaced.
    seed : int
        Of images and training, from 0.
    height, width : int
        Size of the smear that is segmented, in px, each at least 64.
    n_images : int
        Training images, at least 4; a quarter as many again choose the best epoch.
    epochs : int
        Passes over them, at least 1.
    progress : bool
        Whether to show progress.

    Returns
    -------
    DemoResult
        Dice and times.

    Raises
    ------
    FileError
        If the folder holds something else than an earlier demo, or cannot be written.
    SettingError
        If a number is out of its range.
    """
    started = time.perf_counter()
    if n_images < 4:
        raise broken(SettingError, "n_images", must="be at least 4", got=n_images, fix="Use 4 or more.")
    folder = prepare_folder(output)
    trained = _trained(seed, n_images, epochs, progress=progress)
    _log.info("segmenting a smear that was held out")
    held_out = smear(height, width, seed=seed * _SEEDS_APART, cell_px=_CELL_PX)
    scored: list[ScoredImage] = []
    pair = Pair("held-out smear", held_out.image, held_out.mask)
    result = Evaluator().evaluate(trained.segmenter, [pair], callback=scored.append)
    _write(folder, trained, scored[0], result)
    scores = scored[0].scores
    return DemoResult(scores.dice, time.perf_counter() - started, scores.seconds, (height, width), folder)


def prepare_folder(output: PathLike) -> Path:
    """Make the folder of a demo, or take that of an earlier one; nothing else is ever touched.

    Parameters
    ----------
    output : path
        The folder.

    Returns
    -------
    Path
        The folder, which now exists and is marked as a demo's.

    Raises
    ------
    FileError
        If it holds something else than an earlier demo, or cannot be written.
    """
    folder = Path(output)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARKER).is_file():
        raise broken(
            FileError,
            str(folder),
            must="be new, empty or an earlier demo's",
            got="a folder with other files",
            fix="Name another output folder.",
        )
    check_writable(folder)
    write_text(folder / _MARKER, "A demo of tiledseg; another one may replace its files.\n")
    return folder


def _trained(seed: int, n_images: int, epochs: int, *, progress: bool) -> TrainingResult:
    n_unseen = n_images // 4
    pairs = []
    _log.info("making %d images to train on, %d to choose the best epoch by", n_images, n_unseen)
    with progress_bar(n_images + n_unseen, "images", shown=progress) as advance:
        for number in range(1, n_images + n_unseen + 1):
            one = smear(*_FIELD, seed=seed * _SEEDS_APART + number, cell_px=_CELL_PX)
            pairs.append(Pair(f"smear {number}", one.image, one.mask))
            advance(1)
    with tempfile.TemporaryDirectory() as runs:
        config = _settings(seed, epochs, runs)
        _log.info("training")
        return tiledseg.Trainer(config).fit(pairs[:n_images], pairs[n_images:], progress=progress)


def _settings(seed: int, epochs: int, runs_dir: str) -> TrainConfig:
    """Choose what two cores train in a minute: an eighth of the size, for context says more than pixels."""
    return TrainConfig(
        # Without normalisation it trained in half the time that group normalisation took, and no worse.
        network=UNetConfig(
            input_shape=(None, None, 3), levels=4, base_filters=8, base_kernel=3, norm="none", dropout=0.0
        ),
        preprocessing=PreprocessingConfig(scale=0.125, mean=(0.6,), std=(0.2,)),
        crop_size=128,
        augment="flips",  # a minute is too short to learn more
        tiling=TilingConfig(tile_size=128, overlap=0.5),
        batch_size=8,
        steps_per_epoch=24,
        epochs=epochs,
        learning_rate=2e-3,
        patience=None,
        labels=("plasma cell",),
        seed=seed,
        runs_dir=runs_dir,
    )


def _write(folder: Path, trained: TrainingResult, scored: ScoredImage, result: EvaluationResult) -> None:
    segmenter: Segmenter = trained.segmenter
    write_image(folder / "input.png", scored.image)
    write_mask(folder / "mask.png", scored.predicted)
    write_mask(folder / "truth.png", scored.truth)
    write_image(folder / "overlay.png", overlay(scored.image, scored.predicted))
    write_image(folder / "agreement.png", error_overlay(scored.image, scored.predicted, scored.truth))
    segmenter.save(folder / "bundle", overwrite=True)
    write_report(
        folder / "report.html",
        title="tiledseg demo",
        result=result,
        pictures=[picture_row(scored)],
        facts=_facts(trained, scored.image.shape),
    )


def _facts(trained: TrainingResult, shape: tuple[int, ...]) -> dict[str, str]:
    segmenter = trained.segmenter
    plan = tiledseg.plan(segmenter, shape)
    stride, weights = segmenter.architecture.stride, segmenter.network.count_params()
    (height, width), tiling = plan.grid.shape, plan.tiling
    n_images = segmenter.provenance["train_images"]
    return {
        "Network": f"U-Net, total stride {stride} px, {weights:,} weights",
        "Trained on": f"{n_images} made-up smears; stain, light and cells differ from those shown",
        "Epochs": f"{len(trained.history['epoch'])}, the best {trained.best_epoch}",
        "Scale": f"{plan.scale:g}: the network sees {height} x {width} px",
        "Tiles": f"{tiling.tile_shape[0]} px, overlap {tiling.overlap_px[0]} px, {tiling.blend}",
    }
