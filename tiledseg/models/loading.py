"""Loading of bundles, which executes nothing, and of ``.keras`` files, which may contain code.

This module does not import Keras, so that a command can read a bundle's settings without it.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from tiledseg._lazy import lazy
from tiledseg._storage import exists, is_file, is_folder, sha256
from tiledseg._validate import invalid, listed, path_text
from tiledseg.config import PreprocessingConfig, StepsConfig, TilingConfig, architecture_of
from tiledseg.engine import OnnxNetwork
from tiledseg.errors import BundleError, FileError, SettingError
from tiledseg.models import hub
from tiledseg.models.bundle import CONFIG, read_config
from tiledseg.models.weights import ONNX, WEIGHTS, damaged, read_network, read_onnx_network, read_stored

if TYPE_CHECKING:
    from tiledseg import _backend
    from tiledseg._backend import keras
    from tiledseg._types import PathLike
    from tiledseg.models import architectures, bioimageio_read, segmenter
    from tiledseg.models.segmenter import Segmenter
else:
    _backend = lazy("tiledseg._backend")
    bioimageio_read = lazy("tiledseg.models.bioimageio_read")
    architectures = lazy("tiledseg.models.architectures")
    segmenter = lazy("tiledseg.models.segmenter")

_RDFS = ("rdf.yaml", "bioimageio.yaml")
_SHIPPED = ("demo",)
_SHIPPED_FOLDER = Path(__file__).parent / "shipped"
_FOREIGN = {
    **dict.fromkeys((".h5", ".hdf5"), "an HDF5 file, which can contain code"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "a pickle, which is code"),
    **dict.fromkeys((".pt", ".pt2", ".pth", ".ckpt"), "a file of PyTorch"),
    ".pb": "a SavedModel, which can contain code",
    ".safetensors": "weights without their settings",
    ".xml": "an OpenVINO network",
}
_TORCH = (
    "Build its module in PyTorch, load the weights into it, and call model.eval(). Then pass the module to "
    "`tiled_predict`, or write it by `torch.onnx.export` and load the .onnx file."
)
_OPENVINO = "Compile it with openvino.compile_model, and pass a function of tiles (N, h, w, C) that calls it."
_FIXES = {_FOREIGN[".pt"]: _TORCH, _FOREIGN[".xml"]: _OPENVINO}
_CHECKPOINT = "a checkpoint, with which a run is resumed"
_REBUILD = "If you trust it, copy its weights into a network of `build_model` and save that as a `Segmenter`."
_MOST_LISTED = 1000  # entries of a folder in which models are looked for
_LOADED: dict[str, Segmenter] = {}  # by digest
_LOADING = threading.Lock()


def load_model(
    path: PathLike,
    *,
    trust: bool = False,
    output: str | None = None,
    layout: Literal["channels_first", "channels_last"] | None = None,
) -> Segmenter | Any:  # or a keras.Model, which has no types, or an OnnxNetwork
    """Load a segmenter from its bundle or package, or a network from an ONNX or ``.keras`` file.

    Parameters
    ----------
    path : path
        A bundle's folder; a BioImage.IO package (a zip, a folder or its ``rdf.yaml``); an ``.onnx``
        or ``.keras`` file; the name of a model that comes with the package: ``"demo"``, which finds
        the plasma cells of `tiledseg.samples`; or the address of a
        bundle of a hub, ``"hf://owner/name@revision"``. A commit as revision always means the same
        files, which are downloaded once; a branch or a tag means its present commit, which is logged.
    trust : bool
        Whether a ``.keras`` file may be loaded. Keras checks such a file for code, but cannot
        guarantee that it is safe. A bundle needs no trust: it contains settings and arrays. An ONNX
        file needs none: it is checked before an engine reads it.
    output : str, optional
        Name of the output of an ONNX network or of a package that has several.
    layout : {"channels_first", "channels_last"}, optional
        Where the input of an ONNX network has its channels, if its shape does not show that.

    Returns
    -------
    Segmenter, keras.Model or OnnxNetwork
        A `Segmenter` from a bundle; a bare ``keras.Model``, not compiled, from a ``.keras`` file; an
        OnnxNetwork, which takes px as they are, from an ONNX file.

    Raises
    ------
    BundleError
        If the path does not exist, or the file is damaged, of an unknown kind or not trusted.
    FileError
        If a hub cannot be reached, and the model has not been downloaded before.
    ModelError
        If Keras is set to a precision whose weights are not float32.
    SettingError
        If `output` or `layout` has to be given, or is given for another kind of model.
    """
    path = model_path(path)
    if path.suffix.lower() == ".onnx" and not is_folder(path):
        return OnnxNetwork(path, output, layout)
    if _is_package(path):
        return bioimageio_read.load_package(path, trust=trust, output=output)
    if output is not None or layout is not None:
        must, got = "be left out for any model but an ONNX file", str(path)
        fix = "A bundle states them itself."
        raise invalid(SettingError, "output" if output else "layout", must=must, got=got, fix=fix)
    must = "be a bundle's folder"
    try:
        if is_folder(path):
            return _load_bundle(path)
        if not is_file(path):
            raise invalid(BundleError, str(path), must=must, got="no such folder", fix=missing_fix(path))
    except (OSError, ValueError) as error:
        raise damaged(path, must="be a bundle that can be read", got=error) from error
    if path.suffix.lower() != ".keras":
        kind = _CHECKPOINT if _is_checkpoint(path) else _FOREIGN.get(path.suffix.lower(), "a file")
        fix = _fix_beside(path) or _FIXES.get(kind, _REBUILD)
        raise invalid(BundleError, str(path), must=must, got=kind, fix=fix)
    return _load_keras_file(path, trust=trust)


def _is_package(path: Path) -> bool:
    """Say whether a path is a package: a zip, a description, or a folder that has one."""
    if is_folder(path):
        return any(is_file(path / name) for name in _RDFS) and not exists(path / CONFIG)
    return is_file(path) and (path.suffix.lower() == ".zip" or path.name in _RDFS)


def _load_keras_file(path: Path, *, trust: bool) -> keras.Model:
    _backend.check_process()
    if not trust:
        raise invalid(
            BundleError,
            str(path),
            must="be trusted, as any .keras file",
            got="trust=False",
            fix="Pass trust=True if you know where it comes from.",
        )
    try:
        return _backend.keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file can make Keras raise anything
        raise invalid(
            BundleError,
            str(path),
            must="be a .keras file that Keras loads in its safe mode",
            got=f"{type(error).__name__}: {error}",
            fix=_REBUILD,
        ) from error


def _preparation(entries: Any) -> PreprocessingConfig:  # a file may hold anything
    stepped = isinstance(entries, dict) and "steps" in entries
    return (StepsConfig if stepped else PreprocessingConfig).model_validate(entries)


def _load_bundle(folder: Path) -> Segmenter:
    if not exists(folder / CONFIG):
        kind = _FOREIGN[".pb"] if exists(folder / "saved_model.pb") else f"a folder without {CONFIG}"
        fix = _fix_inside(folder) or _fix_beside(folder) or _REBUILD
        raise invalid(BundleError, str(folder), must="be a bundle's folder", got=kind, fix=fix)
    entries = read_config(folder)
    labels, tiling = entries["labels"], entries["tiling"]
    try:
        architecture = architecture_of(entries["architecture"])
        parts: dict[str, Any] = {
            "architecture": architecture,
            "labels": tuple(labels) if isinstance(labels, list) else labels,
            "preprocessing": _preparation(entries["preprocessing"]),
            "threshold": entries["threshold"],
            "tiling": None if tiling is None else TilingConfig.model_validate(tiling),
            "tta": entries.get("tta"),
            "activation": entries.get("activation"),
            "provenance": entries["provenance"],
        }
        if architecture.name == "onnx":
            return segmenter.Segmenter(network=read_onnx_network(folder, entries), **parts)
        network = read_stored(folder, entries)
        if network is None:
            builder = architectures.builder_for(architecture)
            network = read_network(folder, entries["weights_sha256"], builder)
        return segmenter.Segmenter(network=network, **parts)
    except SettingError as error:
        raise BundleError(f"{folder / CONFIG}: {error}") from None


def _fix_inside(folder: Path) -> str:
    """Name the models in a folder, or else in the folders in it: those of the latest runs first."""
    inside = [str(folder / name) for name in _models_in(folder)]
    if not inside:
        parts = [one for one in sorted(folder.iterdir(), reverse=True)[:_MOST_LISTED] if is_folder(one)]
        inside = [str(part / name) for part in parts for name in _models_in(part)]
    return f"Did you mean {listed(inside, 3)}?" if inside else ""


def _fix_beside(path: Path) -> str:
    """Name the bundle that a file is a part of, or that of the run whose checkpoint it is."""
    if exists(path.parent / CONFIG):
        return f"Give its folder, {path.parent}."
    run = path.parent.parent if _is_checkpoint(path) else path.parent
    return _fix_inside(run) if exists(run / "run.toml") else ""


def _is_checkpoint(path: Path) -> bool:
    """Say whether a file is a checkpoint of a training run."""
    return path.parent.name == "checkpoints" and exists(path.parent.parent / "run.toml")


def missing_fix(path: Path) -> str:
    """Return the fix for a missing bundle: an interrupted save may have renamed it."""
    renamed = sorted(path.parent.glob(f".{path.name}.*.old")) if is_folder(path.parent) else []
    if renamed:
        return f"Saving was interrupted; the earlier bundle is in {renamed[-1]}: rename it to {path.name}."
    if len(path.parts) == 2 and not path.is_absolute() and not exists(path.parent):
        return f'Check the path; a model of a hub is "hf://{path.as_posix()}".'
    near = get_close_matches(path.name, [*_SHIPPED, *_models_in(path.parent)], n=1)
    if near:
        return f"Did you mean {str(path.with_name(near[0]))!r}?"
    if path.suffix or len(path.parts) > 1:
        return "Check the path."
    known = ", ".join(_SHIPPED)
    return (
        f"Give a path; the models that come with tiledseg are: {known}. "
        f"A model of a hub is hf://owner/{path.name}."
    )


def _models_in(folder: Path) -> list[str]:
    """Name the bundles and files of networks in a folder."""
    if not is_folder(folder):
        return []
    names = sorted(folder.iterdir())[:_MOST_LISTED]
    return [one.name for one in names if one.suffix in {".onnx", ".keras"} or is_file(one / CONFIG)]


def model_path(path: PathLike) -> Path:
    """Return the folder of a shipped model for its name, or of one of a hub; any other path unchanged."""
    if hub.is_hub_address(path):
        return hub.fetched(str(path))
    if "://" in str(path):
        fix = "Download it, and give the path of the file or folder."
        raise invalid(
            BundleError, "path", must="be a path, or a model of a hub (hf://owner/name)", got=path, fix=fix
        )
    if not isinstance(path, str) or path not in _SHIPPED:  # Path("demo") and "./demo" are not names
        return Path(path_text(path, error=BundleError))
    if exists(Path(path) / CONFIG):
        raise invalid(
            BundleError,
            path,
            must="name one model",
            got=f"two: the one that comes with tiledseg, and the bundle {Path(path).resolve()}",
            fix=f'Write "./{path}" for that bundle; run in another folder to use the other model.',
        )
    return shipped_folder(path)


def shipped_folder(name: str) -> Path:
    """Return the folder of a model that comes with the package."""
    return _SHIPPED_FOLDER / name


@dataclass(frozen=True, slots=True)
class BundleReference:
    """A reference to a bundle that other processes find under the same path; it is small to send.

    Attributes
    ----------
    path : str
        The bundle's folder, absolute.
    digest : str
        SHA-256 of its settings and weights. A process that finds another bundle there refuses it.

    Examples
    --------
    >>> reference = BundleReference.of("bundle/")  # doctest: +SKIP
    >>> tiledseg.predict_files(reference, "slides/", "out/", client=client)  # doctest: +SKIP
    """

    path: str
    digest: str

    @classmethod
    def of(cls, path: PathLike) -> Self:
        """Make a reference to a bundle in its present state.

        Parameters
        ----------
        path : path
            The bundle's folder.

        Returns
        -------
        BundleReference
            It can be sent to any process that can read the folder.

        Raises
        ------
        BundleError
            If the folder is not a bundle.
        """
        folder = model_path(path).resolve()
        return cls(str(folder), _digest_of(folder))

    def load(self) -> Segmenter:
        """Load the bundle, once in each process.

        Returns
        -------
        Segmenter
            The same object for the same digest.

        Raises
        ------
        BundleError
            If the bundle is damaged, or has changed since the reference was made.
        """
        with _LOADING:
            if self.digest not in _LOADED:
                found = _digest_of(Path(self.path))
                if found != self.digest:
                    raise invalid(
                        BundleError,
                        self.path,
                        must=f"be the bundle with digest {self.digest[:12]}",
                        got=found[:12],
                        fix="Make a new reference, or give every machine access to the same folder.",
                    )
                _LOADED[self.digest] = _load_bundle(Path(self.path))
            return _LOADED[self.digest]


def _digest_of(folder: Path) -> str:
    try:
        weights = ONNX if exists(folder / ONNX) else WEIGHTS
        parts = [bytes.fromhex(sha256(folder / name)) for name in (CONFIG, weights)]
    except FileError as error:
        fix = "Give a bundle's folder."
        raise invalid(
            BundleError, str(folder), must="be a bundle", got="a file that cannot be read", fix=fix
        ) from error
    return hashlib.sha256(b"".join(parts)).hexdigest()
