"""The rows that a model's answers become: everything that it said is in one of them, as a prompt or with a reason."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

from hfds import record
from processors.augmenting.answers import Part, parts, shown
from processors.augmenting.asked import Said, keys_of
from processors.augmenting.requests import Request

SOURCE = "augmented"
LINEAGE = Features(
    {
        "lineage": {
            "model": Value("string"),
            "seed": Value("int64"),
            "request": Value("int64"),
            "style": Value("string"),
            "examples": List(Value("string")),
        }
    }
)
FEATURES = Features({**record.FEATURES, "input": Value("string"), "split": Value("string"), **LINEAGE})
SCHEMA: pa.Schema = FEATURES.arrow_schema


class _Row(NamedTuple):
    """One part of an answer, with what became of its request."""

    request: Request
    said: Said
    id: str
    part: Part | None

    @property
    def drop(self) -> tuple[str | None, str | None]:
        """Reason and value for the ledger; None for a prompt."""
        if self.part is None:
            return self.said.reason, self.said.value
        return self.part.fault, shown(self.part.text) if self.part.fault else None


def made_rows(
    asked: Sequence[tuple[Request, Said]],
    *,
    step: str,
    key: str,
    form: str,
    known: Collection[str],
    label: str,
    license: str,
    into: str | None,
) -> pa.Table:
    """The rows of some requests in the common schema, with `input`, `split` and `lineage`; one for each at least.

    Args:
        step: who drops what is no prompt.
        key: what answers depend on besides the question; the ids are made of it, the label, the question and the text.
        form, known: as of `parts`.
        label, license, into: what each row says of its input, its licence, and its split.
    """
    rows = [*_rows(asked, label, key, form, known)]
    prompts = [row.part.text.strip() if row.part and not row.part.fault else None for row in rows]
    reasons, values = zip(*(row.drop for row in rows), strict=True)
    model = [row.said.answer and row.said.answer.model for row in rows]
    common = record.records(
        len(rows),
        id=[row.id for row in rows],
        source=SOURCE,
        source_revision=model,
        license=license,
        prompt=prompts,
        captions={"written": [row.part and row.part.text for row in rows]},
        dropped=record.drops(step, len(rows), [*reasons], [*values]),
    )
    lineage = [
        {
            "model": wrote,
            "seed": row.request.question.seed,
            "request": row.request.number,
            "style": row.request.style,
            "examples": [example.id for example in row.request.examples],
        }
        for row, wrote in zip(rows, model, strict=True)
    ]
    more: dict[str, Any] = {
        "input": pa.repeat(pa.scalar(label, pa.string()), len(rows)),
        "split": pa.repeat(pa.scalar(into, pa.string()), len(rows)),
        "lineage": pa.array(lineage, SCHEMA.field("lineage").type),
    }
    columns = [more[name] if name in more else common[name] for name in SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _rows(
    asked: Sequence[tuple[Request, Said]], label: str, key: str, form: str, known: Collection[str]
) -> Iterator[_Row]:
    keys = keys_of([request.question for request, _ in asked])
    for (request, said), own in zip(asked, keys, strict=True):
        found: list[Part | None] = [None]
        if said.answer is not None:
            found = [*parts(said.answer.text, said.answer.finish, form, known)]
        texts = [
            f"{label}\0{key}\0{_hex(own)}\0{number}\0{part.text if part else ''}" for number, part in enumerate(found)
        ]
        for part, id_ in zip(found, record.hash_texts(pa.array(texts, pa.string())), strict=True):
            yield _Row(request, said, f"{SOURCE}/{_hex(id_)}", part)


def _hex(key: np.ndarray) -> str:
    return key.astype("<u8").tobytes().hex()
