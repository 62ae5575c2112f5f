"""The lock: what a release was made of, and the digest of what it is. JSON without a clock, so equal means equal."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from datasets.utils import tqdm

from hfds.archive import sha256_of
from hfds.errors import BadFile, ConfigError
from hfds.shards import Written

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")  # of a dataset, and of a release: see `misnamed`
_TAKEN = re.compile(r".*(\.|\.lock|-ledger)|main|HEAD|[0-9a-f]{40}")
LOCKS = "releases/"  # where they lie in a dataset's folder, and in its repository
PACKAGES = ("datasets", "huggingface-hub", "numpy", "pillow", "pyarrow", "xxhash")


def digest_of(shards: Sequence[Written]) -> str:
    """sha256 over the sorted xxh3-128 of every row's id, split and content: the same rows in the same splits have the
    same digest, whatever their order, shards, compression or machine."""
    if not shards:
        return hashlib.sha256(b"").hexdigest()
    rows = np.concatenate([shard.digests for shard in shards])
    ordered = rows[np.lexsort((rows[:, 0], rows[:, 1]))]
    return hashlib.sha256(ordered.astype("<u8").tobytes()).hexdigest()


def make_lock(**parts: Any) -> dict[str, Any]:
    """A lock from its parts, with the versions of the packages that can change a release's bytes."""
    return {**parts, "packages": {"hfds": version("hfds"), **{name: version(name) for name in PACKAGES}}}


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Writes a lock, or what stands beside it, aside and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.rename(path)


def read_locks(folder: Path) -> dict[str, dict[str, Any]]:
    """Every lock in a built dataset's folder by release name, in the order of `release_order`."""
    return {name: read_lock(folder, name) for name in release_names(folder)}


def release_names(folder: Path) -> list[str]:
    """The releases in a built dataset's folder, in the order of `release_order`."""
    found = [path.name.removesuffix(".lock.json") for path in (folder / "releases").glob("*.lock.json")]
    return sorted(found, key=release_order)


def read_lock(folder: Path, name: str) -> dict[str, Any]:
    """The lock of a release in a built dataset's folder.

    Raises:
        BadFile: it holds no JSON object.
    """
    return read_object(folder / LOCKS / f"{name}.lock.json", "remove it, and build that release again")


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        BadFile: it holds none, with the advice.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BadFile(str(path), "it holds no JSON object", advice)
    return found


def answers_in_use(out: Path) -> set[str]:
    """The folders of the annotation store that the releases of all datasets built below `out` were made from."""
    folders = [path.parent for path in out.glob("*/releases")]
    if not folders:  # else a name that was misspelt would empty the store
        raise ConfigError(f"no release was built in {out}, so nothing says which answers are still in use")
    locks = [lock for folder in folders for lock in read_locks(folder).values()]
    return {folder for lock in locks for step in lock["steps"] for folder in _answers(step)}


def _answers(entry: Any) -> Iterator[str]:
    """The folders that a step's entry names, and those of the steps that are among its parameters."""
    if isinstance(entry, list):
        yield from (folder for one in entry for folder in _answers(one))
    elif isinstance(entry, dict):
        yield from ([entry["answers"]] if isinstance(entry.get("answers"), str) else [])
        yield from _answers(entry.get("parameters", {}).get("rules", []))


def misnamed(release: str) -> str | None:
    """What is wrong with the name of a release, which is that of a config, of files, and of a git tag beside the branch
    main and commits; None where nothing is. See https://git-scm.com/docs/git-check-ref-format."""
    if NAME.fullmatch(release) and ".." not in release and not _TAKEN.fullmatch(release):
        return None
    return (
        f"release name {release!r}: wanted letters, digits, '.', '_' and '-', 96 at most, that a git tag can have: no "
        "'..', no '.', '.lock' or '-ledger' at the end, not 'main', 'HEAD' or a commit"
    )


def release_order(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key: v2 before v4 before v4-a before v10. No two names have the same."""
    parts = re.findall(r"\d+|[^\d\W_]+", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], name


def file_sums(files: Mapping[str, tuple[str, str]], notes: Path, threads: int) -> dict[str, str]:
    """sha256 of files by name, hashing only those that `notes` does not know at their present stamp.

    Args:
        files: name to (path, stamp); see `hfds.upstream.File`.
        notes: a JSON file {stamp: sha256} that is kept up to date while the work goes on.
    """
    try:
        known: dict[str, str] = json.loads(notes.read_text())
    except (ValueError, OSError):
        known = {}
    todo = {stamp: path for path, stamp in files.values() if stamp not in known}
    try:
        with ThreadPoolExecutor(max(1, threads)) as pool:
            sums = tqdm(pool.map(sha256_of, todo.values()), total=len(todo), desc="Hashing sources", unit=" files")
            for number, (stamp, sum_) in enumerate(zip(todo, sums, strict=True), start=1):
                known[stamp] = sum_
                if number % 100 == 0:
                    _save(known, notes)
    finally:
        if todo:
            _save(known, notes)
    return {name: known[stamp] for name, (_, stamp) in files.items()}


def _save(known: Mapping[str, str], notes: Path) -> None:
    notes.parent.mkdir(parents=True, exist_ok=True)
    aside = notes.with_name(notes.name + ".part")
    aside.write_text(json.dumps(known), encoding="utf-8")
    aside.rename(notes)
