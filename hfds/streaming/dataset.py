"""Stream: the dataset that `hfds.stream` gives: what each worker reads, and the samples that are made of it."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hfds.errors import BadFile, BadRow, ConfigError, MissingExtra
from hfds.order import Blocks, Mixed
from hfds.streaming.course import REMAINDERS, Bucketed, Course, Mixture, Share, Single, order_of
from hfds.streaming.decoding import Decode, Size, is_size
from hfds.streaming.loader import Loader, Told, checked
from hfds.streaming.reading import Bytes, Piece, Reader, read_all
from hfds.streaming.rows import Rows, fingerprint

AHEAD = 64  # samples
OURS = {"dataset", "collate_fn", "batch_size", "batch_sampler", "sampler", "shuffle", "drop_last"}  # of a DataLoader
WINDOW = Blocks.block * Blocks.window


class Handed(NamedTuple):
    """A step's samples, what of them could not be had: (reason, shard, id), and how many come for the second time."""

    samples: list[dict[str, Any]]
    skipped: list[tuple[str, str, str]]
    again: int


class Stream:
    """What `stream` gives: iterated, it hands out the samples of an epoch, one by one.

    It knows the workers of a DataLoader, not ranks: `accelerate.prepare` shares out what a plain DataLoader gives, and
    `loader` shares by itself.
    """

    def __init__(
        self, rows: list[Rows], readers: list[Reader], weights: tuple[float, ...], decode: Decode,
        order: tuple[Any, ...], strict: bool, run: int, ahead: int | None,
    ):  # fmt: skip
        try:
            import torch
            from torch.utils.data import IterableDataset
        except ImportError:
            raise MissingExtra("hfds.stream", "torch", "models") from None
        IterableDataset.register(Stream)  # a base class would have to be imported with this module
        self.rows, self.readers, self.decode, self.strict, self.ahead = rows, readers, decode, strict, ahead
        self._run, self._order = run, order
        seed, shuffle, until = order[:3]
        orders = tuple(order_of(one.n, seed + number, shuffle) for number, one in enumerate(rows))
        self.course: Course = Single(orders[0]) if len(rows) == 1 else Mixture(Mixed(orders, weights, seed, until))
        self.release = fingerprint(*(one.name for one in rows))
        self._loaded = 0  # the epoch of the last state
        self._state = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch and position, for workers that persist

    def __len__(self) -> int:
        """Samples of the epoch."""
        return self.course.length(self.epoch)

    @property
    def epoch(self) -> int:
        """The epoch that it hands out."""
        return int(self._state[0])

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from its beginning if it is another one than before.

        Raises:
            ConfigError: it is none, or before that of the state that was loaded.
        """
        if not isinstance(epoch, int) or epoch < 0:
            raise ConfigError(f"an epoch is a number from 0 on, got {epoch!r}")
        if epoch < self._loaded:
            raise ConfigError(
                f"the state that was loaded is of epoch {self._loaded}, and epoch {epoch} was asked for: below "
                f"accelerate.prepare, which counts from 0, call set_epoch({self._loaded}) of what it gave, or take "
                "stream.loader"
            )
        if epoch != self.epoch:
            self._state[0], self._state[1] = epoch, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        share = Share(len(self), int(self._state[1]), self._run)
        told = Told()
        for handed in self.steps(self.course, share, self.epoch, range(number, share.steps, count)):
            told.tell(handed.skipped)
            yield from handed.samples

    def loader(
        self, batch_size: int, *, num_workers: int = 0, buckets: Sequence[Size] | None = None, remainder: str = "keep",
        rank: int | None = None, ranks: int | None = None, collate: Callable[[list[dict[str, Any]]], Any] | None = None,
        device: Any = None, **options: Any,
    ) -> Loader:  # fmt: skip
        """Batches of this rank, in a loader that knows where it is and goes on from there.

        Args:
            batch_size: samples of a batch.
            num_workers: processes that read and decode; 0 for none but this one. Encoded bytes of local files are read
                in this one anyway, which is faster than sending them.
            buckets: sizes (width, height): each batch has pictures of one of them, the one of the nearest aspect ratio.
            remainder: what becomes of the last step, for which too few samples are left: "keep" shares them evenly,
                "drop" leaves them out, "repeat" fills it from the epoch's beginning.
            rank: which of the ranks this is; that of torch.distributed when None.
            ranks: how many there are.
            collate: makes a batch of a list of samples; when None tensors of one shape are stacked, all else is lists.
            device: where the tensors of a batch are moved to.
            options: further ones of torch.utils.data.DataLoader, such as `prefetch_factor` and `pin_memory`.

        Raises:
            ConfigError: something of this cannot be.
        """
        if type(batch_size) is not int or batch_size < 1 or remainder not in REMAINDERS:
            choices = ", ".join(map(repr, REMAINDERS))
            raise ConfigError(
                f"a batch has at least 1 sample and remainder is one of {choices}, got {batch_size!r}, {remainder!r}"
            )
        if own := OURS & {*options}:
            raise ConfigError(f"{', '.join(sorted(own))} cannot be chosen: batches are made by batch_size and collate")
        course, unit, order = self.course, batch_size, self.order
        if buckets is not None:
            course, unit, order = self._bucketed(buckets, batch_size, remainder)
        return Loader(self, course, unit, order, num_workers, remainder, rank, ranks, collate, device, options)

    def _bucketed(self, buckets: Sequence[Size], batch_size: int, remainder: str) -> tuple[Course, int, str]:
        if not buckets or any(isinstance(one, int) or not is_size(one) for one in buckets):
            raise ConfigError(f"buckets are sizes such as [(1024, 1024), (1216, 832)], got {buckets!r}")
        sizes = [(width, height) for width, height in buckets]
        seed, shuffle = self._order[:2]
        if any(np.isnan(one.column(name)).any() for one in self.rows for name in ("width", "height")):
            raise ConfigError(
                "the index has rows without a width or height, which are in no bucket: add where='width > 0'"
            )
        course = Bucketed(self.course, self.rows, sizes, batch_size, remainder, seed, shuffle)
        return course, 1, fingerprint(self._order, sizes, batch_size, remainder)

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that are in no epoch, by reason."""
        return dict(sum((Counter(one.left_out) for one in self.rows), Counter()))

    @property
    def unchanged(self) -> bool:
        """Whether it hands out bytes of files on this machine as they are."""
        return self.decode.decode is None and self.decode.transform is None and all(one.direct for one in self.readers)

    @property
    def order(self) -> str:
        """16 hex digits of all that the order hangs on but the rows."""
        return fingerprint(self._order)

    def state_dict(self, taken: int | None = None) -> dict[str, Any]:
        """Where the epoch is. A plain DataLoader runs ahead, and a loop over one has to say how many samples all ranks
        have `taken`; `Loader.state_dict` counts them."""
        at = int(self._state[1]) if taken is None else taken
        return {"release": self.release, "order": self.order, "epoch": self.epoch, "at": min(at, len(self))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state says.

        Raises:
            ConfigError: it is no state of this stream.
        """
        self._state[0], self._state[1] = checked(state, self.release, self.order, self.course)
        self._loaded = self.epoch

    def steps(self, course: Course, share: Share, epoch: int, numbers: range) -> Iterator[Handed]:
        """What some steps of a share hand out; `numbers` are those of one worker."""
        asked: deque[tuple[Size | None, int]] = deque()

        def pieces() -> Iterator[Piece]:
            for step in numbers:
                some = course.at(share.positions(step), epoch)
                wrapped = share.again(step) * len(some.rows) // share.batch
                asked.append((some.size, wrapped or some.again))
                yield self._piece(some.places, some.rows)

        ahead = self.ahead or (max(1, WINDOW // share.ranks // numbers.step) if self._order[1] == "blocks" else AHEAD)
        for piece, found in read_all(pieces(), ahead):
            size, again = asked.popleft()
            yield self._handed(piece, found, size, again)

    def _piece(self, places: np.ndarray, rows: np.ndarray) -> Piece:
        piece: Piece = [None] * len(rows)  # type: ignore[list-item]
        for number in np.unique(places).tolist():
            chosen = np.flatnonzero(places == number)
            spots = self.rows[number].spots(rows[chosen], self.decode.indexed, self.decode.whole)
            for at, spot in zip(chosen.tolist(), spots, strict=True):
                piece[at] = (self.readers[number], spot)
        return piece

    def _handed(self, piece: Piece, found: Sequence[Bytes], size: Size | None, again: int) -> Handed:
        handed = Handed([], [], again)
        for (reader, spot), data in zip(piece, found, strict=True):
            try:
                if isinstance(data, BadRow):
                    raise data
                handed.samples.append(self.decode(data, spot, size))
            except BadRow as bad:
                url = reader.samples.path(spot.shard.path)
                if self.strict:
                    what = bad.reason if bad.value is None else f"{bad.reason}: {bad.value}"
                    raise BadFile(
                        url, f"sample {spot.id!r} cannot be handed out ({what})",
                        "fetch or export it again, or pass over such samples with on_error='skip'",
                    ) from None  # fmt: skip
                handed.skipped.append((bad.reason, url, spot.id))
        return handed
