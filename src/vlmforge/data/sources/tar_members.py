"""The members of a piece of a tar file that is in memory.

Python's own `tarfile` reads every kind of archive and takes two to four times as long for the plain members that shards
are made of; it is asked only where a piece has anything else.
"""

from __future__ import annotations

import io
import re
import tarfile

_BLOCK_BYTES = 512
_PLAIN = (b"0", b"\0")
_EXTENDED = b"x"
_CHECKSUM = slice(148, 156)
# Of the records of an extended header, those that say something else about the next member than its plain one does.
_TELLING_RECORD = re.compile(rb"(^|\n)\d+ (path|size|linkpath|hdrcharset|GNU\.)")


def read_members(raw: bytes) -> list[tuple[str, bytes]]:
    """Name and content of each regular file.

    Raises:
        TarError: the piece is damaged.
    """
    members = _read_plain(raw)
    return _read_any(raw) if members is None else members


def _read_plain(raw: bytes) -> list[tuple[str, bytes]] | None:
    """The members of a piece that has plain ones only; None: it has others, or is damaged."""
    members: list[tuple[str, bytes]] = []
    at = 0
    while at < len(raw):
        header = raw[at : at + _BLOCK_BYTES]
        if not _is_sound(header):
            return None
        kind, size = header[156:157], _read_octal(header[124:136])
        at += _BLOCK_BYTES
        content = raw[at : at + size]
        at += -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
        if len(content) < size or (kind == _EXTENDED and _TELLING_RECORD.search(content)):
            return None
        if kind != _EXTENDED:
            members.append((_join_name(header), content))
    return members


def _is_sound(header: bytes) -> bool:
    """Whether it is the header of a plain member, or an extended one, whose sum and size are right."""
    if len(header) < _BLOCK_BYTES or header[156:157] not in (*_PLAIN, _EXTENDED):
        return False
    try:
        checksum = _read_octal(header[_CHECKSUM])
        _read_octal(header[124:136])
        header.decode("ascii")
    except ValueError:
        return False
    return checksum == sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")


def _read_octal(field: bytes) -> int:
    """The number in a field of a header; `int` alone would take a sign, and a size below 0 leads back."""
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit():
        raise ValueError(f"{digits!r} is no octal number")
    return int(digits, 8)


def _join_name(header: bytes) -> str:
    """The name, with the folders that a long one keeps elsewhere."""
    name, prefix = (header[part].partition(b"\0")[0].decode("ascii") for part in (slice(100), slice(345, 500)))
    return f"{prefix}/{name}" if prefix else name


def _read_any(raw: bytes) -> list[tuple[str, bytes]]:
    """The same for every kind of archive."""
    members: list[tuple[str, bytes]] = []
    last = -1
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as archive:
        for member in archive:
            if member.offset <= last:
                raise tarfile.ReadError("the size of a member leads back to one before it")
            last = member.offset
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                members.append((member.name, file.read()))
    return members
