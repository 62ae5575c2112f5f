"""HashImage: its definition by the letter, near for the same picture encoded again, far for another one."""

import io
import math
import tarfile
from pathlib import Path
from statistics import median

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import Dataset
from fixtures.make import picture

from hfds.run import Run
from processors.hash_image import HashImage, perceptual_hashes

EXAMPLES = Path(__file__).parents[1] / "examples/sources/laion/00000.tar"
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def rows(*pictures: bytes | None) -> Dataset:
    return Dataset(pa.table({"image": pa.array([data and {"bytes": data} for data in pictures], IMAGE)}))


def hashes(pictures: list[bytes]) -> np.ndarray:
    return np.array(HashImage()(rows(*pictures))["perceptual_hash"][:], np.uint64)


def encoded(image: PIL.Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos() -> list[PIL.Image.Image]:
    with tarfile.open(EXAMPLES) as tar:
        names = [member for member in tar if member.name.endswith(".jpg")][:20]
        return [PIL.Image.open(io.BytesIO(tar.extractfile(name).read())).convert("RGB") for name in names]


def test_the_definition() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (32, 32)).tolist()

    def frequency(u: int, v: int) -> float:
        return sum(
            grey[y][x] * math.cos(math.pi / 32 * (y + 0.5) * u) * math.cos(math.pi / 32 * (x + 0.5) * v)
            for y in range(32)
            for x in range(32)
        )

    low = [frequency(u, v) for u in range(8) for v in range(8)]
    bits = "".join(str(int(value > median(low))) for value in low)
    (found,) = perceptual_hashes([np.array(grey, np.uint8)]).tolist()
    assert found == int(bits, 2)
    assert bits[0] == "1", "the mean grey is the first, and the highest bit"


def test_pictures_of_one_colour_are_one_picture() -> None:
    flat = [picture_of(level) for level in (1, 128, 255)]
    assert {*hashes(flat).tolist()} == {1 << 63}
    assert hashes([picture_of(0)]).tolist() == [0]


def picture_of(level: int) -> bytes:
    return encoded(PIL.Image.new("RGB", (50, 70), (level, level, level)), "PNG")


def test_near_for_the_same_picture_and_far_for_another(photos: list[PIL.Image.Image]) -> None:
    first = hashes([encoded(photo, quality=95) for photo in photos])
    changed = {
        "quality 50": [encoded(photo, quality=50) for photo in photos],
        "half the size": [encoded(photo.resize((photo.width // 2, photo.height // 2))) for photo in photos],
        "a PNG of 200 pixels": [encoded(photo.resize((200, 200)), "PNG") for photo in photos],
        "a WebP": [encoded(photo, "WEBP", quality=70) for photo in photos],
        "brighter": [encoded(photo.point(lambda level: min(255, level * 5 // 4))) for photo in photos],
    }
    for name, pictures in changed.items():
        assert np.bitwise_count(first ^ hashes(pictures)).max() <= 10, name
    noise = hashes([picture("PNG", 64, 48, seed=n) for n in range(20)])
    each = np.concatenate([first, noise])
    apart = np.bitwise_count(each[:, None] ^ each)[np.triu_indices(len(each), 1)]
    assert apart.min() >= 14
    assert 28 < apart.mean() < 34


def test_a_picture_that_is_stored_lying_is_hashed_upright(photos: list[PIL.Image.Image]) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = encoded(photos[0].transpose(PIL.Image.Transpose.ROTATE_90), quality=95, exif=exif)
    upright, turned = hashes([encoded(photos[0], quality=95), lying])
    assert np.bitwise_count(upright ^ turned) <= 2


@pytest.mark.parametrize("num_proc", [1, 2])
def test_through_the_store(tmp_path: Path, num_proc: int) -> None:
    good = [picture("JPEG", 40 + n, 50, seed=n) for n in range(3)]
    run = Run.here(tmp_path, num_proc)
    made = HashImage()(rows(good[0], None, b"nothing", good[1], good[0][:300], good[0]), run)
    found = made["perceptual_hash"][:]
    assert [value is not None for value in found] == [True, False, False, True, False, True]
    assert found[0] == found[5] != found[3]
    assert made.features["perceptual_hash"].dtype == "uint64"
    assert [row and (row["step"], row["reason"]) for row in made["dropped"][:]] == [
        None,
        None,
        ("HashImage", "not_an_image"),
        None,
        ("HashImage", "truncated_image"),
        None,
    ]
    again = HashImage()(rows(good[2], good[1]), Run.here(tmp_path, num_proc))
    assert again["perceptual_hash"][1] == found[3]


def test_odd_shapes() -> None:
    odd = [picture("PNG", 1, 1), picture("PNG", 3000, 1), picture("PNG", 1, 3000), picture("GIF", 33, 31)]
    assert len({*hashes(odd).tolist()}) == 4
    assert len(hashes([])) == 0
