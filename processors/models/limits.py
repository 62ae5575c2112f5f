"""Limits: how fast a server is asked, and how much of it. Shared by all threads that ask it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from hfds.errors import Stopped
from hfds.writer import Usage

SLACK = 0.1  # seconds of a limit that were not used and may be made up for
MILLION = 1_000_000


class Pace:
    """So many units a minute, evenly, so that no second has more than its share.

    Args:
        per_minute: None for no limit.
        clock: seconds that only grow.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic):
        self.seconds = 60 / per_minute if per_minute else 0.0  # of one unit
        self._clock, self._lock = clock, threading.Lock()
        self._next = clock()

    def reserve(self, units: float = 1.0) -> float:
        """Takes the next `units`; returns the seconds until their turn."""
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - SLACK)
            self._next = turn + units * self.seconds
            return max(0.0, turn - now)

    def correct(self, units: float) -> None:
        """Takes further units that were used already, or gives back (below 0) what was not."""
        with self._lock:
            self._next += units * self.seconds

    def pause(self, seconds: float) -> None:
        """Gives nobody a turn for so long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class Budget:
    """What may be used: a request is begun only when it fits in, however long its answer will be.

    Args:
        who: whose it is, as the message says it.
        tokens: of prompts and answers together; None for no limit.
        money: in the unit of `prices`; None for no limit.
        prices: of a million tokens of prompts, and of answers.
    """

    def __init__(self, who: str, tokens: float | None, money: float | None, prices: tuple[float, float] | None):
        self.who, self.tokens, self.money, self.prices = who, tokens, money, prices or (0.0, 0.0)
        self.used = Usage()
        self._held = Usage()  # at most used by the requests that are on their way
        self._changed = threading.Condition()

    def begin(self, most: Usage) -> None:
        """Waits until a request that uses at most `most` is sure to fit in.

        Raises:
            Stopped: it does not, and no other is on its way that may use less than it might.
        """
        with self._changed:
            while self._over(self.used + self._held + most):
                if self._held.requests == 0:
                    raise Stopped(self._told())
                self._changed.wait()
            self._held += most

    def end(self, most: Usage, used: Usage) -> None:
        """A request that was begun with `most` has used `used`."""
        with self._changed:
            self._held -= most
            self.used += used
            self._changed.notify_all()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prices[0] + completion_tokens * self.prices[1]) / MILLION

    def _over(self, usage: Usage) -> bool:
        tokens = usage.prompt_tokens + usage.completion_tokens
        over_money = self.money is not None and usage.cost > self.money * (1 + 1e-9)  # as sums of floats are
        return over_money or (self.tokens is not None and tokens > self.tokens)

    def _told(self) -> str:
        used = f"{self.used.prompt_tokens + self.used.completion_tokens:,} tokens"
        limits = [f"{self.tokens:,.0f} tokens"] if self.tokens is not None else []
        if self.money is not None:
            used += f" for {self.used.cost:,.4f}"
            limits.append(f"{self.money:,.4f} in money")
        return (
            f"{self.who}: the budget of {' and '.join(limits)} has no room for another request, with {used} used; "
            "every answer is kept: give a larger one and run again to go on"
        )


@dataclass(frozen=True)
class Limits:
    """What holds for all that asks one server in a process: requests and tokens a minute, and a budget."""

    requests: Pace
    tokens: Pace
    budget: Budget
