"""Place: where a built release lies."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Features

from hfds.earlier import lock_of
from hfds.errors import SourceMissing


@dataclass(frozen=True)
class Place:
    """Where a built release lies: a folder as `hfds.dist` leaves it, and the release's lock."""

    home: Path
    lock: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The release's own."""
        return str(self.lock["release"])

    @property
    def features(self) -> Features:
        """Those of its rows."""
        return Features.from_dict(self.lock["columns"])

    @property
    def shards(self) -> list[Path]:
        """Its Parquet files, split after split."""
        return [self.home / shard["path"] for split in self.lock["splits"].values() for shard in split["shards"]]

    @property
    def ledger(self) -> list[Path]:
        """Its ledger, as the one file of a list."""
        return [self.home / self.lock["ledger"]["path"]]


def place_of(dataset: str, release: str, out: Path) -> Place:
    """Where a release lies that was built below `out`. Nothing else here knows how a name becomes a folder.

    Raises:
        ConfigError: it was not built there.
        SourceMissing: one of its files is gone or has another size.
    """
    place = Place(out / dataset, lock_of(out, dataset, release))
    if not place.ledger[0].is_file():
        raise SourceMissing(f"{place.ledger[0]} of release {dataset}/{release} is gone: build that release again")
    return place
