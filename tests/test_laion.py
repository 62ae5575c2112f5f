"""LAION: metadata of three subsets, img2dataset's three layouts, hostile rows, and files that must stop the build."""

from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from fixtures import laion
from fixtures.make import picture

from builders.laion import Laion
from hfds.builder import Piece
from hfds.errors import BadFile, SourceMissing
from hfds.parquet import numbers
from hfds.testing import check_builder
from hfds.upstream import File

DEMO = Path(__file__).parents[1] / "examples/sources/laion"


def build(source: Path, config: str | None = None) -> Dataset:
    """All rows, with undecoded pictures."""
    builder = Laion(config, data_dir=source, cache_dir=source.parent / "cache")
    builder.download_and_prepare()
    return builder.as_dataset("train").cast_column("image", Image(decode=False))


def by_key(rows: Dataset) -> dict[str, dict[str, Any]]:
    return {row["extra"]["key"]: row for row in rows}


@pytest.mark.parametrize("layout", laion.LAYOUTS)
def test_every_row_of_a_download(tmp_path: Path, layout: str) -> None:
    dropped = laion.clean(tmp_path / "source", layout)
    rows = check_builder(Laion, tmp_path / "source", cache_dir=tmp_path / "cache", rows=8, dropped=dropped)
    found = by_key(rows)
    first = found["000000000"]
    assert first["prompt"] == "Alt text of picture 0"
    assert first["captions"] == [{"style": "alt_text", "text": "Alt text of picture 0"}]
    assert first["license"] == "unknown"
    assert first["url"] == laion.url(0)
    assert (first["width"], first["height"]) == (64, 48)
    assert first["source_scores"]["similarity"] == 0.25
    assert first["extra"]["LANGUAGE"] == "en"
    assert first["extra"]["WIDTH"] == 1024
    assert first["extra"]["sha256"] == "0" * 64
    assert (first["extra"]["original_width"], first["extra"]["original_height"]) == (640, 480)
    assert not {"width", "height", "caption", "url", "jpg", "webp"} & set(first["extra"])
    assert found["000000003"]["prompt"] == "Caf&eacute; &amp; bar, ünïcode 猫"
    assert found["000000001"]["dropped"]["value"] == "HTTP Error 404: Not Found"
    assert found["000000002"]["dropped"]["reason"] == "failed_to_resize"
    assert (found["000000001"]["width"], found["000000001"]["height"]) == (1025, None)
    assert found["000010008"]["image"].format == "WEBP"


def test_pictures_stay_where_they_are(tmp_path: Path) -> None:
    for layout in laion.LAYOUTS:
        laion.clean(tmp_path / layout / "source", layout)
    images = {layout: by_key(build(tmp_path / layout / "source"))["000000005"]["image"] for layout in laion.LAYOUTS}
    assert images["webdataset"]["bytes"] is None
    assert images["webdataset"]["path"].startswith("slice://")
    assert images["webdataset"]["path"].endswith(f"::{tmp_path}/webdataset/source/00000.tar")
    assert images["files"] == {"bytes": None, "path": f"{tmp_path}/files/source/00000/000000005.jpg"}
    assert images["parquet"] == {"bytes": picture(seed=5), "path": None}


def test_rows_come_by_key_whatever_the_order_of_the_download(tmp_path: Path) -> None:
    for layout in laion.LAYOUTS:
        laion.clean(tmp_path / layout / "source", layout)
    keys = {layout: [*by_key(build(tmp_path / layout / "source"))] for layout in laion.LAYOUTS}
    ordered = ["000000000", "000000001", "000000002", "000000003", "000000005", "000010007", "000010008", "000010009"]
    assert keys["webdataset"] == keys["files"] == ordered
    assert keys["parquet"][:3] == ["000000005", "000000001", "000000000"]


def test_a_row_has_one_id_as_metadata_and_in_every_download(tmp_path: Path) -> None:
    laion.metadata(tmp_path / "raw/source", "high_resolution")
    laion.metadata(tmp_path / "aesthetic/source", "aesthetics_v2_475")
    laion.clean(tmp_path / "tars/source", "webdataset")
    raw = {row["url"]: row["id"] for row in build(tmp_path / "raw/source", "high_resolution")}
    other = {row["url"]: row["id"] for row in build(tmp_path / "aesthetic/source", "aesthetics_v2_475")}
    downloaded = {row["url"]: row["id"] for row in build(tmp_path / "tars/source")}
    assert raw == other
    assert {url: downloaded[url] for url in raw if url in downloaded} == {
        u: i for u, i in raw.items() if u != laion.url(4)
    }
    assert raw[laion.url(0)] == "laion/25e1c18310644622e7b7cf774e959ff4", "ids are for ever"


@pytest.mark.parametrize("subset", laion.SUBSETS)
def test_every_row_of_the_metadata(tmp_path: Path, subset: str) -> None:
    laion.metadata(tmp_path / "source", subset)
    rows = check_builder(Laion, tmp_path / "source", subset, cache_dir=tmp_path / "cache", rows=6)
    assert [(row["extra"] or {}).get("hash") for row in rows] == list(laion.HASHES)
    assert [row["width"] for row in rows] == [1024, 1025, 1026, 1027, 1028, 1029]
    assert [row["height"] for row in rows] == [2048, 2047, 2046, 2045, 2044, 2043]
    assert [row["prompt"] for row in rows] == [laion.text(0), None, None, *(laion.text(i) for i in (3, 4, 5))]
    assert [len(row["captions"]) for row in rows] == [1, 0, 0, 1, 1, 1]
    assert [row["image"] for row in rows] == [None] * 6
    aesthetic = {"high_resolution": None, "aesthetics_v2_475": 4.75, "laion2b_en_aesthetic": 7.5}[subset]
    expected = {"nsfw": 0.125, "watermark": 0.5, "aesthetic": aesthetic, "similarity": 0.25}
    assert rows[0]["source_scores"] == expected
    assert rows[5]["source_scores"]["nsfw"] is None
    assert set(rows[0]["extra"]) == ({"hash", "LANGUAGE"} if subset == "high_resolution" else {"hash"})


@pytest.mark.parametrize("layout", laion.LAYOUTS)
def test_a_bad_row_is_a_dropped_row(tmp_path: Path, layout: str) -> None:
    expected = laion.hostile(tmp_path / "source", layout)
    total = 1 + sum(expected.values())
    rows = check_builder(Laion, tmp_path / "source", cache_dir=tmp_path / "cache", rows=total, dropped=expected)
    (good,) = [row for row in rows if row["dropped"] is None]
    assert good["extra"]["key"] == "000000000"
    dropped = [(row["id"], row["dropped"]["reason"], row["dropped"]["value"]) for row in rows if row["dropped"]]
    assert [value for _, reason, value in dropped if reason == "size_mismatch"] == ["[64, 48], the row says [65, 48]"]
    again = {value: id_ for id_, reason, value in dropped if reason == "duplicate_key"}
    assert {"000000000", good["id"]} <= set(again)
    assert again[good["id"]].startswith(f"{good['id']}@00000.parquet:")


def test_numbers_in_other_dtypes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    table = pa.table(
        {
            "URL": pa.array([laion.url(i) for i in range(3)]).dictionary_encode(),
            "TEXT": pa.array([laion.text(i) for i in (0, 3, 4)], pa.large_string()),
            "WIDTH": ["1024", " 1024.0", "wide"],
            "HEIGHT": [1024.0, float("nan"), 1e12],
            "similarity": pa.array([1, 2, None], pa.int16()),
            "hash": [6295651997640470123.0, None, 1.0],
            "punsafe": [float("nan"), 0.5, float("inf")],
            "pwatermark": ["nan", "0.5", "1e-1"],
        }
    )
    pq.write_table(table, source / laion.PART)
    rows = build(source, "high_resolution")
    assert rows["prompt"][:] == [laion.text(0), laion.text(3), laion.text(4)]
    assert rows["width"][:] == [1024, 1024, None]
    assert rows["height"][:] == [1024, None, None]
    assert [row["similarity"] if row else None for row in rows["source_scores"]] == [1.0, 2.0, None]
    assert [row["nsfw"] if row else None for row in rows["source_scores"]] == [None, 0.5, None]
    assert [row["watermark"] if row else None for row in rows["source_scores"]] == [None, 0.5, 0.1]
    assert [row["WIDTH"] for row in rows["extra"]] == ["1024", " 1024.0", "wide"]
    assert [row.get("hash_rounded") for row in rows["extra"]] == [6295651997640470123.0, None, 1.0]
    assert not any("hash" in row for row in rows["extra"])


@pytest.mark.parametrize(
    "values, type_, expected",
    [
        (
            ["9223372036854775807", " -5 ", "9223372036854775808", "x", None],
            pa.int64(),
            [2**63 - 1, -5, None, None, None],
        ),
        ([3.7, float("nan"), float("inf"), 1e12, None], pa.int32(), [3, None, None, None, None]),
        ([2**63 - 1, -1], pa.int64(), [2**63 - 1, -1]),
        ([2**53 + 1, 1], pa.float64(), [2.0**53, 1.0]),
        ([None, None], pa.int32(), [None, None]),
    ],
)
def test_numbers_of_a_column(values: list[Any], type_: pa.DataType, expected: list[Any]) -> None:
    found = numbers(pa.array(values), type_)
    assert found.to_pylist() == expected
    assert found.type == type_


def test_licences_and_further_captions(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    table = laion.metadata_table("high_resolution", 5).append_column(
        "LICENSE", pa.array(["CC-BY-2.0", "?", " ", None, " CC0-1.0 "])
    )
    texts = ['["Alt text of picture 0", "two", " ", 3]', None, "[broken", '{"a": 1}', '["\\ud800", "four"]']
    pq.write_table(table.append_column("all_captions", pa.array(texts)), source / laion.PART)
    rows = build(source, "high_resolution")
    assert rows["license"][:] == ["CC-BY-2.0", "unknown", "unknown", "unknown", "CC0-1.0"]
    assert [[(c["style"], c["text"]) for c in captions] for captions in rows["captions"]] == [
        [("alt_text", "Alt text of picture 0"), ("caption", "two")],
        [],
        [],
        [("alt_text", laion.text(3))],
        [("alt_text", laion.text(4)), ("caption", "?"), ("caption", "four")],
    ]
    assert [(row or {}).get("all_captions") for row in rows["extra"]] == [None, None, "[broken", '{"a": 1}', None]


def test_the_demo_source(tmp_path: Path) -> None:
    rows = check_builder(Laion, DEMO, cache_dir=tmp_path, rows=51)
    assert set(rows["license"][:]) == {"CC-BY-2.0", "CC-BY-SA-2.0"}
    assert [caption["style"] for caption in rows[0]["captions"]] == ["alt_text"] + ["caption"] * 4


def test_several_downloads_side_by_side(tmp_path: Path) -> None:
    dropped = laion.clean(tmp_path / "source/first", "webdataset")
    laion.shard(tmp_path / "source/second", 0, [laion.row(17)], [picture(seed=17)], "files")
    rows = check_builder(Laion, tmp_path / "source", cache_dir=tmp_path / "cache", rows=9, dropped=dropped)
    assert [row["extra"]["key"] for row in rows].count("000000017") == 1


def test_a_shard_of_failures_needs_no_pictures(tmp_path: Path) -> None:
    laion.write_parquet(tmp_path / "source/00000.parquet", [laion.failed(1, "timed out")], None, "jpg")
    laion.write_parquet(tmp_path / "source/00001.parquet", [], None, "jpg")
    rows = build(tmp_path / "source")
    assert [row["dropped"]["value"] for row in rows] == ["timed out"]


def test_a_remote_shard_carries_its_pictures(tmp_path: Path) -> None:
    laion.clean(tmp_path / "source", "webdataset")
    laion.clean(tmp_path / "folders", "files")
    reader = Laion(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    for name, folder in (("tars", "source"), ("folders", "folders")):
        memory.put(str(tmp_path / folder), f"/{tmp_path.name}/{name}", recursive=True)
        path = f"memory://{tmp_path.name}/{name}/00000.parquet"
        (table,) = reader.read(Piece(File("00000.parquet", path, 0, "")))
        images = [image for image in table["image"].to_pylist() if image]
        assert images == [{"bytes": picture(seed=i), "path": None} for i in (0, 3, 5)]


def test_several_processes_share_a_file_of_metadata(tmp_path: Path) -> None:
    pages = [*range(200_002)]
    pages[20_005] = pages[40_005] = 7  # in other batches of the same piece
    pages[200_001] = 8  # in another piece
    urls = pa.array([f"https://example.com/{i}" for i in pages])
    ones = pa.array([1] * len(urls))
    (tmp_path / "source").mkdir()
    table = pa.table({"URL": urls, "TEXT": pa.nulls(len(urls), pa.string()), "WIDTH": ones, "HEIGHT": ones})
    pq.write_table(table, tmp_path / "source" / laion.PART)
    builder = Laion("high_resolution", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    assert [(piece.start, piece.stop) for piece in builder.pieces()["train"]] == [(0, 200_000), (200_000, None)]
    builder.download_and_prepare(num_proc=2)
    rows = builder.as_dataset("train").with_format("arrow")[:]
    assert rows["url"].to_pylist() == urls.to_pylist()
    ids = rows["id"].to_pylist()
    assert ids[200_001] == ids[8]
    assert len(set(ids)) == len(ids) - 1
    dropped = pc.struct_field(rows["dropped"], "reason")
    assert {row: reason for row, reason in enumerate(dropped.to_pylist()) if reason} == {
        20_005: "duplicate_key",
        40_005: "duplicate_key",
    }


def bad_metadata(problem: str, path: Path) -> None:
    """A part that cannot be read."""
    table = laion.metadata_table("aesthetics_v2_475")
    if problem == "no URL":
        table = table.drop_columns(["URL"])
    elif problem == "url of numbers":
        table = table.set_column(0, "URL", pa.array(range(6)))
    elif problem == "text of lists":
        table = table.set_column(1, "TEXT", pa.array([["a"]] * 6))
    elif problem == "score of lists":
        table = table.set_column(8, "AESTHETIC_SCORE", pa.array([[0.5]] * 6))
    elif problem == "another subset":
        table = laion.metadata_table("high_resolution")
    elif problem == "twice":
        table = table.append_column("URL", table["URL"])
    pq.write_table(table, path)
    data = path.read_bytes()
    if problem == "empty":
        path.write_bytes(b"")
    elif problem == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif problem == "damaged":
        path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    elif problem == "csv":
        path.write_text("URL,TEXT\n")


@pytest.mark.parametrize(
    "problem, message",
    [
        ("no URL", r"aesthetics_v2_475 wants a column url or URL \(text\), it has TEXT, WIDTH, HEIGHT"),
        ("url of numbers", "column 'URL' is int64, wanted text"),
        ("text of lists", "column 'TEXT' is list<.*>, wanted text"),
        ("score of lists", "column 'AESTHETIC_SCORE' is list<.*>, wanted a number"),
        ("another subset", r"wants a column AESTHETIC_SCORE or aesthetic \(a number\)"),
        ("twice", "2 columns 'URL'"),
        ("empty", "not a whole parquet file"),
        ("cut", "not a whole parquet file"),
        ("damaged", "not a whole parquet file"),
        ("csv", "not a whole parquet file"),
    ],
)
@pytest.mark.parametrize("num_proc", [1, 2])
def test_bad_metadata_stops_the_build_and_is_named(tmp_path: Path, problem: str, message: str, num_proc: int) -> None:
    laion.metadata(tmp_path / "source", "aesthetics_v2_475")
    bad_metadata(problem, tmp_path / "source/part-00002-x.parquet")
    builder = Laion("aesthetics_v2_475", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    with pytest.raises(BadFile, match=message) as raised:
        builder.download_and_prepare(num_proc=num_proc)
    assert str(raised.value).startswith("part-00002-x.parquet: ")


def damage(problem: str, source: Path) -> None:
    """Makes shard 00001 unreadable."""
    parquet, tar = source / "00001.parquet", source / "00001.tar"
    if problem == "tar cut":
        tar.write_bytes(tar.read_bytes()[:2000])
    elif problem == "parquet cut":
        parquet.write_bytes(parquet.read_bytes()[:-8])
    elif problem == "no key":
        pq.write_table(pq.read_table(parquet).drop_columns(["key"]), parquet)
    elif problem == "key of numbers":
        table = pq.read_table(parquet)
        pq.write_table(table.set_column(6, "key", table["key"].cast(pa.int64())), parquet)
    elif problem == "no tar":
        tar.unlink()


@pytest.mark.parametrize(
    "problem, message",
    [
        ("tar cut", "00001.tar: the tar is cut inside the member"),
        ("parquet cut", "00001.parquet: not a whole parquet file"),
        ("no key", r"00001.parquet: img2dataset wants a column key \(text\)"),
        ("key of numbers", "00001.parquet: column 'key' is int64, wanted text"),
        ("no tar", "00001.parquet: no 00001.tar, no folder 00001, no column jpg or png or webp"),
    ],
)
def test_a_bad_shard_stops_the_build_and_is_named(tmp_path: Path, problem: str, message: str) -> None:
    laion.clean(tmp_path / "source", "webdataset")
    damage(problem, tmp_path / "source")
    builder = Laion(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    with pytest.raises(BadFile, match=message):
        builder.download_and_prepare()


@pytest.mark.parametrize("layout, left", [("webdataset", "00001.tar"), ("files", "00001")])
def test_an_interrupted_download_is_noticed(tmp_path: Path, layout: str, left: str) -> None:
    laion.clean(tmp_path / "source/sub", layout)
    (tmp_path / "source/sub/00001.parquet").unlink()
    with pytest.raises(BadFile, match=f"^sub/{left}: no 00001.parquet beside it; the download was interrupted"):
        Laion(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")


def test_a_tar_that_changes_is_read_again(tmp_path: Path) -> None:
    laion.clean(tmp_path / "source", "webdataset")
    before = Laion(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").cache_dir
    laion.hostile_members(tmp_path / "source/00001.tar")
    assert Laion(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").cache_dir != before


def test_nothing_to_read_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="needs a local folder: get the metadata from the Hub"):
        Laion("aesthetics_v2_475")
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(SourceMissing, match=r"no \[0-9\].* which holds 00000.tar"):
        Laion(data_dir=tmp_path)
