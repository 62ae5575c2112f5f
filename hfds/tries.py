"""Tries: a request to the Hub that is made again while that may help, with pauses that grow.

The client repeats some requests and not others: neither commits nor tags, not the question which commit a branch is
at, and no download that the Hub answered with 5xx.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]  # of its HTTP library

from hfds.errors import causes

T = TypeVar("T")
TRIES = 7
LONGEST = 60.0  # seconds between two of them
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # answers after which the same request may succeed


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: the Hub is busy, or a connection broke."""
    if status := status_of(error):
        return status in AGAIN
    offline = any(isinstance(cause, OfflineModeIsEnabled) for cause in causes(error))
    return isinstance(error, (HTTPError, ConnectionError, TimeoutError)) and not offline


def tried(make: Callable[[], T], worth: Callable[[BaseException], bool] = may_pass) -> T:
    """What `make` gives; its last error, where no further try is `worth` it."""
    for number in range(1, TRIES):
        try:
            return make()
        except (HTTPError, OSError) as error:
            if not worth(error):
                raise
            time.sleep(_pause(error, number))
    return make()


def status_of(error: BaseException) -> int:
    """The status of the answer that an error is made of; 0 where there was none."""
    responses = [getattr(cause, "response", None) for cause in causes(error)]
    return next((int(response.status_code) for response in responses if response is not None), 0)


def _pause(error: BaseException, number: int) -> float:
    """Seconds until the next try: what the Hub asks for, or twice as long each time."""
    for cause in causes(error):
        after = str(getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After", ""))
        if after.isdigit():
            return min(float(after), LONGEST)
    return float(min(2.0 ** (number - 2), LONGEST) * (0.5 + random.random()))
