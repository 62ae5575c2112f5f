"""Connection: a server as one process asks it.

Many threads ask, no faster and for no more than was said, and again where that may help. What one question meets that
is about all of them stops all of them; what was on its way is still heard.
"""

import logging
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hfds.errors import ConfigError, HfdsError, MissingExtra, WriterError
from hfds.tries import AGAIN, FAILURES, answer_of, asked_pause, status_of, tried
from hfds.writer import Answer, Question, Usage, checked, schema_problems
from processors.models.completions import Form, hidden, no_credit, received, told, without
from processors.models.limits import Limits

if TYPE_CHECKING:
    from processors.models.openai_server import OpenAIServer

ALIKE = 16  # questions refused before any was answered that are no matter of the questions any more
LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "httpcore2.socks")
PLAIN = {"Accept-Encoding": "gzip, deflate"}
BUSY, OVERLOADED = 429, 529  # the second is what some say for 503


class Rejected(Exception):
    """A server does not answer one question."""


class Connection:
    """A server as it is asked by one process; see `hfds.writer.Opened`."""

    def __init__(self, server: "OpenAIServer", key: str | None, ranks: int, limits: Limits):
        try:
            import httpx2
        except ImportError:
            raise MissingExtra(type(server).__name__, "httpx2", "write") from None
        self.server, self._key = server, key
        threads = max(1, server.concurrency // ranks)
        self._requests, self._tokens, self._budget = limits.requests, limits.tokens, limits.budget
        self._used = Usage()
        self._form = Form(server.model, server.sampling, server.body, self._budget.cost)
        self._client = httpx2.Client(
            headers={**PLAIN, **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=server.timeout,
            limits=httpx2.Limits(max_connections=threads, max_keepalive_connections=threads),
            follow_redirects=False,  # which would carry questions, and a key, to another host
        )
        self._ends = weakref.finalize(self, _forget, self._client, _Hiding(key))  # who asks may forget it
        self._threads = ThreadPoolExecutor(threads, "hfds-writer")
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        self._pauses = self._refused = 0
        self._answered: float | None = None  # when the last answer came
        self._good: tuple[bytes, Usage] | None = None  # the question to which it came

    @property
    def usage(self) -> Usage:
        """Of all answers that came, and of tries whose answer was of no use."""
        return self._used

    def write(
        self, questions: Sequence[Question], schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Answer | Exception]]:
        """See `hfds.writer.Opened`."""
        if schema is not None and (problems := schema_problems(schema)):
            raise ConfigError(*problems)
        call = _Call(schema)
        with self._lock:
            self._calls.add(call)
        try:
            for position, question in enumerate(questions):
                self._threads.submit(self._one, call, position, question)
            for _ in questions:
                position, said = call.heard.get()
                if said is not None:
                    yield position, said
        finally:
            call.over.set()
            with self._lock:
                self._calls.discard(call)
        if call.error is not None:
            raise call.error

    def close(self) -> None:
        """Waits for what is on its way, and ends the connection."""
        self._threads.shutdown(cancel_futures=True)
        self._ends()

    def _one(self, call: "_Call", position: int, question: Question) -> None:
        """In a thread: asks one question, unless the call is over."""
        said: Answer | Exception | None = None
        try:
            said = self._said(call, question)
        except _Over:
            pass
        except HfdsError as error:
            with self._lock:  # what stops one stops all
                for other in self._calls:
                    other.error = other.error or error
                    other.over.set()
        except Exception as error:  # noqa: BLE001  nobody else would hear of it
            said = error
        call.heard.put((position, said))

    def _said(self, call: "_Call", question: Question) -> Answer | Exception:
        call.wait(0)
        data, most = self._form.request(question, call.schema), self._form.most(question, call.schema)
        answer = self._tried(call, data, most)
        return answer if isinstance(answer, Rejected) else checked(answer, call.schema)

    def _tried(self, call: "_Call", data: bytes, most: Usage) -> Answer | Rejected:
        tries, longest = self.server.tries, self.server.patience
        since = time.monotonic()  # when it failed for the last time but one

        def wait(seconds: float) -> None:
            nonlocal since
            since = time.monotonic()
            call.wait(seconds)

        while True:
            try:
                return tried(lambda: self._posted(call, data, most), self._worth, tries, longest, wait)
            except FAILURES as error:
                failed: BaseException = error
            busy, worth = status_of(failed) == BUSY, self._worth(failed)
            if not (busy and worth and self._answers_since(since)):
                if worth and not busy and not self._answers_since(since):
                    self._ask_again(call)
                return self._failed(failed, since)  # behind the block: what is raised there has no other error in it
            # else only its turn has not come

    def _ask_again(self, call: "_Call") -> None:
        """Asks what was answered before, where nothing else is on its way that would tell whether the server is there:
        a question that breaks it may be the last one."""
        if self._good is not None:
            with suppress(*FAILURES):
                self._posted(call, *self._good)

    def _answers_since(self, since: float) -> bool:
        """Whether the server is there, for others at least."""
        return self._answered is not None and self._answered > since

    def _posted(self, call: "_Call", data: bytes, most: Usage) -> Answer:
        """One try, which is paid for where the server did what was asked, also if that is of no use."""
        self._budget.begin(most)
        used, expected = Usage(), 0.0
        try:
            call.wait(0)  # after what may have been a long time
            expected = self._expected(most)
            self._turn(call, expected)
            url, json = f"{self.server.url.rstrip('/')}/chat/completions", {"Content-Type": "application/json"}
            with self._client.stream("POST", url, content=data, headers=json) as coming:
                response = without(self._key, received(coming))
            if response.is_success:
                used = self._form.used(response, most)
            answer = self._form.answer(response, most)
            used = answer.usage
        except FAILURES as error:
            if 0 < (asked_pause(error) or 0) <= self.server.patience:
                self._pause(asked_pause(error) or 0)
            raise
        finally:
            self._tokens.correct(used.prompt_tokens + used.completion_tokens - expected)
            self._budget.end(most, used)
            with self._lock:
                self._used += used
        self._answered, self._refused, self._good = time.monotonic(), 0, (data, most)
        return answer

    def _pause(self, seconds: float) -> None:
        """Asks nothing for so long: what a server says to one request holds for all."""
        with self._lock:
            self._pauses += 1
        self._requests.pause(seconds)
        self._tokens.pause(seconds)

    def _turn(self, call: "_Call", tokens: float) -> None:
        """Waits until the limits allow a request."""
        pauses = -1
        while pauses != self._pauses:  # a pause that came meanwhile holds for this one too
            pauses = self._pauses
            call.wait(max(self._requests.reserve(), self._tokens.reserve(tokens)))

    def _expected(self, most: Usage) -> float:
        """The tokens of an answer that is not there yet: as many as those before it had in the mean."""
        used = self.usage
        if used.requests:
            return (used.prompt_tokens + used.completion_tokens) / used.requests
        return most.prompt_tokens / 4 + most.completion_tokens

    def _worth(self, error: BaseException) -> bool:
        """Whether the same request may succeed later."""
        if (asked_pause(error) or 0) > self.server.patience or no_credit(error):
            return False
        status = status_of(error)
        return not status or status in (*AGAIN, OVERLOADED)

    def _failed(self, error: BaseException, since: float) -> Rejected:
        """An error after the last try, where it is about one question.

        Raises:
            ConfigError, WriterError: it is about all.
        """
        url, status, said = self.server.url, status_of(error), told(error, self._key)
        if status == 401:
            variable = self.server.key_variable
            wrong = f"refuses the key in {variable}" if variable else "wants a key: give key_variable"
            raise ConfigError(f"{url} {wrong} ({said})")
        if status == 404:
            raise ConfigError(f"{url} knows no model {self.server.model!r}, or is no such server ({said})")
        if 300 <= status < 400:
            raise ConfigError(
                f"{url} redirects to {_host(answer_of(error)) or 'another path'}: give the url that it means"
            )
        if no_credit(error):
            raise WriterError(f"{url} has no credit left for this key ({said}); what was answered is kept")
        if (asked := asked_pause(error) or 0) > self.server.patience:
            raise WriterError(
                f"{url} asks to wait for {asked:,.0f} seconds ({said}), more than the patience of "
                f"{self.server.patience:g}; what was answered is kept: run again then to go on"
            )
        if not self._worth(error):
            self._refused += 1
            if self._answered is None and self._refused >= ALIKE:
                raise WriterError(f"{url} refuses every question, the last one with {said}: mend it and run again")
        elif not self._answers_since(since):
            raise WriterError(
                f"{url} is gone or broken after {self.server.tries} tries ({said}); what was answered is kept: "
                "run again to go on when it is there"
            )
        return Rejected(said)


def _host(response: Any) -> str | None:
    """The host that a redirect names, if it names one."""
    try:
        return urlsplit(str(response.headers.get("Location", ""))).hostname
    except ValueError:  # as where the key was in it
        return None


class _Hiding(logging.Filter):
    """Takes the key out of what the HTTP library logs, which has the headers of answers and the words behind their
    status."""

    def __init__(self, key: str | None):
        super().__init__()
        self.key, self.loggers = key, [logging.getLogger(name) for name in LOGGERS if key]
        for logger in self.loggers:
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets all of it through."""
        record.msg, record.args = hidden(self.key, record.getMessage()), ()
        return True


def _forget(client: Any, hiding: _Hiding) -> None:
    client.close()
    for logger in hiding.loggers:
        logger.removeFilter(hiding)


class _Over(Exception):
    """The call that a question belongs to is over."""


class _Call:
    """One call of `write`: what was heard, and whether it is over."""

    def __init__(self, schema: Mapping[str, Any] | None):
        self.schema = schema
        self.heard: SimpleQueue[tuple[int, Answer | Exception | None]] = SimpleQueue()
        self.over = threading.Event()
        self.error: HfdsError | None = None

    def wait(self, seconds: float) -> None:
        """Waits, unless the call is over."""
        if self.over.wait(seconds) if seconds > 0 else self.over.is_set():
            raise _Over
