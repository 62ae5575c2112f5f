"""History: what changed from each built release of a dataset to the next, written beside their locks."""

from itertools import pairwise
from pathlib import Path

from hfds.changelog import fitting
from hfds.diff import diff
from hfds.dist import CHANGED, changes_in, write_card
from hfds.errors import ConfigError, nearest
from hfds.lock import read_locks, write_json
from hfds.place import datasets_in, place_of


def write_documents(dataset: str, out: Path) -> list[str]:
    """Writes all documents of a dataset that was built below `out` anew, after the entries of what changed between its
    releases where those are missing or outdated; returns the paths that it wrote.

    Raises:
        ConfigError: no release of it was built there.
        SourceMissing: a file of a release is gone.
        BadFile: one cannot be read.
    """
    home = out / dataset
    locks = read_locks(home)
    if not locks:
        raise ConfigError(f"no dataset {dataset!r} was built in {out}: {nearest(dataset, datasets_in(out))}")
    known, written = fitting(changes_in(home), locks), []
    for old, new in pairwise(locks):
        if known.get(new, {}).get("old") != old:
            entry = diff(place_of(dataset, old, out), place_of(dataset, new, out)).entry()
            write_json(entry, home / CHANGED.format(new))
            written.append(CHANGED.format(new))
    return [*written, *write_card(home)]
