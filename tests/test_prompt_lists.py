"""PromptLists: each list in its own format, all of them at once, bad entries and bad files."""

import json
from pathlib import Path

import pytest
from fixtures import prompt_lists

from builders.prompt_lists import LISTS, PromptLists
from hfds.errors import BadFile, SourceMissing
from hfds.testing import check_builder


@pytest.mark.parametrize("config", [one.name for one in LISTS])
def test_every_list(tmp_path: Path, config: str) -> None:
    prompt_lists.published(tmp_path / "source")
    rows, blank = prompt_lists.ROWS[config]
    dropped = {"blank": blank} if blank else {}
    found = check_builder(
        PromptLists, tmp_path / "source", config, cache_dir=tmp_path / "cache", rows=rows, dropped=dropped
    )
    assert {row["license"] for row in found} == {next(one.license for one in LISTS if one.name == config)}
    assert all(row["id"].startswith(f"prompt_lists/{config}/") for row in found)


def test_all_lists_at_once(tmp_path: Path) -> None:
    prompt_lists.published(tmp_path / "source")
    count = sum(rows for rows, _ in prompt_lists.ROWS.values())
    rows = check_builder(
        PromptLists, tmp_path / "source", cache_dir=tmp_path / "cache", rows=count, dropped={"blank": 2}
    )
    by_id = {row["id"].removeprefix("prompt_lists/"): row for row in rows}
    quoted = by_id["partiprompts/00000001"]
    assert quoted["extra"]["Note"] == 'Description of "Dogs Playing Poker"'
    assert quoted["captions"] == [{"style": "prompt", "text": "Dogs playing poker"}]
    assert by_id["partiprompts/00000002"]["prompt"] == '"a quote that never closes'
    assert by_id["partiprompts/00000002"]["extra"] == {"Category": "Animals", "Challenge": "Complex"}
    assert by_id["t2i_compbench/color/00000001"]["prompt"] == "a second one"
    assert by_id["t2i_compbench/shape/00000000"]["prompt"] == "a shape café"
    assert by_id["t2i_compbench/shape/00000000"]["extra"] == {"category": "shape"}
    assert by_id["geneval/00000001"]["extra"] == {k: v for k, v in prompt_lists.GENEVAL[1].items() if k != "prompt"}
    assert by_id["drawbench/00000000"]["prompt"] == by_id["drawbench/00000001"]["prompt"]
    assert by_id["dalle3_eval/00000000"]["prompt"] == "un cuerpo de cristal\u2028transparente\x85"
    assert by_id["coco_8k/00000000"]["prompt"] == "A dog catching a Frisbee. "
    assert by_id["coco_8k/00000003"]["prompt"] == "MIXTURE OF FRUITS"
    assert by_id["coco_8k/00000001"]["dropped"]["reason"] == "blank"
    assert by_id["coco_8k/00000002"]["prompt"] is None
    assert by_id["imagereward_test/005658-0040"]["extra"]["ranking"] == [1]
    assert by_id["imagereward_benchmark/005695-0057"]["extra"] is None


def test_a_list_is_also_found_where_its_repository_has_it(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/drawbench.txt").write_text("one\ntwo\n")
    rows = check_builder(PromptLists, tmp_path, "drawbench", cache_dir=tmp_path / "cache", rows=2)
    assert rows["prompt"] == ["one", "two"]


REWARD = [
    {"id": "good", "prompt": "a prompt", "score": 1e999},
    {"id": "good", "prompt": "the same id"},
    {"id": "\ud800\x07", "prompt": "half a \ud800 pair", "note": "\ud800"},
    {"id": "00000004#good", "prompt": "an id like one that is made here"},
    {"id": "good", "prompt": "and again"},
    {"id": 7, "prompt": "a number"},
    {"prompt": "no id"},
    "a prompt alone",
    {"id": "number", "prompt": 7},
    {"id": "null", "prompt": None},
    {"id": "blank", "prompt": " \n"},
]


def test_bad_entries_of_a_json_list(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(json.dumps(REWARD), "utf-8")
    dropped = {"duplicate_key": 2, "wrong_type": 4, "blank": 2}
    rows = check_builder(
        PromptLists, tmp_path, "imagereward_test", cache_dir=tmp_path / "cache", rows=len(REWARD), dropped=dropped
    )
    assert rows[0]["extra"] is None
    assert rows[2]["id"] == "prompt_lists/imagereward_test/\\ud800\\x07"
    assert rows[2]["prompt"] == "half a ? pair"


def test_bad_lines(tmp_path: Path) -> None:
    lines = [b'{"prompt": "a"}', b"", b'{"prompt": "a"', b"[1]", b'{"prompt": 1}', b"{}", b'{"prompt": "\xe9"}']
    (tmp_path / "evaluation_metadata.jsonl").write_bytes(b"\n".join(lines))
    dropped = {"blank": 2, "broken_json": 1, "wrong_type": 2, "not_utf8": 1}
    check_builder(PromptLists, tmp_path, "geneval", cache_dir=tmp_path / "a", rows=7, dropped=dropped)
    (tmp_path / "PartiPrompts.tsv").write_bytes(
        b"\xef\xbb\xbfPrompt\tNote\r\na\tb\r\na\r\na\tb\tc\r\n\tb\r\n\r\n\xe9\tb\r\n"
    )
    dropped = {"wrong_fields": 2, "blank": 2, "not_utf8": 1}
    rows = check_builder(PromptLists, tmp_path, "partiprompts", cache_dir=tmp_path / "b", rows=6, dropped=dropped)
    assert rows[0]["extra"] == {"Note": "b"}


@pytest.mark.parametrize(
    "config, file, data, message",
    [
        ("drawbench", "drawbench.txt", b"", r"drawbench\.txt: the file is empty"),
        ("drawbench", "drawbench.txt", "é".encode("utf-16"), r"drawbench\.txt: it is UTF-16"),
        ("partiprompts", "PartiPrompts.tsv", b"prompt\nx\n", r"PartiPrompts\.tsv: no column 'Prompt'.* only 'prompt'"),
        ("partiprompts", "PartiPrompts.tsv", b"\xe9\nx\n", r"only bytes that are not UTF-8"),
        ("imagereward_test", "test.json", b"", r"test\.json: the file is empty"),
        ("imagereward_test", "test.json", b'[{"id": "a"', r"test\.json: not a whole JSON file"),
        ("imagereward_test", "test.json", b"[" * 100_000, r"test\.json: not a whole JSON file"),
        ("imagereward_test", "test.json", b'{"id": "a"}', r"test\.json: it holds one dict, wanted a list"),
    ],
)
def test_a_bad_file_stops_the_build_and_is_named(
    tmp_path: Path, config: str, file: str, data: bytes, message: str
) -> None:
    (tmp_path / file).write_bytes(data)
    with pytest.raises(BadFile, match=message):
        PromptLists(config, data_dir=tmp_path, cache_dir=tmp_path / "cache").download_and_prepare()


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    prompt_lists.published(tmp_path / "source")
    (tmp_path / "source/geneval/evaluation_metadata.jsonl").unlink()
    with pytest.raises(SourceMissing, match=r"no geneval/evaluation_metadata\.jsonl"):
        PromptLists(data_dir=tmp_path / "source", cache_dir=tmp_path / "cache").download_and_prepare()
    with pytest.raises(SourceMissing, match=r"no geneval/evaluation_metadata\.jsonl or .* which holds LICENSE"):
        PromptLists("geneval", data_dir=tmp_path / "source", cache_dir=tmp_path / "cache")
