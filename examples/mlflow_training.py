"""A training that MLflow records, through the callback that MLflow itself has for Keras.

    pip install tiledseg mlflow
    python mlflow_training.py --epochs 3
    mlflow ui --backend-store-uri sqlite:///mlflow.db        # http://127.0.0.1:5000

The run has the settings, the loss and the scores of each epoch, the scores on images that were not
trained on, and the bundle, which `ts.load_model` reads again after
``mlflow artifacts download --run-id RUN --artifact-path bundle``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import mlflow
from mlflow.keras import MlflowCallback

import tiledseg as ts
from tiledseg.samples import smear


def main() -> None:
    """Train on generated smears; put your own pairs of image and mask in their place."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--tracking", default="sqlite:///mlflow.db", help="where MLflow keeps its runs")
    options = parser.parse_args()
    pairs = [(one.image, one.mask) for one in (smear(256, 320, seed=seed) for seed in range(10))]
    mlflow.set_tracking_uri(options.tracking)
    mlflow.set_experiment("cells")
    with tempfile.TemporaryDirectory() as runs, mlflow.start_run() as run:
        settings = ts.TrainConfig(
            network={"name": "unet", "input_shape": (None, None, 3), "levels": 3, "base_filters": 8},
            crop_size=128,
            epochs=options.epochs,
            labels=("plasma cell",),
            runs_dir=runs,
        )
        mlflow.log_dict(settings.model_dump(mode="json"), "settings.json")
        trained = ts.Trainer(settings).fit(pairs[:6], pairs[6:8], callbacks=[MlflowCallback(run)])
        scores = ts.Evaluator().evaluate(trained.segmenter, pairs[8:])
        mlflow.log_metrics({f"test_{name}": value for name, value in scores.summary().items()})
        bundle = trained.segmenter.save(Path(runs, "bundle"))
        mlflow.log_artifacts(str(bundle), "bundle")
        print(run.info.run_id)


if __name__ == "__main__":
    main()
