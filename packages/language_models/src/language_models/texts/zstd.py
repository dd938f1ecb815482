"""Zstandard files as a stream that notices where a file was cut; the library's own reader ends silently there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

PIECE = 1 << 20  # compressed bytes that are read at once


class ZstdStream(io.RawIOBase):
    """The decompressed bytes of a file of one frame or several.

    Raises:
        EOFError: the file ends within a frame.
    """

    def __init__(self, path: Path) -> None:
        import zstandard  # pyright: ignore[reportMissingImports]

        self._new = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None  # None between frames
        self._file = path.open("rb")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as a piece reaches; 0 at the end of the file."""
        while not self._ready:
            piece = self._file.read(PIECE)
            if not piece:
                if self._frame is not None:
                    raise EOFError("the file ends within a compressed frame: it was cut")
                return 0
            self._ready = self._decompress(piece)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress(self, piece: bytes) -> bytes:
        parts = []
        while piece:
            if self._frame is None:
                self._frame = self._new()
            parts.append(self._frame.decompress(piece))
            if not self._frame.eof:
                break
            piece, self._frame = self._frame.unused_data, None
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        super().close()
