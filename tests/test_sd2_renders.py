"""SD2Renders: every published layout, hostile lines and names, and rows that only their order ties to a picture."""

import json
from collections import Counter
from pathlib import Path

import pytest
from fixtures import sd2_renders
from fixtures.make import picture
from fixtures.sd2_renders import entry

from builders.sd2_renders import SD2Renders
from hfds.errors import BadFile, SourceMissing
from hfds.testing import check_builder

SD2 = "stabilityai/stable-diffusion-2"


def test_captions_beside_a_folder_with_holes(tmp_path: Path) -> None:
    sd2_renders.captions(tmp_path / "source")
    rows = check_builder(SD2Renders, tmp_path / "source", cache_dir=tmp_path / "cache", rows=4)
    assert rows["id"] == [f"sd2_renders/sd2_images_211238/{n:08d}.jpg" for n in (0, 1, 4, 7)]
    assert rows["prompt"][2] == "a prompt of 00000004.jpg"
    assert [row["width"] for row in rows] == [40, 41, 42, 43]
    assert rows[0]["generation"] == {
        "model": SD2,
        "seed": None,
        "steps": 50,
        "guidance": 9.0,
        "sampler": None,
        "negative_prompt": None,
    }
    assert rows[0]["source_scores"] is rows[0]["extra"] is None


def test_the_lists_of_a_version(tmp_path: Path) -> None:
    sd2_renders.split(tmp_path / "source")
    rows = check_builder(
        SD2Renders,
        tmp_path / "source",
        "image_to_prompt_v4",
        cache_dir=tmp_path / "cache",
        rows=6,
        dropped={"no_metadata": 2},
    )
    by_id = {row["id"].removeprefix("sd2_renders/image_to_prompt_v4/"): row for row in rows}
    cat, dog = by_id["train/openprompts_00000001.jpg"], by_id["train/gustavosta-train-00000002.jpg"]
    assert cat["captions"] == [
        {"style": "prompt", "text": "a cat"},
        {"style": "original_prompt", "text": "a cat, 8 k, artstation"},
    ]
    assert (cat["generation"]["model"], dog["generation"]) == (SD2, None)
    assert (dog["prompt"], dog["source_scores"]["similarity"]) == ("a dog, ünïcode 猫", 0.31)
    assert dog["extra"] == {"model": {"seeds": [2**63 - 1]}}
    assert by_id["train/00000000.jpg"]["dropped"]["reason"] == "no_metadata"
    assert by_id["validation/gustavosta-eval-00000000.jpg"]["dropped"] is None


@pytest.mark.parametrize(
    "config, kept",
    [
        ("image_to_prompt_v2", ["train/00000000.jpg", "train/00000003.jpg", "validation/00000009.jpg"]),
        ("image_to_prompt_v2_metadata_dedup", ["train/00000003.jpg", "validation/00000009.jpg"]),
        ("image_to_prompt_v3", ["train/00000003.jpg", "validation/00000009.jpg"]),
    ],
)
def test_the_config_chooses_the_list_and_never_the_id(tmp_path: Path, config: str, kept: list[str]) -> None:
    sd2_renders.split(tmp_path / "source")
    dropped = {"no_metadata": 6 - len(kept)}
    rows = check_builder(SD2Renders, tmp_path / "source", config, cache_dir=tmp_path / "cache", rows=6, dropped=dropped)
    assert [row["id"] for row in rows if not row["dropped"]] == [f"sd2_renders/{config[:18]}/{key}" for key in kept]


@pytest.mark.parametrize(
    "config, listing",
    [
        ("chatgpt_dedup_0330", "chatgpt_0330_captions.jsonl"),
        ("chatgpt_dedup_0330_split", "chatgpt_0330_{}/metadata.jsonl"),
        ("openprompts_120k_dedup", "metadata_dedup.jsonl"),
        ("openprompts_120k_dedup_metadata", "metadata.jsonl"),
        ("image_to_prompt_v4_b_metadata_concat", "{}/metadata_concat.jsonl"),
    ],
)
def test_where_each_set_has_its_list(tmp_path: Path, config: str, listing: str) -> None:
    for split in ("train", "validation"):
        path = tmp_path / "source" / listing.format(split)
        sd2_renders.pictures(path.parent, ["x_00000000.jpg"])
        sd2_renders.listing(path, entry("x_00000000.jpg"))
    rows = 2 if "{}" in listing else 1
    check_builder(SD2Renders, tmp_path / "source", config, cache_dir=tmp_path / "cache", rows=rows)


def test_a_bad_line_or_picture_is_a_dropped_row(tmp_path: Path) -> None:
    expected = sd2_renders.hostile(tmp_path / "source")
    rows = check_builder(
        SD2Renders, tmp_path / "source", cache_dir=tmp_path / "cache", rows=2 + sum(expected.values()), dropped=expected
    )
    under = "sd2_renders/sd2_images_211238"
    kept = [(row["id"], row["prompt"]) for row in rows if row["dropped"] is None]
    assert kept == [(f"{under}/good.jpg", "a prompt of good.jpg"), (f"{under}/images/sub/deep.PNG", None)]
    reasons = {row["id"].removeprefix(f"{under}/"): row["dropped"]["reason"] for row in rows if row["dropped"]}
    assert reasons["gone.jpg"] == "no_picture"
    assert reasons["captions.jsonl#6"] == reasons["captions.jsonl#7"] == "duplicate_key"
    assert reasons["captions.jsonl#21"] == "broken_json"
    assert reasons["images/surplus.jpg"] == "no_metadata"


def test_a_name_that_two_pictures_have_is_nobodys(tmp_path: Path) -> None:
    sd2_renders.pictures(tmp_path / "source", ["one/a.jpg", "two/a.jpg"])
    sd2_renders.listing(tmp_path / "source/captions.jsonl", entry("a.jpg"), entry("two/a.jpg"))
    rows = check_builder(
        SD2Renders,
        tmp_path / "source",
        cache_dir=tmp_path / "cache",
        rows=3,
        dropped={"no_picture": 1, "no_metadata": 1},
    )
    assert [row["width"] for row in rows] == [None, 41, None]


def test_odd_values_are_kept_as_they_are(tmp_path: Path) -> None:
    sd2_renders.pictures(tmp_path / "source", ["a.jpg"])
    odd = entry("a.jpg", " a \ud800 ", orig_text=["x"], clip_score="0.3", note="\ud800", big=10**30)
    (tmp_path / "source/captions.jsonl").write_text(json.dumps(odd))
    rows = check_builder(SD2Renders, tmp_path / "source", cache_dir=tmp_path / "cache", rows=1)
    assert rows[0]["prompt"] == " a ? "
    assert rows[0]["extra"] == {"orig_text": ["x"], "clip_score": "0.3", "note": "?", "big": str(10**30)}
    assert rows[0]["source_scores"] is None


def test_pieces_of_a_long_list_know_of_each_other(tmp_path: Path) -> None:
    names = [f"{number:08d}.jpg" for number in range(41_000)]
    sd2_renders.pictures(tmp_path / "source/images", [names[0], names[19_999], names[20_000], "surplus.jpg"])
    lines = [b'{"file_name": "%s", "text": "a"}' % name.encode() for name in names]
    sd2_renders.listing(tmp_path / "source/captions.jsonl", *lines, entry(names[20_000], "again"), entry(names[0]))
    builder = SD2Renders(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
    builder.download_and_prepare(num_proc=2)
    rows = builder.as_dataset("train").select_columns(["id", "dropped"]).with_format("arrow")[:]
    assert [len(pieces) for pieces in builder.pieces().values()] == [3]
    assert len(rows) == len(rows["id"].unique()) == 41_003
    reasons = rows["dropped"].combine_chunks().field("reason")
    kept = rows["id"].filter(reasons.is_null()).to_pylist()
    assert kept == [f"sd2_renders/sd2_images_211238/{names[n]}" for n in (0, 19_999, 20_000)]
    assert Counter(reasons.drop_null().to_pylist()) == {"no_picture": 40_997, "duplicate_key": 2, "no_metadata": 1}


@pytest.mark.parametrize("config, name", [("sd2gpt2", "gpt_generated"), ("sd2hardcode", "hardcoded")])
def test_rows_and_pictures_tied_by_their_order(tmp_path: Path, config: str, name: str) -> None:
    prompts = ['a "quoted" cat', "two\nlines", "", "the fourth", "the fifth"]
    sd2_renders.numbered(tmp_path / "source", prompts, [0, 1, 2, 4, 10, 11], name)
    (tmp_path / f"source/{name}_images/{name}_images/cover.png").write_bytes(picture("PNG", seed=9))
    rows = check_builder(
        SD2Renders,
        tmp_path / "source",
        config,
        cache_dir=tmp_path / "cache",
        rows=8,
        dropped={"no_picture": 1, "no_metadata": 3},
    )
    kept = {row["id"]: (row["prompt"], row["width"]) for row in rows if not row["dropped"]}
    assert kept == {
        f"sd2_renders/{config}/00000000": ('a "quoted" cat', 40),
        f"sd2_renders/{config}/00000001": ("two\nlines", 41),
        f"sd2_renders/{config}/00000002": (None, 42),
        f"sd2_renders/{config}/00000004": ("the fifth", 43),
    }
    assert rows[0]["generation"] is rows[0]["extra"] is None
    assert rows[-1]["id"] == f"sd2_renders/{config}/{name}_images/cover.png"


def test_numbers_that_begin_at_one_stop_the_build(tmp_path: Path) -> None:
    sd2_renders.numbered(tmp_path / "source", ["a", "b", "c"], [1, 2, 3])
    with pytest.raises(BadFile, match=r"gpt_generated_prompts\.csv: its 3 rows count from 0, its pictures from 1 to 3"):
        SD2Renders("sd2gpt2", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").download_and_prepare()


def test_a_later_column_of_a_csv_is_kept(tmp_path: Path) -> None:
    sd2_renders.numbered(tmp_path / "source", ["a"], [0])
    (tmp_path / "source/gpt_generated_prompts.csv").write_text("rank,prompt\n7,a\n")
    rows = check_builder(SD2Renders, tmp_path / "source", "sd2gpt2", cache_dir=tmp_path / "cache", rows=1)
    assert (rows[0]["prompt"], rows[0]["extra"]) == ("a", {"rank": "7"})


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "the file is empty"),
        (b"Prompt\na\n", "no column 'prompt', only 'Prompt'"),
        (b'prompt\na\n"b\nc\n', "line 3: a quote is opened and never closed"),
    ],
)
def test_a_bad_csv_stops_the_build_and_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    sd2_renders.numbered(tmp_path / "source", ["a"], [0])
    (tmp_path / "source/gpt_generated_prompts.csv").write_bytes(data)
    with pytest.raises(BadFile, match=message) as raised:
        SD2Renders("sd2gpt2", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").download_and_prepare()
    assert "gpt_generated_prompts.csv" in str(raised.value)


def test_an_empty_list_and_a_list_without_pictures(tmp_path: Path) -> None:
    sd2_renders.listing(tmp_path / "source/captions.jsonl")
    with pytest.raises(SourceMissing, match="no pictures"):
        SD2Renders(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").pieces()
    sd2_renders.pictures(tmp_path / "source", ["a.jpg"])
    with pytest.raises(BadFile, match=r"captions\.jsonl: the file is empty"):
        SD2Renders(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").pieces()


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    sd2_renders.split(tmp_path / "source")
    (tmp_path / "source/validation/metadata_concat_split_dedup.jsonl").unlink()
    with pytest.raises(SourceMissing, match=r"no validation/metadata_concat_split_dedup\.jsonl"):
        SD2Renders("image_to_prompt_v4_a", data_dir=tmp_path / "source")


def test_another_picture_under_the_same_name_is_seen(tmp_path: Path) -> None:
    sd2_renders.captions(tmp_path / "source")
    before = SD2Renders(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").cache_dir
    image = tmp_path / "source/images/00000000.jpg"
    image.write_bytes(image.read_bytes()[::-1])
    assert SD2Renders(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").cache_dir != before
