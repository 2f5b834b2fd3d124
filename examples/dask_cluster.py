"""A folder of images over a Dask cluster.

    pip install "tiledseg[dask]"
    python dask_cluster.py images/ results/ --model demo                     # workers on this machine
    python dask_cluster.py images/ results/ --scheduler tcp://node1:8786     # an existing cluster

All workers must find images, results and model under the same paths. Only the path and the digest of the
model are sent; each worker loads it once. A worker that is killed costs only time: its image is given to
another one. Run it again to go on after an interruption: what is written already is skipped.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

from dask.distributed import Client, LocalCluster

import tiledseg as ts
from tiledseg.models import BundleReference


def main() -> int:
    """Segment the folder; return 1 where an image failed, so that a batch system sees it."""
    options = parsed()
    model = BundleReference.of(options.model)
    settings = ts.PredictConfig(write=("mask", "objects", "geojson"), existing="skip")
    with ExitStack() as stack:
        cluster = options.scheduler
        if cluster is None:
            # one thread each: a process calls a network one call at a time, on several cores by itself
            local = LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=None)
            cluster = stack.enter_context(local)
        client = stack.enter_context(Client(cluster))
        done = ts.predict_files(model, options.images, options.results, settings, client=client)
    print(done)
    return 1 if done.failed else 0


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("results", help="a folder; it may hold results of an earlier run")
    parser.add_argument("--model", default="demo", help="a bundle's folder, or the name of a model")
    parser.add_argument("--scheduler", help="address of a scheduler; workers on this machine without it")
    parser.add_argument("--workers", type=int, default=2, help="how many, on this machine")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
