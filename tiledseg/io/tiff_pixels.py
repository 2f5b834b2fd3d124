"""The pixels of TIFF pages: decoded by tile or strip, and converted to what their samples mean.

Samples are grey, colours, labels, further channels or alpha.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiledseg.io.file import check_opaque, rgb_of_cmyk, two_ways
from tiledseg.io.jpeg import decoded_block
from tiledseg.io.regions import RawRows, picked
from tiledseg.io.tiff_checks import EMPTY

if TYPE_CHECKING:
    import tifffile

    from tiledseg._types import AnyArray
    from tiledseg.io.file import Alpha, Reader, Request

_PHOTOMETRIC, _INK_SET = 262, 332
_CMYK, _INKS = 1, 4
_BYTE = 8
_JPEGS, _FAX = {6, 7}, {2, 3, 4, 32771}
_MODEL_FREE = _FAX | {1, 5, 8, 32773, 32946, 34925, 50000}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR, _CIELAB, _ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
_LEAST = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _SEPARATED: 4}  # samples per px
_LABS = {_CIELAB: (8, 16), _ICCLAB: (8,)}  # bits of a sample
_NAMES = {2: "RGB", 4: "a transparency mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab"}
_NAMES |= {32803: "raw sensor data"}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_APERIO_YCBCR = 33003  # JPEG 2000 without its own conversion
_AS_IN_JPEG = {529: (0.299, 0.587, 0.114), 532: (0, 255, 128, 255, 128, 255)}  # tags of YCbCr
_WHITE = np.array([0.9642, 1.0, 0.8251], np.float32)  # XYZ of D50
_FROM_XYZ = np.array(  # of D50, adapted to sRGB by Bradford's transform (IEC 61966-2-1, ICC.1:2022)
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ],
    np.float32,
)
_FROM_YCBCR = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)  # as in JPEG
_LARGEST_BLOCK = 2**30
_UNCHECKED: dict[Alpha, Alpha] = {"refuse": "drop", "drop": "drop", "keep": "keep"}
_JPEG, _JPEG_2000 = {7, 33007}, {33003, 33004, 33005, 34712}  # compressions
_END = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Colours:
    """How the samples of a page are to be understood."""

    file: Reader
    request: Request
    model: Literal["plain", "inverted", "cmyk", "ycbcr", "cielab", "icclab"]
    samples: int  # per px, those of colour; alpha not counted
    alpha: bool  # whether one more sample follows
    bits: int  # of a sample
    spread: bool  # whether samples of few bits are spread over 0 to 255
    palette: AnyArray | None = None  # uint8 (n, 3), or (n,) where it is grey

    @property
    def is_plain(self) -> bool:
        """Whether samples are the pixels, with nothing to convert or to leave out."""
        return self.model == "plain" and self.palette is None and not self.alpha

    @property
    def form(self) -> tuple[object, ...]:
        """What must be equal in pages that hold the channels of one image."""
        palette = None if self.palette is None else self.palette.tobytes()
        return self.model, self.samples, self.alpha, self.bits, palette

    @property
    def channels(self) -> int:
        """Channels of the pixels."""
        kept = self.alpha and self.request.alpha == "keep"
        if self.palette is not None:
            return kept + (3 if self.palette.ndim == 2 else 1)
        return kept + (3 if self.model == "cmyk" else self.samples)

    def pixels(self, samples: AnyArray) -> AnyArray:
        """Turn samples (h, w, s) into (h, w) or (h, w, c)."""
        self._check_bits(samples)
        shown, alpha = self._shown(samples[..., : self.samples]), samples[..., self.samples :]
        if self.alpha and self.request.alpha == "keep":
            shown = np.concatenate([shown, self._widened(alpha).astype(shown.dtype, copy=False)], axis=-1)
        elif self.alpha:
            check_opaque(self.file, alpha, self.request.alpha, self.bits, kept=not self.request.is_mask)
        if shown.shape[2] == 1:
            shown = shown[..., 0]
        dtype = np.dtype(np.float32) if shown.dtype == np.float16 else shown.dtype.newbyteorder("=")
        return np.ascontiguousarray(shown, dtype)

    def _check_bits(self, samples: AnyArray) -> None:
        """Refuse values of more bits than are declared, as a codec of whole bytes may give."""
        few = samples.dtype.kind == "u" and self.bits < 8 * samples.dtype.itemsize
        if few and (found := int(samples.max(initial=0))) >= 2**self.bits:
            raise self.file.damaged(f"the value {found} in samples of {self.bits} bits")

    def _shown(self, samples: AnyArray) -> AnyArray:
        if self.palette is not None:
            return self._coloured(self.palette, samples[..., 0])
        if self.model == "inverted" and samples.dtype.kind != "f":  # each of several samples, as Bio-Formats
            samples = self._inverted(samples)
        samples = self._widened(samples)
        if self.model == "ycbcr":
            return _rgb_of_ycbcr(samples)
        if self.model in {"cielab", "icclab"}:
            return _rgb_of_lab(samples, signed=self.model == "cielab")
        return rgb_of_cmyk(samples, max(self.bits, _BYTE)) if self.model == "cmyk" else samples

    def _inverted(self, samples: AnyArray) -> AnyArray:
        if samples.dtype.kind == "b" or self.bits >= 8 * samples.dtype.itemsize:
            inverted: AnyArray = ~samples
        else:
            inverted = np.subtract(2**self.bits - 1, samples, dtype=samples.dtype)
        return inverted

    def _widened(self, samples: AnyArray) -> AnyArray:
        if self.bits >= _BYTE:
            return samples
        values, most = samples.astype(np.uint8), 2**self.bits - 1
        if not self.spread:
            return values
        spread = (np.arange(most + 1) * 255 + most // 2) // most
        return np.take(spread.astype(np.uint8), values)

    def _coloured(self, palette: AnyArray, indices: AnyArray) -> AnyArray:
        if len(palette) <= int(indices.max()):
            raise self.file.damaged("a palette that is too short")
        found: AnyArray = np.take(palette, indices.astype(np.intp), axis=0)
        return found.reshape(*indices.shape, -1)


def _rgb_of_ycbcr(samples: AnyArray) -> AnyArray:
    values = samples.astype(np.float32) - np.array([0, 128, 128], np.float32)
    colours: AnyArray = np.rint(values @ _FROM_YCBCR.T)
    return colours.clip(0, 255).astype(np.uint8)


def _rgb_of_lab(samples: AnyArray, *, signed: bool) -> AnyArray:
    """Convert L*a*b* of D50 to sRGB; a and b are stored as signed numbers, or with an offset."""
    most, unit = np.iinfo(samples.dtype).max, 2 ** (8 * samples.dtype.itemsize - _BYTE)
    sides = samples[..., 1:].view(samples.dtype.str.replace("u", "i")) if signed else samples[..., 1:]
    a, b = np.moveaxis(sides.astype(np.float32) / unit - (0 if signed else 128), -1, 0)
    y = (samples[..., 0].astype(np.float32) * (100 / most) + 16) / 116
    roots = np.stack([y + a / 500, y, y - b / 200], axis=-1)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * (3 * (6 / 29) ** 2)) * _WHITE
    linear = (xyz @ _FROM_XYZ.T).clip(0, 1)
    shown = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    colours: AnyArray = np.rint(shown * most)
    return colours.astype(samples.dtype)


def colours_of(file: Reader, page: tifffile.TiffPage, request: Request) -> Colours:
    """Read from the tags of a page what its samples mean."""
    kind, samples = _kind(file, page), int(page.samplesperpixel)
    if kind == _WHITE_IS_ZERO and request.is_mask:
        kind = _of_inverted(file, page, request)
    alpha = _has_alpha(page, kind, samples)
    colours = samples - alpha
    palette = _palette(file, page, request, colours) if kind == _PALETTE else None
    models = {_WHITE_IS_ZERO: "inverted", _YCBCR: "ycbcr", _CIELAB: "cielab", _ICCLAB: "icclab"}
    model: Any = models.get(kind, "cmyk" if kind == _SEPARATED and colours == _INKS else "plain")
    bits = _BYTE if np.ndim(page.bitspersample) else page.bitspersample
    indices = kind == _PALETTE and palette is None
    spread = not request.is_stored and not indices
    return Colours(file, request, model, colours, alpha, bits, spread, palette)


def _of_inverted(file: Reader, page: tifffile.TiffPage, request: Request) -> int:
    """Say whether a mask of which 0 is white is read as it is stored, or as it is shown."""
    if request.palette == "refuse" and page.bitspersample == 1 and page.is_shaped:
        return _BLACK_IS_ZERO  # tifffile stores booleans so, and gives the same ones back
    if request.palette == "refuse":
        fix = (
            "Pass palette='index' to read the stored values, or palette='colour' to read the colours that "
            "are shown, in which white is foreground."
        )
        raise file.bad("be unambiguous", "grey values stored inverted (0 is white)", fix)
    return _BLACK_IS_ZERO if request.palette == "index" else _WHITE_IS_ZERO


def _kind(file: Reader, page: tifffile.TiffPage) -> int:
    """Find the photometric interpretation that the pixels have once they are decoded."""
    kind, samples = int(page.photometric), int(page.samplesperpixel)
    if _PHOTOMETRIC not in page.tags:
        kind = _inferred(file, page)
    if kind == _YCBCR and page.compression in _JPEGS and page.planarconfig == 1:
        return _RGB  # the JPEG decoder converts
    if kind == _RGB and page.compression == _APERIO_YCBCR:
        kind = _YCBCR  # whatever the tag says
    if kind == _SEPARATED and (page.tags.valueof(_INK_SET, default=_CMYK) or _CMYK) != _CMYK:
        return _BLACK_IS_ZERO  # inks of their own are channels
    if not _is_convertible(page, kind):
        got = f"{_NAMES.get(kind, f'photometric interpretation {kind}')} of {samples} samples of {page.dtype}"
        fix = "Convert it to RGB in the program that made it."
        raise file.bad("be grey, RGB, CMYK, YCbCr or CIELab", got, fix)
    return kind


def _is_convertible(page: tifffile.TiffPage, kind: int) -> bool:
    """Say whether samples of a kind and a dtype can be converted to grey or RGB."""
    samples, is_unsigned = page.samplesperpixel, np.dtype(page.dtype).kind == "u"
    if kind == _YCBCR:
        return bool(samples == 3 and page.dtype == np.uint8 and _is_as_in_jpeg(page))
    if kind in _LABS:
        return samples == 3 and is_unsigned and page.bitspersample in _LABS[kind]
    if kind == _SEPARATED and not (
        np.dtype(page.dtype).kind == "f" or (is_unsigned and page.bitspersample <= 32)
    ):
        return False
    return kind in _LEAST and samples >= _LEAST[kind]


def _is_as_in_jpeg(page: tifffile.TiffPage) -> bool:
    """Say whether luma coefficients and reference levels are those of JPEG, which are the default."""
    for tag, usual in _AS_IN_JPEG.items():
        stored = page.tags.valueof(tag)
        if stored is None:
            continue
        numbers = np.array(stored, float)
        if numbers.size == 2 * len(usual):  # ratios
            numbers = numbers[::2] / np.maximum(numbers[1::2], 1e-9)
        if not np.allclose(numbers, usual, atol=1e-3):
            return False
    return True


def _inferred(file: Reader, page: tifffile.TiffPage) -> int:
    """Infer the missing tag as libtiff does."""
    if page.compression not in _MODEL_FREE:  # other decoders need it
        raise file.damaged(f"missing tags [{_PHOTOMETRIC}] on page {page.index}")
    if page.samplesperpixel >= _LEAST[_RGB]:
        return _RGB
    if page.colormap is not None:
        return _PALETTE
    return _WHITE_IS_ZERO if page.compression in _FAX else _BLACK_IS_ZERO


def _has_alpha(page: tifffile.TiffPage, kind: int, samples: int) -> bool:
    """Say whether the one sample beyond those of the colours is an alpha channel."""
    stated = {_ASSOCIATED, _UNASSOCIATED} & {int(one) for one in page.extrasamples}
    return samples == _LEAST.get(kind, samples) + 1 and (kind in {_RGB, _PALETTE} or bool(stated))


def _palette(file: Reader, page: tifffile.TiffPage, request: Request, colours: int) -> AnyArray | None:
    """Read the palette in 8 bits as libtiff does; None where the indices are wanted."""
    if page.colormap is None or colours != 1:
        raise file.damaged(f"{colours} samples per pixel and a palette" if colours > 1 else "no palette")
    if request.palette == "index":
        return None
    stored = page.colormap.T
    palette = (stored >> 8 if stored.max() > 255 else stored).astype(np.uint8)
    grey = palette[:, 0] if (palette == palette[:, :1]).all() else None
    identity = grey is not None and len(grey) <= 256 and bool((grey == np.arange(len(grey))).all())
    if request.palette == "refuse" and not identity:
        raise two_ways(file)
    return palette if grey is None else grey


@dataclass(frozen=True, slots=True)
class Plane:
    """A page, or one of several images that are stored one after the other behind its directory."""

    page: tifffile.TiffPage
    shift: int = 0  # bytes from the first image of the page


def raw_rows(file: Reader, planes: list[Plane], colours: Colours, channels: int) -> RawRows | None:
    """Open a page of uncompressed rows in strips; None for other pages."""
    page, shift = planes[0].page, planes[0].shift
    plain = page.compression == 1 and page.predictor in {1, None} and page.fillorder == 1
    if len(planes) > 1 or not plain or page.is_tiled or not colours.is_plain:
        return None
    stored = np.dtype(page.dtype)
    if stored.kind not in "iuf" or stored == np.float16 or page.bitspersample != 8 * stored.itemsize:
        return None
    if page.planarconfig != 1 and channels > 1:
        return None
    rows = min(page.rowsperstrip, page.imagelength)
    wide = page.imagewidth * channels * stored.itemsize
    *counts, last = page.databytecounts
    if any(count < wide * rows for count in counts) or last < wide * (page.imagelength - rows * len(counts)):
        return None  # tifffile then raises an error for the strip
    shape = (page.imagelength, page.imagewidth) + ((channels,) if channels > 1 else ())
    dtype = stored.newbyteorder(page.parent.byteorder)
    return RawRows(file, shape, dtype, tuple(offset + shift for offset in page.dataoffsets), rows)


class TiffBlocks:
    """The tiles or strips of the planes that hold an image's channels."""

    def __init__(
        self,
        file: Reader,
        planes: list[Plane],
        colours: Colours,
        request: Request,
        channels: list[int] | None,
    ) -> None:
        self._file, self._planes, self._colours = file, planes, colours
        self._request, self._channels = request, channels
        page = planes[0].page
        rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self.block_shape: tuple[int, int] = (rows, page.tilewidth if page.is_tiled else page.imagewidth)
        self._each = page.samplesperpixel if page.planarconfig == 1 else 1
        self._down = -(-page.imagelength // self.block_shape[0])
        self._across = -(-page.imagewidth // self.block_shape[1])
        size = rows * self.block_shape[1] * page.samplesperpixel * np.dtype(page.dtype).itemsize
        if request.purpose == "source" and size > _LARGEST_BLOCK:
            fix = "Export it with smaller tiles, for example of 512 px."
            raise file.bad("have tiles or strips of at most 1 GiB", f"{size} bytes in one", fix)
        self._decoders = {  # made here: tifffile reads tags when they are first used
            one.offset: partial(one.decode, jpegtables=one.jpegtables, jpegheader=one.jpegheader)
            for one in (plane.page for plane in planes)
        }
        self._tables = {one.page.offset: _jpeg_tables(one.page) for one in planes}
        sample = np.zeros((1, 1, page.samplesperpixel), page.dtype)
        trial = replace(colours, request=replace(request, alpha=_UNCHECKED[request.alpha])).pixels(sample)
        self.dtype: np.dtype[Any] = trial.dtype
        self._per_plane = trial.shape[2] if trial.ndim == 3 else 1  # channels: those of RGB, for example
        total = len(planes) * self._per_plane
        count = total if channels is None else len(channels)
        self.shape: tuple[int, ...] = (page.imagelength, page.imagewidth) + ((count,) if count > 1 else ())

    def block(self, row: int, column: int) -> AnyArray:
        """Decode a block, cut off at the end of the image."""
        high, wide = self.block_shape
        size = (min(high, self.shape[0] - row * high), min(wide, self.shape[1] - column * wide))
        total = range(len(self._planes) * self._per_plane)
        chosen = [divmod(one, self._per_plane) for one in self._channels or total]
        found = {}
        for number in sorted({number for number, _ in chosen}):
            samples = self._samples(self._planes[number], row, column)[: size[0], : size[1]]
            if samples.shape[:2] != size:
                raise self._file.damaged(
                    f"{self._name(row * self._across + column)} of {samples.shape[:2]} px"
                )
            found[number] = self._colours.pixels(samples)
        if len(self._planes) == 1:
            one = self._channels is None or self._per_plane == 1
            return found[0] if one else np.ascontiguousarray(picked(found[0], self._channels))
        channels = [found[number].reshape(*size, -1)[..., sample] for number, sample in chosen]
        return np.stack(channels, axis=-1) if len(channels) > 1 else np.ascontiguousarray(channels[0])

    def _samples(self, plane: Plane, row: int, column: int) -> AnyArray:
        """Decode the samples (h, w, s) of a block."""
        first, page = row * self._across + column, plane.page
        if page.planarconfig == 1:
            return self._segment(plane, first)
        each = self._down * self._across
        parts = [self._segment(plane, first + sample * each) for sample in range(page.samplesperpixel)]
        return np.concatenate(parts, axis=-1)

    def _segment(self, plane: Plane, index: int) -> AnyArray:
        page = plane.page
        if (page.dataoffsets[index], page.databytecounts[index]) == EMPTY:
            return np.full((*self.block_shape, self._each), page.nodata, page.dtype)
        data = self._file.at(page.dataoffsets[index] + plane.shift, page.databytecounts[index])
        try:
            pixels = self._strictly(data, page)
            if pixels is None:
                found, *_ = self._decoders[page.offset](data, index)
                pixels = np.asarray(found)[0].astype(page.dtype, copy=False)  # fax bits are uint8
        except MemoryError:
            raise
        except Exception as error:  # codecs have no common error
            raise self._file.damaged(f"{self._name(index)} corrupt ({error})") from error
        return pixels

    def _strictly(self, data: bytes, page: tifffile.TiffPage) -> AnyArray | None:
        """Refuse what decoders repair without a word; decode a JPEG whose colours are as stated."""
        if page.compression in _JPEG_2000 and not data.rstrip(b"\0").endswith(_END):
            raise ValueError("no end marker")
        tables = self._tables[page.offset]
        if tables is None:
            return None
        whole = data[:2] + tables[2:-2] + data[2:]
        return decoded_block(whole, self.block_shape, (self._each, page.photometric))

    def _name(self, index: int) -> str:
        """Describe a tile or strip with its position."""
        y = index // self._across % self._down * self.block_shape[0]
        x = index % self._across * self.block_shape[1]
        return f"{'tile' if self._planes[0].page.is_tiled else 'strip'} {index} at y={y}, x={x} px"


def _jpeg_tables(page: tifffile.TiffPage) -> bytes | None:
    """Return the tables that the JPEGs of a page share; None for other pages, and for slides in one JPEG."""
    each = page.samplesperpixel if page.planarconfig == 1 else 1
    known = page.compression in _JPEG and page.bitspersample == 8 and each in {1, 3, 4}
    if not known or page.jpegheader is not None:
        return None
    return page.jpegtables or b"\xff\xd8\xff\xd9"
