"""Pixels: what Pillow makes of a picture, upright, on white and in RGB; and nothing but BadRow from whatever else."""

import functools
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.features
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_picture import CHECKED, FUZZ, chunk, jpeg_with, noise, over, png_with, samples, saved, segment

from hfds.errors import BadRow, SourceChanged
from hfds.pixels import LARGEST_PIXELS, Encoded

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def rgb(data: bytes, least: int | None = None) -> np.ndarray:
    return np.asarray(Encoded.of(data).rgb(least))


def refused(data: bytes, least: int | None = None) -> str:
    """The reason for which a picture is not decoded."""
    with pytest.raises(BadRow) as raised:
        Encoded.of(data).rgb(least)
    return raised.value.reason


def tried(data: bytes, least: int | None = None) -> str:
    """The mode of a picture, or the reason for which it is not decoded."""
    try:
        image = Encoded.of(data).rgb(least)
    except BadRow as bad:
        value = bad.value or ""
        return bad.reason if value.isprintable() and "Warning" not in value else value
    assert 0 < image.width * image.height <= LARGEST_PIXELS
    return image.mode


def pillow(data: bytes) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    return image


def smooth(width: int, height: int) -> PIL.Image.Image:
    return noise("RGB", 8, 8).resize((width, height), PIL.Image.Resampling.BICUBIC)


def exif(orientation: object, kind: int = 3) -> bytes:
    """An EXIF block with nothing but an orientation."""
    code = {3: "H2x", 4: "I", 1: "B3x", 8: "h2x", 9: "i"}[kind]
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI" + code, 274, kind, 1, orientation) + bytes(4)


# Sizes


@pytest.mark.parametrize(
    "width, height", [(1024, 1024), (1792, 1024), (513, 257), (7, 900), (255, 224), (17, 15), (1, 1)]
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_leaves_enough(width: int, height: int) -> None:
    encoded = Encoded.of(saved(smooth(width, height), "JPEG"))
    for least in (1, 8, 16, 32, 33, 64, 65, 112, 128, 129, 224, 256, 257, 512, 513, 1024, 2000):
        scales = [scale for scale in (8, 4, 2, 1) if scale <= min(width, height)]
        sizes = [(-(-width // scale), -(-height // scale)) for scale in scales]
        enough = [size for size in sizes if min(size) >= least]
        assert encoded.rgb(least).size == (enough or sizes[-1:])[0], least
        assert encoded.rgb(least, exact=True).size == encoded.rgb().size == (width, height)


def test_a_smaller_decode_looks_the_same() -> None:
    encoded = Encoded.of(saved(smooth(1000, 800), "JPEG", quality=95))
    fast, full = (np.asarray(image.resize((224, 224)), int) for image in (encoded.rgb(224), encoded.rgb()))
    assert encoded.rgb(224).size == (500, 400)
    assert np.abs(fast - full).mean() < 1


def test_what_would_be_decoded_the_same_is_decoded_once() -> None:
    jpeg, png = (Encoded.of(saved(smooth(1024, 1024), name)) for name in ("JPEG", "PNG"))
    assert jpeg.rgb(224) is jpeg.rgb(256) is jpeg.rgb(200)
    assert jpeg.rgb(257) is not jpeg.rgb(256)
    assert jpeg.rgb(224, exact=True) is jpeg.rgb() is jpeg.rgb(1000)
    assert png.rgb(600) is png.rgb() is png.rgb(99, exact=True)
    assert png.rgb(256) is png.rgb(250)
    assert png.rgb(256).size == (256, 256)
    assert png.rgb(255).size == (256, 256), "a whole number of times smaller"


def test_a_full_decode_is_that_of_pillow() -> None:
    for name, data in samples().items():
        image = pillow(data)
        if not image.has_transparency_data and not image.mode.startswith("I"):
            assert np.array_equal(rgb(data), np.asarray(image.convert("RGB"))), name
        assert type(Encoded.of(data).rgb()) is PIL.Image.Image, name
        assert Encoded.of(data).rgb().size == image.size, name


# Modes


def on_white(image: PIL.Image.Image) -> np.ndarray:
    """As img2dataset does it."""
    pixels = np.asarray(image.convert("RGBA"), float)
    alpha = pixels[..., 3:] / 255
    return np.rint(alpha * pixels[..., :3] + 255 * (1 - alpha))


def transparent() -> dict[str, bytes]:
    steps = noise("RGBA")
    steps.putalpha(PIL.Image.linear_gradient("L").resize(steps.size))
    levels, colors = noise("L"), noise("P")
    found = {f"png {mode}": saved(steps.convert(mode), "PNG") for mode in ("RGBA", "LA")}
    found["tiff PA"] = saved(steps.convert("PA"), "TIFF")
    found["webp RGBA"] = saved(steps, "WEBP", lossless=True)
    found["png L, a level"] = saved(levels, "PNG", transparency=levels.getpixel((3, 3)))
    found["png RGB, a colour"] = saved(noise(), "PNG", transparency=noise().getpixel((3, 3)))
    found["png P, an entry"] = saved(colors, "PNG", transparency=colors.getpixel((3, 3)))
    found["png P, an alpha for each entry"] = saved(colors, "PNG", transparency=bytes(range(256)))
    found["gif"] = saved(colors, "GIF", transparency=colors.getpixel((3, 3)))
    return found


@pytest.mark.parametrize("name", transparent())
def test_what_is_transparent_lies_on_white(name: str) -> None:
    data = transparent()[name]
    expected = on_white(pillow(data))
    assert np.abs(rgb(data) - expected).max() <= 1
    assert (expected > 249).all(axis=2).any()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_of_grey_are_scaled_and_not_clipped(order: str) -> None:
    levels = np.linspace(0, 65535, 48 * 32).reshape(32, 48).astype(order)
    mode = "I;16" if order == "<u2" else "I;16B"
    image = PIL.Image.frombytes(mode, (48, 32), levels.tobytes())
    expected = (levels >> 8).astype(np.uint8)
    assert np.array_equal(rgb(saved(image, "TIFF")), np.stack([expected] * 3, axis=2))
    if mode == "I;16":
        png = saved(image, "PNG")
        assert np.array_equal(rgb(png)[..., 1], expected)
        assert rgb(png_with(png, b"tRNS", struct.pack(">H", levels[2, 3])))[2, 3].tolist() == [255] * 3
        assert np.array_equal(rgb(saved(PIL.Image.fromarray(levels.astype(np.int32)), "TIFF"))[..., 2], expected)


def test_16_bits_of_colour_are_what_pillow_makes_of_them() -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")
    assert np.array_equal(rgb(data), levels >> 8)


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_the_inverted_inks_of_adobe(transform: int) -> None:
    data = saved(smooth(64, 48).convert("CMYK"), "JPEG", quality=95, subsampling=0)
    data = over(data, data.index(b"Adobe") + 11, bytes([transform]))
    assert np.array_equal(rgb(data), np.asarray(pillow(data).convert("RGB")))
    if not transform:
        assert np.abs(rgb(data) - np.asarray(smooth(64, 48), int)).mean() < 3


def test_floating_point_pixels_are_refused() -> None:
    assert refused(saved(noise("L").convert("F"), "TIFF")) == "undecodable_image"


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_several(format_: str) -> None:
    first, others = smooth(64, 48), [noise(seed=seed, width=64, height=48) for seed in (1, 2)]
    data = saved(first, format_, save_all=True, append_images=others, duration=50)
    assert pillow(data).n_frames == 3
    assert np.abs(rgb(data) - np.asarray(first, int)).mean() < 12


# Lying pictures


def lying(orientation: int) -> dict[str, bytes]:
    """The same picture, said to lie so, in each way there is to say it."""
    block, image = exif(orientation), smooth(64, 40)
    raw = PIL.PngImagePlugin.PngInfo()
    raw.add_text("Raw profile type exif", f"\nexif\n{len(block)}\n{block.hex()}\n", zip=True)
    xmp = XMP.replace(b"6", b"%d" % orientation)
    found = {
        "jpeg": saved(image, "JPEG", exif=block),
        "jpeg long": saved(image, "JPEG", exif=exif(orientation, kind=4)),
        "jpeg xmp": saved(image, "JPEG", xmp=xmp),
        "jpeg both": saved(image, "JPEG", exif=block, xmp=XMP),
        "png": saved(image, "PNG", exif=block),
        "png raw": saved(image, "PNG", pnginfo=raw),
        "png behind": saved(image, "PNG")[:-12] + chunk(b"eXIf", block[6:]) + chunk(b"IEND"),
        "webp": saved(image, "WEBP", exif=block),
        "tiff": saved(image, "TIFF", tiffinfo={274: orientation}),
    }
    if PIL.features.check("avif"):
        found["avif"] = saved(image, "AVIF", exif=block)
    return found


@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_upright(orientation: int) -> None:
    for name, data in lying(orientation).items():
        upright = PIL.ImageOps.exif_transpose(pillow(data)).convert("RGB")
        assert np.array_equal(rgb(data), np.asarray(upright)), name
        again = PIL.ImageOps.exif_transpose(Encoded.of(data).rgb())
        assert again.size == upright.size, "turned twice"
    if orientation >= 5 and orientation < 9:
        assert Encoded.of(saved(smooth(640, 400), "JPEG", exif=exif(orientation))).rgb(100).size == (100, 160)


BROKEN = [
    b"", b"MM", b"MM\0*", b"XX\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff",
    b"II+\0" + bytes(12), exif(6)[6:-9],
    exif(6, kind=1)[6:], exif(-6, kind=8)[6:], exif(-6, kind=9)[6:], exif(60000)[6:],
    b"MM\0*\0\0\0\x08\0\2" + struct.pack(">HHII", 271, 2, 1 << 31, 1 << 30) + exif(1)[16:],
    b"MM\0*\0\0\0\x08\0\2" + struct.pack(">HHII", 282, 5, 9, 1 << 30) + struct.pack(">HHII", 296, 3, 3, 8),
]  # fmt: skip


@pytest.mark.parametrize("block", BROKEN)
def test_a_picture_with_broken_exif_lies_as_it_is_stored(block: bytes) -> None:
    plain = noise()
    for data in (
        jpeg_with(segment(0xE1, b"Exif\0\0" + block)),
        png_with(saved(plain, "PNG"), b"eXIf", block),
        saved(plain, "WEBP", exif=b"Exif\0\0" + block),
    ):
        assert Encoded.of(data).rgb().size == plain.size


def test_raw_exif_that_is_not_hexadecimal() -> None:
    data = png_with(saved(noise(), "PNG"), b"tEXt", b"Raw profile type exif\0\nexif\n9\nzz")
    assert Encoded.of(data).rgb().size == (40, 23)


# What is refused

WHOLE = ("png animated", "gif animated", "png 1 pixel, interlaced")  # before their end, as far as rgb() looks


@pytest.mark.parametrize("name", [name for name in samples() if name.split()[0] in CHECKED])
def test_a_cut_picture(name: str) -> None:
    data = samples()[name]
    for share in (0.4, 0.7, 0.9):
        found = tried(data[: int(share * len(data))])
        assert found == "truncated_image" or (found == "RGB" and name in WHOLE), share


def tagged(tag: int, count: int, value: int) -> bytes:
    """A TIFF, one of whose tags says something else."""
    data = saved(noise("L"), "TIFF")
    (start,) = struct.unpack_from("<I", data, 4)
    at = next(at for at in range(start + 2, len(data), 12) if struct.unpack_from("<H", data, at) == (tag,))
    return over(data, at + 2, struct.pack("<HII", 4, count, value))


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty_image"),
        (b"<html>", "not_an_image"),
        (saved(noise(), "EPS"), "not_an_image"),
        (saved(noise(), "PPM"), "not_an_image"),
        (saved(noise(), "TGA"), "not_an_image"),
        (b"II+\0" + bytes(30), "not_an_image"),
        (over(saved(noise(), "PNG"), 45, b"\xff" * 20), "undecodable_image"),
        (png_with(saved(noise(), "PNG"), b"acTL", bytes(8)), "undecodable_image"),
        (png_with(samples()["png animated"], b"acTL", struct.pack(">II", 2, 0)), "undecodable_image"),
        (jpeg_with(segment(0xC0, b"\x0c\0\1\0\1\1\1\x11\0")), "undecodable_image"),
        (tagged(256, 2, 40), "undecodable_image"),
        (tagged(273, 1 << 30, 8), "truncated_image"),
    ],
)
def test_what_cannot_be_decoded(data: bytes, reason: str) -> None:
    assert refused(data) == reason


def test_a_text_that_is_a_bomb() -> None:
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("bomb", " " * (2 << 20), zip=True)
    assert refused(saved(noise(), "PNG", pnginfo=text)) == "undecodable_image"


def sized(width: int, height: int, format_: str = "PNG", **options: object) -> bytes:
    """A picture whose header says another size."""
    data = saved(noise("L"), format_, **options)
    if format_ == "PNG":
        header = struct.pack(">II", width, height) + data[24:29]
        return data[:8] + chunk(b"IHDR", header) + data[33:]
    at = data.index(b"\xff\xc2" if options else b"\xff\xc0")
    return over(data, at + 5, struct.pack(">HH", height, width))


def icon() -> bytes:
    """Of the kind that has no PNG in it."""
    return saved(noise(width=32, height=32), "ICO", sizes=[(32, 32)], bitmap_format="bmp")


@pytest.mark.parametrize(
    "data, least, bomb",
    [
        (sized(1 << 14, 1 << 14), None, False),
        (sized((1 << 14) + 1, 1 << 14), None, True),
        (sized((1 << 14) + 1, 1 << 14, "JPEG"), None, True),
        (sized((1 << 14) + 1, 1 << 14, "JPEG"), 224, False),
        (sized(46000, 46000, "JPEG"), 224, False),
        (sized(46000, 46000, "JPEG", progressive=True), 224, True),
        (sized(47000, 47000, "JPEG"), 224, True),
        (over(saved(noise("P"), "GIF"), 6, b"\xff" * 4), None, True),
        (over(saved(noise("P"), "GIF"), 13 + 768 + 5, b"\xff" * 4), None, True),
        (over(saved(noise(), "BMP"), 18, b"\xff\xff\0\0\xff\xff\0\0"), None, True),
        (tagged(256, 1, 1 << 30), None, True),
        (over(saved(noise("RGBA"), "WEBP"), 24, b"\xff\x3f\0\xff\x3f\0"), None, True),
        (over(icon(), 26, b"\0\0\1\0" * 2), None, True),
    ],
)
def test_bombs(data: bytes, least: int | None, bomb: bool) -> None:
    """And what Pillow would warn of or refuse is still decoded, or tried."""
    assert (tried(data, least) == "decompression_bomb") == bomb


def test_a_large_picture_is_no_bomb() -> None:
    data = saved(PIL.Image.new("L", (13600, 13200), 7), "JPEG")  # more than twice what Pillow warns of
    assert Encoded.of(data).rgb(1000).size == (1700, 1650)


class Counting:
    """Bytes, and how many times they were asked for."""

    def __init__(self, data: bytes):
        self.data, self.asked = data, 0

    def __call__(self, at: int, n: int) -> bytes:
        self.asked += 1
        return self.data[at : at + n]


def test_a_failure_is_remembered() -> None:
    reads = Counting(saved(noise(), "JPEG")[:-50])
    encoded = Encoded(len(reads.data), reads)
    values = set()
    for _ in range(3):
        with pytest.raises(BadRow, match="truncated_image") as raised:
            encoded.rgb(224)
        values.add(raised.value)
        asked = reads.asked
    assert len(values) == 3, "an exception is raised once"
    assert reads.asked == asked


def test_a_source_that_changed_is_no_bad_row() -> None:
    def gone(at: int, n: int) -> bytes:
        raise SourceChanged("a.tar is gone")

    with pytest.raises(SourceChanged):
        Encoded(100, gone).rgb()


def test_any_number_of_threads_leave_no_trace() -> None:
    before = list(warnings.filters), PIL.Image.MAX_IMAGE_PIXELS
    broken = [jpeg_with(segment(0xE1, b"Exif\0\0" + block)) for block in BROKEN]
    pictures = [*samples().values(), *broken, sized(1 << 14, 6000)] * 3
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(tried, pictures))
    assert together == [tried(data) for data in pictures]
    assert before == (list(warnings.filters), PIL.Image.MAX_IMAGE_PIXELS)


# Damage

REASONS = {
    "empty_image",
    "not_an_image",
    "truncated_image",
    "impossible_size",
    "undecodable_image",
    "decompression_bomb",
}


def mended(data: bytes) -> bytes:
    """A PNG whose checksums are right again, so that what lies behind them is reached."""
    at, found = 8, data[:8]
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return found


@functools.cache
def damageable() -> dict[str, bytes]:
    return samples() | lying(6) | {"tiff jpeg": saved(noise(), "TIFF", compression="jpeg"), "ico bmp": icon()}


@settings(FUZZ, max_examples=400)
@given(
    st.sampled_from(sorted(damageable())),
    st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1, max_size=8),
    st.sampled_from([None, 4]),
)
@example("png RGB", [(0.3, 1)], None)
def test_no_damage_raises_anything_but_bad_row(name: str, flips: list[tuple[float, int]], least: int | None) -> None:
    data = bytearray(damageable()[name])
    for where, mask in flips:
        data[int(where**3 * len(data))] ^= mask  # more of them in the headers
    assert tried(bytes(data), least) in {"RGB", *REASONS}
    if name.startswith("png"):
        assert tried(mended(bytes(data)), least) in {"RGB", *REASONS}


@settings(FUZZ, max_examples=200)
@given(st.sampled_from(sorted(damageable())), st.floats(0, 0.9999), st.binary(max_size=12), st.integers(0, 12))
def test_nor_do_bytes_put_in_or_taken_out(name: str, where: float, put: bytes, taken: int) -> None:
    data = damageable()[name]
    at = int(where**2 * len(data))
    assert tried(data[:at] + put + data[at + taken :]) in {"RGB", *REASONS}
