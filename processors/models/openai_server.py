"""Any server that speaks OpenAI's chat completions (platform.openai.com/docs/api-reference/chat): `vllm serve`, hosted
ones. How it is asked is in `processors.models.connection`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from hfds.errors import ConfigError
from hfds.upstream import clean_token
from processors.models.completions import most_tokens
from processors.models.connection import Connection
from processors.models.limits import Budget, Limits, Pace
from processors.models.sampling import sampling_entry, sampling_problems


@dataclass(frozen=True)
class OpenAIServer:
    """A model behind a server.

    Args:
        url: up to and with its version: "http://localhost:8000/v1".
        model: what the server calls it.
        revision: what tells it from other models of that name: a commit, a quantisation, a date.
        temperature, top_p, max_tokens: of the sampling; 0 as temperature takes the likeliest token.
        body: further fields of each request, in place of its own of these names; one that is None is left out. They
            are in keys and locks.
        known_as: what keys and locks say in place of `url`, for a server that is at another place tomorrow.
        key_variable: the name of the environment variable that holds the key; no key is sent when None.
        concurrency: requests on their way at once.
        requests_per_minute, tokens_per_minute: kept to evenly.
        prices: of a million tokens of prompts, and of answers, in any money.
        budget: in that money: no request is begun that could go beyond it.
        budget_tokens: the same, in tokens of prompts and answers together.
        timeout: seconds without a byte of an answer.
        tries: how often a request is made at most.
        patience: seconds between two of them, at most; a server that asks for more ends the run.

    Limits and budget are those of a whole run: of all steps whose writers are equal, and all ranks, of which each has
    its share. Concurrency is that of one step on all ranks; a rank has one thread at least, so more ranks than
    `concurrency` ask as many questions at once as they are.
    """

    url: str
    model: str
    revision: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    known_as: str | None = None
    key_variable: str | None = None
    concurrency: int = 32
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    prices: tuple[float, float] | None = None
    budget: float | None = None
    budget_tokens: int | None = None
    timeout: float = 300
    tries: int = 8
    patience: float = 120

    @property
    def at_once(self) -> int:
        """Enough for every thread to have some after the one that takes longest was begun."""
        return 4 * self.concurrency

    @property
    def sampling(self) -> dict[str, float]:
        """How it samples, by the names that requests have for it."""
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}

    def entry(self) -> dict[str, Any]:
        """What its answers depend on, the same for all ways to write it: 1 and 1.0, a url with a slash behind it."""
        server = self.known_as or str(self.url).rstrip("/")
        where = {"server": server, "model": self.model, "revision": self.revision}
        sampling = sampling_entry(self.temperature, self.top_p, self.max_tokens)
        return {"backend": type(self).__name__, **where, **sampling, "body": dict(self.body)}

    def problems(self) -> list[str]:
        """What is wrong with its parameters."""
        found = [*_url_problems(self.url), *sampling_problems(self.temperature, self.top_p, self.max_tokens)]
        if not isinstance(self.model, str) or not self.model:
            found.append(f"model must be what the server calls it, got {self.model!r}")
        for name in ("requests_per_minute", "tokens_per_minute", "budget", "budget_tokens", "timeout", "patience"):
            value = getattr(self, name)
            if value is None and name not in ("timeout", "patience"):
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                found.append(f"{name} must be above 0, got {value!r}")
        for name in ("concurrency", "tries"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                found.append(f"{name} must be a whole number from 1, got {getattr(self, name)!r}")
        if self.budget is not None and not self.prices:
            found.append("a budget in money needs prices: of a million tokens of prompts, and of answers")
        wrong_body = _body_problems(self.body)
        found += wrong_body
        if (self.budget or self.budget_tokens) and not wrong_body and most_tokens(self.sampling, self.body) is None:
            found.append(
                "a budget needs an answer that ends: max_tokens or max_completion_tokens, which body takes off"
            )
        if self.prices is not None and not _are_prices(self.prices):
            found.append(f"prices must be two numbers from 0, of prompts and of answers, got {self.prices!r}")
        if self.key_variable is not None and not (
            isinstance(self.key_variable, str) and self.key_variable.isidentifier()
        ):
            found.append("key_variable must be the name of an environment variable, never the key itself")
        return [f"{type(self).__name__}: {problem}" for problem in found]

    def limits(self, ranks: int) -> Limits:
        """The share that one of `ranks` processes has of what is kept to."""
        requests, tokens = (
            Pace(limit and limit / ranks) for limit in (self.requests_per_minute, self.tokens_per_minute)
        )
        most, money = (limit and limit / ranks for limit in (self.budget_tokens, self.budget))
        return Limits(requests, tokens, Budget(self.url, most, money, self.prices))

    def open(self, device: str, ranks: int = 1, limits: Limits | None = None) -> Connection:
        """A connection; nothing is sent before it is asked. It keeps to `limits`, which others may share.

        Raises:
            ConfigError: a parameter cannot be, or the environment variable holds no key.
            MissingExtra: httpx2 is not installed.
        """
        if problems := self.problems():
            raise ConfigError(*problems)
        return Connection(self, self._key(), ranks, limits or self.limits(ranks))

    def _key(self) -> str | None:
        if self.key_variable is None:
            return None
        key = clean_token(self.key_variable, os.environ.get(self.key_variable))
        if not isinstance(key, str):
            raise ConfigError(
                f"there is no key for {self.url}: the environment variable {self.key_variable} is not set; "
                f"set it, or give key_variable=None for a server that wants none"
            )
        return key


def _url_problems(url: Any) -> list[str]:
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        if parts.username is not None or parts.password is not None:
            return ["the url must hold no user and no key: give key_variable"]
        if parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment:
            return []
    except ValueError:
        pass
    return [f'url must be that of a server, "http://localhost:8000/v1", got {url!r}']


def _body_problems(body: Any) -> list[str]:
    if not isinstance(body, Mapping):
        return [f"body must be fields of a request by their names, got {body!r}"]
    try:
        json.dumps(dict(body), allow_nan=False)
    except (TypeError, ValueError) as error:
        return [f"body must be JSON: {error}"]
    return ["body must not ask for a stream: an answer is read whole"] if body.get("stream") else []


def _are_prices(prices: Any) -> bool:
    return (
        isinstance(prices, tuple | list)
        and len(prices) == 2
        and all(isinstance(price, int | float) and 0 <= price < float("inf") for price in prices)
    )
