"""Tar and zip archives read in place: where each member lies, with nothing extracted and nothing opened by its name.

Tar headers are read here and not by `tarfile` because a pass over 40,000 members a second is needed and every byte
that is not accounted for must be noticed (POSIX.1-2001 ustar and pax, and GNU long names). Zips go through `zipfile`.

A member whose content is not its bytes as they lie (GNU and pax sparse files) is of kind "other".
"""

import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hfds.errors import BadFile, BadRow
from hfds.picture import LARGEST

BLOCK = 512
ZERO = bytes(BLOCK)
_UNSAFE = re.compile(r"^$|^[/\\]|^.:|(?:^|[/\\])\.\.(?:$|[/\\])|[\0-\x1f\x7f]", re.DOTALL)
_RECORD = re.compile(rb"(\d{1,9}) ([^=]+)=")  # what a pax record begins with: its length in bytes and its key
# What zipfile, and the system calls below it, raise for a directory or a member that says impossible things.
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OSError, ValueError, OverflowError
)  # fmt: skip


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
        n = min(n, max(0, self.size - offset))  # the call below allocates them before it reads
        if self.local:
            return os.pread(self._file.fileno(), n, offset)
        self._file.seek(offset)
        return self._file.read(n)

    def into(self, buffer: bytearray | memoryview, offset: int, n: int) -> int:
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
    return _UNSAFE.search(name) is not None


def tar_members(reader: Reader, file: str) -> Iterator[Member]:
    """Every member of an uncompressed tar, in order; folders and pax records are left out.

    Args:
        reader: the open archive.
        file: its name, for messages.

    Raises:
        BadFile: it is no tar, is cut, lacks its end mark, or another archive was glued on behind it.
    """
    at, total = 0, reader.size
    everywhere: dict[str, bytes] = {}  # what a global pax header says of all members behind it
    pending: dict[str, bytes] = {}  # what a pax or GNU header says of the next member
    if total == 0:
        raise BadFile(file, "the file is empty")
    while True:
        block = reader.read(at, BLOCK + 3584)
        header = block[:BLOCK]
        if header == ZERO:
            if pending:
                raise BadFile(file, f"no member behind the header record before byte {at:,}")
            return _check_end(reader, at, file)
        if len(header) < BLOCK:
            where = "in a header" if header else "before its end mark"
            raise BadFile(file, f"the tar is cut {where} at byte {total:,}: rows behind it would be lost")
        if not _checksum(header):
            raise BadFile(file, f"not a tar header at byte {at:,}" if at else "not an uncompressed tar")
        kind = header[156:157]
        start = at + BLOCK + (_sparse_headers(reader, at, header) if kind == b"S" else 0)
        said = {} if kind in b"LKxXg" else {**everywhere, **pending}
        try:  # links, devices and folders have no content, whatever their header says
            size = 0 if kind in b"123456" else int(said.get("size") or _number(header[124:136]))
        except ValueError:
            raise BadFile(file, f"a tar header without a size at byte {at:,}") from None
        if kind in b"LKxXg" and size > 1 << 20:
            raise BadFile(file, f"a header record of {size:,} bytes at byte {start:,}")
        if start + size > total:
            raise BadFile(file, f"the tar is cut inside the member at byte {start:,}: rows behind it would be lost")
        at = start + -(-size // BLOCK) * BLOCK
        if kind in b"LKxXg":
            try:
                (everywhere if kind == b"g" else pending).update(_record(kind, reader.read(start, size)))
            except ValueError as error:
                raise BadFile(file, f"a broken header record at byte {start:,} ({error})") from None
            continue
        raw = said.get("GNU.sparse.name") or said.get("path") or _ustar_name(header)
        pending = {}
        if kind == b"5" or (kind == b"\0" and size == 0 and raw.endswith(b"/")):  # the latter is a folder before POSIX
            continue
        name = raw.decode("utf-8", "surrogateescape")
        name = name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
        sparse = any(key.startswith("GNU.sparse.") for key in said)
        what = "file" if kind in b"0\x007" and not sparse else "link" if kind in b"12" else "other"
        yield Member(name, start, size, what, block[BLOCK : BLOCK + size] if kind != b"S" else b"")


def _check_end(reader: Reader, at: int, file: str) -> None:
    """Nothing but zeros may follow the end mark: `cat b.tar >> a.tar` hides every row of b from a tar reader."""
    while chunk := reader.read(at, 1 << 20):
        if chunk.count(0) != len(chunk):
            raise BadFile(file, f"more data behind the tar's end at byte {at:,}", "split what was glued together")
        at += len(chunk)


def _checksum(header: bytes) -> bool:
    try:
        said = _number(header[148:156])
    except ValueError:
        return False
    found = sum(header) - sum(header[148:156]) + 256
    return said == found or said == found - 256 * sum(byte >> 7 for byte in header)  # some count in signed bytes


def _number(field: bytes) -> int:
    """A number of a tar header; raises ValueError for one that is negative or is none."""
    if field[0] == 0x80:  # GNU base-256 for sizes of 8 GiB and more
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if digits and not digits.isdigit():
        raise ValueError(f"{digits!r} is no number")
    return int(digits or b"0", 8)


def _sparse_headers(reader: Reader, at: int, header: bytes) -> int:
    """Bytes of the further headers of an old GNU sparse member, which lie between its header and its content."""
    more, length = header[482], 0
    while more and len(block := reader.read(at + BLOCK + length, BLOCK)) == BLOCK:
        more, length = block[504], length + BLOCK
    return length


def _ustar_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _record(kind: bytes, data: bytes) -> dict[str, bytes]:
    """What a header record says of paths, sizes and holes; raises ValueError where it is broken."""
    if kind in b"LK":
        return {"path": data.rstrip(b"\0")} if kind == b"L" else {}
    found, at, data = {}, 0, data.rstrip(b"\0")
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise ValueError(f"{data[at : at + 40]!r} is no pax record")
        value = data[match.end() : end - 1]
        if match[2] == b"size" and value and not (value.isdigit() and len(value) < 20):
            raise ValueError(f"{value[:40]!r} is no size")
        if match[2] in (b"path", b"size") or match[2].startswith(b"GNU.sparse."):
            found[match[2].decode("utf-8", "replace")] = value
        at = end
    return found


def zip_members(reader: Reader, file: str) -> tuple[list[Member], Callable[[Member], bytes]]:
    """The members of a zip in the order in which they lie, and a function that reads one of them.

    A stored (uncompressed) member of a local archive has its true `offset`; all others have -1. A name that repeats is
    numbered: "a.png", "a.png#1".

    Raises:
        BadFile: it is no zip or is cut. The function raises BadRow("crc_mismatch"), ("unreadable_member") or
            ("too_large") for one member.
    """
    try:
        archive = zipfile.ZipFile(reader.file)
    except _BROKEN_ZIP as error:
        if isinstance(error, OSError) and not reader.local:
            raise
        problem = "the file is empty" if reader.size == 0 else f"not a whole zip ({error})"
        raise BadFile(file, problem) from None
    infos: dict[str, zipfile.ZipInfo] = {}
    members = []
    for number, info in enumerate(sorted(archive.infolist(), key=lambda info: info.header_offset)):
        if info.is_dir():
            continue
        link = (info.external_attr >> 16) & 0o170000 == 0o120000
        name = info.filename
        while name in infos:
            name += f"#{number}"
        infos[name] = info
        offset = _stored_offset(reader, info, file) if info.compress_type == zipfile.ZIP_STORED and reader.local else -1
        members.append(Member(name, offset, info.file_size, "link" if link else "file", b"", info.CRC))

    def read(member: Member) -> bytes:
        if member.size > LARGEST:
            raise BadRow("too_large", str(member.size))
        if member.offset >= 0:
            data = reader.read(member.offset, member.size)
            if zlib.crc32(data) != member.crc:
                raise BadRow("crc_mismatch")
            return data
        info = infos[member.name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unpacks others without limit
            raise BadRow("unreadable_member", f"compression method {info.compress_type}")
        try:
            with archive.open(info) as unpacked:
                data = unpacked.read(member.size)  # no more than was declared, however much there is
        except _BROKEN_ZIP as error:
            if isinstance(error, OSError) and not reader.local:
                raise  # the network's, not the member's
            bad = BadRow("crc_mismatch") if "CRC" in str(error) else BadRow("unreadable_member", str(error))
            raise bad from None
        if len(data) != member.size:
            raise BadRow("unreadable_member", f"{len(data)} bytes of {member.size}")
        return data

    return members, read


def _stored_offset(reader: Reader, info: zipfile.ZipInfo, file: str) -> int:
    """Where the bytes of a stored member begin: behind its local header, whose lengths differ from the directory's."""
    if info.flag_bits & 1:
        return -1  # encrypted: reading it says so
    local = reader.read(info.header_offset, 30) if 0 <= info.header_offset <= reader.size else b""
    if len(local) < 30 or local[:4] != b"PK\x03\x04":
        raise BadFile(file, f"no member at byte {info.header_offset:,} where the zip's directory says so")
    name, extra = struct.unpack_from("<HH", local, 26)
    return info.header_offset + 30 + int(name) + int(extra)
