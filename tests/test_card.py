"""The card: front matter that `datasets` reads, numbers from the lock, and no markup from anybody's data."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pytest
import yaml
from datasets import Features, List, Value, load_dataset
from fixtures import dalle3, toy
from fixtures.voices import Compass
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from builders.dalle3 import Dalle3
from hfds import Input, Release, build
from hfds.card import BEGIN, END, merged, render
from hfds.changelog import Diff, changelog, fitting
from hfds.cli import main
from hfds.documents import documents, foreign
from hfds.errors import ConfigError
from hfds.front_matter import nothing_yet
from hfds.lock import digest_of, read_lock, read_locks, release_order
from hfds.markdown import code, escape, fenced, link, table
from hfds.plots import plot
from hfds.record import MEANINGS
from hfds.releases import RELEASES
from hfds.run import Run
from hfds.words import words_of
from processors.quality import MeasureImage
from processors.split import Split

HOSTILE = (
    f"<script>alert(1)</script> | [x](javascript:1) `rm` *b* ![i](http://e) {END} \n```\n---\n# title\n\n"
    "www.e.org a@e.org @all <https://e.org> \x1b[31m \u202e \\ $x$ &lt;"
    f"\u2028{END}\u2028```"
)
SHARD = {"path": "data/v2/train-00000-of-00001.parquet", "rows": 1, "bytes": 1, "sha256": "a" * 64}
COLUMNS = Features({"id": Value("string"), "prompt": Value("string"), "license": Value("string")})


def lock(release: str, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "image-to-prompt",
        "release": release,
        "description": "",
        "digest": "d" * 64,
        "columns": COLUMNS.to_dict(),
        "splits": {"train": {"rows": 12345, "bytes": 2_500_000, "shards": [SHARD, SHARD]}},
        "ledger": {"path": f"ledger/{release}.parquet", "sha256": "e" * 64},
        "licenses": {"CC0-1.0": 12345},
        "steps": [{"name": "Split", "parameters": {"validation": 0.0, "by": True, "not": False, "none": None}}],
        "funnel": [
            {
                "input": "a/b",
                "rows": 20000,
                "dropped": [{"step": "Split", "reason": "r", "rows": 7655}],
                "kept": {"train": 12345},
            }
        ],
        "sources": [
            {"input": "a/b", "repo": None, "homepage": "", "revision": None, "license": "CC0-1.0", "files": [{}]}
        ],
        **changes,
    }


LOCKS = {"v1": lock("v1")}


def change(old: str, new: str, **changes: Any) -> dict[str, Any]:
    rows = dict.fromkeys(("old", "new", "both", "added", "removed", "moved", "changed"), 100)
    lists: dict[str, Any] = {
        name: [] for name in ("splits", "columns", "added", "removed", "moved", "changed", "drift", "made_of")
    }
    digests = {"old": "d" * 64, "new": "d" * 64}
    entry = {"dataset": "d", "old": old, "new": new, "digests": digests, "rows": rows, **lists, **changes}
    return Diff.of(entry).entry()


def meta_of(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    return found


def test_the_newest_release_is_the_default_config() -> None:
    card = render({"v2": lock("v2"), "v10": lock("v10", licenses={"MIT": 1})})
    meta = meta_of(card)
    assert [(c["config_name"], c.get("default")) for c in meta["configs"]] == [
        ("v2", None),
        ("v10", True),
        ("v2-ledger", None),
        ("v10-ledger", None),
    ]
    assert meta["configs"][1]["data_files"] == [{"split": "train", "path": "data/v10/train-*.parquet"}]
    assert meta["license"] == ["cc0-1.0", "mit"]
    assert card.index("## v10\n") < card.index("## v2\n")
    assert "### Columns" not in card[card.index("## v2\n") :], "older ones are told in short"


def test_what_the_front_matter_says() -> None:
    meta = meta_of(render({"v2": lock("v2")}))
    assert (meta["pretty_name"], meta["language"]) == ("Image to Prompt", ["en"]), "of cards/image-to-prompt.md"
    assert meta["tags"][0] == "hfds"
    assert meta["dataset_info"] == [
        {
            "config_name": "v2",
            "features": [{"name": name, "dtype": "string"} for name in COLUMNS],
            "splits": [{"name": "train", "num_bytes": 2_500_000, "num_examples": 12345}],
            "download_size": 2_500_000,
            "dataset_size": 2_500_000,
        }
    ]
    plain = meta_of(render({"v2": lock("v2", dataset="mine")}))
    assert [*plain] == ["tags", "license", "size_categories", "configs", "dataset_info"], "nothing is invented"


@pytest.mark.parametrize(
    "rows, name",
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (2_000_000, "1M<n<10M"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
        (10**15, "n>1T"),
    ],
)
def test_the_hubs_names_for_sizes(rows: int, name: str) -> None:
    splits = {"train": {"rows": rows, "bytes": 1, "shards": []}}
    assert meta_of(render({"v1": lock("v1"), "v2": lock("v2", splits=splits)}))["size_categories"] == [name]


def test_numbers_come_from_the_lock() -> None:
    card = render({"v2": lock("v2")})
    for text in (
        "| train | 12,345 | 2.5 MB | 2 |",
        "| Split | r | −7,655 |",
        "| read |  | 20,000 |",
        "| kept | train | 12,345 |",
        "d" * 64,
        "| prompt | string | not measured | the text a trainer reads |  |",
        "## Known limits",
        "1. **Split** validation=0.0, by\n",
    ):
        assert text in card


def test_a_funnel_of_two_sources_is_added_up() -> None:
    entry = lock("v2")["funnel"][0]
    card = render({"v2": lock("v2", funnel=[entry, {**entry, "input": "c/d", "dropped": [], "rows": 12345}])})
    assert "| step | reason | a/b | c/d | all |" in card
    assert "| Split | r | −7,655 |  | −7,655 |" in card
    assert "| kept | train | 12,345 | 12,345 | 24,690 |" in card


def test_what_is_said_of_releases_and_rows_that_were_withdrawn() -> None:
    locks = {name: lock(name) for name in ("v1", "v2")}
    said = render(locks, {"v2": change("v1", "v2")}, withdrawn=1200, repo="org/pictures")
    assert "- **v2** after v1, none: 100 rows became 100" in said
    assert "- **v1** 12,345 rows" in said
    assert "1,200 rows were withdrawn" in said
    assert 'repo = "org/pictures"\n' in said
    assert 'load_dataset(repo, "v2", revision="v2")' in said
    assert r"\url{https://huggingface.co/datasets/org/pictures}" in said
    bare = render(locks)
    assert "withdrawn" not in bare
    assert "CHANGELOG.md" not in bare
    assert 'repo = "org/image-to-prompt"' in bare


def test_what_is_written_by_hand_stays() -> None:
    front = "pretty_name: Theirs\ntags: mine\nconfigs:\n- config_name: mine\n  data_files: mine.csv\n  default: true\n"
    front += "dataset_info:\n  config_name: mine\n  dataset_size: 1\nextra_key: 1\n"
    old = f"---\n{front}---\n\n# Mine\n"
    locks = {"v1": lock("v1", dataset="mine"), "v2": lock("v2", dataset="mine")}
    card = merged(old, locks)
    meta = meta_of(card)
    assert [one["config_name"] for one in meta["configs"]] == ["v1", "v2", "v1-ledger", "v2-ledger", "mine"]
    assert [one["config_name"] for one in meta["configs"] if one.get("default")] == ["v2"]
    assert [one["config_name"] for one in meta["dataset_info"]] == ["v1", "v2", "mine"]
    assert (meta["pretty_name"], meta["tags"], meta["extra_key"]) == ("Theirs", ["mine", "hfds"], 1)
    assert card.index("# Mine") < card.index(BEGIN)
    assert merged(card, locks) == card
    fewer = merged(card + "\nBelow.\n", {"v2": locks["v2"]})
    assert [one["config_name"] for one in meta_of(fewer)["configs"]] == ["v2", "v2-ledger", "mine"], "v1 is gone"
    assert [one["config_name"] for one in meta_of(fewer)["dataset_info"]] == ["v2", "mine"]
    assert fewer.index(END) < fewer.index("Below.")
    none = merged(fewer, {})
    assert [one["config_name"] for one in meta_of(none)["configs"]] == ["mine"]
    assert "# Mine" in none
    assert "## v2" not in none
    assert "Below." in none


TAKEN = "configs: [{config_name: v1, data_files: mine.csv}]"
CONFIGS, INFOS = "configs in the front matter", "dataset_info in the front matter"


def test_a_config_of_somebody_else_stays_wherever_its_files_are() -> None:
    files = [{"split": "train", "path": "data/mine/*.csv"}]
    theirs = [
        {"config_name": "mine", "data_files": files},
        {"config_name": "a-ledger", "data_files": "ledger/a.parquet"},
        {"config_name": "said", "description": "sha256 of all is in sums.txt", "data_files": "said.csv"},
    ]
    locks = {"v1": lock("v1")}
    card = merged(f"---\n{yaml.safe_dump({'configs': theirs})}---\n", locks)
    assert meta_of(card)["configs"][2:] == theirs
    assert meta_of(merged(card, {"v2": lock("v2")}))["configs"][2:] == theirs, "v1 alone is gone"
    first = nothing_yet("# Mine\n", "v1")
    assert [one["config_name"] for one in meta_of(merged(first, {"v2": lock("v2")}))["configs"]] == ["v2", "v2-ledger"]


def test_a_byte_order_mark_hides_nothing() -> None:
    locks = {"v1": lock("v1", dataset="mine")}
    card = merged("\ufeff---\npretty_name: X\nconfigs: [{config_name: mine, data_files: m.csv}]\n---\nhi\n", locks)
    assert (meta_of(card)["pretty_name"], meta_of(card)["configs"][2]["config_name"]) == ("X", "mine")
    assert "\ufeff" not in card
    assert card.count("pretty_name") == 1


@pytest.mark.parametrize(
    "front, told",
    [
        (TAKEN, "org/x has a config 'v1' that hfds did not write"),
        (TAKEN.replace("v1", "v1-ledger"), "org/x has a config 'v1-ledger' that hfds did not write"),
        ("a: [", "of org/x is no YAML"),
        ("a: 2000-13-01", "of org/x is no YAML"),
        ("a: " + "[" * 5000, "of org/x is no YAML"),
        ("- 1", "of org/x must be keys with values, got list"),
        ("dataset_info: 3", INFOS),
        ("dataset_info: {config_name: [a]}", INFOS),
        ("configs: [{config_name: [a]}]", CONFIGS),
        ("configs: [{data_files: a.csv}]", CONFIGS),
        ("configs: [3]", CONFIGS),
        ("configs: x", CONFIGS),
        ("tags: {a: b}", "tags in the front matter"),
        ("tags: [[a]]", "tags in the front matter"),
    ],
)
def test_a_front_matter_that_cannot_be_kept_is_refused(front: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        documents(LOCKS, {}, repo="org/x", old_card=f"---\n{front}\n---\n# Mine\n")
    assert told in str(refused.value)
    assert "README.md of org/x" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("marks", [(BEGIN,), (END,), (END, BEGIN), (BEGIN, BEGIN, END), (BEGIN, END, END)])
def test_marks_that_are_no_pair_are_refused(marks: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"README\.md of org/x must have the lines .* once each, in this order"):
        documents(LOCKS, {}, repo="org/x", old_card="Mine.\n" + "".join(f"{mark}\n\nMine.\n\n" for mark in marks))


def test_licenses_that_the_hub_does_not_know_are_other() -> None:
    def told(*names: str) -> Any:
        return meta_of(render({"v1": lock("v1", licenses=dict.fromkeys(names, 1))}))["license"]

    assert told("MIT") == "mit"
    assert told("unknown", "Apache-2.0") == ["apache-2.0", "unknown"]
    assert told("CC-BY-SA-2.0", "x-secret", "GPL-3.0") == ["gpl-3.0", "other"]


def test_what_a_push_would_write_over() -> None:
    paths = {"README.md": 1, "CHANGELOG.md": 1, "croissant.json": 1, "mine.csv": 1}
    assert foreign(paths, {}, {}) == ["CHANGELOG.md", "croissant.json"]
    assert foreign(paths, LOCKS, {}) == ["CHANGELOG.md"], "no release before says that there is one of ours"
    assert foreign(paths, LOCKS, {"v2": change("v1", "v2")}) == []
    assert foreign({"README.md": 1}, {}, {}) == []


def hostile(release: str = "v2") -> dict[str, Any]:
    """A lock of which every text that comes from anywhere is hostile."""
    inside = {HOSTILE: List(Value("string")), f"{HOSTILE}2": Value("float32"), "prompt": Value("string")}
    leaf = {"nulls": 0, "mean": 1, "min": 0, "5%": 0, "25%": 0, "50%": 1, "75%": 1, "95%": 1, "max": 1}
    bins = {"start": 0, "step": 0.1, "rows": [1, 2], "below": 1, "above": 0}
    return lock(
        release,
        description=HOSTILE,
        digest=HOSTILE,
        licenses={HOSTILE: 1},
        columns=Features({HOSTILE: inside, f"{HOSTILE}2": Value("float32"), "prompt": Value("string")}).to_dict(),
        splits={HOSTILE: {"rows": 1, "bytes": 1, "shards": [SHARD]}},
        steps=[{"name": HOSTILE, "parameters": {HOSTILE: [HOSTILE], "x": HOSTILE}}],
        made_by={HOSTILE: {"step": HOSTILE, "means": HOSTILE}},
        funnel=[
            {
                "input": HOSTILE,
                "rows": 2,
                "dropped": [{"step": HOSTILE, "reason": HOSTILE, "rows": 1}],
                "kept": {HOSTILE: 1},
            }
        ],
        sources=[
            {
                "input": HOSTILE,
                "repo": HOSTILE,
                "homepage": f"https://e.org/){HOSTILE}",
                "revision": HOSTILE,
                "license": HOSTILE,
                "citation": HOSTILE,
                "files": [{}],
            }
        ],
        statistics={
            "columns": {
                HOSTILE: {"of": "length", "nulls": 0, "counts": {HOSTILE: 1}},
                f"{HOSTILE}2": {"of": "value", **leaf, "histogram": bins},
                "prompt": {"of": "length", **leaf, "histogram": bins},
            },
            "pictures": {},
        },
    )


def test_no_markup_of_theirs_survives() -> None:
    group = {"step": HOSTILE, "reason": HOSTILE, "rows": 1, "samples": [{"id": HOSTILE, "prompt": HOSTILE}]}
    entry = change("v1", "v2", added=[group], columns=[{"column": HOSTILE, "old": None, "new": HOSTILE}])
    card = render({"v1": hostile("v1"), "v2": hostile()}, {"v2": entry}, repo="org/x")
    front, _, body = card.partition("\n---\n")
    meta = yaml.safe_load(front.removeprefix("---\n"))
    assert meta["license"] == "other"
    assert meta["dataset_info"][0]["features"][0]["name"] == HOSTILE, "as it is, and nothing more"
    marks = [line for line in card.splitlines() if line in (BEGIN, END)]
    assert marks == [BEGIN, END], "in a block of code they may stand, behind something else"
    harmless(body, headings=1 + 2 + 7 + 4, fences=3)
    harmless(changelog({"v2": entry}), headings=2, fences=0)
    locks = {name: hostile(name) for name in ("v1", "v2")}
    assert merged(f"{card}\nMine.\n", locks, {"v2": entry}, repo="org/x") == f"{card}\nMine.\n"


def harmless(text: str, headings: int, fences: int) -> None:
    """Nothing that `text` is made of comes from HOSTILE, as a parser of Markdown sees it."""
    parts = MarkdownIt("commonmark").enable("table").parse(text)
    every = [token for part in parts for token in (part, *(part.children or ()))]
    kinds = [token.type for token in every]
    assert kinds.count("heading_open") == headings
    assert kinds.count("fence") == fences
    assert "html_inline" not in kinds
    assert {token.content.strip() for token in every if token.type == "html_block"} <= {BEGIN, END}
    links = {str(token.attrs.get("href") or token.attrs.get("src")) for token in every if token.attrs}
    assert links <= {"CHANGELOG.md", "plots/v2.png", "1"}, links
    assert "javascript:1" in text.replace("\\", ""), "it was there"
    for token in every:
        if token.type == "text":
            assert not re.search(r"(://|www\.)\w|\w@\w|[\x00-\x1f\u202e]", token.content), token.content
    for row in (line for line in text.splitlines() if line.startswith("| ")):
        assert not re.search(r"(?<!\\)\|.*```", row)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("|\\`*_<>&[]()!#-=+~.@:/\n 1"), max_size=40))
def test_a_text_is_read_as_it_is(text: str) -> None:
    wanted = " ".join(text.split()) if text.isprintable() else None
    for made in (escape(text), table(["x"], [[text]]), table([text, "b"], [])):
        every = MarkdownIt("commonmark").enable("table").parse(made)
        inline = [part for part in every if part.type == "inline"]
        assert {child.type for part in inline for child in part.children or ()} <= {"text"}
        assert not {part.type for part in every} - {
            "inline", "paragraph_open", "paragraph_close",
            *(f"{what}_{end}" for what in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")),
        }  # fmt: skip
        told = [part.content for one in inline for part in one.children or ()]
        if wanted:
            assert wanted in [part.replace("\u2060", "") for part in told]


def test_blocks_of_code_and_links() -> None:
    assert fenced("a\n```\nb", "sh") == "````sh\na\n```\nb\n````"
    assert code("a ``` b") == "```` a ``` b ````"
    assert link("a]", "https://e.org/a?b=c") == r"[a\]](https://e.org/a?b=c)"
    for address in ("javascript:1", "http://e.org", "https://e.org/)x", "https://e.org/ x", "https://a@e.org", ""):
        assert link("a", address) == "a"
    assert len(escape("x" * 10_000)) == 500
    assert escape("1. a") == r"1\. a"
    assert escape("--- a") == r"\--- a"
    assert escape("a|b\nc") == r"a\|b c"
    assert not any(link in escape("http://a www.b c@d") for link in ("://", "www.", "@")), "what links by itself"


def test_every_column_that_we_ship_says_what_it_is() -> None:
    for release in RELEASES:
        made_by = release.made_by()
        for name in release.features():
            assert made_by.get(name, {}).get("means") or MEANINGS.get(name), f"{name} of {release.dataset}"


def test_words_of_no_dataset() -> None:
    for name in ("nothing", "_card", "../pyproject", "__init__", ""):
        assert words_of(name).about == ""


def test_changes_of_other_builds_are_not_told() -> None:
    locks = {"v1": lock("v1", digest="1"), "v2": lock("v2", digest="2"), "v3": lock("v3", digest="3")}
    changes = {
        "v2": change("v1", "v2", digests={"old": "1", "new": "2"}),
        "v3": change("v2", "v3", digests={"old": "another", "new": "3"}),
        "v4": change("v3", "v4", digests={"old": "3", "new": "4"}),
    }
    assert [*fitting(changes, locks)] == ["v2"]
    assert "CHANGELOG.md" in documents(locks, changes)
    assert "CHANGELOG.md" not in documents(locks, {"v3": changes["v3"]})


@pytest.mark.parametrize("rows", [[5], [0, 0, 3], [1] * 40, [10**9, 1]])
def test_a_plot_is_a_picture_whatever_there_is(rows: list[int]) -> None:
    told = hostile()
    for one in told["statistics"]["columns"].values():
        if "histogram" in one:
            one["histogram"] = {"start": -3, "step": 5, "rows": rows, "below": 2, "above": 3}
    drawn = plot(told)
    assert drawn is not None
    picture = PIL.Image.open(io.BytesIO(drawn))
    assert (picture.format, picture.width) == ("PNG", 1600)
    assert len(picture.getcolors() or ()) > 4, "something is drawn"
    assert plot(told) == drawn
    assert plot(lock("v1")) is None


def test_a_plot_shows_what_was_measured() -> None:
    one, other = hostile(), hostile()
    other["statistics"]["columns"]["prompt"]["histogram"]["rows"] = [2, 1]
    assert plot(one) != plot(other)
    many = [{"input": f"a/{n}", "rows": 9, "dropped": [], "kept": {"train": n}} for n in range(20)]
    assert plot({**one, "funnel": many}) != plot({**one, "funnel": many[:-1]})
    assert plot({**one, "columns": {}, "statistics": {"columns": {}, "pictures": {}}}) is not None, "rows by source"


RICH = Release(
    "pictures",
    "v1",
    (Input(Dalle3),),
    (MeasureImage(), Split(0.5)),
    columns=("image", "prompt", "captions", "extra", "aspect", "width", "height", "source_scores", "license"),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    dalle3.clean(folder / "sources/dalle3")
    build(RICH, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
    return folder / "dist/pictures"


def test_datasets_takes_what_the_card_says(pictures: Path, tmp_path: Path) -> None:
    told = read_lock(pictures, "v1")
    features = Features.from_dict(told["columns"])
    rows = load_dataset(str(pictures), "v1", cache_dir=str(tmp_path))
    assert {name: len(part) for name, part in rows.items()} == {
        name: split["rows"] for name, split in told["splits"].items()
    }
    assert all(part.features == features for part in rows.values())
    streamed = load_dataset(str(pictures), "v1", streaming=True)
    assert all(part.features == features for part in streamed.values()), "known before a byte is read"
    assert streamed["train"].info.splits["train"].num_examples == told["splits"]["train"]["rows"]
    one, same = next(iter(streamed["train"])), rows["train"][0]
    assert one["image"].size == same["image"].size
    assert {**one, "image": None} == {**same, "image": None}
    ledger = load_dataset(str(pictures), "v1-ledger", split="train", cache_dir=str(tmp_path))
    assert len(ledger) == sum(source["rows"] for source in told["sources"])
    assert next(iter(load_dataset(str(pictures), "v1-ledger", split="train", streaming=True)))["id"] == ledger[0]["id"]


def test_the_card_of_a_build(pictures: Path) -> None:
    card = (pictures / "README.md").read_text(encoding="utf-8")
    assert (
        "| aspect | float32 |  | width by height of the upright picture, below 1 for a portrait | MeasureImage |"
        in card
    )
    assert f"| image | picture |  | {escape(MEANINGS['image'])} |" in card, "none is null"
    assert "not measured" not in card.split("### Columns")[1].split("###")[0]
    assert "| width | int32 |  | pixels, as stored \\(before any EXIF rotation\\) | MeasureImage |" in card
    assert "| captions | list of \\{style, text\\} |" in card
    assert "![Histograms of v1: lengths, sizes and scores, and its rows by source](plots/v1.png)" in card
    assert (pictures / "plots/v1.png").read_bytes() == plot(read_lock(pictures, "v1"))
    assert json.loads((pictures / "croissant.json").read_text())["name"] == "pictures"
    assert not (pictures / "CHANGELOG.md").exists()


def test_vectors_and_structs_too(tmp_path: Path) -> None:
    compass = Compass(str(tmp_path / "asked.txt"))
    sources = toy.write(tmp_path / "sources", a=[(str(n), f"north {n}") for n in range(9)])
    columns = ("prompt", "direction", "generation", "captions")
    release = Release("toys", "v1", (Input(toy.Toy),), (compass,), columns=columns)
    built = build(release, Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist")
    features = release.features()
    assert isinstance(features["direction"], List)
    assert pa.types.is_fixed_size_list(features.arrow_schema.field("direction").type)
    rows = load_dataset(str(built.folder), "v1", split="train", cache_dir=str(tmp_path / "hf"))
    assert (rows.features, len(rows)) == (features, 9)
    assert [*load_dataset(str(built.folder), "v1", split="train", streaming=True)] == [*rows]


LOAD = """
import sys
from datasets import load_dataset
for streaming in (False, True):
    rows = load_dataset(sys.argv[1], sys.argv[2], revision=sys.argv[2], streaming=streaming)
    print(sorted(rows), [sum(1 for row in part) for part in rows.values()], rows["train"].features["extra"])
    fate = load_dataset(sys.argv[1], f"{sys.argv[2]}-ledger", split="train", streaming=streaming)
    print(sum(1 for row in fate))
"""


def test_from_the_hub(hub: Any, pictures: Path, tmp_path: Path) -> None:
    files = {str(path.relative_to(pictures)): path.read_bytes() for path in pictures.rglob("*") if path.is_file()}
    locks = read_locks(pictures)
    files |= documents(locks, {}, repo="org/pictures")
    hub.commit("org/pictures", files)
    hub.commit("org/pictures", files, "v1")
    command = [sys.executable, "-c", LOAD, "org/pictures", "v1"]
    environment = hub.environment(tmp_path, token="hf_read")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [split["rows"] for split in locks["v1"]["splits"].values()]
    told = f"['train', 'validation'] {rows} Json(decode=True)"
    ledger = str(sum(source["rows"] for source in locks["v1"]["sources"]))
    assert done.stdout.splitlines() == [told, ledger, told, ledger]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return int(ended.value.code or 0)


def test_all_documents_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, out = tmp_path / "dist/toys", ["--out", str(tmp_path / "dist")]
    release = Release("toys", "v1", (Input(toy.Toy),), (Split(0.3),), columns=("prompt", "license"))

    def made(name: str, rows: int) -> None:
        sources = toy.write(tmp_path / "sources", a=toy.many(rows))
        build(release.but(name), Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist")

    made("v1", 30)
    made("v10", 50)
    made("v2", 40)
    assert run("card", "toys", *out) == 0
    said = capsys.readouterr().out.splitlines()
    fresh = ["CHANGELOG.md", "croissant.json", *(f"plots/{name}.png" for name in ("v1", "v2", "v10")), "README.md"]
    assert said == [f"{home}/{path}" for path in ("releases/v2.diff.json", "releases/v10.diff.json", *fresh)]
    told = (home / "CHANGELOG.md").read_text()
    assert [line for line in told.splitlines() if line.startswith("#")] == [
        "# Changelog", "## v10 after v2", "## v2 after v1",
    ]  # fmt: skip
    card = (home / "README.md").read_text()
    assert "- **v10** after v2, minor \\(10 rows were added\\): 40 rows became 50; 10 added" in card
    (home / "README.md").write_text(f"{card}\nMine, below.\n")
    stones = [{"id": f"toy/{n}", "reason": "asked", "by": "id", "release": "v3"} for n in (1, 2)]
    (home / "withdrawn.jsonl").write_text("".join(f"{json.dumps(stone)}\n" for stone in stones))
    made("v2", 45)
    card = (home / "README.md").read_text()
    assert card.endswith("Mine, below.\n")
    assert "2 rows were withdrawn" in card
    assert not (home / "CHANGELOG.md").exists(), "both entries are about another v2"
    assert run("card", "toys", *out, "--json") == 0
    assert json.loads(capsys.readouterr().out)[:2] == ["releases/v2.diff.json", "releases/v10.diff.json"]
    assert "45 rows became 50" in (home / "README.md").read_text()
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert run("card", "toys", *out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == fresh, "no entry is made again"
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    (home / "releases/v10.lock.json").unlink()
    assert run("card", "toys", *out) == 0
    assert sorted(path.name for path in home.glob("plots/*")) == ["v1.png", "v2.png"]
    assert run("card", "toy", *out) == 2
    assert "no dataset 'toy' was built in" in capsys.readouterr().err


def test_files_that_are_broken_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "dist/toys"
    sources = toy.write(tmp_path / "s", a=toy.many(9))
    for name in ("v1", "v2"):
        release = Release("toys", name, (Input(toy.Toy),), columns=("prompt", "license"))
        build(release, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "dist")
    assert run("card", "toys", "--out", str(tmp_path / "dist")) == 0
    card, changed, locked = (home / path for path in ("README.md", "releases/v2.diff.json", "releases/v2.lock.json"))
    for path, text, told in (
        (card, card.read_bytes() + b"\xe9", "it is not UTF-8 (byte "),
        (changed, b"{", "it holds no JSON object; remove it, and run hfds card again"),
        (changed, b"[1]", "it holds no JSON object"),
        (locked, locked.read_bytes()[:99], "it holds no JSON object; remove it, and build that release again"),
        (locked, b"\xe9", "it holds no JSON object"),
    ):
        before = path.read_bytes()
        path.write_bytes(text)
        capsys.readouterr()
        assert run("card", "toys", "--out", str(tmp_path / "dist")) == 3
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{path}: {told}" in said
        path.write_bytes(before)
    card.write_text("---\na: [\n---\n")
    assert run("card", "toys", "--out", str(tmp_path / "dist")) == 2
    assert f"the front matter of {card} is no YAML" in capsys.readouterr().err
    card.unlink()
    changed.write_text("[")
    changed.unlink()
    assert run("card", "toys", "--out", str(tmp_path / "dist")) == 0, "as the messages say"
    assert changed.is_file()


def test_a_card_on_the_hub_that_is_broken_is_named(hub: Any, tmp_path: Path) -> None:
    code = "import sys\nfrom hfds.hub import Hub\nfrom hfds.there import There\nThere.of(Hub(sys.argv[1], None))"
    cards = {
        "org/latin": b"---\na: 1\n---\nh\xe9llo",
        "org/yaml": b"---\na: [\n---\n",
        "org/day": b"---\nd: 2000-01-01\n---\n",
    }
    for repo, card in cards.items():
        hub.commit(repo, {"README.md": card})
        command = [sys.executable, "-c", code, repo]
        done = subprocess.run(command, env=hub.environment(tmp_path, token="hf_read"), capture_output=True, text=True)
        told = "hfds.errors.HubError: README.md of org/latin is not UTF-8 (byte 14): save it there as UTF-8"
        assert done.stderr.splitlines()[-1:] == ([told] if repo == "org/latin" else []), "the server gives all of them"


def test_words_by_hand_outlast_a_release_that_is_built_again(tmp_path: Path) -> None:
    release = Release("toys", "v1", (Input(toy.Toy),), columns=("prompt", "license"))
    sources, card = toy.write(tmp_path / "s", a=toy.many(9)), tmp_path / "d/toys/README.md"
    for rows in (9, 12):
        toy.write(tmp_path / "s", a=toy.many(rows))
        build(release, Run.here(tmp_path / "w"), sources=sources, out=tmp_path / "d")
        card.write_text(card.read_text().replace("tags:\n", "pretty_name: Toys\ntags:\n") + "\nMine.\n")
    text = card.read_text()
    assert text.count("Mine.") == 2
    assert meta_of(text)["pretty_name"] == "Toys"
    assert meta_of(text)["dataset_info"][0]["splits"][0]["num_examples"] == 12


def test_a_lock_of_before(tmp_path: Path) -> None:
    old = {name: value for name, value in lock("v1").items() if name not in ("statistics", "made_by")}
    made = documents({"v1": old, "v2": hostile()}, {})
    assert [*made] == ["croissant.json", "plots/v2.png", "README.md"]
    assert "### Statistics" not in render({"v1": old})


def test_the_order_of_releases() -> None:
    names = ["v10", "v4-b", "v2", "v4", "v4-a", "v3"]
    assert sorted(names, key=release_order) == ["v2", "v3", "v4", "v4-a", "v4-b", "v10"]


def test_no_rows_have_a_digest_too() -> None:
    assert digest_of([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
