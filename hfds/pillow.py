"""Pillow's decoders without their warnings: bytes become an image whose pixels are still to be decoded, in any thread.

`PIL.Image.open` warns of large pictures, and its plugins of metadata that is off; `warnings.catch_warnings` hides that
from all threads at once, and not safely. So the plugins are called themselves, and shown nothing that they warn of.
Which formats are opened is said in `hfds.picture`.
"""

import io
import re
import struct
from collections.abc import Iterator, Mapping

import PIL.Image
from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffTags, WebPImagePlugin

from hfds.errors import BadRow
from hfds.picture import CHUNKS, HEAD, ReadAt, examine, measure

SILENT = (1 << 30) // 12  # pixels of the largest picture of which no plugin warns: Pillow's own default
_NATIVE = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"RIFF")  # what `examine` reads without Pillow
_JPEG2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
# Tags that say how the pixels of a TIFF are stored, those of TIFF 6.0 and its technical notes 1 and 2.
_TIFF = frozenset({256, 257, 258, 259, 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326)})
_TIFF |= {332, 338, 339, 347, *range(512, 522), *range(529, 533)}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value by its type
_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i"}
_ORIENTATION = 274
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)  # its name in the listing of an AVIF's items


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """The first picture in the file, with its resolution in EXIF left alone: reading it warns of other tags there."""

    def _read_dpi_from_exif(self) -> None:
        pass


def opened(data: bytes) -> PIL.Image.Image:
    """The picture, or the first of several, with its header read: `load` decodes it.

    Raises:
        BadRow: what `hfds.picture.measure` raises, "undecodable_image", or "decompression_bomb" for more than `SILENT`
            pixels of a GIF, WebP, TIFF or ICO.
        Exception: whatever Pillow's parsers trip over; `refusal` names it.
    """
    if data[:2] == b"\xff\xd8":
        return _Jpeg(io.BytesIO(data))
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height, _ = measure(data[:HEAD], len(data), lambda at, n: data[at : at + n])
        _refuse_above(SILENT, width, height)  # to open it takes two screens' memory already
        return WebPImagePlugin.WebPImageFile(io.BytesIO(data))
    return _rare(data)


def _rare(data: bytes) -> PIL.Image.Image:
    from PIL import AvifImagePlugin, BmpImagePlugin, Jpeg2KImagePlugin, TiffImagePlugin

    if data[:2] == b"BM":
        return BmpImagePlugin.BmpImageFile(io.BytesIO(data))
    if data[:2] in (b"II", b"MM"):
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(_plain_tiff(data)))
        _refuse_above(SILENT, *image.size)
        return image
    if data[4:8] == b"ftyp":  # turned as its container says, not as its EXIF does
        return AvifImagePlugin.AvifImageFile(io.BytesIO(_EXIF_ITEM.sub(rb"\1skip", data)))
    if data[:4] == b"\0\0\1\0":
        return _icon(data)
    if data.startswith(_JPEG2000):
        return Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(data))
    raise BadRow("not_an_image" if data else "empty_image")


def refusal(error: Exception, data: bytes = b"") -> BadRow:
    """Why a picture that made Pillow raise `error` cannot be used; with its `data`, also whether it is cut off."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return BadRow("decompression_bomb", text)
    if data.startswith(_NATIVE):
        try:
            examine(data)
        except BadRow as bad:
            return bad
    if "truncated" in text.lower():
        return BadRow("truncated_image")
    return BadRow("undecodable_image", "".join(c if c.isprintable() else "?" for c in text[:200]))


def _refuse_above(pixels: int, width: int, height: int) -> None:
    if width * height > pixels:
        raise BadRow("decompression_bomb", f"{width}x{height}")


def _png(data: bytes) -> PIL.Image.Image:
    """Not one that counts its frames twice or has none."""
    counts = [data[at : at + 4] for name, at, _ in png_chunks(lambda at, n: data[at : at + n]) if name == b"acTL"]
    if len(counts) > 1 or any(not 0 < int.from_bytes(count, "big") <= 1 << 31 for count in counts):
        raise BadRow("undecodable_image", "invalid APNG")
    return PngImagePlugin.PngImageFile(io.BytesIO(data))


def png_chunks(read_at: ReadAt) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset of its content and length of every chunk of a PNG, as far as they go."""
    at = 8
    for _ in range(CHUNKS):
        header = bytes(read_at(at, 8))
        if len(header) < 8:
            return
        length = int.from_bytes(header[:4], "big")
        yield header[4:], at + 8, length
        at += 12 + length


def _gif(data: bytes) -> PIL.Image.Image:
    """Its first frame may be larger than its screen, and widens it."""
    first = next(gif_frames(data), None)
    if first is not None:
        across, down = struct.unpack_from("<2H", data, 6)
        left, top, width, height = struct.unpack_from("<4H", data, first + 1)
        _refuse_above(SILENT, max(left + width, across), max(top + height, down))
    return GifImagePlugin.GifImageFile(io.BytesIO(data))


def gif_frames(data: bytes) -> Iterator[int]:
    """Offset of every frame of a GIF, as far as its blocks go; junk between them is passed over, as Pillow does."""
    at = 13 + color_bytes(data[10])
    while at + 10 < len(data) and data[at] != 0x3B:
        if data[at] == 0x2C:
            yield at
            at += 11 + color_bytes(data[at + 9])
        elif data[at] == 0x21:  # an extension
            at += 2
        else:
            at += 1
            continue
        while at < len(data) and data[at]:  # its data, in pieces that begin with their length
            at += data[at] + 1
        at += 1


def color_bytes(flags: int) -> int:
    """Bytes of the colour table that these flags of a GIF announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _icon(data: bytes) -> PIL.Image.Image:
    """The largest of an ICO, whatever size its listing gives."""
    from PIL import BmpImagePlugin, IcoImagePlugin

    icon = IcoImagePlugin.IcoFile(io.BytesIO(data))
    largest = icon.entry[0]
    picture = data[largest.offset :]
    if picture.startswith(b"\x89PNG"):
        return _png(picture)
    _refuse_above(SILENT, *BmpImagePlugin.DibImageFile(io.BytesIO(picture)).size)
    return icon.getimage(largest.dim)


def _tags(data: bytes, order: str) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count and value (or its offset) of the entries of a TIFF's or EXIF's first directory.

    Raises:
        struct.error: at the end of data.
    """
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        yield struct.unpack_from(order + "HHI4s", data, at)


def _plain_tiff(data: bytes) -> bytes:
    """The TIFF with a new directory, of its first page and of nothing but how that is stored."""
    order, left, entries = "<" if data[:2] == b"II" else ">", len(data), []
    if data[2:4] not in (b"*\0", b"\0*"):
        raise BadRow("not_an_image")
    for tag, kind, count, value in _tags(data, order):
        size = _SIZES.get(kind, 0) * count
        if tag not in _TIFF or not size:
            continue
        if TiffTags.lookup(tag).length == 1 and count != 1:
            raise BadRow("undecodable_image", f"{count} values of tag {tag}")
        if size > 4:
            left -= size
            if left < 0 or struct.unpack(order + "I", value)[0] + size > len(data):
                raise BadRow("truncated_image")
        entries.append(struct.pack(order + "HHI4s", tag, kind, count, value))
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack(order + "I", len(data)) + data[8:] + directory


def orientation(info: Mapping[str | tuple[int, int], object]) -> int:
    """How a picture with this `Image.info` lies, 1 to 8 as in EXIF; 1 where nothing intelligible says so.

    As `PIL.ImageOps.exif_transpose`: said in EXIF, else in XMP.
    """
    exif, xmp = info.get("exif"), info.get("XML:com.adobe.xmp") or info.get("xmp")
    raw = info.get("Raw profile type exif")
    try:
        if exif is None and isinstance(raw, str):  # in hexadecimal, as ImageMagick writes it
            exif = bytes.fromhex("".join(raw.split("\n")[3:]))
        found = _exif_orientation(exif) if isinstance(exif, bytes) else None
    except (struct.error, ValueError):
        found = None
    if found is None and isinstance(xmp, str | bytes):
        text = xmp if isinstance(xmp, str) else xmp.decode("latin-1")
        match = re.search(r'tiff:Orientation(="|>)([0-9])', text)
        found = int(match[2]) if match else None
    return found if found is not None and 1 <= found <= 8 else 1


def _exif_orientation(exif: bytes) -> int | None:
    data = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    if data[:2] not in (b"II", b"MM"):
        raise ValueError
    order = "<" if data[:2] == b"II" else ">"
    for tag, kind, count, value in _tags(data, order):
        if tag == _ORIENTATION and count == 1 and kind in _INTEGERS:
            found: int = struct.unpack_from(order + _INTEGERS[kind], value)[0]
            return found
    return None
