"""Datasets: pairs of image and mask, how they are split, and the crops that are taken from them.

Light: nothing here loads Keras.
"""

from tiledseg.data._crops import CropSampler, GridCrops, crops_to_cover
from tiledseg.data._describe import describe, relative_path
from tiledseg.data._loading import check_mask, load_pair
from tiledseg.data._manifest import Manifest, check_disjoint, write_manifest
from tiledseg.data._pairs import Pair, PairLike, as_pairs, check_apart
from tiledseg.data._prepared import PreparedPair, prepare_pair, prepare_pairs
from tiledseg.data._problems import Problem
from tiledseg.data._split import split_records
from tiledseg.data._statistics import DatasetStatistics, SplitStatistics, statistics_of
from tiledseg.data._survey import Survey, find_pairs, pairs_of, survey
from tiledseg.data._tiles import TileSet, write_tiles

__all__ = [
    "CropSampler",
    "DatasetStatistics",
    "GridCrops",
    "Manifest",
    "Pair",
    "PairLike",
    "PreparedPair",
    "Problem",
    "SplitStatistics",
    "Survey",
    "TileSet",
    "as_pairs",
    "check_apart",
    "check_disjoint",
    "check_mask",
    "crops_to_cover",
    "describe",
    "find_pairs",
    "load_pair",
    "pairs_of",
    "prepare_pair",
    "prepare_pairs",
    "relative_path",
    "split_records",
    "statistics_of",
    "survey",
    "write_manifest",
    "write_tiles",
]
