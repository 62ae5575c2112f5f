"""What a model is asked for new prompts: request r is a function of what the step says, its seed, r, and the rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

from hfds.processor import kept
from hfds.record import hash_texts
from hfds.writer import Question

BATCH = 10_000

LONGEST = 1_000  # characters of an example; a longer one is cut
FORMS = {
    "json": 'Answer with a JSON object {{"prompts": [...]}} that holds {prompts} texts, and with nothing else.',
    "lines": "Answer with {prompts} lines, one prompt each: no numbers, bullets, quotation marks or other words.",
}


@dataclass(frozen=True)
class Example:
    """A prompt that a model is shown, and the id of its row; "fine/<number>" for one of the fine set."""

    id: str
    prompt: str


@dataclass(frozen=True)
class Request:
    """One request: its number, the style that it asks for, its examples and what it asks."""

    number: int
    style: str
    examples: tuple[Example, ...]
    question: Question


@dataclass(frozen=True)
class Requests:
    """All requests of a step, each made when it is asked for.

    Args:
        rows: `id` and `prompt`.
        training: the positions of those that may be examples.
        hashes: of the ids of these, from `hashes_of`.
        seed, fine, from_fine, from_rows, styles, avoid, prompts, form: as of `processors.augment.AugmentPrompts`.
    """

    rows: Dataset
    training: np.ndarray
    hashes: np.ndarray
    seed: int
    fine: tuple[str, ...]
    from_fine: int
    from_rows: int
    styles: tuple[str, ...]
    avoid: tuple[str, ...]
    prompts: int
    form: str

    def of(self, numbers: Sequence[int]) -> list[Request]:
        """The requests with these numbers."""
        fine = [drawn(len(self.fine), self.from_fine, self.seed, number, "fine") for number in numbers]
        rows = [lowest(self.hashes, self.from_rows, self.seed, number) for number in numbers]
        wanted = np.unique(self.training[[at for own in rows for at in own]].astype(np.int64))
        found = self.rows[wanted] if len(wanted) else {"id": [], "prompt": []}
        there = dict(zip(wanted.tolist(), map(Example, found["id"], found["prompt"]), strict=True))
        return [
            self._request(
                number,
                *(Example(f"fine/{at}", self.fine[at]) for at in first),
                *(there[self.training[at]] for at in then),
            )
            for number, first, then in zip(numbers, fine, rows, strict=True)
        ]

    def _request(self, number: int, *examples: Example) -> Request:
        style = self.styles[number % len(self.styles)]
        lines = "\n".join(f"- {' '.join(example.prompt.split())[:LONGEST]}" for example in examples)
        asked = [
            f"These prompts for a text-to-image model are good ones:\n\n{lines}\n",
            f"Write {self.prompts} new prompts in English, each {style}. Each describes one picture and stands by "
            "itself. They differ from each other and from the prompts above in what they show.",
            f"Stay away from these topics: {'; '.join(self.avoid)}." if self.avoid else "",
            FORMS[self.form].format(prompts=self.prompts),
        ]
        messages = (
            ("system", "You write prompts for text-to-image models, and nothing but these."),
            ("user", "\n".join(part for part in asked if part)),
        )
        return Request(number, style, examples, Question(messages, _hash(self.seed, number) >> 33))


def training_of(rows: Dataset) -> np.ndarray:
    """The positions of kept rows with a prompt in the split train; of all splits where there is no such column."""
    names = [name for name in ("prompt", "split", "dropped") if name in rows.column_names]
    found, at = [np.zeros(0, np.int64)], 0
    for table in rows.select_columns(names).with_format("arrow").iter(BATCH):
        there = pc.and_(kept(table), pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(table["prompt"], "")), ""))
        if "split" in names:
            there = pc.and_(there, pc.fill_null(pc.equal(table["split"], "train"), False))
        found.append(np.flatnonzero(np.asarray(there)) + at)
        at += len(table)
    return np.concatenate(found)


def hashes_of(rows: Dataset, training: np.ndarray) -> np.ndarray:
    """A number for the id of each row at these positions: shape (training,), uint64."""
    ids = rows.select_columns(["id"]).with_format("arrow")[:]["id"].take(pa.array(training))
    return hash_texts(ids.combine_chunks())[:, 0]


def lowest(hashes: np.ndarray, count: int, seed: int, number: int) -> list[int]:
    """The places of the `count` rows for request `number`: those with the lowest hash of seed, number and row.

    Rendezvous hashing: without a row, only the requests that showed it show another one, and the order of rows is of no
    matter. The mix is the finalizer of splitmix64.
    """
    mixed = hashes ^ np.uint64(_hash(seed, number, "rows"))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    count = min(count, len(mixed))
    first = np.argpartition(mixed, count - 1)[:count] if count else np.zeros(0, np.int64)
    found: list[int] = first[np.argsort(mixed[first])].tolist()
    return found


def drawn(among: int, count: int, seed: int, number: int, what: str) -> list[int]:
    """`count` different numbers below `among` for request `number`, or all of them where there are no more.

    By hashes and not by a generator: the same in every release of numpy and of Python.
    """
    found: dict[int, None] = {}
    turn = 0
    while len(found) < min(count, among):
        found[_hash(seed, number, what, turn) % among] = None
        turn += 1
    return [*found]


def _hash(*what: object) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(map(str, what)).encode())
