"""Properties: what Pillow finds, from the headers and no more; and nothing but BadRow from whatever else."""

import io
import struct
import warnings

import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_picture import FUZZ, Counting, chunk, jpeg_with, noise, over, png_with, samples, saved, segment

from hfds.errors import BadRow
from hfds.picture import HEAD, measure
from hfds.pixels import Encoded
from hfds.properties import Properties, properties


def found(data: bytes) -> Properties | str:
    """The properties, or the reason for which there are none."""
    try:
        return properties(Encoded.of(data))
    except BadRow as bad:
        return bad.reason


def expected(data: bytes) -> Properties:
    """What Pillow says, having decoded the picture."""
    with PIL.Image.open(io.BytesIO(data)) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EXIF without its end
        mode, animated, size = image.mode, getattr(image, "is_animated", False), image.size
        upright = PIL.ImageOps.exif_transpose(image)
    return Properties(*size, measure(data, len(data)).format, mode, animated, upright.size != size)


def exif(orientation: int) -> bytes:
    block = PIL.Image.Exif()
    block[271], block[274], block[282] = "a maker whose name does not fit in", orientation, 72.0
    return block.tobytes()


def said() -> dict[str, bytes]:
    """Pictures with something to say."""
    frames = {"save_all": True, "append_images": [noise(seed=1), noise(seed=2)], "duration": 50}
    xmp = b'<rdf:Description tiff:Orientation="8"/>'
    packed, raw = PIL.PngImagePlugin.PngInfo(), PIL.PngImagePlugin.PngInfo()
    packed.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    raw.add_text("Raw profile type exif", f"\nexif\n 99\n{exif(7).hex()}\n", zip=True)
    pictures = {
        "jpeg xmp": saved(noise(), "JPEG", xmp=xmp),
        "jpeg upright, xmp": saved(noise(), "JPEG", exif=exif(1), xmp=xmp),
        "jpeg far exif": jpeg_with(segment(0xE2, bytes(5000)), segment(0xE1, exif(6)), segment(0xE2, bytes(5000))),
        "png xmp": png_with(saved(noise(), "PNG"), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "png packed xmp": saved(noise(), "PNG", pnginfo=packed),
        "png raw exif": saved(noise(), "PNG", pnginfo=raw),
        "png both": png_with(saved(noise(), "PNG", pnginfo=raw), b"eXIf", exif(1)[6:]),
        "png animated, exif": saved(noise(), "PNG", exif=exif(6), **frames),
        "png default image": saved(noise(), "PNG", default_image=True, **frames),
        "png one frame": png_with(saved(noise(), "PNG"), b"acTL", struct.pack(">II", 1, 0)),
        "png transparent": saved(noise("P"), "PNG", transparency=bytes(9)),
        "webp xmp": saved(noise(), "WEBP", xmp=xmp),
        "webp animated, exif": saved(noise(), "WEBP", exif=exif(6), **frames),
        "webp animated, alpha": saved(noise("RGBA"), "WEBP", save_all=True, append_images=[noise("RGBA", seed=1)]),
        "webp lossless alpha": saved(noise("RGBA"), "WEBP", lossless=True),
        "gif gray": saved(noise("L"), "GIF"),
        "gif black": saved(PIL.Image.new("1", (5, 7)), "GIF"),
        "gif of other palettes": saved(
            noise("L"), "GIF", save_all=True, append_images=[noise("P"), noise("P", seed=3)]
        ),
    }
    for mode, format_ in (("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "TIFF"), ("F", "TIFF"), ("1", "BMP"), ("P", "BMP")):
        pictures[f"{format_.lower()} {mode}"] = saved(noise("RGBA" if mode == "RGBA" else "L").convert(mode), format_)
    for bits in (1, 2, 4):
        pictures[f"png P {bits}"] = saved(noise().quantize(1 << bits), "PNG", bits=bits)
    for orientation in range(10):
        for format_ in ("JPEG", "PNG", "WEBP", "AVIF"):
            pictures[f"{format_} {orientation}"] = saved(noise(), format_, exif=exif(orientation))
        pictures[f"TIFF {orientation}"] = saved(noise(), "TIFF", tiffinfo={274: orientation})
    return pictures


PICTURES = samples() | said()


@pytest.mark.parametrize("name", PICTURES)
def test_properties_are_those_that_pillow_finds(name: str) -> None:
    data = PICTURES[name]
    assert found(data) == expected(data)


def png(bits: int, kind: int) -> bytes:
    header = struct.pack(">IIBBBBB", 4, 4, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT") + chunk(b"IEND")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16, 3])
@pytest.mark.parametrize("kind", [0, 2, 3, 4, 6, 1])
def test_modes_of_png(bits: int, kind: int) -> None:
    data = png(bits, kind)
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            mode = image.mode
    except PIL.UnidentifiedImageError:
        assert found(data) == "undecodable_image"
    else:
        assert found(data) == Properties(4, 4, "png", mode, False, False)


def test_no_more_is_read_than_is_needed() -> None:
    pixels = noise(width=300, height=200)
    for format_ in ("JPEG", "PNG", "WEBP"):
        for orientation in (1, 6):
            data = saved(pixels, format_, exif=exif(orientation), quality=95)
            reads = Counting(data)
            assert len(data) > 3 * HEAD
            assert properties(Encoded(len(data), reads)).rotated == (orientation == 6)
            assert reads.asked < HEAD + 1000, format_


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty_image"),
        (b"<html>", "not_an_image"),
        (b"\xff\xd8", "truncated_image"),
        (saved(noise(), "PNG")[:33], "truncated_image"),
        (saved(noise(), "PNG")[:24], "truncated_image"),
        (saved(noise("P"), "GIF")[:13], "truncated_image"),
        (saved(noise(), "WEBP", lossless=True)[:22], "truncated_image"),
        (over(saved(noise(), "PNG"), 16, bytes(4)), "impossible_size"),
        (jpeg_with(segment(0xC0, b"\x0c\0\1\0\1\1\1\x11\0"))[:20] + b"\xff\xda", "undecodable_image"),
        (jpeg_with(segment(0xC0, b"\x08\0\1\0\1\2\1\x11\0"))[:20] + b"\xff\xda", "undecodable_image"),
        (png_with(saved(noise(), "PNG"), b"zTXt", b"Raw profile type exif\0\1"), "undecodable_image"),
    ],
)
def test_what_has_no_properties(data: bytes, reason: str) -> None:
    assert found(data) == reason


@settings(FUZZ, max_examples=400)
@given(st.sampled_from(sorted(PICTURES)), st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), max_size=8))
def test_no_damage_raises_anything_but_bad_row(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(PICTURES[name])
    for where, mask in flips:
        data[int(where**3 * len(data))] ^= mask  # more of them in the headers
    assert isinstance(found(bytes(data)), Properties | str)
    assert isinstance(found(bytes(data[: len(data) // 2])), Properties | str)
