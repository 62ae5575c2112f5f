"""Reading: the bytes of samples, from local tars one read a sample, from remote ones ahead and by whole ranges.

Nothing is believed: the headers of a sample must say what its index does.
"""

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from hfds.errors import BadRow, SourceError, SourceMissing
from hfds.manifest import Shard
from hfds.samples import Samples
from hfds.streaming.cache import Cache
from hfds.streaming.contents import members, row_of
from hfds.streaming.rows import Spot

OPEN = 64  # tars that are held open
GAP = 1 << 18  # bytes between two samples that are read along rather than asked for apart
LONGEST = 64 << 20  # bytes of one request
THREADS = 8  # requests at once
PAUSE = 60.0  # seconds
Bytes = bytes | BadRow


class Range(NamedTuple):
    """Neighbouring samples of a shard, read at once: `spots` are their numbers."""

    shard: Shard
    start: int
    size: int
    spots: list[int]


class Reader:
    """The bytes of a place's samples.

    Args:
        samples: the place.
        cache: keeps its shards here.
        alone: pictures are read without the JSON that says which row a sample is, so that the first and the last sample
            of each shard are compared with its index before any other.
    """

    def __init__(self, samples: Samples, cache: Cache | None = None, alone: bool = False):
        self.samples, self.cache = samples, cache
        self.direct = samples.local or cache is not None
        self._alone = alone and cache is None  # which compares whole shards
        self._open: OrderedDict[str, int] = OrderedDict()
        self._failed: dict[str, tuple[float, BadRow]] = {}
        self._compared: dict[str, BadRow | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # bound here: `os` may be gone first
        for number in self._open.values():
            close(number)

    def read(self, spot: Spot) -> Bytes:
        """The bytes of a sample, or why they cannot be had, from a file on this machine."""
        if spot.lost:
            return spot.lost
        data = self._tried(spot.shard, spot.start, spot.size, self._pread)
        if not isinstance(data, BadRow) and len(data) < spot.size:
            return BadRow("truncated_shard", f"{len(data):,} bytes of {spot.size:,} from byte {spot.start:,} on")
        return data

    def fetch(self, part: Range) -> Bytes:
        """The bytes of a range of a remote file, or why they cannot be had."""
        return self._tried(part.shard, part.start, part.size, self._range)

    def _pread(self, shard: Shard, start: int, size: int) -> bytes:
        if self.cache is None:
            return os.pread(self._number(shard), size, start)
        number = self.cache.open(shard, self.samples.path(shard.path), self.samples.files)
        try:
            return os.pread(number, size, start)
        finally:
            os.close(number)  # what is held open takes room when it is long gone from the cache

    def _range(self, shard: Shard, start: int, size: int) -> bytes:
        return self.samples.files.range(self.samples.path(shard.path), start, size)

    def _tried(self, shard: Shard, start: int, size: int, read: Callable[[Shard, int, int], bytes]) -> Bytes:
        """What `read` gives; a shard that could not be read is not asked for again for a while, as that takes long."""
        at, bad = self._failed.get(shard.path, (0.0, None))
        if bad is not None and time.monotonic() - at < PAUSE:
            return bad
        try:
            if self._alone and (other := self._another(shard, read)):
                return other
            return read(shard, start, size)
        except SourceMissing:
            bad = BadRow("missing_shard")
        except (SourceError, OSError) as error:
            bad = BadRow("unreadable_shard", str(error))
        self._failed[shard.path] = time.monotonic(), bad
        return bad

    def _another(self, shard: Shard, read: Callable[[Shard, int, int], bytes]) -> BadRow | None:
        """Whether a shard is that of another index, by its first and its last sample, if they are there."""
        if shard.path not in self._compared:
            bad = None
            index = self.samples.index_of(shard).select(["offset", "size", "picture_offset", "picture_size", "id"])
            for place in {0, len(index) - 1}:
                offset, size, picture, length, id_ = (column[place].as_py() for column in index.columns)
                data = read(shard, offset, size)
                if len(data) == size:
                    try:
                        row_of(members(data, Spot(shard, offset, size, picture, length, {"id": id_})), id_)
                    except BadRow as error:
                        bad = error
            self._compared[shard.path] = bad
        return self._compared[shard.path]

    def _number(self, shard: Shard) -> int:
        """The file descriptor of a local shard."""
        path = shard.path
        if path not in self._open:
            url = self.samples.path(path)
            try:
                self._open[path] = os.open(url, os.O_RDONLY)
            except FileNotFoundError:
                raise SourceMissing(f"{url} is not there") from None
            if len(self._open) > OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(path)
        return self._open[path]


def ranges(spots: Sequence[Spot]) -> list[Range]:
    """What to ask for to have all spots: neighbours together, nothing twice."""
    found: list[Range] = []
    for number in sorted(range(len(spots)), key=lambda number: (spots[number].shard.path, spots[number].start)):
        spot = spots[number]
        last = found[-1] if found else None
        end = spot.start + spot.size
        if last and last.shard.path == spot.shard.path and spot.start - last.start - last.size <= GAP:
            size = max(last.size, end - last.start)
            if size <= LONGEST:
                found[-1] = last._replace(size=size, spots=[*last.spots, number])
                continue
        found.append(Range(spot.shard, spot.start, spot.size, [number]))
    return found


Piece = list[tuple[Reader, Spot]]  # of one batch


def read_all(pieces: Iterable[Piece], ahead: int) -> Iterator[tuple[Piece, list[Bytes]]]:
    """Every piece with its bytes, in order.

    Args:
        pieces: the samples of each step.
        ahead: samples of remote places that are asked for at once, while as many before them are used.
    """
    waiting: deque[tuple[Piece, Callable[[], list[Bytes]]]] = deque()
    groups = _grouped(pieces, ahead)
    with ThreadPoolExecutor(THREADS, "hfds-ahead") as pool:  # no thread is started before there is work for it
        try:
            for group in groups:
                asked = _ask(group, pool)
                yield from ((piece, get()) for piece, get in _drain(waiting))
                waiting.extend(zip(group, asked, strict=True))
            yield from ((piece, get()) for piece, get in _drain(waiting))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _drain(waiting: deque[Any]) -> Iterator[Any]:
    while waiting:
        yield waiting.popleft()


def _grouped(pieces: Iterable[Piece], ahead: int) -> Iterator[list[Piece]]:
    """Pieces together until they have `ahead` samples of remote places; a piece without any is alone."""
    group: list[Piece] = []
    count = 0
    for piece in pieces:
        group.append(piece)
        count += sum(not reader.direct for reader, _ in piece)
        if count >= ahead or not count:
            yield group
            group, count = [], 0
    if group:
        yield group


def _ask(group: list[Piece], pool: ThreadPoolExecutor) -> list[Callable[[], list[Bytes]]]:
    """For each piece, what gives its bytes; those of remote places are on their way."""
    futures: dict[tuple[int, int], tuple[Future[Bytes], int]] = {}
    remote: dict[int, tuple[Reader, list[tuple[tuple[int, int], Spot]]]] = {}
    for first, piece in enumerate(group):
        for second, (reader, spot) in enumerate(piece):
            if not reader.direct and not spot.lost:
                remote.setdefault(id(reader), (reader, []))[1].append(((first, second), spot))
    for reader, wanted in remote.values():
        for part in ranges([spot for _, spot in wanted]):
            future = pool.submit(reader.fetch, part)
            for number in part.spots:
                futures[wanted[number][0]] = (future, wanted[number][1].start - part.start)

    def get(first: int) -> list[Bytes]:
        found: list[Bytes] = []
        for second, (reader, spot) in enumerate(group[first]):
            if reader.direct or spot.lost:
                found.append(reader.read(spot))
                continue
            future, start = futures.pop((first, second))
            data = future.result()
            found.append(data if isinstance(data, BadRow) else data[start : start + spot.size])
        return found

    return [lambda first=first: get(first) for first in range(len(group))]  # type: ignore[misc]
