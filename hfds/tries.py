"""Tries: a request to the Hub that is made again while that may help, with pauses that grow.

The client repeats some requests and not others: neither commits nor tags, not the question which commit a branch is
at, and no download that the Hub answered with 5xx.
"""

import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # not exported to mypy

from hfds.errors import causes

T = TypeVar("T")
TRIES = 7
LONGEST = 60.0  # seconds between two of them
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


def tried(make: Callable[[], T], worth: Callable[[BaseException], bool] = may_pass) -> T:
    """What `make` gives; its last error, where no further try is `worth` it."""
    for number in range(1, TRIES):
        try:
            return make()
        except FAILURES as error:
            if not worth(error):
                raise
            time.sleep(_pause(error, number))
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


def _pause(error: BaseException, number: int) -> float:
    """Seconds until the next try: what the Hub asks for, or twice as long each time."""
    headers = getattr(answer_of(error), "headers", {})
    limit = parse_ratelimit_headers(headers)
    after = str(headers.get("Retry-After", ""))
    if limit and not limit.remaining:
        return min(limit.reset_in_seconds + 1.0, LONGEST)
    if after.isascii() and after.isdigit():
        return min(float(after), LONGEST)
    return float(min(2.0 ** (number - 2), LONGEST) * (0.5 + random.random()))
