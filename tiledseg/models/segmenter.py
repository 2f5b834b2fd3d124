"""The segmenter: a network with all that is needed to use it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from tiledseg._lazy import lazy
from tiledseg._notebook import facts
from tiledseg._validate import fraction, instance_of, invalid, settings_of
from tiledseg.config import PreprocessingConfig, TilingConfig
from tiledseg.engine import OnnxNetwork, StoredNetwork
from tiledseg.errors import SettingError
from tiledseg.models import hub
from tiledseg.models.bundle import built_content, write_bundle
from tiledseg.models.checks import check_parts, check_use
from tiledseg.predict import segment, tiled_predict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tiledseg import _backend
    from tiledseg._types import PathLike, Source
    from tiledseg.config import PackageConfig
    from tiledseg.models import architectures, bioimageio_write, formats
    from tiledseg.predict import Segmentation
else:
    bioimageio_write = lazy("tiledseg.models.bioimageio_write")
    formats = lazy("tiledseg.models.formats")
    _backend = lazy("tiledseg._backend")
    architectures = lazy("tiledseg.models.architectures")


class _Network:
    """The field `network`, whose value Keras builds when it is first read."""

    def __get__(self, segmenter: Segmenter | None, owner: type | None = None) -> Any:
        if segmenter is None:
            return self
        runnable = segmenter.runnable
        return runnable.model if isinstance(runnable, StoredNetwork) else runnable

    def __set__(self, segmenter: Segmenter, network: Any) -> None:
        segmenter.__dict__["network"] = network


@dataclass(frozen=True, eq=False, repr=False)
class Segmenter:
    """A network with its architecture, its preprocessing, its labels and its tiling.

    Attributes
    ----------
    network : keras.Model or OnnxNetwork
        Maps preprocessed tiles (N, h, w, C) to probabilities (N, h, w, K). The network of a bundle
        is built when this is first read: a prediction need not load Keras. An OnnxNetwork is what
        `tiledseg.load_model` returns for an ONNX file.
    architecture : NetworkConfig or OnnxConfig
        Settings that build the same network again; left out for an ONNX network.
    labels : tuple of str
        One name per output channel; with one channel the name of the foreground.
    preprocessing : PreprocessingConfig
        Preparation of an image's pixels.
    threshold : float
        Least probability of a foreground pixel, in (0, 1); for one output channel.
    tiling : TilingConfig or None
        Tiling that suits the network; None leaves the choice to the caller.
    tta : {"flips", "d4"} or None
        Default test-time augmentation; see `tiledseg.tiled_predict`.
    activation : {"sigmoid", "softmax"} or None
        What turns the outputs of a network that ends in logits (``final_activation="linear"``) into
        probabilities; None for a network that gives probabilities itself.
    provenance : mapping
        Origin of the segmenter: training facts, versions, licence of the data. Anything that JSON
        can represent.

    Raises
    ------
    SettingError
        If the parts have wrong values or do not fit each other.
    ModelError
        If the network does not have the shapes that its architecture states.
    """

    network: Any  # a keras.Model or an OnnxNetwork
    architecture: Any = None  # a NetworkConfig; an OnnxConfig, which the network states
    labels: tuple[str, ...] = ()
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    threshold: float = 0.5
    tiling: TilingConfig | None = None
    tta: Literal["flips", "d4"] | None = None
    activation: Literal["sigmoid", "softmax"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check each part, and that the parts fit each other."""
        for name, kind in (("preprocessing", PreprocessingConfig), ("tiling", TilingConfig)):
            if isinstance(getattr(self, name), dict):
                object.__setattr__(self, name, settings_of(kind, getattr(self, name), name))
        if self.architecture is None and isinstance(self.runnable, OnnxNetwork):
            object.__setattr__(self, "architecture", self.runnable.architecture)
        check_parts(self)
        self.architecture.check_preprocessing(self.preprocessing)
        fraction("threshold", self.threshold, "Try 0.5.")
        check_use(self)
        object.__setattr__(self, "provenance", _as_json(self.provenance))

    def facts(self) -> dict[str, object]:
        """Say what the segmenter is, by the name of each part.

        Returns
        -------
        dict
            Text by name, such as ``architecture``, ``input`` and ``outputs``; what is not set is left out.
        """
        settings, given = self.architecture, self.provenance
        height, width, channels = (str(size or "any") for size in settings.input_shape)
        preparation = self.preprocessing.model_dump(exclude_defaults=True, exclude={"channels"})
        tiling = self.tiling
        scores = {name: given[name] for name in ("val_dice", "dice") if isinstance(given.get(name), float)}
        rows = {
            "architecture": settings.name,
            "input": f"{height} x {width} px, {channels} channels, {self.preprocessing.dtype}",
            "outputs": ", ".join(self.labels),
            "px size": self.preprocessing.pixel_size,
            "preprocessing": ", ".join(f"{name} {value}" for name, value in preparation.items()),
            "tiling": tiling and f"tiles of {tiling.tile_size} px, overlap {tiling.overlap}, {tiling.blend}",
            "threshold": f"{self.threshold:g}" if len(self.labels) == 1 else None,
            "test-time augmentation": self.tta,
            "activation": self.activation,
            "licence": given.get("license", given.get("licence")),
            "data": given.get("data"),
            "scores": ", ".join(f"{name} {value:.4f}" for name, value in scores.items()),
        }
        return {name: value for name, value in rows.items() if value}

    def __repr__(self) -> str:
        rows = self.facts()
        return f"Segmenter({rows['architecture']}: {rows['input']} -> {rows['outputs']})"

    def _repr_html_(self) -> str:
        return facts(self.facts(), "Segmenter")

    def changed(self, **changes: Any) -> Self:  # each field has its own type
        """Copy this segmenter with some parts changed, all checked again.

        Parameters
        ----------
        **changes : object
            New parts by name.

        Returns
        -------
        Segmenter
            The copy; the network is shared unless changed.

        Raises
        ------
        SettingError
            If a part has a wrong value or does not fit the others.
        """
        return replace(self, **{"network": self.__dict__["network"], **changes})

    @property
    def runnable(self) -> Any:  # Keras has no types
        """The network, or the layers and weights of a bundle whose network has not been built."""
        network = self.__dict__["network"]
        return network.runnable if isinstance(network, StoredNetwork) else network

    def predict(
        self,
        image: Source | PathLike,
        tiling: TilingConfig | dict[str, Any] | None = None,
        **options: Any,  # each has its own type
    ) -> Any:  # an array of whichever library
        """Predict an image of any size: ``tiledseg.tiled_predict(self, image, tiling, **options)``.

        Parameters
        ----------
        image : array_like or path
            (H, W) or (H, W, C), or a file.
        tiling : TilingConfig or dict, optional
            None uses the segmenter's own.
        **options : object
            As for `tiledseg.tiled_predict`.

        Returns
        -------
        array_like
            The map, (H, W, K) float32 unless ``output`` states another form.

        Raises
        ------
        TiledSegError
            As `tiledseg.tiled_predict`.
        """
        return tiled_predict(self, image, tiling, **options)

    def segment(
        self,
        image: Source | PathLike,
        tiling: TilingConfig | dict[str, Any] | None = None,
        **options: Any,  # each has its own type
    ) -> Segmentation:
        """Find the objects of an image: ``tiledseg.segment(self, image, tiling, **options)``.

        Parameters
        ----------
        image : array_like or path
            (H, W) or (H, W, C), or a file.
        tiling : TilingConfig or dict, optional
            None uses the segmenter's own.
        **options : object
            As for `tiledseg.segment`.

        Returns
        -------
        Segmentation
            Labels, objects and how they were found.

        Raises
        ------
        TiledSegError
            As `tiledseg.segment`.
        """
        return segment(self, image, tiling, **options)

    def save(self, folder: PathLike, *, overwrite: bool = False) -> Path:
        """Write a bundle: ``config.json``, ``model.safetensors``, ``graph.json`` and ``README.md``.

        The files are written to a hidden folder beside the target, ``.tiledseg-*.part``, which is
        then renamed to the target. A save that is killed may leave that folder, and does not change
        the target. If it is killed while it replaces a bundle, the earlier bundle may have the
        hidden name ``.NAME.*.old``.

        Parameters
        ----------
        folder : path
            The new folder; missing parent folders are created.
        overwrite : bool
            Whether to replace an existing bundle. A folder with any other file is never replaced.

        Returns
        -------
        Path
            The bundle's absolute path.

        Raises
        ------
        FileError
            If `folder` is not a path, exists and may not be replaced, or cannot be written.
        ModelError
            If a weight is not finite, or the architecture would build another network.
        SettingError
            If the settings and the provenance together are larger than 1 MB.
        """
        entries: dict[str, Any] = {
            "architecture": self.architecture.portable(),
            "labels": self.labels,
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "threshold": self.threshold,
            "tiling": None if self.tiling is None else self.tiling.model_dump(mode="json"),
            **({} if self.tta is None else {"tta": self.tta}),
            **({} if self.activation is None else {"activation": self.activation}),
            "provenance": self.provenance,
        }
        network, architecture = self.runnable, _as_json(entries["architecture"])
        stored = isinstance(network, StoredNetwork) and network.architecture == architecture
        if stored or isinstance(network, OnnxNetwork):
            return write_bundle(folder, network.content, entries, overwrite=overwrite)
        builder = architectures.builder_for(self.architecture)
        content = partial(built_content, self.network, builder, self.tiling)
        return write_bundle(folder, content, entries, overwrite=overwrite)

    def export(
        self,
        path: PathLike,
        to: Literal["onnx", "openvino", "bioimageio"],
        about: PackageConfig | dict[str, Any] | None = None,
    ) -> Path:
        """Write the network for other programs.

        It is run first, and compared with the engine that runs the segmenter here: outputs may differ
        by 1e-5 of the largest one. Height and width are free where the network allows it. Where it does
        not, they are those of the architecture or of `tiling`, and the log says so.

        Parameters
        ----------
        path : path
            The new file; for ``"bioimageio"`` a zip or a new folder.
        to : {"onnx", "openvino", "bioimageio"}
            ``onnx``: one file, ``.onnx``. ``openvino``: ``.xml`` and ``.bin``, float32. Both take
            prepared px, channels first. ``bioimageio``: a package that describes the preparation too.
        about : PackageConfig or dict, optional
            Authors, licence and the like; for ``"bioimageio"``, which needs it.

        Returns
        -------
        Path
            The absolute path.

        Raises
        ------
        FileError
            If the path exists, or cannot be written.
        ModelError
            If a layer cannot be exported, or the outputs differ.
        SettingError
            If an argument is wrong, a preparation of px cannot be described, or an extra is missing.
        """
        instance_of(str, to, "to", "Name a format, for example onnx.")
        if to == "bioimageio":
            return bioimageio_write.write_package(self, path, about)
        return formats.export_model(self, path, to)

    def push(self, address: str, *, private: bool = False, message: str = "Upload a segmenter") -> str:
        """Upload this segmenter as a bundle to a hub.

        Files of an earlier bundle there are replaced in one commit; other files stay.

        Parameters
        ----------
        address : str
            ``"hf://owner/name"``, with ``@branch`` for another branch than main. The repository is
            created if there is none.
        private : bool
            Whether a new repository is private.
        message : str
            Message of the commit.

        Returns
        -------
        str
            Its address with the new commit, for `tiledseg.load_model`: it will always mean this bundle.

        Raises
        ------
        BundleError
            If the hub refuses: the token (``hf auth login``, or HF_TOKEN) may not write there.
        FileError
            If the hub cannot be reached.
        SettingError
            If `address` is not one with a branch, or huggingface_hub is not installed.
        """
        hub.HubName.of(address)
        with tempfile.TemporaryDirectory() as folder:
            bundle = self.save(Path(folder, "bundle"))
            return hub.pushed(bundle, address, private=private, message=message)


Segmenter.network = _Network()


def _as_json(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Convert values to JSON and back, so that they are the same before and after saving."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(
            SettingError,
            "provenance",
            must="contain only values that JSON can represent",
            got=str(error),
            fix="Use text, finite numbers, lists and mappings.",
        ) from None
    return copy
