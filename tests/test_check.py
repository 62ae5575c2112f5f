"""Data, lock and card of a built dataset say the same, and where they do not that is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures import toy

from hfds import build
from hfds.catalogue import find_release
from hfds.check import check
from hfds.cli import main
from hfds.history import write_documents
from hfds.run import Run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """toys v1 and v2, and all that is said of them."""
    toy.write(tmp_path / "sources", a=toy.many(90))
    releases = toy.RELEASES.format(path=[str(Path(toy.__file__).parent.parent)])
    (tmp_path / "releases.py").write_text(
        releases.replace('columns=("prompt",', 'columns=("prompt", "captions", "extra", "generation", "image_hash",')
    )
    for name in ("v1", "v2"):
        release = find_release(str(tmp_path / "releases.py"), name)
        build(release, Run.here(tmp_path / "work"), sources=tmp_path / "sources", out=tmp_path / "dist")
    write_documents("toys", tmp_path / "dist")
    return tmp_path / "dist"


def relocked(change: dict[str, Any]) -> Callable[[Path], None]:
    def edit(home: Path) -> None:
        lock = home / "releases/v1.lock.json"
        lock.write_text(json.dumps({**json.loads(lock.read_text()), **change}))

    return edit


def edited(path: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def edit(home: Path) -> None:
        data = (home / path).read_bytes()
        assert old in data
        (home / path).write_bytes(data.replace(old, new))

    return edit


SHARD = "data/v1/train-00000-of-00001.parquet"


@pytest.mark.parametrize(
    "change, what",
    [
        (edited("README.md", b"30 rows", b"31 rows"), "README.md, line"),
        (edited("CHANGELOG.md", b"60 rows", b"61 rows"), "CHANGELOG.md, line"),
        (edited("croissant.json", b"toys", b"boys"), "croissant.json, line"),
        (lambda home: (home / "croissant.json").unlink(), "croissant.json"),
        (lambda home: (home / "plots/v2.png").unlink(), "plots/v2.png"),
        (edited(SHARD, b"PAR1", b"PAR2"), f"v1: sha256 of {SHARD}"),
        (edited("ledger/v2.parquet", b"PAR1", b"PAR2"), "v2: sha256 of ledger/v2.parquet"),
        (relocked({"licenses": {"MIT": 30}}), "v1: licences"),
        (relocked({"digest": "0" * 64}), "v1: digest"),
        (relocked({"funnel": []}), "v1: funnel of the ledger"),
        (relocked({"sources": []}), "v1: every row has a fate"),
        (relocked({"columns": {"id": {"dtype": "large_string", "_type": "Value"}}}), "v1: columns"),
        (relocked({"statistics": {"columns": {"prompt": {}}}}), "v1: statistics of prompt"),
    ],
)
def test_what_differs_is_named(
    out: Path, change: Callable[[Path], None], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("toys", out) == []
    change(out / "toys")
    assert what in " ".join(one["what"] for one in check("toys", out))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["card", "toys", "--check", "--out", str(out), "--json"])
    assert ended.value.code == 1
    assert all(one["lock"] != one["found"] for one in json.loads(capsys.readouterr().out))


def test_files_that_are_gone_or_too_many_are_named(out: Path) -> None:
    shard = out / "toys" / SHARD
    shard.rename(shard.with_name("train-00001-of-00002.parquet"))
    found = {one["what"]: one["found"] for one in check("toys", out)}
    assert found == {"v1: data/v1/train-00001-of-00002.parquet": "a file", f"v1: {SHARD}": None}
