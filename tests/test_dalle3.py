"""DALLE-3: the published layout with its odd records, hostile rows, and archives that must stop the build."""

from pathlib import Path

import pytest
from fixtures import dalle3
from fixtures.make import picture, tar

from builders.dalle3 import Dalle3
from hfds.errors import BadFile, SourceMissing
from hfds.testing import check_builder


def test_every_row_of_the_published_layout(tmp_path: Path) -> None:
    dalle3.clean(tmp_path / "source")
    rows = check_builder(Dalle3, tmp_path / "source", cache_dir=tmp_path / "cache", rows=8)
    by_id = {row["id"]: row for row in rows}
    assert by_id["dalle3/one"]["prompt"] == "A short caption of one."
    assert [c["style"] for c in by_id["dalle3/one"]["captions"]] == [
        "short_caption",
        "long_caption",
        "short_caption2",
        "long_caption2",
        "long_caption2",
    ]
    assert by_id["dalle3/two.dotted.name"]["captions"][2] == {"style": "short_caption2", "text": "a string"}
    assert by_id["dalle3/three"]["prompt"] == "a list"
    assert (by_id["dalle3/three"]["width"], by_id["dalle3/three"]["height"]) == (64, 48)
    assert by_id["dalle3/four"]["captions"][-1]["text"] == "a prompt, ünïcode 猫"
    assert by_id["dalle3/five"]["prompt"] is None
    assert by_id["dalle3/five"]["extra"]["caption_problems"] == {"short_caption": "failed", "long_caption": "blank"}
    assert by_id["dalle3/six"]["extra"]["caption_problems"] == {"long_caption": "looping"}
    assert by_id["dalle3/seven"]["extra"]["hash"] == 2**63 - 1
    assert by_id["dalle3/seven"]["extra"]["huge"] == str(10**30), "beyond 64 bits: a text, exact"
    assert by_id["dalle3/seven"]["extra"]["odd"] == "?", "half a surrogate pair has no bytes in UTF-8"
    assert by_id["dalle3/seven"]["extra"]["caption_problems"] == {"short_caption": "wrong_type"}


def test_the_config_chooses_the_prompt(tmp_path: Path) -> None:
    dalle3.clean(tmp_path / "source")
    builder = Dalle3("long", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    assert builder.as_dataset("train")[0]["prompt"].startswith("A long caption of one")


def test_a_bad_row_is_a_dropped_row(tmp_path: Path) -> None:
    expected = dalle3.hostile(tmp_path / "source")
    rows = check_builder(
        Dalle3, tmp_path / "source", cache_dir=tmp_path / "cache", rows=1 + sum(expected.values()), dropped=expected
    )
    assert [row["id"] for row in rows if row["dropped"] is None] == ["dalle3/good"]


def broken(name: str, path: Path) -> None:
    """One archive that cannot be read whole."""
    members = [m for i in range(4) for m in dalle3.pair(f"row{i}", seed=i)]
    tar(path, members, end=name != "no end mark")
    data = path.read_bytes()
    if name == "empty":
        path.write_bytes(b"")
    elif name == "cut inside a member":
        path.write_bytes(data[: len(data) // 2])
    elif name == "cut in a header":
        path.write_bytes(data[: 512 + -(-len(picture(seed=0)) // 512) * 512 + 100])
    elif name == "glued":
        path.write_bytes(data + data)
    elif name == "flipped":
        path.write_bytes(data[:100] + b"\xff" + data[101:])
    elif name == "gzip":
        path.write_bytes(b"\x1f\x8b" + data[2:])


@pytest.mark.parametrize(
    "name, message",
    [
        ("empty", "the file is empty"),
        ("cut inside a member", "cut inside the member"),
        ("cut in a header", "cut in a header"),
        ("no end mark", "cut before its end mark"),
        ("glued", "more data behind the tar's end"),
        ("flipped", "not an uncompressed tar"),
        ("gzip", "not an uncompressed tar"),
    ],
)
@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_bad_archive_stops_the_build_and_is_named(tmp_path: Path, name: str, message: str, num_proc: int) -> None:
    dalle3.clean(tmp_path / "source")
    broken(name, tmp_path / "source/data/data-000002.tar")
    builder = Dalle3(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    with pytest.raises(BadFile, match=message) as raised:
        builder.download_and_prepare(num_proc=num_proc)
    assert "data/data-000002.tar" in str(raised.value)


def test_no_folder_or_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no folder"):
        Dalle3(data_dir=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceMissing, match="holds nothing"):
        Dalle3(data_dir=tmp_path / "empty")


def test_a_new_file_is_seen(tmp_path: Path) -> None:
    dalle3.clean(tmp_path / "source")
    before = Dalle3(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").cache_dir
    tar(tmp_path / "source/data/data-000002.tar", dalle3.pair("nine"))
    after = Dalle3(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    assert after.cache_dir != before
    after.download_and_prepare()
    assert len(after.as_dataset("train")) == 9
