"""A web service that finds cells in an image of any size.

    pip install tiledseg fastapi uvicorn
    TILEDSEG_MODEL=demo uvicorn app:app        # in this folder; http://127.0.0.1:8000/docs describes it
    curl --data-binary @smear.png "http://127.0.0.1:8000/segment?format=geojson" --output cells.geojson

The upload is streamed to disk, and refused as soon as it is too large. One network serves all requests:
each runs in a thread, the calls of the network take turns, and reading and measuring go on beside them.
When too many requests wait, the service says so (503). A client that hangs up cancels its request.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

import tiledseg as ts
from tiledseg.errors import CancelledError, FileError
from tiledseg.export import write_geojson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL = os.environ.get("TILEDSEG_MODEL", "demo")
MAX_BYTES = int(os.environ.get("TILEDSEG_MAX_BYTES", "500_000_000"))  # of an upload
MAX_PIXELS = int(os.environ.get("TILEDSEG_MAX_PIXELS", "100_000_000"))  # that an image declares
AT_ONCE = int(os.environ.get("TILEDSEG_AT_ONCE", "4"))  # requests in work; their labels need memory
WAITING = int(os.environ.get("TILEDSEG_WAITING", "16"))  # requests that may wait for one of those

Format = Literal["json", "geojson", "csv"]
TYPES: dict[Format, str] = {"json": "application/json", "geojson": "application/geo+json", "csv": "text/csv"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the network, and run it once: a fault of the model is seen at the start."""
    app.state.segmenter = ts.load_model(MODEL)
    channels = app.state.segmenter.architecture.input_shape[-1]
    await asyncio.to_thread(ts.segment, app.state.segmenter, np.zeros((64, 64, channels), np.uint8))
    app.state.places, app.state.present = asyncio.Semaphore(AT_ONCE), 0
    yield


app = FastAPI(title="Cells", version=ts.__version__, lifespan=lifespan)


@app.get("/health")
async def health(request: Request) -> dict[str, object]:
    """Say that the service is alive, which network it has, and how busy it is."""
    state = request.app.state
    return {
        "status": "ok",
        "model": state.segmenter.facts(),
        "requests": state.present,
        "version": ts.__version__,
    }


@app.post("/segment")
async def segment(request: Request, format: Format = "json", min_area: float = 30) -> Response:  # noqa: A002
    """Find the cells of the image that is the body of the request: PNG, JPEG, TIFF or OME-TIFF."""
    state = request.app.state
    if state.present >= AT_ONCE + WAITING:
        raise HTTPException(503, "Too many requests wait. Try again later.", {"Retry-After": "10"})
    state.present += 1
    try:
        with tempfile.TemporaryDirectory(prefix="cells-") as folder:
            path = Path(folder, "upload")
            await receive(request, path)
            async with state.places:
                return await answer(request, path, format, min_area)
    finally:
        state.present -= 1


async def receive(request: Request, path: Path) -> None:
    """Write the body to a file, part by part."""
    size = 0
    with path.open("wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BYTES:
                raise HTTPException(413, f"An image may have {MAX_BYTES} bytes at most.")
            await asyncio.to_thread(file.write, part)
    if size == 0:
        raise HTTPException(400, "The body of the request is empty. Send the bytes of an image file.")


async def answer(request: Request, path: Path, form: Format, min_area: float) -> Response:
    """Segment in a thread, and stop where the client has gone."""
    gone = Event()
    watch = asyncio.create_task(watch_client(request, gone))
    try:
        content = await asyncio.to_thread(work, request.app.state.segmenter, path, form, min_area, gone)
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
    return Response(content, media_type=TYPES[form])


async def watch_client(request: Request, gone: Event) -> None:
    """Set an event when the client hangs up."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
    gone.set()


def work(segmenter: ts.Segmenter, path: Path, form: Format, min_area: float, gone: Event) -> bytes:
    """Open the file, whose size is limited, and find its cells; in a thread."""
    with ts.open_image(path, max_pixels=MAX_PIXELS) as image:
        result = ts.segment(
            segmenter, image, objects={"min_area": min_area}, callback=lambda *_: not gone.is_set()
        )
    if form == "json":
        return JSONResponse({"counts": result.counts(), "shape": list(result.plan.shape)}).body
    target = path.with_suffix(f".{form}")
    if form == "geojson":
        write_geojson(target, result.objects, names=result.classes)
    else:
        result.objects.write_table(target)
    return target.read_bytes()


@app.exception_handler(ts.TiledSegError)
async def refuse(_request: Request, error: Exception) -> JSONResponse:
    """Tell the sender what is wrong with the image or the option; the text is made for people."""
    status = 499 if isinstance(error, CancelledError) else 415 if isinstance(error, FileError) else 422
    return JSONResponse({"detail": str(error)}, status_code=status)
