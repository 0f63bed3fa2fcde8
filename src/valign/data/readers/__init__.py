"""Readers: foreign formats, recognized by content, as groups. `read` is the door; READERS lists the
formats.
"""

from valign.data.readers.reading import read, recognize
from valign.data.readers.table import READERS

__all__ = ["READERS", "read", "recognize"]
