"""From the configuration file of the experiment that this package began with to settings of ours."""

from tiledseg.config._founding._import import Imported, import_founding
from tiledseg.config._founding._note import Note

__all__ = ["Imported", "Note", "import_founding"]
