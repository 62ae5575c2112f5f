"""Tar and zip archives read in place: where each member lies, with nothing extracted and nothing opened by its name.

Tar headers are read here and not by `tarfile` because a pass over 40,000 members a second is needed and every byte
that is not accounted for must be noticed (POSIX.1-2001 ustar and pax, and GNU long names). Zips go through `zipfile`.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from hfds.errors import BadFile, BadRow
from hfds.picture import LARGEST

BLOCK = 512
ZERO = bytes(BLOCK)


class Member(NamedTuple):
    """One regular file or link inside an archive."""

    name: str
    offset: int  # of its first byte in the archive; -1 when it is compressed
    size: int  # bytes as stored in the source, uncompressed
    kind: str  # "file", "link" or "other"
    head: bytes  # up to the first 3,584 bytes of a tar member's content; empty for zips
    crc: int | None = None  # CRC-32 of its content where the archive says it


class Reader:
    """Positional reads from a local path or any fsspec URL: `read(offset, n)`, `into(buffer, offset, n)`, `size`."""

    def __init__(self, path: str):
        self.path = path
        self._file: BinaryIO
        if "://" in path:
            import fsspec

            fs, fs_path = fsspec.url_to_fs(path)
            self._file = fs.open(fs_path, "rb")
            self.size = int(fs.size(fs_path))
            self.local = False
        else:
            self._file = open(path, "rb", buffering=0)
            self.size = os.fstat(self._file.fileno()).st_size
            self.local = True

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def file(self) -> BinaryIO:
        """The file object below, for libraries that want one."""
        return self._file

    def read(self, offset: int, n: int) -> bytes:
        """Up to `n` bytes from `offset`; fewer only at the end of the file."""
        if self.local:
            return os.pread(self._file.fileno(), n, offset)
        self._file.seek(offset)
        return self._file.read(n)

    def into(self, buffer: bytearray | np.ndarray, offset: int, n: int) -> int:
        """Fills `buffer[:n]` (bytes) from `offset` and returns how many bytes came."""
        view, done = memoryview(buffer)[:n], 0
        if not self.local:
            data = self.read(offset, n)
            view[: len(data)] = data
            return len(data)
        while done < n and (got := os.preadv(self._file.fileno(), [view[done:]], offset + done)):
            done += got
        return done


def sha256_of(path: str | Path) -> str:
    """The sha256 of a local file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unsafe(name: str) -> bool:
    """Whether a member's name is absolute, climbs with `..`, or holds control characters or a drive letter."""
    parts = name.replace("\\", "/").split("/")
    return (
        not name or name[0] in "/\\" or ".." in parts or name[1:2] == ":" or any(c < " " or c == "\x7f" for c in name)
    )


def tar_members(reader: Reader, file: str) -> Iterator[Member]:
    """Every member of an uncompressed tar, in order; folders and pax records are left out.

    Args:
        reader: the open archive.
        file: its name, for messages.

    Raises:
        BadFile: it is no tar, is cut, lacks its end mark, or another archive was glued on behind it.
    """
    at, pending, total = 0, {}, reader.size
    if total == 0:
        raise BadFile(file, "the file is empty")
    while True:
        block = reader.read(at, BLOCK + 3584)
        header = block[:BLOCK]
        if header == ZERO:
            return _check_end(reader, at, file)
        if len(header) < BLOCK:
            where = "in a header" if header else "before its end mark"
            raise BadFile(file, f"the tar is cut {where} at byte {total:,}: rows behind it would be lost")
        if not _checksum(header):
            raise BadFile(file, f"not a tar header at byte {at:,}" if at else "not an uncompressed tar")
        size = _number(header[124:136])
        start = at + BLOCK
        at = start + -(-size // BLOCK) * BLOCK
        kind = header[156:157]
        if kind in b"LKxg" and size > 1 << 20:
            raise BadFile(file, f"a header record of {size:,} bytes at byte {start:,}")
        if kind in b"LK":
            if kind == b"L":
                pending["path"] = reader.read(start, size).rstrip(b"\0")
            continue
        if kind == b"x":
            pending.update(_pax(reader.read(start, size)))
            continue
        if kind in b"g5":
            pending = {} if kind == b"5" else pending
            continue
        if "size" in pending:
            size = int(pending["size"])
            at = start + -(-size // BLOCK) * BLOCK
        if start + size > total:
            raise BadFile(file, f"the tar is cut inside the member at byte {start:,}: rows behind it would be lost")
        raw = pending.get("path") or _ustar_name(header)
        name = raw.decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode()
        what = "file" if kind in (b"0", b"\0", b"7") else "link" if kind in (b"1", b"2") else "other"
        yield Member(name, start, size, what, block[BLOCK : BLOCK + size])
        pending = {}


def _check_end(reader: Reader, at: int, file: str) -> None:
    """Nothing but zeros may follow the end mark: `cat b.tar >> a.tar` hides every row of b from a tar reader."""
    while chunk := reader.read(at, 1 << 20):
        if chunk.count(0) != len(chunk):
            raise BadFile(file, f"more data behind the tar's end at byte {at:,}", "split what was glued together")
        at += len(chunk)


def _checksum(header: bytes) -> bool:
    try:
        return sum(header) - sum(header[148:156]) + 256 == _number(header[148:156])
    except ValueError:
        return False


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU base-256 for sizes of 8 GiB and more
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _ustar_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(data: bytes) -> dict[str, bytes]:
    found, at = {}, 0
    while at < len(data) and (space := data.find(b" ", at)) > 0 and data[at:space].isdigit():
        length = int(data[at:space])
        key, _, value = data[space + 1 : at + length - 1].partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = value
        at += max(length, 1)
    return found


def zip_members(reader: Reader, file: str) -> tuple[list[Member], Callable[[Member], bytes]]:
    """The members of a zip in the order in which they lie, and a function that reads one of them.

    A stored (uncompressed) member of a local archive has its true `offset`; all others have -1.

    Raises:
        BadFile: it is no zip or is cut. The function raises BadRow("crc_mismatch"), ("unreadable_member") or
            ("too_large") for one member.
    """
    try:
        archive = zipfile.ZipFile(reader.file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        problem = "the file is empty" if reader.size == 0 else f"not a whole zip ({error})"
        raise BadFile(file, problem) from None
    infos: dict[str, zipfile.ZipInfo] = {}
    members = []
    for number, info in enumerate(sorted(archive.infolist(), key=lambda info: info.header_offset)):
        if info.is_dir():
            continue
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        name = info.filename if info.filename not in infos else f"{info.filename}#{number}"
        infos[name] = info
        offset = _stored_offset(reader, info, file) if info.compress_type == zipfile.ZIP_STORED else -1
        members.append(Member(name, offset, info.file_size, "link" if link else "file", b"", info.CRC))

    def read(member: Member) -> bytes:
        if member.size > LARGEST:
            raise BadRow("too_large", str(member.size))
        if member.offset >= 0:
            data = reader.read(member.offset, member.size)
            if zlib.crc32(data) != member.crc:
                raise BadRow("crc_mismatch")
            return data
        try:
            return archive.read(infos[member.name])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
            raise BadRow("crc_mismatch" if "CRC" in str(error) else "unreadable_member", str(error)) from None

    return members, read


def _stored_offset(reader: Reader, info: zipfile.ZipInfo, file: str) -> int:
    """Where the bytes of a stored member begin: behind its local header, whose lengths differ from the directory's."""
    if info.flag_bits & 1:
        return -1  # encrypted: reading it says so
    local = reader.read(info.header_offset, 30)
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise BadFile(file, f"no member at byte {info.header_offset:,} where the zip's directory says so")
    name, extra = struct.unpack_from("<HH", local, 26)
    return info.header_offset + 30 + int(name) + int(extra)
