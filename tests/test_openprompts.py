"""OpenPrompts: both shapes of raw_data, what the messages say, no one's id anywhere, and odd rows that stay alone."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fixtures import openprompts
from fixtures.openprompts import CDN, CLEAN, KREA, PERSON, PROXY, fields, message, raw

from builders.openprompts import OpenPrompts, command
from hfds.errors import BadFile, SourceMissing
from hfds.testing import check_builder


def read(folder: Path, data: bytes | list[tuple[str, str]], **options: Any) -> list[dict[str, Any]]:
    """The rows of one CSV, with the features decoded."""
    folder.mkdir(exist_ok=True)
    (folder / "openprompts.csv").write_bytes(data if isinstance(data, bytes) else openprompts.text(data))
    builder = OpenPrompts(data_dir=folder, cache_dir=folder / "cache", **options)
    builder.download_and_prepare()
    return list(builder.as_dataset("train"))


def test_every_row_of_the_published_layout(tmp_path: Path) -> None:
    openprompts.clean(tmp_path / "source")
    rows = check_builder(OpenPrompts, tmp_path / "source", cache_dir=tmp_path / "cache", rows=len(CLEAN))
    assert [row["prompt"] for row in rows] == [
        "a cat, in oil",
        " blanks around it ",
        "two\nlines",
        'a "quoted", ünïcode 猫',
        "by k_euler",
        "a dog on the moon",
        None,
        None,
    ]
    assert all(row["license"] == "unknown" and row["image"] is None for row in rows)


def test_a_row_with_all_fields(tmp_path: Path) -> None:
    row = read(tmp_path, CLEAN)[0]
    assert row["generation"] == {
        "model": None,
        "seed": 4293895136,
        "steps": 50,
        "guidance": 7.5,
        "sampler": None,
        "negative_prompt": None,
    }
    assert (row["width"], row["height"]) == (512, 768)
    assert row["url"] == fields()["image_uri"]
    assert row["captions"] == [{"style": "prompt", "text": "a cat, in oil"}]
    assert row["extra"] == {
        "modifiers": ["oil paint", "4 k"],
        "content_type": "image/png",
        "timestamp": 1660000000,
        "num_generations": 9,
        "is_grid": 0,
    }


def test_a_row_with_the_message_instead(tmp_path: Path) -> None:
    row = read(tmp_path, CLEAN)[5]
    assert row["generation"] == {
        "model": None,
        "seed": 900,
        "steps": 70,
        "guidance": 11.0,
        "sampler": None,
        "negative_prompt": None,
    }
    assert (row["width"], row["height"]) == (832, 512)
    assert row["captions"] == [{"style": "prompt", "text": "a dog on the moon"}]
    assert row["extra"] == {
        "modifiers": ["oil paint", "4 k"],
        "image_uri": f"{KREA}/six.png",
        "thumbnail_uri": f"{KREA}/six.webp",
        "image_proxy_uri": f"{PROXY}/a_message_idx-2.png",
        "content_type": "image/png",
        "num_generations": 9,
        "is_grid": 0,
        "content": json.loads(CLEAN[5][1])["raw_discord_data"]["content"],
    }


def test_a_row_without_a_prompt_has_that_of_its_message_as_a_caption(tmp_path: Path) -> None:
    rows = read(tmp_path, CLEAN)
    assert rows[6]["prompt"] is None
    assert rows[6]["captions"] == [{"style": "message", "text": "\nno prompt\n"}]
    assert (rows[6]["generation"]["sampler"], rows[6]["extra"]["is_grid"]) == ("plms", 1)
    assert rows[7]["prompt"] is None
    assert rows[7]["captions"] == []


def test_another_prompt_in_the_message_is_a_caption(tmp_path: Path) -> None:
    (row,) = read(tmp_path, [("this one", raw(message('`!dream "that one " -S 1`')))])
    assert row["captions"] == [{"style": "prompt", "text": "this one"}, {"style": "message", "text": "that one "}]
    (row,) = read(tmp_path, [("this one", raw(message('`!dream "this one " -S 1`')))])
    assert row["captions"] == [{"style": "prompt", "text": "this one"}]


def test_the_sampler_is_taken_from_the_file_name(tmp_path: Path) -> None:
    samplers = [row["generation"]["sampler"] for row in read(tmp_path, CLEAN)]
    assert samplers == [None, None, None, "k_dpm_2_ancestral", "k_euler", None, "plms", None]


def test_fields_go_before_the_message_and_what_is_missing_is_taken_from_it(tmp_path: Path) -> None:
    content = '`!dream "x" -S 1 -s 2 -C 3.5 -W 4 -H 5 -n 6 -g`'
    some = fields(content=content, seed=..., width=..., cfg_scale=None, is_grid=..., num_generations=None)
    row, other = read(tmp_path, [("x", raw(some)), ("x", raw(fields(content=content)))])
    assert (row["generation"]["seed"], row["generation"]["steps"], row["generation"]["guidance"]) == (1, 50, 3.5)
    assert (row["width"], row["height"]) == (4, 768)
    assert (row["extra"]["is_grid"], row["extra"]["num_generations"]) == (1, 6)
    assert (other["generation"]["seed"], other["generation"]["guidance"]) == (4293895136, 7.5)
    assert (other["width"], other["extra"]["is_grid"], other["extra"]["num_generations"]) == (512, 0, 9)


@pytest.mark.parametrize(
    "content, prompt, flags",
    [
        ('Dreamt in `1.00s` for `!dream "a" -S 1`', "a", {"S": 1}),
        ('Dreamt in `1.00s` for `!dream "a" -H 704 -W 832 -C 10.5 -n 9 -i -s 150 -A ddim -S 4293895136 -p 2` The seeds',
         "a", {"H": 704, "W": 832, "C": 10.5, "n": 9, "is_grid": 0, "s": 150, "A": "ddim", "S": 4293895136}),
        ('`!dream "a" -n 4 -g -S 7` \nThe commands for each individual image are: \n`!dream "b" -S 8`\n`!dream "c"`',
         "a", {"n": 4, "is_grid": 1, "S": 7}),
        ('Dreamt in 1.00s for !dream "a" -n 9 -i -S 7 The seeds for each individual image are: [7, 8]',
         "a", {"n": 9, "is_grid": 0, "S": 7}),
        ('Dreamt in 1.00s for !dream "a" -n 9 -S 7', "a", {"n": 9, "S": 7}),
        ('`!dream "a -S 5 and -s 6" -n4 -S 7`', "a -S 5 and -s 6", {"n": 4, "S": 7}),
        ('`!dream "say "hi" -S 5 "" -S 7`', 'say "hi" -S 5 "', {"S": 7}),
        ('`!dream "two\nlines" \n -S 7`', "two\nlines", {"S": 7}),
        ('`!dream "!dream "a"" -S 7`', '!dream "a"', {"S": 7}),
        ('`!dream "no flags"`', "no flags", {}),
        ('`!dream "a" -S 12345678901234567890 -s x -C . -W 9999999999`', "a", {}),
        ("!dream a without quotes -S 7", None, {}),
        ("**a** - Image #1", None, {}),
        ("", None, {}),
        (None, None, {}),
    ],
)  # fmt: skip
def test_what_a_message_says(content: str | None, prompt: str | None, flags: dict[str, Any]) -> None:
    found, values = command(pa.array([content], pa.string()))
    assert found.to_pylist() == [prompt]
    assert {name: value[0].as_py() for name, value in values.items() if value[0].is_valid} == flags


def test_mentions_are_removed_from_everything(tmp_path: Path) -> None:
    role, mention = "876543210987654321", f"<@{PERSON}>"
    content = f'for {mention}\'s `!dream "say hi to <@!{PERSON}>" -S 3`'
    rows = [
        (f"hello {mention}, and <@&{role}>!", raw(fields(), modifiers=[f"hello <@!{PERSON}>"])),
        (f"<@<@{PERSON}>{PERSON}>in one another", raw(fields(f"hello_{PERSON}"))),
        ("", raw(message(content, image_proxy_uri=f"{PROXY}/say_hi_to_{PERSON}_idx-0.png"))),
        ("a key", raw(fields(**{mention: {"deeper": [mention]}}), **{mention: "x"})),
        ("escaped", raw(message(content)).replace("<", "\\u003c").replace("!", "\\u0021")),
        (mention, raw(fields(image_uri=f"{CDN}/{mention}.png", content_type=f"<@&{role}>"))),
        ("a URL", raw(fields(image_uri=f"{CDN}/{mention}.png"))),
    ]
    found = read(tmp_path, rows)
    prompts = ["hello , and !", "in one another", None, "a key", "escaped", None, "a URL"]
    assert [row["prompt"] for row in found] == prompts
    everything = json.dumps(found, ensure_ascii=False)
    assert PERSON not in everything
    assert role not in everything
    assert "<@" not in everything
    assert found[0]["url"] == fields()["image_uri"]
    assert found[0]["extra"]["modifiers"] == ["hello "]
    assert found[1]["url"] is None
    assert found[2]["captions"] == [{"style": "message", "text": "say hi to "}]
    assert found[2]["url"] == message("")["image_uri"]
    assert found[3]["extra"]["raw_discord_data"] == {"": {"deeper": [""]}}
    assert found[4]["extra"]["content"] == 'for \'s `!dream "say hi to " -S 3`'
    assert found[6]["url"] == f"{CDN}/.png"


def test_a_mail_address_or_a_heart_is_no_mention(tmp_path: Path) -> None:
    prompts = ["me@example.com <3 <@>", "<@name> a < b @1>"]
    assert [row["prompt"] for row in read(tmp_path, [(p, raw(fields())) for p in prompts])] == prompts


@pytest.mark.parametrize(
    "changes, taken, left",
    [
        ({"seed": "123"}, {"seed": 123}, {}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}, {}),
        ({"seed": 2**63}, {"seed": None}, {"seed": 2**63}),
        ({"seed": 10**100}, {"seed": None}, {"seed": str(10**100)}),
        ({"seed": "many"}, {"seed": None}, {"seed": "many"}),
        ({"seed": True}, {"seed": None}, {"seed": True}),
        ({"seed": [1]}, {"seed": None}, {"seed": [1]}),
        ({"seed": None}, {"seed": None}, {}),
        ({"num_step": 50.0}, {"steps": 50}, {}),
        ({"num_step": 50.5}, {"steps": None}, {"num_step": 50.5}),
        ({"num_step": 2**31}, {"steps": None}, {"num_step": 2**31}),
        ({"cfg_scale": 7}, {"guidance": 7.0}, {}),
        ({"cfg_scale": "7.5"}, {"guidance": 7.5}, {}),
        ({"cfg_scale": float("nan")}, {"guidance": None}, {}),
        ({"cfg_scale": float("inf")}, {"guidance": None}, {}),
        ({"cfg_scale": 1e300}, {"guidance": None}, {}),
        ({"cfg_scale": {}}, {"guidance": None}, {"cfg_scale": {}}),
        ({"sampler": "k_new"}, {"sampler": None}, {"sampler": "k_new"}),
        ({"content": 5}, {"seed": 4293895136}, {"content": 5}),
        ({"content": "\ud800"}, {"seed": 4293895136}, {}),
        ({"new \ud800": "\udfff"}, {"seed": 4293895136}, {"new ?": "?"}),
    ],
    ids=repr,
)
def test_a_value_of_another_type_stays_alone_and_is_kept(
    tmp_path: Path, changes: dict[str, Any], taken: dict[str, Any], left: dict[str, Any]
) -> None:
    odd = json.dumps(json.loads(raw(...)) | {"raw_discord_data": fields(**changes)})
    before, row, after = read(tmp_path, [CLEAN[0], ("odd", odd), CLEAN[5]])
    assert row["dropped"] is None
    assert {name: row["generation"][name] for name in taken} == taken
    assert row["extra"].get("raw_discord_data", {}) == left
    assert [before, after] == read(tmp_path / "alone", [CLEAN[0], CLEAN[5]])


@pytest.mark.parametrize(
    "changes, extra",
    [
        ({"modifiers": ["a", 1]}, {"modifiers": ["a", 1]}),
        ({"modifiers": ["a", None]}, {"modifiers": ["a", None]}),
        ({"modifiers": "a"}, {"modifiers": "a"}),
        ({"modifiers": ["a\tb", 'c"d\\', "猫"]}, {"modifiers": ["a\tb", 'c"d\\', "猫"]}),
        ({"modifiers": ...}, None),
        ({"likes": 2**63 - 1, "by": None}, {"modifiers": ["oil paint", "4 k"], "likes": 2**63 - 1}),
        ({"raw_discord_data": None}, {"modifiers": ["oil paint", "4 k"]}),
        ({"raw_discord_data": ...}, {"modifiers": ["oil paint", "4 k"]}),
    ],
    ids=repr,
)
def test_what_else_the_raw_data_says(tmp_path: Path, changes: dict[str, Any], extra: dict[str, Any] | None) -> None:
    (row,) = read(tmp_path, [("x", raw({}, **changes))])
    assert (row["dropped"], row["extra"], row["generation"]) == (None, extra, None)


@pytest.mark.parametrize("uri", ["PENDING", "", "file:///etc/passwd", "javascript:alert(1)", "a.png"])
def test_a_url_is_a_url(tmp_path: Path, uri: str) -> None:
    (row,) = read(tmp_path, [("x", raw(fields(image_uri=uri)))])
    assert row["url"] is None
    assert row["extra"].get("discord_image_uri", "") == uri.replace("PENDING", "")


def test_a_bad_row_is_a_dropped_row_with_its_prompt(tmp_path: Path) -> None:
    expected = openprompts.hostile(tmp_path / "source")
    rows = check_builder(
        OpenPrompts,
        tmp_path / "source",
        cache_dir=tmp_path / "cache",
        rows=4 + sum(expected.values()),
        dropped=expected,
    )
    assert [row["prompt"] for row in rows if row["dropped"] is None] == ["good", "after", "nothing", "blank"]
    assert [row["prompt"] for row in rows][-4:] == ["a list inside", "a text inside", "nothing", "blank"]
    assert rows[8]["generation"]["seed"] == 1


@pytest.mark.parametrize("odd", ['{"new": 1}', "{}{}", " {}", "{\n}", "", '{"a":'])
def test_one_odd_row_changes_no_other(tmp_path: Path, odd: str) -> None:
    rows = [(f"row {n}", raw(fields(seed=n) if n % 3 else message(f'`!dream "row {n}" -S {n}`'))) for n in range(300)]
    found = read(tmp_path, [*rows[:200], ("odd", odd), *rows[200:]])
    assert found[200]["prompt"] == "odd"
    assert found[:200] + found[201:] == read(tmp_path / "alone", rows)
    assert [row["generation"]["seed"] for row in found[201:]] == list(range(200, 300))


@pytest.mark.parametrize(
    "begin, end", [('{"raw_discord_data":', '{"seed": 5}}'), ('{"raw_discord_data": {}', ', "modifiers": ["a"]}')]
)
def test_two_rows_are_never_one_object(tmp_path: Path, begin: str, end: str) -> None:
    rows = read(tmp_path, [("glued", "{}{}"), ("begins", begin), ("ends", end), ("good", raw(fields(seed=1)))])
    reasons = [row["dropped"] and row["dropped"]["reason"] for row in rows]
    assert reasons == ["broken_json", "broken_json", "broken_json", None]
    assert rows[3]["generation"]["seed"] == 1


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_csv_of_the_same_rows_has_the_same_rows(tmp_path: Path, end: str, mark: str, reverse: bool) -> None:
    found = read(tmp_path, openprompts.text(CLEAN, end, reverse, mark))
    assert found == read(tmp_path / "plain", CLEAN)


def test_an_id_is_that_of_the_row_in_any_excerpt(tmp_path: Path) -> None:
    everything = read(tmp_path, [*CLEAN, (CLEAN[0][0], raw(fields(seed=2))), ("another cat", CLEAN[0][1]), CLEAN[1]])
    ids = [row["id"] for row in everything]
    assert len(set(ids[:-1])) == len(CLEAN) + 2
    assert ids[-1] == ids[1]
    assert [row["id"] for row in read(tmp_path / "excerpt", CLEAN[4:2:-1])] == [ids[4], ids[3]]
    assert ids[0] == "openprompts/ce969e6da2a7689223f9d60ad6bb6b78"


def test_a_file_of_several_blocks_keeps_its_order(tmp_path: Path) -> None:
    rows = [(f"row {n}", raw(fields(seed=n, content="x" * 4_000))) for n in range(8_000)]
    assert [row["generation"]["seed"] for row in read(tmp_path, rows)] == list(range(8_000))


def test_a_limit_and_no_rows(tmp_path: Path) -> None:
    assert [row["prompt"] for row in read(tmp_path, CLEAN, limit=2)] == [prompt for prompt, _ in CLEAN[:2]]
    (tmp_path / "none").mkdir()
    (tmp_path / "none/openprompts.csv").write_bytes(b"prompt,raw_data\n")
    builder = OpenPrompts(data_dir=tmp_path / "none", cache_dir=tmp_path / "none/cache")
    builder.download_and_prepare()
    assert builder.info.splits["train"].num_examples == 0


@pytest.mark.parametrize(
    "data, message",
    [
        (openprompts.text(CLEAN)[:-4], "openprompts.csv: .*never closed"),
        (b"prompt,raw\nx,y\n", "openprompts.csv: no column 'raw_data'"),
        (openprompts.text(CLEAN) + b"x\n", "openprompts.csv: .*1 fields instead of 2"),
        (b"", "openprompts.csv: the file is empty"),
    ],
)
def test_a_bad_file_stops_the_build_and_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        read(tmp_path, data)


def test_where_to_get_it() -> None:
    with pytest.raises(SourceMissing, match=r"github\.com/krea-ai/open-prompts"):
        OpenPrompts()


def test_the_progress_bar_knows_about_how_many_rows_there_are(tmp_path: Path) -> None:
    openprompts.clean(tmp_path)
    builder = OpenPrompts(data_dir=tmp_path, cache_dir=tmp_path / "cache")
    (piece,) = builder.pieces()["train"]
    builder.download_and_prepare()
    expected = builder.rows_expected(piece)
    assert expected is not None
    assert expected == pytest.approx(len(builder.as_dataset("train")), rel=0.5)
