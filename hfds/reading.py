"""Reading: a release as plain `datasets` loads it, without the rows that were withdrawn since."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset

from hfds.errors import ConfigError, nearest
from hfds.hub import Hub
from hfds.lock import release_names
from hfds.place import withdrawn_from
from hfds.withdrawn import Tombstone, read_withdrawn

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
STREAMED = 100  # rows that are looked at together: as pictures, 32 MB or more


def load_release(
    place: str | Path,
    release: str,
    split: str | None = None,
    *,
    streaming: bool = False,
    revision: str | None = None,
    token: str | None = None,
    **options: Any,
) -> Any:
    """What `datasets.load_dataset(place, release, ...)` gives, without the rows that were withdrawn from the dataset.

    Which those are is asked of the dataset as it is now, so that a release that was published before, at whatever
    `revision`, is without them too; where the Hub cannot be reached, of the list that was fetched last. Pictures are
    not copied.

    Args:
        place: "org/name" on the Hub, or the folder of a built dataset.
        split: one split; all of them when None.
        streaming: with nothing written.
        revision: of the release: its tag, a branch or a commit.
        token: of someone who may read it; the one that `hf auth login` keeps, or HF_TOKEN, when None.
        options: further ones of `load_dataset`.

    Raises:
        ConfigError: there is no such place or release, or `id` is not among the columns that were asked for.
        HubError: the Hub does not say what was withdrawn, and never did.
        BadFile: the list is broken.
    """
    stones = _withdrawn(place, release, token)
    rows = load_dataset(
        str(place), release, split=split, streaming=streaming, revision=revision, token=token, **options
    )
    if not stones:
        return rows
    gone = pa.array([stone.id for stone in stones], pa.string())
    if isinstance(rows, DatasetDict | IterableDatasetDict):
        return type(rows)({name: _without(part, gone) for name, part in rows.items()})
    return _without(rows, gone)


def _withdrawn(place: str | Path, release: str, token: str | None) -> tuple[Tombstone, ...]:
    """The tombstones of a dataset, as they are now."""
    folder = Path(place)
    if folder.is_dir():
        if release not in (built := release_names(folder)):
            raise ConfigError(f"release {release!r} is not built in {folder}: {nearest(release, built)}")
        return read_withdrawn(folder)
    if not _REPO.fullmatch(str(place)):
        raise ConfigError(f"{str(place)!r} is neither the folder of a built dataset nor a repository such as org/name")
    return withdrawn_from(Hub(str(place), token))


def _without(rows: Any, gone: pa.StringArray) -> Any:
    """Rows of a split whose ids are none of these."""
    if "id" not in (rows.column_names or ["id"]):
        raise ConfigError("rows that were withdrawn are known by their id: ask for the column id, too")
    if isinstance(rows, IterableDataset):
        arrow = rows.with_format("arrow")  # in which no picture is decoded
        return arrow.filter(partial(_stays, gone=gone), batched=True, batch_size=STREAMED).with_format(None)
    assert isinstance(rows, Dataset)
    stays = _stays(rows.select_columns("id").with_format("arrow")[:], gone)
    return rows if stays.all() else rows.select(np.flatnonzero(stays))


def _stays(table: pa.Table, gone: pa.StringArray) -> np.ndarray:
    return ~np.asarray(pc.is_in(table["id"], gone))
