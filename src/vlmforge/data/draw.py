"""Small pictures drawn without any library: a coloured square on a pale ground, as a PNG file."""

from __future__ import annotations

import struct
import zlib

Colour = tuple[int, int, int]

_GROUND: Colour = (235, 235, 215)


def draw_square(width: int, height: int, colour: Colour) -> bytes:
    """A PNG of this size in pixels; the square fills the middle half of the shorter side."""
    side = min(width, height) // 2
    left, top = (width - side) // 2, (height - side) // 2
    ground = bytes(_GROUND) * width
    across = bytes(_GROUND) * left + bytes(colour) * side + bytes(_GROUND) * (width - side - left)
    return encode_png(width, [across if top <= y < top + side else ground for y in range(height)])


def encode_png(width: int, rows: list[bytes]) -> bytes:
    """A PNG file of rows of RGB pixels, three bytes each (PNG specification, W3C 2003)."""
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 2, 0, 0, 0)
    # Each row begins with its filter, of which 0 is none.
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    """One part of a PNG file with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
