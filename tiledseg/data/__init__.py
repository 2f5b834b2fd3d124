"""Training data: pairs of image and mask, and the crops that are taken from them.

Light: nothing here loads Keras.
"""

from tiledseg.data._crops import CropSampler, GridCrops, crops_to_cover
from tiledseg.data._loading import PreparedPair, check_mask, load_pair, prepare_pair, prepare_pairs
from tiledseg.data._pairs import Pair, PairLike, as_pairs, check_apart, find_pairs, pairs_of

__all__ = [
    "CropSampler",
    "GridCrops",
    "Pair",
    "PairLike",
    "PreparedPair",
    "as_pairs",
    "check_apart",
    "check_mask",
    "crops_to_cover",
    "find_pairs",
    "load_pair",
    "pairs_of",
    "prepare_pair",
    "prepare_pairs",
]
