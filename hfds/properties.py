"""Properties: what the headers of an encoded picture say, in the words of Pillow and without its decoders.

Follows the same formats as `hfds.picture`; what that reads through Pillow is read through Pillow here as well.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from hfds.errors import BadRow
from hfds.picture import CHUNKS, SEGMENTS, Size, measure
from hfds.pillow import color_bytes, gif_frames, opened, orientation, png_chunks, refusal
from hfds.pixels import Encoded

_JPEG = {1: "L", 3: "RGB", 4: "CMYK"}  # by the number of components
_PNG = {  # by bits and colour type
    **{(bits, 0): mode for bits, mode in ((1, "1"), (2, "L"), (4, "L"), (8, "L"), (16, "I;16"))},
    **{(bits, 3): "P" for bits in (1, 2, 4, 8)},
    (8, 2): "RGB", (16, 2): "RGB", (8, 4): "LA", (16, 4): "RGBA", (8, 6): "RGBA", (16, 6): "RGBA",
}  # fmt: skip
_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # of a PNG, may say how it lies
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_GREYS = bytes(level for level in range(256) for _ in range(3))
_ANIMATED, _SAYS_HOW_IT_LIES, _ALPHA = 0x02, 0x0C, 0x10  # flags of an extended WebP
Info = dict[str | tuple[int, int], object]


class Properties(NamedTuple):
    """What is known of a picture from its headers.

    `width`, `height` and `format` are those of `hfds.picture.measure`; `mode` is Pillow's of the first frame, such as
    RGB, L, P, CMYK, RGBA, I;16; `rotated` says that it is upright when `height` wide and `width` high (never of a TIFF,
    of which `measure` gives the upright size).
    """

    width: int
    height: int
    format: str
    mode: str
    animated: bool
    rotated: bool


def properties(picture: Encoded) -> Properties:
    """The properties of a picture, read from no more than its headers; a GIF and rare formats are read in full.

    What lies behind the pixels of a PNG is not looked at, though its EXIF may.

    Raises:
        BadRow: what `hfds.picture.measure` raises, and "undecodable_image" for a mode that Pillow does not know.
    """
    size = measure(picture.head, picture.size, picture.read_at)
    try:
        mode, animated, turn = _read(picture, size)
    except (struct.error, IndexError):
        raise BadRow("truncated_image") from None
    return Properties(*size, mode, animated, turn >= 5)


def _read(picture: Encoded, size: Size) -> tuple[str, bool, int]:
    """Mode, whether animated, and orientation as in EXIF."""
    if size.format == "jpeg":
        return _jpeg(picture)
    if size.format == "png":
        return _png(picture)
    if size.format == "gif":
        return _gif(picture.data)
    if size.format == "webp":
        return _webp(picture)
    return _other(picture.data)


def _part(picture: Encoded, at: int, n: int) -> bytes:
    """Some of its bytes, as many as there are, from its head where they lie there."""
    if at + n <= len(picture.head):
        return picture.head[at : at + n]
    return bytes(picture.read_at(at, min(n, picture.size - at))) if at < picture.size else b""


def _jpeg(picture: Encoded) -> tuple[str, bool, int]:
    frame, info = b"", Info()
    for marker, at, length in _segments(picture):
        if marker == 0xE1:
            content = _part(picture, at, length)
            if content.startswith(b"Exif\0\0"):
                info.setdefault("exif", content)
            elif content.startswith(_XMP):
                info["xmp"] = content
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = _part(picture, at, 6)
    if frame[0] != 8 or frame[5] not in _JPEG:
        raise BadRow("undecodable_image", f"{frame[5]} components of {frame[0]} bits")
    return _JPEG[frame[5]], False, orientation(info)


def _segments(picture: Encoded) -> Iterator[tuple[int, int, int]]:
    """Marker, offset of its content and length of the segments of a JPEG before its pixels."""
    at = 2
    for _ in range(SEGMENTS):
        marker = _part(picture, at, 4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] in (0xD9, 0xDA):
            return
        if marker[1] == 0xFF:  # fill byte
            at += 1
        elif marker[1] == 0x01 or 0xD0 <= marker[1] <= 0xD8:  # without a length
            at += 2
        else:
            length = max(2, (marker[2] << 8) | marker[3])
            yield marker[1], at + 4, length - 2
            at += 2 + length


def _png(picture: Encoded) -> tuple[str, bool, int]:
    bits, kind = struct.unpack("BB", _part(picture, 24, 2))
    if (bits, kind) not in _PNG:
        raise BadRow("undecodable_image", f"{bits} bits of colour type {kind}")
    frames, first, says = 0, 0, False
    for name, at, _ in png_chunks(lambda at, n: _part(picture, at, n)):
        if name == b"acTL":
            frames = int.from_bytes(_part(picture, at, 4), "big")
        elif name == b"fcTL":
            first = 1
        elif name == b"eXIf" or (name[1:] in (b"TXt", b"EXt") and _part(picture, at, 24).startswith(_TEXTS)):
            says = True
        elif name == b"IDAT":
            # Text may be compressed and EXIF in hexadecimal: Pillow reads them, up to where the pixels begin.
            turn = _other(bytes(picture.read_at(0, at)))[2] if says else 1
            # Pixels that no frame is announced for are a picture of their own, for those who know no frames.
            return _PNG[bits, kind], frames > 1 or frames > first, turn
    raise BadRow("truncated_image")


def _gif(data: bytes) -> tuple[str, bool, int]:
    frames = gif_frames(data)
    first = next(frames, None)
    if first is None:
        raise BadRow("truncated_image")
    own = data[first + 10 :][: color_bytes(data[first + 9])]
    colors = own or data[13:][: color_bytes(data[10])]
    return "L" if _GREYS.startswith(colors) else "P", next(frames, None) is not None, 1


def _webp(picture: Encoded) -> tuple[str, bool, int]:
    head = picture.head
    if head[12:16] == b"VP8X":
        return _extended_webp(picture, head[20])
    alpha = head[12:16] == b"VP8L" and head[24] & 0x10  # a lossless one says it in its own header
    return "RGBA" if alpha else "RGB", False, 1


def _extended_webp(picture: Encoded, flags: int) -> tuple[str, bool, int]:
    at, frames, info = 12, 0, Info()
    for _ in range(CHUNKS if flags & (_ANIMATED | _SAYS_HOW_IT_LIES) else 0):
        header = _part(picture, at, 8)
        if len(header) < 8 or (frames > 1 and not flags & _SAYS_HOW_IT_LIES):
            break
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"ANMF":
            frames += 1
        elif header[:4] in (b"EXIF", b"XMP "):
            info[header[:4].decode().strip().lower()] = _part(picture, at + 8, length)
        at += 8 + length + (length & 1)
    return "RGBA" if flags & _ALPHA else "RGB", frames > 1, orientation(info)


def _other(data: bytes) -> tuple[str, bool, int]:
    """What Pillow says of a picture, of which it reads the headers only."""
    try:
        image = opened(data)
    except BadRow:
        raise
    except Exception as error:  # noqa: BLE001  Pillow's plugins raise whatever they trip over
        raise refusal(error) from None
    return image.mode, bool(getattr(image, "is_animated", False)), orientation(image.info)
