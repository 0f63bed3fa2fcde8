"""Every format that `read` knows, by name: the one answer to "which files can valign read?"."""

from __future__ import annotations

from valign.data.readers import choices, dialogues, fulcra, hh, instructions, oasst, own, prompted, scored, trl, webgpt
from valign.data.readers.reader import Reader

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        *own.READERS,
        hh.READER,
        *trl.READERS,
        *dialogues.READERS,
        *instructions.READERS,
        *prompted.READERS,
        *scored.READERS,
        *oasst.READERS,
        *webgpt.READERS,
        fulcra.READER,
        *choices.READERS,
    )
}
