"""Size, format and wholeness of an encoded picture, from its bytes and without decoding it.

Follows the file formats: JPEG (ITU T.81 annex B), PNG (W3C), GIF89a, WebP (RFC 9649), BMP; `OTHERS` through Pillow.

What is whole here is whole to a decoder as well, but for a picture that is broken without being cut: compressed data
that is damaged or incomplete inside a complete file, a cut JPEG with FF D9 in the junk behind it, a cut BMP or TIFF.
"""

import io
import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

import xxhash

from hfds.errors import BadRow

HEAD = 4096  # bytes that hold the size of nearly every picture
LARGEST = 512 << 20  # bytes of one encoded picture; a larger one is no picture but an attack or a mistake
# Read through Pillow, headers only. Not all that Pillow opens: EPS is a program, and it runs Ghostscript on it.
OTHERS = ("AVIF", "BMP", "ICO", "JPEG2000", "TIFF")
SEGMENTS = 1 << 16  # markers before the pixels of a JPEG; more are an attack on whoever counts them
CHUNKS = 1 << 20  # of a PNG, likewise
Buffer = bytes | bytearray | memoryview
ReadAt = Callable[[int, int], Buffer]


class Bytes(Protocol):
    """What `Examiner` reads from: see `hfds.archive.Reader`."""

    def into(self, buffer: bytearray, offset: int, n: int) -> int:
        """Fills `buffer[:n]` from `offset` and returns how many bytes came."""


class Size(NamedTuple):
    """Width and height in pixels as stored (before any EXIF rotation), and the format: jpeg png gif webp bmp ..."""

    width: int
    height: int
    format: str


# JPEG start-of-frame markers: C0..CF without DHT (C4), JPG (C8) and DAC (CC).
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_SCAN = frozenset({0xDA})  # start of scan: the pixels follow
_BMP_HEADERS = (40, 52, 56, 64, 108, 124)  # bytes; says which they are. Of 12 bytes: through Pillow


def measure(head: Buffer, size: int, read_at: ReadAt | None = None) -> Size:
    """Size and format of a picture of `size` bytes that begins with `head`.

    `read_at(offset, n)` is asked for more only when a JPEG carries its frame header beyond `head`; without it `head`
    must be the whole file.

    Raises:
        BadRow: "empty_image", "not_an_image", "truncated_image" or "impossible_size".
    """
    if size == 0:
        raise BadRow("empty_image")
    head = bytes(head)
    try:
        width, height, name = _parse(head, size, read_at)
    except (struct.error, IndexError):
        raise BadRow("truncated_image") from None
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise BadRow("impossible_size")
    return Size(width, height, name)


def _parse(head: bytes, size: int, read_at: ReadAt | None) -> tuple[int, int, str]:
    if head[:2] == b"\xff\xd8":
        _, width, height = _frame(head, size, read_at)
        return width, height, "jpeg"
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        if head[12:16] != b"IHDR":
            raise BadRow("not_an_image" if len(head) >= 16 else "truncated_image")
        return *struct.unpack_from(">II", head, 16), "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return *_webp(head), "webp"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return *struct.unpack_from("<HH", head, 6), "gif"
    if head[:2] == b"BM" and len(head) > 26 and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        width, height = struct.unpack_from("<ii", head, 18)
        return width, abs(height), "bmp"
    return _other(bytes(read_at(0, size)) if read_at and size > len(head) else head)


def _frame(head: bytes, size: int, read_at: ReadAt | None) -> tuple[int, int, int]:
    """Offset of a JPEG's frame header, width and height."""
    at, segment = _marker(_FRAMES, 2, head, size, read_at)
    height, width = struct.unpack_from(">HH", segment, 5)
    return at, width, height


def _marker(wanted: frozenset[int], at: int, head: bytes, size: int, read_at: ReadAt | None) -> tuple[int, bytes]:
    """Offset and first 9 bytes of the first of the wanted markers at `at` or behind it."""
    for _ in range(SEGMENTS):
        segment = head[at : at + 9]
        if len(segment) < 9:
            if at + 9 > size or read_at is None:
                raise BadRow("truncated_image")
            segment = bytes(read_at(at, 9))
        if segment[0] != 0xFF:
            raise BadRow("not_an_image")
        marker = segment[1]
        if marker in wanted:
            return at, segment
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in (0xD9, 0xDA):  # end, or pixels before any frame header
            break
        else:
            at += 2 + max(2, (segment[2] << 8) | segment[3])
    raise BadRow("not_an_image")


def _webp(head: bytes) -> tuple[int, int]:
    kind = head[12:16]
    if kind == b"VP8X":
        if len(head) < 30:
            raise BadRow("truncated_image")
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise BadRow("not_an_image" if len(head) >= 16 else "truncated_image")


def _other(data: bytes) -> tuple[int, int, str]:
    """What Pillow says of the formats in `OTHERS`; reads headers only."""
    import warnings

    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large picture is measured here, not decoded
            with PIL.Image.open(io.BytesIO(data), formats=OTHERS) as image:
                return *image.size, (image.format or "unknown").lower()
    except PIL.Image.DecompressionBombError:
        raise BadRow("decompression_bomb") from None
    except Exception:  # noqa: BLE001  Pillow's plugins raise whatever their parser trips over
        raise BadRow("not_an_image") from None


def _whole(data: bytes | bytearray, end: int, format_: str, read_at: ReadAt) -> bool:
    """Whether `data[:end]` reaches the end of the picture that it begins.

    JPEG wants its end-of-image marker after the start of its first scan (a thumbnail's lies before it, and
    entropy-coded data cannot contain one), PNG its IEND chunk, WebP the length that its header names, GIF its trailer;
    bytes behind those are allowed. Other formats are not checked.
    """
    if format_ == "jpeg":
        head = bytes(data[: min(end, HEAD)])
        scan, _ = _marker(_SCAN, _frame(head, end, read_at)[0], head, end, read_at)
        return data.rfind(b"\xff\xd9", scan, end) > 0
    if format_ == "png":
        return _png_ends(data, end)
    if format_ == "webp":
        return end >= 8 + int.from_bytes(data[4:8], "little")
    return format_ != "gif" or _gif_ends(data, end)


def _png_ends(data: bytes | bytearray, end: int) -> bool:
    """Whether its chunks lead to its end; a picture inside one of them has an IEND of its own."""
    at, pixels = 8, False
    for _ in range(CHUNKS):
        if at + 12 > end:
            break
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        pixels = pixels or name == b"IDAT"
        if name == b"IEND":
            return pixels and at <= end
    return False


def _gif_ends(data: bytes | bytearray, end: int) -> bool:
    """Whether its blocks lead to its trailer; that byte is found in many other places."""
    if end < 13:
        return False
    at, pixels = 13 + _gif_colors(data[10]), False
    while at < end and data[at] != 0x3B:
        if data[at] == 0x2C and at + 10 < end:  # a frame
            at, pixels = at + 11 + _gif_colors(data[at + 9]), True
        elif data[at] == 0x21:  # an extension
            at += 2
        else:
            return False
        while at < end and data[at]:  # its data, in pieces that begin with their length
            at += data[at] + 1
        at += 1
    return pixels and at < end


def _gif_colors(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def examine(data: bytes | bytearray, end: int | None = None) -> Size:
    """Size and format of the whole encoded picture in `data[:end]`.

    Raises:
        BadRow: what `measure` raises, and "truncated_image" when the picture's end is missing.
    """
    end = len(data) if end is None else end

    def read_at(at: int, n: int) -> bytes:
        return bytes(data[at : min(at + n, end)])

    size = measure(data[: min(end, HEAD)], end, read_at)
    if not _whole(data, end, size.format, read_at):
        raise BadRow("truncated_image")
    return size


class Picture(NamedTuple):
    """What is known of a picture without decoding it; `hash` is xxh3-128 of its encoded bytes, 32 hex digits."""

    width: int
    height: int
    format: str
    hash: str


def picture_of(data: bytes) -> Picture:
    """Size, format and hash of a whole encoded picture; raises as `examine`."""
    return Picture(*examine(data), xxhash.xxh3_128_hexdigest(data))


class Examiner:
    """Examines and hashes pictures where they lie, through one buffer that is used again for each."""

    def __init__(self) -> None:
        self._buffer = bytearray(1 << 20)

    def __call__(self, reader: Bytes, offset: int, size: int) -> Picture:
        """The picture of `size` bytes at `offset`; raises as `examine`, and BadRow("too_large")."""
        if size > LARGEST:
            raise BadRow("too_large", str(size))
        if size > len(self._buffer):
            self._buffer = bytearray(size + (size >> 2))
        if reader.into(self._buffer, offset, size) != size:
            raise BadRow("truncated_image")
        return Picture(*examine(self._buffer, size), xxhash.xxh3_128_hexdigest(memoryview(self._buffer)[:size]))
