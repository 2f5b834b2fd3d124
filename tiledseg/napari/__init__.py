"""napari-tiledseg: the plugin of napari, described by ``napari.yaml``.

Only the widget imports Qt and napari, and only napari imports the widget.
"""

from tiledseg.napari.layers import View, layers_of, sample_smear

__all__ = ["View", "layers_of", "sample_smear"]
