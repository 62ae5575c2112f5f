"""Pictures: the sizes that Pillow finds, every cut noticed, and nothing but BadRow from whatever else there is."""

import functools
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.features
import PIL.Image
import pytest
import xxhash
from fixtures.make import picture
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfds.archive import Reader
from hfds.errors import BadRow
from hfds.picture import HEAD, LARGEST, Examiner, Picture, Size, examine, measure, picture_of

FUZZ = settings(deadline=None, derandomize=True, database=None)
CHECKED = ("jpeg", "png", "webp", "gif")  # formats whose end is looked for


def saved(image: PIL.Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", width: int = 40, height: int = 23, seed: int = 0) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 4), np.uint8)
    if mode == "I;16":
        return PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 255)
    image = PIL.Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(*segments: bytes, before: int = 0xD8, **options: object) -> bytes:
    """A JPEG with segments put in behind SOI, or before the first marker `before` of its frame."""
    data = saved(noise(), "JPEG", **options)
    at = 2 if before == 0xD8 else data.index(bytes([0xFF, before]))
    return data[:at] + b"".join(segments) + data[at:]


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(data: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with another chunk behind its header."""
    return data[:33] + chunk(name, content) + data[33:]


def interlaced() -> bytes:
    """Of one pixel, which all passes but the first leave out."""
    data = saved(noise(width=1, height=1), "PNG")
    header = data[16:28] + b"\1"
    return data[:8] + chunk(b"IHDR", header) + data[33:]


def top_down() -> bytes:
    data = bytearray(saved(noise(), "BMP"))
    data[22:26] = struct.pack("<i", -23)
    return bytes(data)


def core_header(width: int = 4, height: int = 2) -> bytes:
    """The BMP of OS/2 1.x."""
    header = struct.pack("<IHHI", 50, 0, 0, 26) + struct.pack("<IHHHH", 12, width, height, 1, 24)
    return b"BM" + header + bytes(24)


@functools.cache
def samples() -> dict[str, bytes]:
    """Whole pictures that end where their format ends."""
    frames = {"save_all": True, "append_images": [noise(seed=1), noise(seed=2)], "duration": 50}
    thumbnail = b"Exif\0\0" + saved(noise(width=8, height=8), "JPEG")
    found = {
        "jpeg": saved(noise(), "JPEG"),
        "jpeg progressive": saved(noise(), "JPEG", progressive=True),
        "jpeg gray": saved(noise("L"), "JPEG"),
        "jpeg cmyk": saved(noise("CMYK"), "JPEG"),
        "jpeg restarts": saved(noise(), "JPEG", restart_marker_blocks=1),
        "jpeg 4:4:4": saved(noise(), "JPEG", subsampling=0, quality=100),
        "jpeg thumbnail": jpeg_with(segment(0xE1, thumbnail)),
        "jpeg far header": jpeg_with(segment(0xE2, b"\xff\xd9" * 2500), segment(0xE2, b"\xff\xc0" * 32766)),
        "jpeg comment in frame": jpeg_with(segment(0xFE, b"\xff\xd9\xff\xda"), before=0xC4),
        "jpeg thumbnail in frame": jpeg_with(segment(0xE1, thumbnail), before=0xDA),
        "jpeg fill bytes": jpeg_with(b"\xff" * 7),
        "png 1 pixel, interlaced": interlaced(),
        "png with a png in it": png_with(saved(noise(), "PNG"), b"caBX", saved(noise(width=9), "PNG")),
        "png animated": saved(noise(), "PNG", **frames),
        "gif": saved(noise("P"), "GIF"),
        "gif with a comment": saved(noise("P"), "GIF", comment=b";" * 300),
        "gif animated": saved(noise("P"), "GIF", **frames),
        "gif transparent": saved(noise("P"), "GIF", transparency=3),
        "webp": saved(noise(), "WEBP"),
        "webp lossless": saved(noise(), "WEBP", lossless=True),
        "webp alpha": saved(noise("RGBA"), "WEBP"),
        "webp exif": saved(noise(), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
        "webp animated": saved(noise(), "WEBP", **frames),
        "bmp": saved(noise(), "BMP"),
        "bmp gray": saved(noise("L"), "BMP"),
        "bmp top down": top_down(),
        "bmp of os/2": core_header(),
        "tiff": saved(noise(), "TIFF"),
        "tiff lzw": saved(noise("CMYK"), "TIFF", compression="tiff_lzw"),
        "ico": saved(noise(width=32, height=32), "ICO", sizes=[(32, 32)]),
    }
    found |= {f"png {mode}": saved(noise(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
    if PIL.features.check("avif"):
        found["avif"] = saved(noise(), "AVIF")
    if PIL.features.check("jpg_2000"):
        found["jpeg2000"] = saved(noise(), "JPEG2000")
    return found


def examined(data: bytes | bytearray, end: int | None = None) -> Size | str:
    """The size of a picture, or the reason for which it is none."""
    try:
        return examine(data, end)
    except BadRow as bad:
        return bad.reason


@pytest.mark.parametrize("name", samples())
def test_sizes_are_those_that_pillow_finds(name: str) -> None:
    data = samples()[name]
    with PIL.Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = (*image.size, image.format.lower())
    assert examine(data) == expected
    assert examine(data).format == name.split()[0]
    assert measure(data, len(data)) == expected
    assert examine(bytearray(data) + b"\xff\xd9;IEND" * 9, len(data)) == expected
    for n in (64, HEAD):
        assert measure(data[:n], len(data), lambda at, n: data[at : at + n]) == expected
    assert picture_of(data) == Picture(*expected, xxhash.xxh3_128_hexdigest(data))


@pytest.mark.parametrize("name", [name for name in samples() if name.split()[0] in CHECKED])
def test_every_cut_is_noticed(name: str) -> None:
    data = samples()[name]
    step = max(1, len(data) // 4000)
    for end in {*range(1, len(data), step), *range(max(1, len(data) - 50), len(data))}:
        assert examined(data, end) == examined(data[:end]), end
        assert examined(data, end) in (("truncated_image", "not_an_image") if end < 20 else ("truncated_image",)), end
    assert examined(b"") == examined(data, 0) == "empty_image"


@pytest.mark.parametrize("name", samples())
def test_no_cut_raises_anything_but_bad_row(name: str) -> None:
    data = samples()[name]
    for end in range(0, len(data), max(1, len(data) // 300)):
        assert examined(data, end) in (examine(data), "empty_image", "truncated_image", "not_an_image"), end


@pytest.mark.parametrize(
    "junk",
    [b"\0" * 9, b"\xff\xda\0\x08", b"\xff\xd9 junk", b"\xff\xd8\xff\xd9", b"\0\0\0\0IEND\xaeB`\x82", b";", b"\xff"],
)
def test_what_lies_behind_a_picture_does_not_matter(junk: bytes) -> None:
    for name, data in samples().items():
        if name.split()[0] in CHECKED:
            assert examine(data + junk) == examine(data), name


@settings(FUZZ, max_examples=300)
@given(st.sampled_from([name for name in samples() if name.split()[0] in CHECKED]), st.floats(0, 0.9999), st.data())
def test_what_is_accepted_can_be_loaded(name: str, at: float, data: st.DataObject) -> None:
    """Also where the download broke off and left zeros, but in a WebP, of which only the length is known."""
    whole = samples()[name]
    end = int(at * len(whole))
    zeros = 0 if name.startswith("webp") else data.draw(st.sampled_from([0, 1, 100, len(whole) - end]))
    made = whole[:end] + bytes(zeros)
    size = examined(made)
    if isinstance(size, str):
        return
    with PIL.Image.open(io.BytesIO(made)) as image:
        image.load()
        assert size[:2] == image.size


MAGIC = [
    b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\0\x10", b"\xff\xd8\xff\xc0\0\x0b\x08", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"GIF89a", b"GIF87a\1\0\1\0\0\0\0,", b"RIFF\x20\0\0\0WEBPVP8 ", b"RIFF\x20\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8L",
    b"BM", b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"\0\0\1\0\1\0",
    b"\0\0\0\x20ftypavif", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xffO\xffQ",
]  # fmt: skip


@settings(FUZZ, max_examples=500)
@given(st.sampled_from(MAGIC), st.binary(max_size=200), st.integers(0, 250))
@example(b"\xff\xd8\xff\xc0\0\x0b\x08", b"\0\1\0\1", 11)
@example(b"GIF89a", b"\1\0\1\0\x80\0\0", 13)
def test_no_bytes_raise_anything_but_bad_row(magic: bytes, rest: bytes, end: int) -> None:
    buffer = bytearray(magic + rest)
    for data, length in ((bytes(buffer), None), (buffer, min(end, len(buffer)))):
        found = examined(data, length)
        assert isinstance(found, str) or min(found.width, found.height) > 0


@settings(FUZZ, max_examples=300)
@given(st.sampled_from(sorted(samples())), st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1))
def test_no_damage_raises_anything_but_bad_row(name: str, flips: list[tuple[float, int]]) -> None:
    data = bytearray(samples()[name])
    for where, mask in flips:
        data[int(where**3 * len(data))] ^= mask  # more of them in the headers
    found = examined(data)
    assert isinstance(found, str) or 0 < min(found[:2]) <= max(found[:2]) < 2**31


def over(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def frame_at(data: bytes) -> int:
    return data.index(b"\xff\xc0")


@pytest.mark.parametrize(
    "data, reason",
    [
        (over(saved(noise(), "PNG"), 16, bytes(4)), "impossible_size"),
        (over(saved(noise(), "PNG"), 20, b"\x80\0\0\0"), "impossible_size"),
        (over(saved(noise(), "JPEG"), frame_at(saved(noise(), "JPEG")) + 5, b"\0\0"), "impossible_size"),
        (over(saved(noise("P"), "GIF"), 6, b"\0\0"), "impossible_size"),
        (over(saved(noise(), "WEBP"), 26, b"\0\0"), "impossible_size"),
        (over(saved(noise(), "BMP"), 18, b"\xff\xff\xff\xff"), "impossible_size"),
        (over(saved(noise(), "BMP"), 22, b"\0\0\0\x80"), "impossible_size"),
        (core_header(65535, 65535), "decompression_bomb"),
        # whole by their ends, and without a pixel
        (jpeg_with(segment(0xC0, bytes(9)))[: 2 + 13] + b"\xff\xd9", "impossible_size"),
        (b"\xff\xd8" + segment(0xC0, b"\x08\0\1\0\1\1\1\x11\0") + b"\xff\xd9" + bytes(20), "not_an_image"),
        (b"\xff\xd8\xff\xd9" + bytes(20), "not_an_image"),
        (saved(noise(), "PNG")[:33] + chunk(b"IEND"), "truncated_image"),
        (saved(noise("P"), "GIF")[:13] + b";", "truncated_image"),
        (b"GIF89a\1\0\1\0\0\0\0;", "truncated_image"),
        (over(saved(noise("P"), "GIF"), 13 + 768, b"\7"), "truncated_image"),
        (over(saved(noise(), "PNG"), 12, b"CgBI"), "not_an_image"),
        (over(saved(noise(), "WEBP"), 12, b"JUNK"), "not_an_image"),
        # a sea of markers, none of which is a frame
        (b"\xff\xd8" + b"\xff" * 3_000_000, "not_an_image"),
        (b"\xff\xd8" + b"\xff\xd0" * 1_000_000, "not_an_image"),
        (b"\xff\xd8" + b"\xff\xe0\0\0" * 1_000_000, "not_an_image"),
        (saved(noise(), "PNG")[:33] + chunk(b"tEXt") * 1_500_000 + saved(noise(), "PNG")[33:], "truncated_image"),
        # other things
        (b"BMW is a maker of cars, and this is a text about it", "not_an_image"),
        (b"<!DOCTYPE html><html><body>Not Found</body></html>", "not_an_image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
        (b"%PDF-1.7\n" + bytes(100), "not_an_image"),
        (saved(noise(), "EPS"), "not_an_image"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), "not_an_image"),
        (bytes(5000), "not_an_image"),
        (b"\xff", "not_an_image"),
        (b"\xff\xd8", "truncated_image"),
        (b"\xff\xd8 and then a text", "not_an_image"),
    ],
)
def test_what_is_no_picture(data: bytes, reason: str) -> None:
    assert examined(data) == reason


class Counting:
    """The bytes that are asked for behind the head."""

    def __init__(self, data: bytes):
        self.data, self.asked = data, 0

    def __call__(self, at: int, n: int) -> bytes:
        self.asked += n
        return self.data[at : at + n]


def test_no_more_is_read_than_is_needed() -> None:
    for name, data in samples().items():
        if name.split()[0] in CHECKED and "far header" not in name:
            reads = Counting(data)
            measure(data[:HEAD], len(data), reads)
            assert reads.asked == 0, name
    far = samples()["jpeg far header"]
    reads = Counting(far)
    measure(far[:HEAD], len(far), reads)
    assert 0 < reads.asked < 100


def test_the_examiner_reads_in_place_and_uses_its_buffer_again(tmp_path: Path) -> None:
    large = saved(PIL.Image.effect_noise((1200, 1200), 100), "PNG")
    assert len(large) > 1 << 20
    all_of_them = [*samples().values(), large, picture(seed=3), large[:-1], b"", samples()["gif"]]
    path = tmp_path / "pictures"
    path.write_bytes(b"".join(all_of_them))
    examiner, at = Examiner(), 0
    with Reader(str(path)) as reader:
        for data in all_of_them:
            try:
                expected: object = picture_of(data)
            except BadRow as bad:
                expected = bad.reason
            try:
                found: object = examiner(reader, at, len(data))
            except BadRow as bad:
                found = bad.reason
            assert found == expected
            at += len(data)


def test_the_examiner_refuses_what_is_too_large_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture() + b"junk")
    with Reader(str(path)) as reader:
        for size, reason in ((LARGEST + 1, "too_large"), (len(picture()) + 5, "truncated_image"), (0, "empty_image")):
            with pytest.raises(BadRow) as raised:
                Examiner()(reader, 0, size)
            assert raised.value.reason == reason
        with pytest.raises(BadRow, match="truncated_image"):
            Examiner()(reader, reader.size + 1, 100)
