"""Licences: rows of a release are those it allows, decided before anything else looks at them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from fixtures.toy import Toy, write
from fixtures.voices import Compass

from hfds import Input, Release, build
from hfds.builder import Piece, SourceConfig
from hfds.columns import read
from hfds.errors import ConfigError
from hfds.plan import plan
from hfds.refused import allows, is_unknown, unknown_rows
from hfds.run import Run
from hfds.tune import tune
from processors.dedup import MarkDuplicates


class Mixed(Toy):
    """Prompts whose key says their licence, as in "MIT|1"; none is null."""

    NAME = "mixed"
    BUILDER_CONFIGS: ClassVar = [SourceConfig(name="lines", files={"train": ("*.txt",)})]

    def read(self, piece: Piece) -> Iterator[pa.Table]:
        for table in super().read(piece):
            licenses = [id_.removeprefix("toy/").partition("|")[0] or None for id_ in table["id"].to_pylist()]
            at = table.column_names.index("license")
            yield table.set_column(at, table.schema.field(at), pa.array(licenses, pa.string()))


ROWS = [
    ("CC0-1.0|1", "north 1"),
    ("proprietary|2", "north 2"),
    ("|3", "north 3"),
    ("mit AND CC0-1.0|4", "north 4"),
    ("MIT AND GPL-3.0|5", "north 5"),
    ("GPL-3.0 OR MIT|6", "north 6"),
    ("proprietary|7", "north 8"),
    ("MIT|8", "north 8"),
]
ALLOWED = ("CC0-1.0", "MIT")
MIXED = Release("toys", "v1", (Input(Mixed, folder="toy"),), (MarkDuplicates(),), ("prompt",), ALLOWED)


def made(folder: Path, release: Release) -> Any:
    write(folder / "sources", a=ROWS)
    return build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")


def test_rows_of_other_licences_are_dropped_first(tmp_path: Path) -> None:
    lock = made(tmp_path, MIXED).lock
    columns = ("id", "split", "reason", "value", "threshold")
    rows = [row for table in read([tmp_path / "dist/toys/ledger/v1.parquet"], columns) for row in table.to_pylist()]
    fates = {row["id"].rpartition("|")[2]: row for row in rows}
    assert {key for key, row in fates.items() if row["split"]} == {"1", "4", "6", "8"}, "8 is no copy of a dropped row"
    told = {key: (row["reason"], row["value"], row["threshold"]) for key, row in fates.items() if not row["split"]}
    assert told == {
        "2": ("license", "proprietary", "CC0-1.0, MIT"),
        "3": ("license", "unknown", "CC0-1.0, MIT"),
        "5": ("license", "MIT AND GPL-3.0", "CC0-1.0, MIT"),
        "7": ("license", "proprietary", "CC0-1.0, MIT"),
    }
    assert lock["steps"][0] == {"name": "AllowLicenses", "version": 1, "parameters": {"allowed": ALLOWED}}
    assert lock["funnel"][0]["dropped"] == [{"step": "AllowLicenses", "reason": "license", "rows": 4}]
    assert lock["licenses"] == {"CC0-1.0": 1, "GPL-3.0 OR MIT": 1, "MIT": 1, "mit AND CC0-1.0": 1}
    assert "AllowLicenses" in (tmp_path / "dist/toys/README.md").read_text()


def test_unknown_is_allowed_by_name_only(tmp_path: Path) -> None:
    assert made(tmp_path, MIXED.but("v2", allow_licenses=("unknown",))).lock["licenses"] == {"unknown": 1}
    every = made(tmp_path, MIXED.but("v3", allow_licenses=None)).lock
    assert sum(every["licenses"].values()) == 7
    assert [step["name"] for step in every["steps"]] == ["MarkDuplicates"]


def test_no_model_is_shown_a_row_that_is_not_allowed(tmp_path: Path) -> None:
    asked = tmp_path / "asked.txt"
    release = MIXED.but("v1", steps=(Compass(str(asked)),))
    run = Run.here(tmp_path / "work")
    made(tmp_path, release)
    assert asked.read_text().splitlines() == ["north 1", "north 4", "north 6", "north 8"]
    planned = plan(release.but("v2"), run, sources=tmp_path / "sources", out=tmp_path / "dist")
    assert [(step["step"], step["rows"]) for step in planned["steps"]] == [("AllowLicenses", 8), ("Compass", 4)]
    assert planned["steps"][0]["parameters"] == {"allowed": ALLOWED}
    assert plan(release, run, sources=tmp_path / "sources", probe=False)["steps"][0]["step"] == "AllowLicenses"


@pytest.mark.parametrize(
    "license_, allowed",
    [
        ("MIT", True),
        ("mit", True),
        (" MIT ", True),
        ("GPL-3.0", False),
        ("MIT AND CC0-1.0", True),
        ("MIT AND GPL-3.0", False),
        ("MIT OR GPL-3.0", True),
        ("GPL-3.0 OR Apache-2.0", False),
        ("GPL-3.0 OR MIT AND CC0-1.0", True),
        ("(GPL-3.0 OR MIT) AND GPL-3.0", False),
        ("(GPL-3.0 OR MIT) AND (CC0-1.0)", True),
        ("((MIT))", True),
        ("GPL-2.0 WITH Classpath-exception-2.0", False),
        ("MIT ORDINARY", False),
        ("MIT and GPL-3.0", False),
        ("(MIT) OR", False),
        ("MIT)(MIT", False),
        ("(", False),
        ("", False),
        ("(" * 100_000 + "MIT" + ")" * 100_000, False),
        ("a list of its own AND more", True),
    ],
)
def test_expressions(license_: str, allowed: bool) -> None:
    known = frozenset({"mit", "cc0-1.0", "a list of its own and more"})
    assert allows(known, license_) is allowed


@pytest.mark.parametrize(
    "license_, unknown",
    [
        (None, True),
        ("", True),
        (" \t", True),
        ("()", True),
        ("unknown", True),
        ("Unknown", True),
        (" UNKNOWN ", True),
        ("NOASSERTION", True),
        ("none", True),
        ("unknown AND MIT", True),
        ("MIT or (CC0-1.0 AND Unknown)", True),
        ("(NOASSERTION)", True),
        ("MIT", False),
        ("(MIT OR CC0-1.0)", False),
        ("The Unknown License", False),
        ("none-such", False),
    ],
)
def test_what_nobody_knows(license_: str | None, unknown: bool) -> None:
    assert is_unknown(license_) is unknown
    assert not unknown or not allows(frozenset({"mit", "cc0-1.0"}), license_ or "")


def test_rows_of_unknown_licence_are_counted() -> None:
    assert unknown_rows({"Unknown": 1, " unknown ": 2, "unknown AND MIT": 4, "NOASSERTION": 8, "MIT": 16}) == 15
    assert unknown_rows({"MIT": 3}) == 0


def test_the_unknown_is_dropped_however_it_is_spelt(tmp_path: Path) -> None:
    spelt = ("Unknown", "UNKNOWN AND MIT", "unknown OR MIT", "NOASSERTION", "none", "MIT")
    write(tmp_path / "sources", a=[(f"{license_}|{n}", f"number {n}") for n, license_ in enumerate(spelt)])

    def kept(name: str, *allowed: str) -> set[str]:
        release = MIXED.but(name, steps=(), allow_licenses=allowed)
        made = build(release, Run.here(tmp_path / "work"), sources=tmp_path / "sources", out=tmp_path / "dist")
        return {*made.lock["licenses"]}

    assert kept("v1", "MIT") == {"MIT"}
    assert kept("v2", "MIT", "Unknown") == {*spelt}
    assert kept("v3", "unknown") == {"Unknown", "unknown OR MIT", "NOASSERTION", "none"}
    assert kept("v4", "MIT", "NOASSERTION") == {"MIT", "NOASSERTION"}


@pytest.mark.parametrize("wrong", [["MIT"], "MIT", (), ("",), ("MIT", 3), (" ",)])
def test_what_cannot_be_allowed(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="allow_licenses must be a tuple of licences such as"):
        MIXED.but("v1", allow_licenses=wrong).check()


def test_rows_of_earlier_releases_are_compared_with_whatever_their_licence(tmp_path: Path) -> None:
    made(tmp_path, before := MIXED.but("v0", allow_licenses=("proprietary",)))
    lock = made(tmp_path, MIXED.but("v1", steps=(MarkDuplicates(against=(before,)),))).lock
    assert [(one["step"], one["rows"]) for one in lock["funnel"][0]["dropped"]] == [
        ("AllowLicenses", 4),
        ("MarkDuplicates", 1),
    ]


def test_a_threshold_is_tuned_on_rows_that_are_allowed(tmp_path: Path) -> None:
    write(tmp_path / "sources", a=ROWS)
    release = MIXED.but("v1", steps=(MarkDuplicates(above=0.9),))
    run = Run.here(tmp_path / "work")
    tuned = tune(release, "1", [0.9], run, sources=tmp_path / "sources", out=tmp_path / "dist")
    assert [(one["kept"], one["dropped"]) for one in tuned.thresholds] == [(4, 0)]
