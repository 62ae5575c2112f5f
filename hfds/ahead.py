"""Ahead: work done in background processes while the caller is busy with what came before, a few pieces in advance."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from hfds.errors import HfdsError

Given = TypeVar("Given")
Made = TypeVar("Made")
_work: Callable[[Any], Any]  # of a background process


def ahead(work: Callable[[Given], Made], pieces: Iterable[Given], num_proc: int) -> Iterator[Made]:
    """`work` of every piece, in order, by `num_proc` processes (one thread when it is 1), at most two pieces for each
    in advance.

    `work` reaches the processes as it is, by fork: it may close over anything but what must not be used after a fork,
    such as torch. They begin with the first `next`, so ask for that before a device is used. They end with the caller,
    however it ends.

    Raises:
        HfdsError: a process was killed.
    """
    with _workers(work, num_proc) as workers:
        waiting: deque[Future[Made]] = deque()
        do = _do if isinstance(workers, ProcessPoolExecutor) else work
        try:
            for piece in pieces:
                waiting.append(_submit(workers, do, piece))
                if len(waiting) > 2 * num_proc:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise HfdsError(
                "a background process was killed, most likely for want of memory; what was computed is kept: run again "
                "with fewer processes"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _workers(work: Callable[[Any], Any], num_proc: int) -> Executor:
    if num_proc == 1:
        return ThreadPoolExecutor(1)
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(num_proc, fork, _begin, (work, os.getpid()))


def _submit(workers: Executor, do: Callable[[Given], Made], piece: Given) -> "Future[Made]":
    with warnings.catch_warnings():  # from Python 3.12 on a fork beside threads warns; these processes use none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        return workers.submit(do, piece)


def _begin(work: Callable[[Any], Any], parent: int) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to all processes of a terminal; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone: a parent that was killed cannot say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(piece: Any) -> Any:
    return _work(piece)
