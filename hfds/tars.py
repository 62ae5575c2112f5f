"""Tars: a built release as WebDataset's tars, with the pictures' own bytes and an index beside each, in any number of
processes the same bytes.

Where one tar ends and the next begins is decided by sizes alone, before anything is written.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from datasets.utils import tqdm

from hfds.ahead import ahead
from hfds.archive import sha256_of
from hfds.disk import alone, disk_errors
from hfds.earlier import lock_of
from hfds.errors import BadFile, ConfigError, HfdsError, SourceMissing, nearest
from hfds.manifest import Manifest, Shard, Split
from hfds.masks import EXTENSION as MASK
from hfds.masks import has_masks
from hfds.members import PICTURES, write
from hfds.pieces import How, Piece, measured
from hfds.place import Place
from hfds.samples import FOLDER, INDEX, Samples, write_index
from hfds.shards import cut
from hfds.sidecar import PROMPT, style_of
from hfds.ustar import END, TarWriter
from hfds.withdrawn import ids_digest, read_withdrawn

MAX_SHARD = 1_000_000_000  # bytes of a tar
NOTES = "notes"  # where it is said which tars are whole


class Tar(NamedTuple):
    """A tar to be."""

    split: str
    number: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Export:
    """What an export leaves: its folder and manifest; `instead` is why an older export had to go, `kept` whether all
    of it was there."""

    folder: Path
    manifest: Manifest
    instead: str | None = None
    kept: bool = False


def export(
    dataset: str,
    release: str,
    *,
    out: Path = Path("dist"),
    caption: str = PROMPT,
    index: Sequence[str] = (),
    max_shard: int = MAX_SHARD,
    num_proc: int = 1,
) -> Export:
    """Writes a release that was built below `out` as tars into <out>/<dataset>/wds/<release>/; running again goes on
    where it was cut off.

    The tars depend on the release, on which rows of the dataset are withdrawn, and on what is asked for here, but for
    `num_proc`. An export of another build of the release, with other rows withdrawn, or that was asked for otherwise,
    is replaced.

    Args:
        caption: the style of `captions` that becomes the text of a sample, of which "short_caption" may be called
            "short"; `prompt` where a row has none, and by itself the column `prompt`.
        index: further narrow columns of the release for the indexes.
        max_shard: bytes of a tar at most; a sample that is larger is alone in one.

    Raises:
        ConfigError: the release is not built there, has no pictures or captions, or not those columns.
        BadFile: one of its files cannot be read, or a picture in it is not what its hash says.
        HfdsError: no row has both a picture and a caption.
        OutOfSpace: a disk is full.
    """
    home = out / dataset
    place = Place(lock_of(out, dataset, release), home.joinpath)
    gone = tuple(sorted({stone.id for stone in read_withdrawn(home)}))
    narrow = tuple(dict.fromkeys(index))
    how = How(tuple(place.lock["columns"]), caption, narrow, max_shard, gone, has_masks(place.features))
    _check(place, how)
    if caption != PROMPT:
        how = replace(how, caption=style_of(place.shards, caption, place.label))
    folder, aside = (home / FOLDER / name for name in (place.name, f".exporting-{place.name}"))
    with disk_errors("--out"), alone(aside.with_name(f"{aside.name}.lock"), "export"):
        there, instead = _there(folder, place, how)
        if there:
            return Export(folder, there, kept=True)
        made, _ = _there(aside, place, how)  # whole where a run was cut off as it put that into its place
        made = made or _write(home, aside, place, how, num_proc)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        return Export(folder, made, instead)


def _check(place: Place, how: How) -> None:
    """Raises ConfigError for what cannot be made of this release."""
    what, problems = place.label, []
    if "image" not in how.columns:
        problems.append(f"{what} has no pictures: tars are made of the column `image`")
    if how.caption == PROMPT and "prompt" not in how.columns:
        problems.append(f"{what} has no column `prompt`: name a style of its `captions` with --caption")
    if how.caption != PROMPT and "captions" not in how.columns:
        problems.append(f"{what} has no column `captions` to take {how.caption!r} from: leave --caption out")
    more = [name for name in how.columns if name not in (*INDEX.names, "image")]
    for name in how.index:
        if name not in more:
            problems.append(f"{name!r} cannot be put into an index of {what}: {nearest(name, more)}")
    if problems:
        raise ConfigError(*problems)


def _there(folder: Path, place: Place, how: How) -> tuple[Manifest | None, str | None]:
    """A finished export of just this, or why the one that is there is to be made anew."""
    try:
        found = Samples(folder).manifest
        sizes = {name: (folder / name).stat().st_size for name in found.files}
    except SourceMissing:
        return None, None
    except (BadFile, OSError):
        return None, "it was damaged"
    if sizes != found.files:
        return None, "it was damaged"
    if found.digest != place.lock["digest"]:
        return None, f"{place.name} was built again since (digest {found.digest[:12]}, now {place.lock['digest'][:12]})"
    if (found.caption, found.index, found.max_shard) != (how.caption, how.index, how.max_shard):
        return None, "it was made with other options"
    if found.withdrawn != ids_digest(how.withdrawn):
        return None, "other rows are withdrawn now"
    return found, None


def _write(home: Path, aside: Path, place: Place, how: How, num_proc: int) -> Manifest:
    """Writes what is not there yet of all tars, and last the manifest."""
    (aside / NOTES).mkdir(parents=True, exist_ok=True)
    tars = _plan(home, place, how, num_proc)
    names = [f"{tar.split}-{tar.number:05d}" for tar in tars]
    planned = {name + end for name in names for end in (".tar", ".arrow", ".tar.part", ".arrow.part", ".json")}
    for path in (*aside.glob("*.*"), *(aside / NOTES).iterdir()):
        if path.name not in planned:
            path.unlink()  # a run before had planned other tars
    work = partial(_made, aside=aside, how=how, digest=place.lock["digest"])
    notes = [*tqdm(ahead(work, tars, num_proc), total=len(tars), desc=f"Exporting {place.name}", unit=" tars")]
    return _finish(aside, place, how, tars, notes)


def _plan(home: Path, place: Place, how: How, num_proc: int) -> list[Tar]:
    """The tars of every split, cut by the sizes of its rows alone, of about equal bytes."""
    files: list[tuple[str, Path, int]] = []
    for split, entry in place.lock["splits"].items():
        first = 0
        for shard in entry["shards"]:
            files.append((split, home / shard["path"], first))
            first += shard["rows"]
    found = ahead(partial(measured, how=how), files, num_proc)
    told = [*tqdm(found, total=len(files), desc=f"Measuring {place.name}", unit=" files")]
    tars = []
    for split in place.lock["splits"]:
        own = [piece for (of, _, _), pieces in zip(files, told, strict=True) if of == split for piece in pieces]
        sizes = np.array([piece.bytes for piece in own], np.int64)
        runs = cut(np.arange(len(own)), sizes, max(1, how.max_shard - END))
        tars += [Tar(split, number, _joined([own[at] for at in run])) for number, run in enumerate(runs)]
    return tars


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Pieces of one row group as one."""
    found = []
    for _, same in groupby(pieces, key=lambda piece: (piece.file, piece.group)):
        own = [*same]
        found.append(own[0]._replace(stop=own[-1].stop))
    return tuple(found)


def _made(tar: Tar, aside: Path, how: How, digest: str) -> dict[str, Any]:
    """Writes a tar and its index, unless a run before has; gives what the manifest says of them."""
    name = f"{tar.split}-{tar.number:05d}"
    path, index, note = aside / f"{name}.tar", aside / f"{name}.arrow", aside / NOTES / f"{name}.json"
    pieces = [(piece.file.name, *piece[1:]) for piece in tar.pieces]
    key = xxhash.xxh3_128_hexdigest(repr((digest, astuple(how), pieces, pa.__version__, version("hfds"))).encode())
    if (known := _known(note)) and known["key"] == key and known["stamps"] == [_stamp(path), _stamp(index)]:
        return known
    part = path.with_name(f"{name}.tar.part")
    with TarWriter(part) as file:
        made = write(tar.pieces, how, file)
    write_index(made.index, index)
    part.rename(path)
    said = {
        "key": key, "stamps": [_stamp(path), _stamp(index)], "rows": len(made.index), "left_out": made.left_out,
        "noted": made.noted, "kinds": [*made.kinds], "bytes": file.size, "sha256": file.sha256,
        "index_bytes": index.stat().st_size, "index_sha256": sha256_of(index),
    }  # fmt: skip
    note.with_suffix(".part").write_text(json.dumps(said), encoding="utf-8")
    note.with_suffix(".part").rename(note)
    return said


def _known(note: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _finish(aside: Path, place: Place, how: How, tars: Sequence[Tar], notes: Sequence[Mapping[str, Any]]) -> Manifest:
    """Numbers the tars that have samples, and writes the manifest."""
    splits, kinds = {}, set()
    for split in place.lock["splits"]:
        left_out, noted, shards = Counter[str](), Counter[str](), list[Shard]()
        for tar, note in ((tar, note) for tar, note in zip(tars, notes, strict=True) if tar.split == split):
            left_out.update(note["left_out"])
            noted.update(note["noted"])
            kinds |= {*note["kinds"]}
            old, name = f"{split}-{tar.number:05d}", f"{split}-{len(shards):05d}"
            for end in (".tar", ".arrow"):
                if not note["rows"]:
                    (aside / (old + end)).unlink()
                elif old != name:
                    (aside / (old + end)).rename(aside / (name + end))
            if note["rows"]:
                said = (note[key] for key in ("bytes", "rows", "sha256", "index_bytes", "index_sha256"))
                size, rows, sha256, index_size, index_sha256 = said
                shards.append(Shard(f"{name}.tar", size, rows, sha256, f"{name}.arrow", index_size, index_sha256))
        splits[split] = Split(sum(shard.rows for shard in shards), dict(left_out), tuple(shards), dict(+noted))
    if not any(split.rows for split in splits.values()):
        why = {name: split.left_out for name, split in splits.items()}
        raise HfdsError(f"no row of {place.label} has a picture and a caption ({why}): choose another --caption")
    extensions = (*(kind for kind in PICTURES if kind in kinds), "txt", "json", *([MASK] if how.masks else []))
    dataset, digest, gone = str(place.lock["dataset"]), str(place.lock["digest"]), ids_digest(how.withdrawn)
    made = Manifest(dataset, place.name, digest, how.caption, extensions, how.index, splits, how.max_shard, gone)
    shutil.rmtree(aside / NOTES)
    made.write(aside)
    return made
