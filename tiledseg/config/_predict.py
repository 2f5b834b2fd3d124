"""Settings of predicting files."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from tiledseg.config._base import Config, Count, _tupled

__all__ = ["PredictConfig", "Product"]

Product: TypeAlias = Literal["mask", "probs", "overlay"]
"""What is written for an image."""


class PredictConfig(Config):
    """What is written for each image, and how.

    Attributes
    ----------
    write : tuple of {"mask", "probs", "overlay"}
        What is written: masks into ``masks/``, probabilities into ``probs/``, overlays into
        ``overlays/`` of the output folder.
    mask_format : {"png", "tiff"}
        Format of masks.
    probs_dtype : {"float16", "float32"}
        Dtype of probabilities, which are TIFF.
    threshold : float or None
        Where probabilities of one class are cut, in (0, 1); None for the segmenter's own, or 0.5.
    batch_size : int or None
        Tiles per call of the network; None to choose by memory.
    memory_budget : int or None
        Bytes that the network may take; None for half of the free memory.
    engine : {"auto", "keras", "openvino"}
        What runs a Keras network; ``auto`` takes OpenVINO where it is installed and pays.
    precision : {"f32", "bf16"}
        Numbers that the network multiplies; ``bf16`` takes OpenVINO.
    views : {"flips", "d4"} or None
        Sides from which the network sees each tile; its outputs are averaged.
    tissue : bool
        Whether only tiles with tissue are computed: what is more saturated, or darker, than
        Otsu's threshold on a thumbnail; everything else counts as 0.
    recursive : bool
        Whether folders inside the given folders are searched too.
    existing : {"refuse", "skip", "overwrite"}
        What to do where an output stands already: refuse before anything is computed, skip the
        image, or overwrite.
    """

    write: Annotated[tuple[Product, ...], BeforeValidator(_tupled), Field(min_length=1)] = ("mask",)
    mask_format: Literal["png", "tiff"] = "png"
    probs_dtype: Literal["float16", "float32"] = "float16"
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    batch_size: Count | None = None
    memory_budget: Count | None = None
    engine: Literal["auto", "keras", "openvino"] = "auto"
    precision: Literal["f32", "bf16"] = "f32"
    views: Literal["flips", "d4"] | None = None
    tissue: bool = False
    recursive: bool = False
    existing: Literal["refuse", "skip", "overwrite"] = "refuse"
