"""Loader: batches of a stream for one rank, and where it is."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hfds.errors import BadFile, ConfigError, HfdsError
from hfds.streaming.course import Bucketed, Course, Share
from hfds.streaming.decoding import collate as collated

if TYPE_CHECKING:
    from hfds.streaming.dataset import Stream

OF_WORKERS = ("prefetch_factor", "persistent_workers", "timeout", "multiprocessing_context", "worker_init_fn")
log = logging.getLogger(__name__)


class Loader:
    """Batches of one rank, in order, for a training loop; what `Stream.loader` gives.

    It counts what it handed out: `state_dict` of rank 0 at any step is where all ranks go on, with any number of ranks
    and workers. A loop that is left goes on with the next batch in the next loop; one that came to its end begins
    the next epoch. `accelerate.prepare` leaves it as it is, since it shares by itself, and
    `accelerator.register_for_checkpointing(loader)` keeps its state.
    """

    def __init__(
        self, stream: "Stream", course: Course, unit: int, order: str, num_workers: int, remainder: str,
        rank: int | None, ranks: int | None, collate: Callable[[list[dict[str, Any]]], Any] | None, device: Any,
        options: dict[str, Any],
    ):  # fmt: skip
        self.rank, self.ranks = _ranks(rank, ranks)
        self.stream, self.device = stream, device
        # Bytes of files on this machine, as they are, are read sooner than another process can send them.
        self._workers = 0 if stream.unchanged and collate is None else num_workers
        if not self._workers:
            options = {name: value for name, value in options.items() if name not in OF_WORKERS}
        self._course, self._unit, self._order, self._remainder = course, unit, order, remainder
        self._collate, self._options = collate or collated, options
        self.epoch, self.at = stream.epoch, stream.state_dict()["at"] if course is stream.course else 0
        self._begin()

    def _begin(self) -> None:
        self._counted: dict[str, Any] = {
            "epoch": self.epoch,
            "before": self._course.before(self.at, self.epoch) if self.at else 0,
            "handed_out": 0,
            "repeated": 0,
            "dropped": 0,
        }
        self._skipped: Counter[str] = Counter()
        self._told = Told()

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._share(0).steps

    def _share(self, start: int) -> Share:
        length = self._course.length(self.epoch)
        return Share(length, start, self._unit, self.rank, self.ranks, self._remainder)

    def __iter__(self) -> Iterator[Any]:
        """The batches from here to the end of the epoch.

        Raises:
            SourceError: a sample cannot be read, and the stream was not asked to skip it.
        """
        from torch.utils.data import DataLoader, IterableDataset

        IterableDataset.register(_Steps)
        if self.at == 0:
            self._begin()
        share = self._share(self.at)
        steps = _Steps(self.stream, self._course, share, self.epoch, self._collate)
        options = {"batch_size": None, "collate_fn": _as_it_is, **self._options}
        for item in DataLoader(steps, num_workers=self._workers, **options):
            if isinstance(item, HfdsError):
                raise item
            self.at = item.after
            self._count(item)
            if item.samples:
                yield item.batch if self.device is None else _moved(item.batch, self.device)
        self._counted["dropped"] = self._dropped(share)
        self.epoch, self.at = self.epoch + 1, 0

    def _count(self, item: "_Step") -> None:
        self._counted["handed_out"] += item.samples
        self._counted["repeated"] += item.again
        self._told.tell(item.skipped)
        self._skipped.update(reason for reason, _, _ in item.skipped)

    def _dropped(self, share: Share) -> int:
        """Samples that the remainder leaves out of this epoch, of all ranks."""
        if self._remainder != "drop":
            return 0
        if isinstance(self._course, Bucketed):
            return self._course.dropped(self.epoch) + share.left * self._course.batch
        return share.left

    def state_dict(self) -> dict[str, Any]:
        """Where it is, as JSON of less than 200 bytes."""
        return {"release": self.stream.release, "order": self._order, "epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where a state says.

        Raises:
            ConfigError: it is no state of this stream.
        """
        self.epoch, self.at = checked(state, self.stream.release, self._order, self._course)
        self._begin()

    def account(self) -> dict[str, Any]:
        """What became of this epoch's samples on this rank; it is there until the next epoch begins.

        Over all ranks, at the end of an epoch: before + dropped + the sums of handed_out and skipped, less those that
        were repeated, are the rows of the split less those left out. "before" is how many came before this process
        began; "dropped" is the same on all ranks; "left_out" are in no epoch.
        """
        return {**self._counted, "skipped": dict(self._skipped), "left_out": self.stream.left_out}


class Told:
    """Logs what is skipped, once for each shard and reason."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def tell(self, skipped: list[tuple[str, str, str]]) -> None:
        """Logs what is new of (reason, shard, id)."""
        for reason, shard, id_ in skipped:
            if (shard, reason) not in self._known:
                log.warning("%s: sample %r is passed over (%s), and so are others like it", shard, id_, reason)
            self._known.add((shard, reason))


class _Step(NamedTuple):
    """What a worker hands over: the position behind it, a batch, its samples, what was skipped, what was repeated."""

    after: int
    batch: Any
    samples: int
    skipped: list[tuple[str, str, str]]
    again: int


class _Steps:
    """The steps of a share, as the dataset of a DataLoader: each of its workers takes its part of them."""

    def __init__(
        self, stream: "Stream", course: Course, share: Share, epoch: int, collate: Callable[[list[dict[str, Any]]], Any]
    ):
        self.stream, self.course, self.share, self.epoch, self.collate = stream, course, share, epoch, collate

    def __iter__(self) -> Iterator[_Step | HfdsError]:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        steps = range(number, self.share.steps, count)
        ours = HfdsError  # which may be gone from the module when a loop that was left is ended with the interpreter
        try:
            for step, handed in zip(steps, self.stream.steps(self.course, self.share, self.epoch, steps), strict=True):
                if not handed.samples and self.share.ranks > 1:
                    raise BadFile(
                        handed.skipped[0][1], "no sample of a whole batch can be read, and ranks must take equal steps",
                        "fetch or export it again, or ask for larger batches",
                    )  # fmt: skip
                batch = self.collate(handed.samples) if handed.samples else None
                yield _Step(self.share.after(step), batch, len(handed.samples), handed.skipped, handed.again)
        except ours as error:  # as it is: a DataLoader would raise another one in its place
            yield error


def _as_it_is(item: Any) -> Any:
    return item


def _moved(batch: Any, device: Any) -> Any:
    import torch

    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [_moved(value, device) for value in batch]
    return batch


def _ranks(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """This rank and their number: as given, or those of torch.distributed.

    Raises:
        ConfigError: they are impossible, or there are several that torch.distributed does not know.
    """
    from torch import distributed

    if rank is None and ranks is None:
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError(
                "WORLD_SIZE says that this is one of several processes, and each would be given the whole epoch: call "
                "torch.distributed.init_process_group or make an Accelerator first, or give rank= and ranks="
            )
        return 0, 1
    if rank is None or ranks is None or not 0 <= rank < ranks:
        raise ConfigError(f"rank must be below ranks, and both be given, got {rank} and {ranks}")
    return rank, ranks


def checked(state: Mapping[str, Any], release: str, order: str, course: Course) -> tuple[int, int]:
    """Epoch and position of a state.

    Raises:
        ConfigError: it is none, or one of another release, order or epoch.
    """
    if not isinstance(state, Mapping) or {*state} != {"release", "order", "epoch", "at"}:
        raise ConfigError(f"a stream's state has release, order, epoch and at, got {str(state)[:100]}")
    if state["release"] != release:
        raise ConfigError(
            "this state is of another release or split, or rows were withdrawn since: open what it was taken from, or "
            "begin the epoch anew"
        )
    if state["order"] != order:
        raise ConfigError(
            "this state is of another order: seed, shuffle, where, without, weights and buckets must be as they were"
        )
    epoch, at = state["epoch"], state["at"]
    if not all(type(one) is int and 0 <= one < 1 << 62 for one in (epoch, at)) or at > course.length(epoch):
        raise ConfigError(f"this state has no epoch and position of this stream: {epoch!r}, {at!r}")
    return epoch, at
