"""Made-up photographs of stained bone marrow, with masks of their plasma cells.

For demos, tests and docs: no download, any size, the same image for the same seed. The image is
made as on a real slide: layers of dye (film, red cells, white cells, platelets) absorb light (Beer
and Lambert's law), and a camera takes a photograph.
"""

from __future__ import annotations

from tiledseg.samples.smear import Smear, smear, write_samples

__all__ = ["Smear", "smear", "write_samples"]
