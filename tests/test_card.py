"""The card: front matter that `datasets` reads, numbers from the lock, and no markup from anybody's data."""

from typing import Any

import yaml

from hfds.card import render
from hfds.lock import digest_of, release_order
from hfds.markdown import escape

HOSTILE = "<script>alert(1)</script> | [x](javascript:1) `rm` *b* ![i](http://e) \n# title"


def lock(release: str, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "image-to-prompt",
        "release": release,
        "description": "",
        "digest": "d" * 64,
        "splits": {"train": {"rows": 12345, "bytes": 2_500_000, "shards": [{}, {}]}},
        "ledger": {"path": f"ledger/{release}.parquet", "sha256": "e" * 64},
        "licenses": {"CC0-1.0": 12345},
        "steps": [{"name": "Split", "parameters": {"validation": 0.05}}],
        "funnel": [
            {
                "input": "a/b",
                "rows": 20000,
                "dropped": [{"step": "s", "reason": "r", "rows": 7655}],
                "kept": {"train": 12345},
            }
        ],
        "sources": [{"input": "a/b", "homepage": "", "revision": None, "license": "CC0-1.0", "files": [{}]}],
        **changes,
    }


def test_the_newest_release_is_the_default_config() -> None:
    card = render({"v2": lock("v2"), "v10": lock("v10", licenses={"MIT": 1})})
    meta = yaml.safe_load(card.split("---\n")[1])
    assert [(c["config_name"], c.get("default")) for c in meta["configs"]] == [
        ("v2", None),
        ("v10", True),
        ("v2-ledger", None),
        ("v10-ledger", None),
    ]
    assert meta["configs"][1]["data_files"] == [{"split": "train", "path": "data/v10/train-*.parquet"}]
    assert meta["license"] == ["cc0-1.0", "mit"]
    assert card.index("## v10") < card.index("## v2")
    assert "Pictures and the prompts that made" in card, "the hand-written part of cards/image-to-prompt.md"


def test_numbers_come_from_the_lock() -> None:
    card = render({"v2": lock("v2")})
    for text in ("| train | 12,345 | 2.5 MB | 2 |", "| a/b | 20,000 | r 7,655 | train 12,345 |", "d" * 64):
        assert text in card


def test_no_markup_of_theirs_survives() -> None:
    hostile = lock("v2", licenses={HOSTILE: 1}, description=HOSTILE)
    hostile["funnel"][0]["input"] = HOSTILE
    hostile["sources"][0]["homepage"] = HOSTILE
    body = render({"v2": hostile}).split("---\n", 2)[2]
    assert "<script" not in body
    assert "](javascript" not in body
    assert "\n# title" not in body
    assert escape("a|b\nc") == r"a\|b c"
    assert not any(link in escape("http://a www.b c@d") for link in ("://", "www.", "@")), "what links by itself"
    assert yaml.safe_load(render({"v2": hostile}).split("\n---\n")[0].removeprefix("---\n"))["license"] == "other"


def test_the_order_of_releases() -> None:
    names = ["v10", "v4-b", "v2", "v4", "v4-a", "v3"]
    assert sorted(names, key=release_order) == ["v2", "v3", "v4", "v4-a", "v4-b", "v10"]


def test_no_rows_have_a_digest_too() -> None:
    assert digest_of([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
