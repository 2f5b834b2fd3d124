"""Files spread over the workers of a Dask cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from tiledseg._extras import extra
from tiledseg._validate import instance_of, invalid, shown
from tiledseg.engine import ModelReference, SegmenterLike
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["check_client", "spread"]

_Result = TypeVar("_Result")


def check_client(client: object, model: object) -> None:
    """Check that a client is Dask's, and that a model can be sent to its workers."""
    kind: type[object] = extra("distributed", "dask").Client
    instance_of(kind, client, "client", "Pass distributed.Client(...), or leave it out.")
    if isinstance(model, SegmenterLike) or not (callable(model) or isinstance(model, ModelReference)):
        raise invalid(
            SettingError,
            "model",
            must="be a BundleReference or a callable with `client`",
            got=type(model).__name__,
            fix="Save it, and pass tiledseg.models.BundleReference.of(folder).",
        )


def spread(
    client: Any,  # noqa: ANN401  Dask has no types
    run: Callable[..., _Result],
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    shared: object,
) -> Iterator[tuple[int, _Result | str]]:
    """Run a function once for each job, on whichever worker is free.

    A job whose worker dies is run again elsewhere; one that has killed several workers is given
    up, and its name comes back with the reason.
    """
    distributed = extra("distributed", "dask")
    token = extra("dask.base", "dask").tokenize(object())
    # a task, not scattered data: that is lost for good with the last worker that holds it
    sent = client.submit(_itself, shared, key=f"tiledseg-model-{token}", pure=False)
    futures = {
        client.submit(run, sent, *arguments, key=f"tiledseg-file-{place}-{name}-{token}", pure=False): place
        for place, (name, arguments) in enumerate(jobs)
    }
    try:
        for future in distributed.as_completed(futures):
            if future.status == "finished":
                yield futures[future], future.result()
            else:
                yield futures[future], _reason(future)
            future.release()
    finally:
        client.cancel(list(futures))


def _itself(shared: object) -> object:
    return shared


def _reason(future: Any) -> str:  # noqa: ANN401
    if future.status == "cancelled":
        return "The cluster cancelled it."
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return f"It killed the workers that tried it, or they were killed under it: {shown(str(error))}"
    return f"{type(error).__name__}: {error}"
