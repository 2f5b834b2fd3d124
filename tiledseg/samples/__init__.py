"""Made-up photographs of stained bone marrow, with masks of their plasma cells.

For demos, tests and docs: no download, any size, the same from the same seed. What a
slide does is done in its own order: dye is laid down in layers (film, red cells, white cells,
platelets), then light is sent through it (Beer and Lambert's law), then a camera looks.
"""

from __future__ import annotations

from tiledseg.samples._files import write_samples
from tiledseg.samples._smear import Smear, smear

__all__ = ["Smear", "smear", "write_samples"]
