"""DiffusionDB: parts joined with the table, the table alone, the configs of the old script without its bugs."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from fixtures import diffusiondb
from fixtures.diffusiondb import name, part, png, row, said, table
from fixtures.make import picture

from builders.diffusiondb import DiffusionDB
from hfds.errors import BadFile, ConfigError, SourceMissing
from hfds.release import Input, Release, build
from hfds.run import Run
from hfds.testing import check_builder

DEMO = Path(__file__).parents[1] / "examples/sources/diffusiondb"


def rows(source: Path, config: str = "2m_all", **options: Any) -> Dataset:
    """All rows, with undecoded pictures."""
    builder = DiffusionDB(config, data_dir=source, cache_dir=source.parent / "cache", **options)
    builder.download_and_prepare()
    return builder.as_dataset("train").cast_column("image", Image(decode=False))


def by_name(found: Dataset) -> dict[str, dict[str, Any]]:
    return {one["id"].removeprefix("diffusiondb/"): one for one in found}


def one(tmp_path: Path, record: Any, said_by_table: dict[str, Any] | None = None) -> dict[str, Any]:
    """The row of a picture with this record in its part's JSON and this row in the table."""
    part(tmp_path / "source/images/part-000001.zip", [(name(1), png(1))], {name(1): record})
    if said_by_table:
        table(tmp_path / "source/metadata.parquet", [said_by_table])
    found: dict[str, Any] = rows(tmp_path / "source")[0]
    return found


# Pictures


def test_every_picture_of_the_published_layout(tmp_path: Path) -> None:
    diffusiondb.clean(tmp_path / "source")
    found = check_builder(DiffusionDB, tmp_path / "source", "2m_all", cache_dir=tmp_path / "cache", rows=7)
    assert found["id"] == [f"diffusiondb/{name(n)}" for n in range(1, 8)]
    first, blank, blurred, timeless = (found[n] for n in (0, 4, 5, 6))
    assert first["prompt"] == diffusiondb.SNAKE
    assert first["captions"] == [{"style": "prompt", "text": diffusiondb.SNAKE}]
    assert first["generation"] == {
        "model": None,
        "seed": 75054762,
        "steps": 50,
        "guidance": 14.0,
        "sampler": "k_lms",
        "negative_prompt": None,
    }
    assert first["source_scores"]["nsfw"] == 0.25
    assert (first["license"], first["width"], first["height"]) == ("CC0-1.0", 64, 48)
    assert first["extra"] == {
        "part_id": 1,
        "user_name": "c2f288a2ba9df65c38386ffaaf7749106fed29311835b63d578405db9dbcafdb",
        "timestamp": "2022-08-20T23:59:00.000000Z",
        "prompt_nsfw": 0.5,
        "blurred": False,
    }
    assert found[1]["prompt"].endswith("4 k, ")
    assert (found[2]["generation"]["seed"], found[2]["generation"]["sampler"]) == (2**32 - 1, "k_heun")
    assert found[3]["extra"]["user_name"] == "deleted_account"
    assert (blank["prompt"], blank["captions"], blank["dropped"]) == (None, [], None)
    assert blank["extra"].keys() == {"part_id", "timestamp", "prompt_nsfw"}
    assert (blurred["source_scores"], blurred["extra"]["blurred"]) == (None, True)
    assert timeless["extra"].keys() == {"part_id", "user_name", "sampler_code", "blurred"}


def test_stored_members_are_read_in_place_and_deflated_ones_carried(tmp_path: Path) -> None:
    diffusiondb.clean(tmp_path / "source")
    images = [one["image"] for one in rows(tmp_path / "source")]
    assert all(image["bytes"] is None and image["path"].startswith("slice://") for image in images[:4])
    assert images[0]["path"].endswith(f"::{tmp_path}/source/images/part-000001.zip")
    assert [image["bytes"] for image in images[4:]] == [png(5), png(6), png(7)]


def test_a_remote_part_carries_its_pictures(tmp_path: Path) -> None:
    diffusiondb.clean(tmp_path / "source")
    builder = DiffusionDB("2m_first_1k", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    (piece,) = builder.pieces()["train"]
    remote = replace(piece, file=replace(piece.file, path=f"file://{piece.path}"))
    (read,) = builder.read(remote)
    assert [image["bytes"] for image in read["image"].to_pylist()] == [png(n) for n in (1, 2, 3, 4)]


def test_large_has_webp_in_two_folders(tmp_path: Path) -> None:
    data = picture("WEBP", lossless=True)
    for folder, number in (("1", 10_000), ("2", 10_001)):
        path = tmp_path / f"source/diffusiondb-large-part-{folder}/part-{number:06}.zip"
        part(path, [(name(number, "webp"), data)], {name(number, "webp"): said()})
    table(tmp_path / "source/metadata-large.parquet", [row(name(10_001, "webp"), 10_001, prompt_nsfw=0.125)])
    found = check_builder(DiffusionDB, tmp_path / "source", "large_all", cache_dir=tmp_path / "cache", rows=2)
    assert found["id"] == [f"diffusiondb/{name(10_000, 'webp')}", f"diffusiondb/{name(10_001, 'webp')}"]
    assert [one["extra"].get("prompt_nsfw") for one in found] == [None, 0.125]


def test_without_the_table_the_json_tells_what_it_can(tmp_path: Path) -> None:
    found = one(tmp_path, said(sa="k_dpm_fast"))
    assert (found["prompt"], found["generation"]["sampler"]) == (diffusiondb.SNAKE, "k_dpm_fast")
    assert (found["extra"], found["source_scores"]) == ({"part_id": 1}, None)


def test_where_json_and_table_disagree_the_json_is_believed(tmp_path: Path) -> None:
    found = one(tmp_path, said("json", 1, c=7.1), row(name(1), 1, said("table", 2, c=7.1), sampler=1, width=999))
    assert (found["prompt"], found["generation"]["seed"], found["width"]) == ("json", 1, 64)
    assert found["extra"]["table"] == {"prompt": "table", "seed": 2, "sampler": "ddim", "width": 999}


def test_others_is_no_other_sampler_than_one_without_a_code(tmp_path: Path) -> None:
    found = one(tmp_path, said(sa="k_dpm_fast"), row(name(1), 1, said(sa="others")))
    assert found["generation"]["sampler"] == "k_dpm_fast"
    assert "table" not in found["extra"]


@pytest.mark.parametrize(
    "changes",
    [{"p": 7}, {"se": "75054762"}, {"se": True}, {"se": 2**63}, {"st": 50.5}, {"c": "14"}, {"c": 1e300}, {"new": [1]}],
)
def test_a_value_of_another_type_is_kept_aside(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = one(tmp_path, said(**changes), row(name(1), 1))
    assert found["extra"]["json"] == changes
    assert (found["prompt"], found["generation"]["seed"], found["dropped"]) == (diffusiondb.SNAKE, 75054762, None)
    assert (found["generation"]["steps"], found["generation"]["guidance"]) == (50, 14.0)


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path: Path) -> None:
    found = one(tmp_path, said("a \ud83d b", new="\ud83d"))
    assert (found["prompt"], found["extra"]["json"]) == ("a ? b", {"new": "?"})


def test_a_bad_row_is_a_dropped_row(tmp_path: Path) -> None:
    expected = diffusiondb.hostile(tmp_path / "source")
    found = check_builder(
        DiffusionDB,
        tmp_path / "source",
        "2m_all",
        cache_dir=tmp_path / "cache",
        rows=1 + sum(expected.values()),
        dropped=expected,
    )
    assert [one["id"] for one in found if one["dropped"] is None] == [f"diffusiondb/{name(1)}"]
    assert [
        one["dropped"]["value"] for one in found if one["dropped"] and one["dropped"]["reason"] == "unsafe_name"
    ] == [
        f"../../etc/{name(7)}",
        f"/etc/{name(8)}",
        f"bell\\x07{name(9)}",
    ]


def test_a_byte_order_mark_is_no_trouble(tmp_path: Path) -> None:
    text = json.dumps({name(1): said()}).encode("utf-8-sig")
    part(tmp_path / "source/images/part-000001.zip", [(name(1), png(1))], text)
    assert rows(tmp_path / "source")[0]["dropped"] is None


@pytest.mark.parametrize(
    "records, problem",
    [
        (None, "missing"),
        (b'{"a": ', "broken_json"),
        (b"[" * 100_000, "broken_json"),
        (b"", "blank"),
        ('{"p": "caf\xe9"}'.encode("latin-1"), "not_utf8"),
        (b"[1, 2]", "wrong_type"),
        (b"{}", "missing"),
        (json.dumps({name(1): "a text"}).encode(), "wrong_type"),
    ],
)
def test_without_its_json_a_part_is_told_by_the_table(tmp_path: Path, records: bytes | None, problem: str) -> None:
    part(tmp_path / "source/images/part-000001.zip", [(name(1), png(1))], records)
    (alone,) = rows(tmp_path / "source")
    assert (alone["dropped"]["reason"], alone["dropped"]["value"]) == ("no_metadata", problem)
    table(tmp_path / "source/metadata.parquet", [row(name(1), 1)])
    (told,) = rows(tmp_path / "source")
    assert (told["dropped"], told["prompt"], told["generation"]["sampler"]) == (None, diffusiondb.SNAKE, "k_lms")
    assert told["extra"]["json_problem"] == problem


def test_a_damaged_json_member_is_told_by_the_table(tmp_path: Path) -> None:
    path = tmp_path / "source/images/part-000001.zip"
    part(path, [(name(1), png(1))], {name(1): said()})
    diffusiondb.flip(path, json.dumps({name(1): said()}).encode())
    table(tmp_path / "source/metadata.parquet", [row(name(1), 1)])
    assert rows(tmp_path / "source")[0]["extra"]["json_problem"] == "crc_mismatch"


def test_no_listing_is_taken_from_an_unsafe_place(tmp_path: Path) -> None:
    path = tmp_path / "source/images/part-000001.zip"
    evil = json.dumps({name(1): said("evil")}).encode()
    part(path, [("../part-000001.json", evil), (name(1), png(1))], {name(1): said("good"), "part-000001.json": said()})
    found = check_builder(
        DiffusionDB,
        tmp_path / "source",
        "2m_all",
        cache_dir=tmp_path / "cache",
        rows=3,
        dropped={"unsafe_name": 1, "no_picture": 1},
    )
    assert [one["prompt"] for one in found if not one["dropped"]] == ["good"]


def test_what_the_table_says_of_a_part_is_accounted_for(tmp_path: Path) -> None:
    part(tmp_path / "source/images/part-000001.zip", [(name(1), png(1))], {name(1): said()})
    table(
        tmp_path / "source/metadata.parquet",
        [
            row(name(1), 2),
            row(name(2), 1),
            row(name(1), 1, user_name="a"),
            row(name(1), 1),
            row(None, 1),
            row(name(3), None),
        ],
    )
    found = check_builder(
        DiffusionDB,
        tmp_path / "source",
        "2m_all",
        cache_dir=tmp_path / "cache",
        rows=4,
        dropped={"no_picture": 2, "duplicate_key": 1},
    )
    assert found[0]["extra"]["user_name"] == "a"
    assert [one["dropped"]["reason"] for one in found if one["dropped"]] == [
        "no_picture",
        "no_picture",
        "duplicate_key",
    ]


def test_a_part_in_the_last_bucket_of_a_table_in_any_order(tmp_path: Path) -> None:
    numbers = (2000, 100, 99, 1)
    for number in numbers:
        path = tmp_path / f"source/images/part-{number:06}.zip"
        part(path, [(name(number), png(number))], {name(number): said()})
    mixed = [row(name(n), n, user_name=f"user {n}") for n in numbers]
    table(tmp_path / "source/metadata.parquet", mixed, row_group_size=1)
    assert [one["extra"]["user_name"] for one in rows(tmp_path / "source")] == [f"user {n}" for n in sorted(numbers)]


# Which parts


def parts(folder: Path, *numbers: int) -> None:
    for number in numbers:
        part(folder / f"images/part-{number:06}.zip", [(name(number), png(number % 5))], {name(number): said()})


def test_the_configs_are_those_of_the_old_script() -> None:
    names = {config.name for config in DiffusionDB.BUILDER_CONFIGS}
    sizes = ["1k", "5k", "10k", "50k", "100k", "500k", "1m"]
    old = {f"{subset}_{pick}_{size}" for subset in ("2m", "large") for pick in ("first", "random") for size in sizes}
    old |= {f"large_{pick}_{size}" for pick in ("first", "random") for size in ("5m", "10m")}
    assert names == old | {f"{subset}_{what}" for subset in ("2m", "large") for what in ("all", "text", "text_only")}
    with pytest.raises(ConfigError, match="did you mean '2m_random_1m'"):
        DiffusionDB("1k_random_2m")


def test_first_begins_with_the_first_part(tmp_path: Path) -> None:
    parts(tmp_path / "source", 1, 2, 3, 4, 5, 6)
    assert rows(tmp_path / "source", "2m_first_1k")["id"] == [f"diffusiondb/{name(1)}"]
    assert rows(tmp_path / "source", "2m_first_5k")["id"] == [f"diffusiondb/{name(n)}" for n in range(1, 6)]


def test_random_draws_the_same_parts_everywhere(tmp_path: Path) -> None:
    drawn, of_another_seed = (198, 544, 730, 1315, 1786), (115, 716, 1035, 1371, 1807)
    parts(tmp_path / "source", 1, *drawn, *of_another_seed)
    assert rows(tmp_path / "source", "2m_random_5k")["id"] == [f"diffusiondb/{name(n)}" for n in drawn]
    assert rows(tmp_path / "source", "2m_random_5k", seed=7)["id"] == [
        f"diffusiondb/{name(n)}" for n in of_another_seed
    ]
    (few,) = rows(tmp_path / "source", "2m_random_1k")["id"]
    assert few in [f"diffusiondb/{name(n)}" for n in drawn]


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    parts(tmp_path / "source", 1, 2, 5)
    builder = DiffusionDB("2m_first_5k", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    missing = r"no images/part-000003.zip \(2 of the 5 parts of 2m_first_5k are not there\); get it with: hf download"
    with pytest.raises(SourceMissing, match=missing):
        builder.download_and_prepare()
    with pytest.raises(SourceMissing, match=r"no metadata.parquet in the folder"):
        DiffusionDB("2m_text", data_dir=tmp_path / "source")


def test_a_part_that_is_there_twice_stops_the_build(tmp_path: Path) -> None:
    for folder in ("1", "2"):
        path = tmp_path / f"source/diffusiondb-large-part-{folder}/part-000007.zip"
        part(path, [(name(1), png(1))], {name(1): said()})
    builder = DiffusionDB("large_all", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    with pytest.raises(BadFile, match=r"large-part-2/part-000007.zip: the same part as .*large-part-1/part-000007.zip"):
        builder.download_and_prepare()


# The table alone


def test_every_row_of_the_table(tmp_path: Path) -> None:
    count = diffusiondb.clean(tmp_path / "source")
    found = check_builder(DiffusionDB, tmp_path / "source", "2m_text", cache_dir=tmp_path / "cache", rows=count)
    published = by_name(found)["0c46f719-1679-4c64-9ba9-f181e0eae811.png"]
    assert published["prompt"] == "a small liquid sculpture, corvette, viscous, reflective, digital art"
    assert published["generation"]["seed"] == 2026845913
    assert (published["width"], published["height"], published["image"]) == (512, 512, None)
    assert published["extra"]["timestamp"] == "2022-08-11T09:05:00.000000Z"
    same = rows(tmp_path / "source", "2m_all")
    there = by_name(found)
    for one in same:
        if one["generation"]["seed"] != 7:  # whose sampler only the JSON knows
            columns = ("prompt", "captions", "generation", "source_scores", "extra", "width", "height")
            assert {c: one[c] for c in columns} == {c: there[one["id"][12:]][c] for c in columns}


def test_the_demo(tmp_path: Path) -> None:
    builder = DiffusionDB("2m_text", data_dir=DEMO, cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    found = builder.as_dataset("train").with_format("arrow")[:]
    assert (len(found), found["dropped"].null_count, found["prompt"].null_count) == (10_003, 10_003, 0)
    assert found["extra"].null_count == 10_000


@pytest.mark.parametrize(
    "code, sampler", [(0, None), (1, "ddim"), (5, "k_heun"), (9, "others"), (10, None), (255, None)]
)
def test_samplers_have_names(tmp_path: Path, code: int, sampler: str | None) -> None:
    table(tmp_path / "source/metadata.parquet", [row(name(1), 1, sampler=code)])
    (found,) = rows(tmp_path / "source", "2m_text")
    assert found["generation"]["sampler"] == sampler
    assert found["extra"].get("sampler_code") == (None if sampler else code)


@pytest.mark.parametrize("nat", [None, -(2**63), 2**63 - 1])
def test_no_time_is_null(tmp_path: Path, nat: int | None) -> None:
    schema = diffusiondb.SCHEMA.set(10, pa.field("timestamp", pa.int64()))
    published = pa.Table.from_pylist([row(name(1), 1, timestamp=nat), row(name(2), 1, timestamp=0)], schema)
    (tmp_path / "source").mkdir()
    pq.write_table(published.cast(diffusiondb.SCHEMA), tmp_path / "source/metadata.parquet")
    times = [one["extra"].get("timestamp") for one in rows(tmp_path / "source", "2m_text")]
    assert times == [None, "1970-01-01T00:00:00.000000Z"]


@pytest.mark.parametrize("unit, zone", [("ns", "UTC"), ("ms", None), ("us", "Europe/Berlin")])
def test_times_of_other_units_and_zones(tmp_path: Path, unit: str, zone: str | None) -> None:
    schema = diffusiondb.SCHEMA.set(10, pa.field("timestamp", pa.timestamp(unit, zone)))
    at = dt.datetime(2022, 8, 11, 9, 5, tzinfo=dt.UTC if zone else None)
    table(tmp_path / "source/metadata.parquet", [row(name(1), 1, timestamp=at)], schema)
    assert rows(tmp_path / "source", "2m_text")[0]["extra"]["timestamp"] == "2022-08-11T09:05:00.000000Z"


@pytest.mark.parametrize("value", [2.0, float("nan"), float("inf"), None])
def test_what_is_no_score_is_null(tmp_path: Path, value: float | None) -> None:
    table(tmp_path / "source/metadata.parquet", [row(name(1), 1, image_nsfw=value, prompt_nsfw=value, cfg=value)])
    (found,) = rows(tmp_path / "source", "2m_text")
    assert found["source_scores"] is None
    assert found["extra"].get("blurred") == (True if value == 2.0 else None)
    assert found["extra"].get("prompt_nsfw") == found["generation"]["guidance"] == (2.0 if value == 2.0 else None)


def test_a_row_without_a_name_is_known_by_its_content(tmp_path: Path) -> None:
    named = [row(name(1), 1), row(None, 1), row("", 2), row("  ", 3), row("new\nline.png", 4), row("ünï 猫.png", 5)]
    table(tmp_path / "source/metadata.parquet", named)
    found = check_builder(DiffusionDB, tmp_path / "source", "2m_text", cache_dir=tmp_path / "cache", rows=len(named))
    keys = [one["id"].removeprefix("diffusiondb/") for one in found]
    assert (keys[0], *keys[4:]) == (name(1), "new\\nline.png", "ünï 猫.png")
    table(tmp_path / "other/metadata.parquet", named[::-1])
    again = rows(tmp_path / "other", "2m_text")
    assert [one["id"].removeprefix("diffusiondb/") for one in again] == keys[::-1]


def test_a_text_that_is_not_utf8_is_a_dropped_row(tmp_path: Path) -> None:
    good = pa.Table.from_pylist([row(name(n), 1) for n in (1, 2, 3)], diffusiondb.SCHEMA)
    data = b"plaincaf\xe9x"
    prompts = pa.StringArray.from_buffers(
        3, pa.py_buffer(pa.array([0, 5, 9, 10], pa.int32()).buffers()[1]), pa.py_buffer(data)
    )
    (tmp_path / "source").mkdir()
    pq.write_table(good.set_column(1, "prompt", prompts), tmp_path / "source/metadata.parquet")
    found = check_builder(
        DiffusionDB, tmp_path / "source", "2m_text", cache_dir=tmp_path / "cache", rows=3, dropped={"not_utf8": 1}
    )
    assert found["prompt"] == ["plain", "caf�", "x"]
    part(tmp_path / "source/images/part-000001.zip", [(name(2), png(2))], {name(2): said("café")})
    (told,) = [one for one in rows(tmp_path / "source") if not one["dropped"]]
    assert (told["prompt"], told["extra"]["table_problem"]) == ("café", "not_utf8")


def test_a_name_that_the_table_has_twice_is_dropped_by_the_build(tmp_path: Path) -> None:
    table(tmp_path / "diffusiondb/metadata.parquet", [row(name(1), 1), row(name(2), 1), row(name(1), 7)])
    release = Release("prompts", "v1", (Input(DiffusionDB, "2m_text"),))
    built = build(release, Run.here(tmp_path / "work"), sources=tmp_path, out=tmp_path / "dist")
    ledger = pq.read_table(built.folder / "ledger/v1.parquet").to_pylist()
    assert [one["id"] for one in ledger if one["reason"] == "duplicate_key"] == [f"diffusiondb/{name(1)}#2"]


def test_processes_share_one_giant_row_group(tmp_path: Path) -> None:
    count = 201_000
    few = pa.Table.from_pylist([row(name(1), 1)] * 1000, diffusiondb.SCHEMA)
    many = pa.concat_tables([few] * (count // 1000))
    many = many.set_column(0, "image_name", pa.array(map(str, range(count))))
    (tmp_path / "source").mkdir()
    pq.write_table(many, tmp_path / "source/metadata.parquet", row_group_size=count)
    for num_proc in (1, 2):
        cache = tmp_path / f"cache{num_proc}"
        builder = DiffusionDB("2m_text", data_dir=tmp_path / "source", cache_dir=cache)
        assert len(builder.pieces()["train"]) == 2
        builder.download_and_prepare(num_proc=num_proc)
        ids = builder.as_dataset("train").with_format("arrow").select_columns(["id"])[:]["id"]
        assert ids.to_pylist() == [f"diffusiondb/{n}" for n in range(count)]


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    table(tmp_path / "source/metadata.parquet", [])
    assert len(rows(tmp_path / "source", "2m_text")) == 0


# Files that stop the build


@pytest.mark.parametrize("config", ["2m_text", "2m_all"])
@pytest.mark.parametrize(
    "wrong, message",
    [
        ("empty", "not a whole parquet file"),
        ("cut", "not a whole parquet file"),
        ("csv", "not a whole parquet file"),
        ("missing column", "no column 'sampler'"),
        ("retyped column", "column 'seed' is string, wanted an integer"),
        ("column of bytes", "column 'prompt' is binary, wanted text"),
        ("column twice", "2 columns 'cfg'"),
    ],
)
def test_a_bad_table_stops_the_build_and_is_named(tmp_path: Path, config: str, wrong: str, message: str) -> None:
    diffusiondb.clean(tmp_path / "source")
    path = tmp_path / "source/metadata.parquet"
    published = pq.read_table(path)
    changed = {
        "missing column": published.drop_columns(["sampler"]),
        "retyped column": published.set_column(3, "seed", published["seed"].cast(pa.string())),
        "column of bytes": published.set_column(1, "prompt", published["prompt"].cast(pa.binary())),
        "column twice": published.append_column("cfg", published["cfg"]),
    }
    data = {"empty": b"", "cut": path.read_bytes()[:-100], "csv": b"image_name,prompt\n"}
    if wrong in data:
        path.write_bytes(data[wrong])
    else:
        pq.write_table(changed[wrong], path)
    with pytest.raises(BadFile, match=message) as raised:
        rows(tmp_path / "source", config)
    assert "metadata.parquet" in str(raised.value)


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize(
    "wrong, message", [("empty", "the file is empty"), ("cut", "not a whole zip"), ("tar", "not a whole zip")]
)
def test_a_bad_part_stops_the_build_and_is_named(tmp_path: Path, wrong: str, message: str, num_proc: int) -> None:
    diffusiondb.clean(tmp_path / "source")
    path = tmp_path / "source/images/part-000002.zip"
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "tar": b"x" * 10_240}[wrong])
    builder = DiffusionDB("2m_all", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    with pytest.raises(BadFile, match=message) as raised:
        builder.download_and_prepare(num_proc=num_proc)
    assert "images/part-000002.zip" in str(raised.value)


def test_a_new_table_is_seen(tmp_path: Path) -> None:
    part(tmp_path / "source/images/part-000001.zip", [(name(1), png(1))], {name(1): said()})
    for user in ("first", "second"):
        table(tmp_path / "source/metadata.parquet", [row(name(1), 1, user_name=user)])
        assert rows(tmp_path / "source")[0]["extra"]["user_name"] == user
