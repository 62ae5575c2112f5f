"""Sources read from the Hub by its unmodified clients, by the ordinary path: the same rows as from a folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import dalle3
from fixtures.make import tar
from fixtures.reader import Reader, plain, revisions
from fixtures.sources import SOURCES, Source, content, repo_of
from hub import Hub, Token

from builders import BUILDERS
from hfds.builder import Builder

DALLE3 = "ProGamerGov/synthetic-dataset-1m-dalle3-high-quality-captions"
RENDERS = ("sd2_v2", "sd2")  # configs of gustavosta that are on Kaggle alone
# One source of each repository; only the first is read by Xet in every run.
ONE_EACH = {source.repo: source for source in reversed(SOURCES)}.values()
OF_EACH = [pytest.param(one, marks=() if one is SOURCES[0] else pytest.mark.slow) for one in ONE_EACH]
Place = tuple[Hub, Reader, Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A Hub that lists three files a page and has their contents on another host, who reads from it, and a folder."""
    folder = tmp_path_factory.mktemp("sources")
    with Hub(folder / "hub", "--page=3", "--cdn") as hub:
        with Reader(hub.environment(folder / "home"), folder / "home") as read:
            yield hub, read, folder
        assert hub.unknown == []


def downloads(hub: Hub) -> list[str]:
    """The requests for contents, whoever has them."""
    return [request for request in hub.requests if request.startswith(("GET /cdn/", "GET /datasets/"))]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.id)
def test_every_way_of_reading_gives_the_rows_of_the_folder(place: Place, source: Source) -> None:
    hub, read, folder = place
    here = folder / source.write.__name__
    commit = hub.commit(source.repo, source.files(here), branch=f"a/{source.id}")
    hub.store.set_ref(source.repo, f"refs/tags/{source.id}", commit)
    load = {"source": source.name, "config": source.config}
    expected = read(**load, data_dir=str(here))
    assert len(plain(expected)) == source.rows
    assert sum(row["dropped"] is not None for row in expected["rows"]) == source.dropped
    for options in (
        {"revision": source.id},
        {"revision": commit, "pieces": str(folder / "pieces")},
        {"revision": f"a/{source.id}", "streaming": True},
    ):
        found = read(**load, **options)
        assert plain(found) == plain(expected), options
        assert revisions(found) == {commit}


def test_no_config_is_forgotten() -> None:
    """Every config is read above, or one is that reads the same kind of file, or it is not on the Hub."""
    read = {(source.name, source.config) for source in SOURCES}
    kinds = {
        (builder.NAME, config.repo, str(config.files))
        for builder in BUILDERS
        for config in builder.BUILDER_CONFIGS
        if (builder.NAME, config.name) in read
    }
    left = [
        config.name
        for builder in BUILDERS
        for config in builder.BUILDER_CONFIGS
        if repo_of(builder, config) and (builder.NAME, config.repo, str(config.files)) not in kinds
    ]
    assert left == list(RENDERS)


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda builder: builder.NAME)
def test_what_is_not_on_the_hub_says_where_it_is(place: Place, builder: type[Builder]) -> None:
    hub, read, _ = place
    hub.forget()
    for config in builder.BUILDER_CONFIGS:
        if repo_of(builder, config) is None:
            outcome = read(source=builder.NAME, config=config.name)
            sentence = f"{builder.NAME}/{config.name} is not on the Hub, it needs a local folder: {builder.OBTAIN}"
            assert outcome == {"error": "SourceMissing", "text": sentence, "exit_code": 3}
    assert hub.requests == []


@pytest.mark.parametrize("config", RENDERS)
def test_renders_are_not_where_the_text_is(place: Place, config: str) -> None:
    hub, read, _ = place
    hub.commit("Gustavosta/Stable-Diffusion-Prompts", {"data/train.csv": b"", "train.txt": b""}, branch="text")
    outcome = read(source="gustavosta", config=config, revision="text")
    assert outcome["exit_code"] == 3
    assert (
        "no train.csv in Gustavosta/Stable-Diffusion-Prompts at 'text', which holds data/train.csv" in outcome["text"]
    )
    assert "kaggle datasets download" in outcome["text"]


def test_names_that_nobody_expects(place: Place) -> None:
    hub, read, folder = place
    source = next(source for source in SOURCES if source.name == "dalle3")
    tars = [data for _, data in sorted(content_of(source, folder).items())]
    names = ("data/data-0 a%20b@c#d.tar", "data/data-1?x=1&y=[2]+{3}*.tar", f"data/data-2-猫é{'l' * 200}.tar")
    others = ("../../data-0.tar", "/data-0.tar", "data/../data-0.tar", "data/data-\x1b[2J.txt", "data/data-0.tar.lock")
    files = {
        **dict(zip(names, tars, strict=True)),
        **dict.fromkeys(others, b"not of this source"),
        "x/" * 300 + "y": b"",
    }
    commit = hub.commit(DALLE3, files, branch="names")
    before = [path for path in folder.parent.rglob("*") if folder / "home" not in path.parents]
    hub.forget()
    prepared, pieces, two, streamed = (
        read(source="dalle3", revision="names", **options)
        for options in (
            {},
            {"pieces": str(folder / "home/pieces")},
            {"num_proc": 2, "cache_dir": str(folder / "home/two")},
            {"streaming": True},
        )
    )
    expected = plain(read(source="dalle3", data_dir=str(folder / "_tars")))
    for found in (prepared, pieces, two, streamed):
        assert plain(found) == expected
    assert len(downloads(hub)) == 6, "each file once for all that is prepared, and once for what is streamed"
    snapshot = folder / f"home/hub/datasets--{DALLE3.replace('/', '--')}/snapshots/{commit}"
    files_used = {row["kept"] for found in (prepared, pieces, two) for row in found["rows"] if row["kept"]}
    assert files_used == {str(snapshot / name) for name in names}
    assert {row["kept"] for row in streamed["rows"]} == {"row", None}
    assert {path.name for path in (snapshot / "data").iterdir()} == {name.removeprefix("data/") for name in names}
    assert [path for path in folder.parent.rglob("*") if folder / "home" not in path.parents] == before


def content_of(source: Source, folder: Path) -> dict[str, bytes]:
    """The tars of a source."""
    return {name: data for name, data in source.files(folder / source.write.__name__).items() if name.endswith(".tar")}


LONG = f"data/data-{'l' * 300}.tar"
NAMES = {
    "data/data-0::1.tar": "data/data-0::1.tar: fsspec reads the '::' in its name as a chain; rename it",
    "data/data-\x1b[2J.tar": "data/data-\\x1b[2J.tar: no file can have that name here; tell those who publish it",
    LONG: f"{LONG}: its name is too long for this disk; read it by streaming",
}


@pytest.mark.parametrize("name", NAMES, ids=["chained", "control", "long"])
def test_names_that_cannot_be(place: Place, name: str) -> None:
    hub, read, _ = place
    commit = hub.commit(DALLE3, {name: b"", "\x1b[2J": b""}, branch="a name")
    assert read(source="dalle3", revision=commit) == {"error": "BadFile", "text": NAMES[name], "exit_code": 3}


def test_a_listing_is_shown_without_what_it_does_to_a_terminal(place: Place) -> None:
    hub, read, _ = place
    commit = hub.commit(DALLE3, {"\x1b[2J": b"", "l" * 300: b""}, branch="nothing")
    text = read(source="dalle3", revision=commit)["text"]
    assert f"which holds \\x1b[2J, {'l' * 97}...; give another revision" in text


def test_a_branch_that_moved_is_another_source(place: Place) -> None:
    hub, read, folder = place
    dalle3.clean(folder / "moved")
    files = content(folder / "moved")
    old = hub.commit(DALLE3, files)
    before = read(source="dalle3")
    moved = hub.commit(DALLE3, {**files, "README.md": b"# A dataset"})
    tar(folder / "moved/data/data-000002.tar", dalle3.pair("nine", seed=9))
    more = hub.commit(DALLE3, content(folder / "moved"), "more")
    hub.forget()
    after, grown, pinned = (read(source="dalle3", **at) for at in ({}, {"revision": "more"}, {"revision": old}))
    assert plain(after) == plain(before)
    assert [revisions(found) for found in (before, after, grown)] == [{old}, {moved}, {more}]
    assert [row["id"] for row in grown["rows"]] == [*(row["id"] for row in before["rows"]), "dalle3/nine"]
    assert pinned == before
    assert len({*before["cache"], *after["cache"], *grown["cache"]}) == 3
    assert len(downloads(hub)) == 1, "what is there is not fetched again"


@pytest.mark.parametrize("source", OF_EACH, ids=[one.id for one in ONE_EACH])
def test_xet(hub: Hub, tmp_path: Path, source: Source) -> None:
    hub.store.add_token("hf_owner", Token("owner", "write", (source.repo.split("/")[0],)))
    source.files(tmp_path / "source")
    load = {"source": source.name, "config": source.config}
    with Reader(hub.environment(tmp_path / "home", xet=True), tmp_path / "home") as read:
        commit = read(upload=str(tmp_path / "source"), repo=source.repo, token="hf_owner")["commit"]
        expected = read(**load, data_dir=str(tmp_path / "source"))
        hub.forget()
        for options in ({}, {"pieces": str(tmp_path / "pieces")}, {"streaming": True}):
            found = read(**load, **options)
            assert plain(found) == plain(expected), options
            assert revisions(found) == {commit}
    assert any(request.startswith("GET /cas/v1/reconstructions/") for request in hub.requests)
