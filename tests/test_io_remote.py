"""Images at an address: read by ranges of bytes, from servers on the loopback address."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from xml.sax.saxutils import escape

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

import tiledseg as ts
from tiledseg.cli import main
from tiledseg.config import DataConfig, PreprocessingConfig
from tiledseg.data import Pair, describe, load_pair, pairs_of, prepare_pairs
from tiledseg.errors import FileError, SettingError
from tiledseg.io import (
    PixelSize,
    find_images,
    image_shape,
    open_image,
    read_image,
    read_mask,
    remote,
    write_mask,
)

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
zarr = pytest.importorskip("zarr")

rng = np.random.default_rng(0)
SCAN = rng.integers(0, 256, (1024, 1280, 3), np.uint8)
GREY = rng.integers(0, 256, (90, 120), np.uint8)


class Handler(BaseHTTPRequestHandler):
    """A web server of a folder: with ranges of bytes, without them, or with the replies of S3."""

    folder: ClassVar[Path]
    ranges: ClassVar[bool]
    sent: ClassVar[int]
    paths: ClassVar[list[str]]
    failing: ClassVar[int]

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body=True) -> None:
        path, _, query = self.path.partition("?")
        file = type(self).folder / path.strip("/")
        type(self).paths.append(path)
        if "list-type" in query:
            return self._list(query)
        if type(self).failing and body:
            type(self).failing -= 1
            return self._reply(503, b"", {})
        if not file.is_file():
            return self._reply(404, b"", {})
        data, status, headers = file.read_bytes(), 200, {"ETag": f'"{file.stat().st_mtime_ns}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and type(self).ranges:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        return self._reply(status, data, headers, body=body)

    def _list(self, query):
        prefix = re.search(r"prefix=([^&]*)", query)[1].replace("%2F", "/")
        bucket = type(self).folder / self.path.partition("?")[0].strip("/")
        keys = [one.relative_to(bucket).as_posix() for one in sorted(bucket.rglob("*")) if one.is_file()]
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>"
            for key in keys
            if key.startswith(prefix)
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return self._reply(200, text.encode(), {"Content-Type": "application/xml"})

    def _reply(self, status, data, headers, *, body=True):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            type(self).sent += len(data)
            with contextlib.suppress(ConnectionError):  # the client has read enough
                self.wfile.write(data)


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(*, ranges=True):
        state = {"folder": tmp_path, "ranges": ranges, "sent": 0, "paths": [], "failing": 0}
        kind = type("Served", (Handler,), state)
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", kind

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def tiff(tmp_path):
    path = tmp_path / "scan.tif"
    options = {"photometric": "rgb", "tile": (128, 128), "metadata": None, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(SCAN, subifds=1, resolution=(20000, 20000), **options)
        writer.write(SCAN[::2, ::2], subfiletype=1, **options)
    return path


@pytest.fixture
def bucket(serve, monkeypatch):
    pytest.importorskip("s3fs")
    address, kind = serve()
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": address})  # a variable would be read once
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return "s3:/", kind


def test_a_region_of_a_tiff_is_fetched_and_not_the_file(serve, tiff):
    address, server = serve()
    with open_image(f"{address}/scan.tif") as image:
        assert (image.shape, image.pixel_size) == (SCAN.shape, PixelSize(0.5, 0.5))
        assert image.levels == ((1024, 1280), (512, 640))
        np.testing.assert_array_equal(image[500:600, 300:400], SCAN[500:600, 300:400])
        image.check_unchanged()
    assert server.sent < tiff.stat().st_size / 3
    with open_image(f"{address}/scan.tif", level=1) as image:
        np.testing.assert_array_equal(np.asarray(image), SCAN[::2, ::2])
    assert image_shape(f"{address}/scan.tif") == SCAN.shape
    np.testing.assert_array_equal(read_image(f"{address}/scan.tif"), SCAN)


def test_a_tiff_in_a_bucket_is_read_by_region(bucket, tiff):
    address, server = bucket
    (tiff.parent / "lab").mkdir()
    tiff.rename(tiff.parent / "lab" / "scan.tif")
    with open_image(f"{address}/lab/scan.tif") as image:
        np.testing.assert_array_equal(image[500:600, 300:400], SCAN[500:600, 300:400])
    assert 0 < server.sent < SCAN.nbytes / 3


def ome_zarr(path, image):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    datasets = []
    for level in (0, 1):
        px = image[:: 2**level, :: 2**level]
        group.create_array(str(level), data=px, chunks=(128, 128), dimension_names=("y", "x"))
        steps = [{"type": "scale", "scale": [0.5 * 2**level] * 2}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


@pytest.mark.parametrize("kind", ["https", "s3"])
def test_chunks_of_a_zarr_are_fetched_as_they_are_needed(kind, request, serve, tmp_path):
    address, server = request.getfixturevalue("bucket") if kind == "s3" else serve()
    (tmp_path / "lab").mkdir()
    image = SCAN[:512, :640, 0].copy()
    ome_zarr(tmp_path / "lab" / "scan.ome.zarr", image)
    with open_image(f"{address}/lab/scan.ome.zarr") as found:
        assert (found.levels, found.pixel_size) == (((512, 640), (256, 320)), PixelSize(0.5, 0.5))
        np.testing.assert_array_equal(found[130:250, 10:100], image[130:250, 10:100])
    assert len({path for path in server.paths if "/c/" in path}) == 1
    with open_image(f"{address}/lab/scan.ome.zarr/1") as found:
        np.testing.assert_array_equal(np.asarray(found), image[::2, ::2])


def test_a_zarr_without_the_suffix_is_found_by_its_metadata(serve, tmp_path):
    address, _ = serve()
    ome_zarr(tmp_path / "scan", GREY)
    np.testing.assert_array_equal(read_image(f"{address}/scan"), GREY)


def test_png_and_masks_are_read_whole(serve, tmp_path):
    address, _ = serve()
    cv2.imwrite(str(tmp_path / "a.png"), GREY)
    np.testing.assert_array_equal(read_image(f"{address}/a.png"), GREY)
    np.testing.assert_array_equal(read_mask(f"{address}/a.png", 128), GREY >= 128)
    np.save(tmp_path / "a.npy", GREY)
    np.testing.assert_array_equal(read_image(f"{address}/a.npy?token=secret"), GREY)


def test_a_remote_image_that_is_turned_unlike_its_mask_is_told(serve, tmp_path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    write_mask(tmp_path / "m.png", GREY > 99)
    address, _ = serve()
    ts.Evaluator().evaluate(lambda tiles: tiles / 255, [(f"{address}/a.png", f"{address}/m.png")])
    assert "Image and mask of a state different orientations" in caplog.text


def test_a_remote_image_is_predicted(serve, tiff, tmp_path):
    address, _ = serve()

    def network(tiles):
        return tiles[..., :1] / 255

    np.testing.assert_array_equal(
        ts.tiled_predict(network, f"{address}/scan.tif"), ts.tiled_predict(network, SCAN)
    )
    result = ts.predict_files(network, f"{address}/scan.tif", tmp_path / "out")
    assert not result.failed
    np.testing.assert_array_equal(
        read_mask(tmp_path / "out" / "masks" / "scan.png"), SCAN[..., 0] / np.float32(255) >= 0.5
    )
    assert [str(path) for path in find_images(f"{address}/scan.tif?a=b")] == [f"{address}/scan.tif?a=b"]


def test_commands_and_tables_take_addresses(serve, tiff, tmp_path, capsys):
    address, _ = serve()
    small = SCAN[:256, :256].copy()
    tifffile.imwrite(tmp_path / "a.tif", small, photometric="rgb")
    assert main(["predict", "demo", f"{address}/a.tif", "--output", str(tmp_path / "out"), "--quiet"]) == 0
    assert read_mask(tmp_path / "out" / "masks" / "a.png").shape == (256, 256)
    (tmp_path / "t.csv").write_text(f"image,mask\n{address}/a.tif,{address}/out/masks/a.png\n")
    (pair,) = pairs_of(DataConfig(layout="list", path=str(tmp_path / "t.csv")))
    assert pair.name == "a"
    np.testing.assert_array_equal(load_pair(pair)[0], small)


@pytest.mark.parametrize("kind", ["https", "s3"])
def test_pairs_at_an_address_are_prepared_for_training_and_no_manifest_is_made_of_them(
    kind, request, serve, tmp_path
):
    (tmp_path / "lab").mkdir()
    cv2.imwrite(str(tmp_path / "lab" / "a.png"), GREY)
    cv2.imwrite(str(tmp_path / "lab" / "m.png"), np.where(GREY > 99, 255, 0).astype(np.uint8))
    address, _ = request.getfixturevalue("bucket") if kind == "s3" else serve()
    pair = Pair("a", f"{address}/lab/a.png", f"{address}/lab/m.png")
    preprocessing = PreprocessingConfig(channels=1)
    (prepared,) = prepare_pairs([pair], preprocessing, cache_dir=tmp_path / "cache")
    (again,) = prepare_pairs([pair], preprocessing, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(prepared.mask, GREY > 99)
    np.testing.assert_array_equal(again.mask, prepared.mask)
    with pytest.raises(FileError, match="layout=list"):
        describe([pair], tmp_path)
    plans = [
        ts.plan(lambda tiles: tiles, GREY, roi=where) for where in (pair.mask, tmp_path / "lab" / "m.png")
    ]
    np.testing.assert_array_equal(plans[0].in_roi, plans[1].in_roi)


def test_a_server_without_ranges_gives_small_files_only(serve, tiff, monkeypatch):
    address, server = serve(ranges=False)
    np.testing.assert_array_equal(read_image(f"{address}/scan.tif"), SCAN)
    monkeypatch.setattr(remote, "_MOST_WITHOUT_RANGES", 1 << 20)
    server.sent = 0
    with pytest.raises(FileError, match=r"supports ranges of bytes; got \d+ bytes .*Download it"):
        open_image(f"{address}/scan.tif")


def test_errors_name_the_address_without_its_signature(serve, tiff, tmp_path):
    address, server = serve()
    for read in (open_image, read_image, image_shape):
        with pytest.raises(FileError, match=r"/gone\.tif` must exist; got nothing there") as error:
            read(f"{address}/gone.tif?X-Amz-Signature=secret")
        assert "secret" not in str(error.value)
    (tmp_path / "a.tif").write_bytes(b"II*\0 no TIFF")
    with pytest.raises(FileError, match=r"/a\.tif` must be a whole, undamaged image"):
        open_image(f"{address}/a.tif?X-Amz-Signature=secret")
    with pytest.raises(FileError, match="zarr"):
        open_image(f"{address}/gone.zarr")
    with pytest.raises(FileError, match=r"pathlib.Path turns // into /"):
        open_image(Path(f"{address}/scan.tif"))
    with pytest.raises(FileError, match="Leave file:// out"):
        open_image(f"file://{tiff}")
    with pytest.raises(FileError, match=r"be an address; got .*https://, s3://"):
        open_image("nonsense://a/b.tif")
    with open_image(f"{address}/scan.tif") as image:
        server.failing = 2  # a server that is busy is asked again
        np.testing.assert_array_equal(image[500:600, 300:400], SCAN[500:600, 300:400])
        server.failing = 10
        with pytest.raises(FileError, match=r"be readable; got .*503"):
            image[0:1024, 0:1280]


def test_a_file_that_changes_on_the_server_is_noticed(serve, tiff, tmp_path):
    address, _ = serve()
    with open_image(f"{address}/scan.tif") as image:
        tifffile.imwrite(tiff, GREY)
        with pytest.raises(FileError, match="changed while it was read"):
            image.check_unchanged()


def test_a_remote_file_beyond_the_limit_is_refused_before_it_is_fetched(serve, tiff):
    address, server = serve()
    with pytest.raises(FileError, match="max_pixels=100"):
        open_image(f"{address}/scan.tif", max_pixels=100)
    assert server.sent < 1 << 19


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SettingError, match=re.escape('pip install "tiledseg[remote]"')):
        open_image("https://127.0.0.1:1/a.tif")
