"""How far a step that asks for new prompts is: what each request brought, what it cost, and whether to go on."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from hfds.processor import kept
from hfds.writer import Answer, Usage

WANTED, YIELD = "wanted", "yield"  # how it ends


@dataclass
class Course:
    """What was asked so far.

    Args:
        wanted, prompts, requests, least: as of `processors.augment.AugmentPrompts`.
    """

    wanted: int
    prompts: int
    requests: int
    least: float
    written: list[int] = field(default_factory=list)  # rows by request
    kept: list[int] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    models: set[str] = field(default_factory=set)
    rounds: int = 0
    at: int = 0  # the number of the next request

    def next(self) -> range:
        """The numbers of the requests of the next round: as many as may be enough, by what was kept of those before."""
        left = self.wanted - sum(self.kept)
        rate = sum(self.kept) / len(self.kept) if self.kept else self.prompts
        size = min(self.requests, math.ceil(left / rate) if rate else self.requests)
        return range(self.at, self.at + size)

    def add(self, new: Dataset, answers: Iterable[Answer]) -> None:
        """A round: its rows, after the rules, and its answers."""
        table = new.select_columns(["lineage", "dropped"]).with_format("arrow")[:]
        numbers, of = np.unique(np.asarray(pc.struct_field(table["lineage"], "request")), return_inverse=True)
        written = np.bincount(of)  # each request has a row
        self.at = int(numbers[-1]) + 1
        self.written += written.tolist()
        self.kept += np.bincount(of[np.asarray(kept(table))], minlength=len(written)).tolist()
        for answer in answers:
            self.usage += answer.usage
            self.models.add(answer.model)
        self.rounds += 1

    @property
    def ended(self) -> str | None:
        """Why it is over: enough is kept, or too little of what the last requests brought; None where it goes on."""
        if sum(self.kept) >= self.wanted:
            return WANTED
        nothing_new = not any(self.kept[-self.requests :])
        return YIELD if len(self.kept) >= self.requests and (nothing_new or self.share < self.least) else None

    @property
    def share(self) -> float:
        """The share that is kept of what the last requests brought."""
        last = slice(-self.requests, None)
        return sum(self.kept[last]) / max(1, sum(self.written[last]))

    def account(self) -> dict[str, Any]:
        """What the lock says of it. Tokens and cost are those of all answers, whichever run paid for them."""
        return {
            "models": sorted(self.models),
            "requests": len(self.written),
            "rounds": self.rounds,
            "kept": sum(self.kept),
            "wanted": self.wanted,
            "ended": self.ended,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "cost": round(self.usage.cost, 6),
        }

    def told(self) -> str:
        """The same for people, on one line."""
        cost = f", cost {self.usage.cost:,.2f}" if self.usage.cost else ""
        return f"{self.share:.0%} new, {self.usage.prompt_tokens + self.usage.completion_tokens:,} tokens{cost}"
