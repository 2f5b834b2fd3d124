"""Made-up photographs of stained bone marrow, with masks of their plasma cells.

For demos, tests and docs: no download, any size, the same from the same seed. What a
slide does is done in its own order: dye is laid down in layers (film, red cells, white cells,
platelets), then light is sent through it (Beer and Lambert's law), then a camera looks.
"""

from __future__ import annotations

from tiledseg.samples.smear import Smear, smear, write_samples

__all__ = ["Smear", "smear", "write_samples"]
