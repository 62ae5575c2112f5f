"""Tries: a request that is made again while that may help, with pauses that grow.

The Hub's client repeats some requests and not others: neither commits nor tags, not the question which commit a branch
is at, and no download that the Hub answered with 5xx. A language model's server has no such client.
"""

import random
import re
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # not exported to mypy

from hfds.errors import causes

T = TypeVar("T")
TRIES = 7
LONGEST = 60.0  # seconds between two of them
SHORTEST = 0.1  # also where an answer asks for none
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # answers after which the same request may succeed
FAILURES = (HTTPError, OSError, ValueError, RuntimeError)  # what the client raises; the last around one of the others
BY_XET = re.compile(r"HTTP status \w+ error \((\d{3})")  # how hf_xet, whose errors hold no answer, tells of one


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: the Hub is busy, or a connection broke."""
    if status := status_of(error):
        return status in AGAIN
    chain, broken = causes(error), (HTTPError, ConnectionError, TimeoutError)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return False
    around = isinstance(error, RuntimeError) and any(isinstance(cause, broken) for cause in chain)
    return around or isinstance(error, broken)


def tried(
    make: Callable[[], T],
    worth: Callable[[BaseException], bool] = may_pass,
    tries: int = TRIES,
    longest: float = LONGEST,
    wait: Callable[[float], object] | None = None,
) -> T:
    """What `make` gives; its last error, where no further try is `worth` it.

    Args:
        make: makes the request.
        worth: whether it may succeed after an error.
        tries: how often it is made at most.
        longest: seconds between two of them, at most.
        wait: waits so many seconds, and may raise what ends the tries; `time.sleep` when None.
    """
    for number in range(1, tries):
        try:
            return make()
        except FAILURES as error:
            if not worth(error):
                raise
            (wait or time.sleep)(_pause(error, number, longest))
    return make()


def status_of(error: BaseException) -> int:
    """The status of the answer that an error is made of; 0 where there was none."""
    if (response := answer_of(error)) is not None:
        return int(response.status_code)
    told = BY_XET.search(" ".join(map(str, causes(error))))
    return int(told[1]) if told else 0


def answer_of(error: BaseException) -> Any:
    """The answer that an error is made of; None where there was none."""
    answers = [getattr(cause, "response", None) for cause in causes(error)]
    return next((answer for answer in answers if answer is not None), None)


def _pause(error: BaseException, number: int, longest: float) -> float:
    """Seconds until the next try: what the server asks for, or twice as long each time."""
    limit = parse_ratelimit_headers(getattr(answer_of(error), "headers", {}))
    if limit and not limit.remaining:
        return min(limit.reset_in_seconds + 1.0, longest)
    if (asked := asked_pause(error)) is not None:
        return float(min(max(asked, SHORTEST) * (1 + random.random() / 10), longest))
    return float(min(2.0 ** (number - 2), longest) * (0.5 + random.random()))


def asked_pause(error: BaseException) -> float | None:
    """The seconds that an answer asks for with Retry-After, a number or a date; None where it does not, and where the
    date is over: of two clocks one is wrong then."""
    after = str(getattr(answer_of(error), "headers", {}).get("Retry-After", "")).strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", after):
        return float(after)
    try:
        date = parsedate_to_datetime(after)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = date.timestamp() - time.time()
        return seconds if seconds > 0 else None
    except (ValueError, OverflowError):  # the second of a zone that no clock has
        return None
