"""Datasets: pairs of image and mask, how they are split, and the crops that are taken from them.

Light: nothing here loads Keras.
"""

from tiledseg.data.cache import PreparedPair, prepare_pair, prepare_pairs
from tiledseg.data.crops import CropSampler, GridCrops, crops_to_cover
from tiledseg.data.load import (
    check_mask,
    load_both,
    load_image,
    load_pair,
    log_meanings,
    pixel_size_of_pair,
    shape_of_image,
    shrink_labels,
    with_pixel_size,
)
from tiledseg.data.manifest import Manifest, check_disjoint, describe, write_manifest
from tiledseg.data.pairs import Pair, PairLike, as_pairs, check_apart, mask_files
from tiledseg.data.split import group_of, split_folds, split_pairs, split_records
from tiledseg.data.statistics import DatasetStatistics, statistics_of
from tiledseg.data.survey import Survey, find_pairs, pairs_of, survey
from tiledseg.data.tiles import TileSet, write_tiles

__all__ = [
    "CropSampler",
    "DatasetStatistics",
    "GridCrops",
    "Manifest",
    "Pair",
    "PairLike",
    "PreparedPair",
    "Survey",
    "TileSet",
    "as_pairs",
    "check_apart",
    "check_disjoint",
    "check_mask",
    "crops_to_cover",
    "describe",
    "find_pairs",
    "group_of",
    "load_both",
    "load_image",
    "load_pair",
    "log_meanings",
    "mask_files",
    "pairs_of",
    "pixel_size_of_pair",
    "prepare_pair",
    "prepare_pairs",
    "shape_of_image",
    "shrink_labels",
    "split_folds",
    "split_pairs",
    "split_records",
    "statistics_of",
    "survey",
    "with_pixel_size",
    "write_manifest",
    "write_tiles",
]
