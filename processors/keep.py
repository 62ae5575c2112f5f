"""Keep: drops the rows for which a rule over columns is not true, such as "nsfw < 0.0006 and width / height <= 2".

docs/rules.md shows all that a rule can say.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Features

from hfds import record
from hfds.errors import ConfigError
from hfds.processor import Filter
from processors.rules import Clause, parse


@dataclass(frozen=True)
class Keep(Filter):
    """Drops every row for which `rule` is not true, with the value of the first of its clauses that fails.

    Args:
        rule: tests over columns; its `and` makes the clauses.
        reason: the name in the ledger; by default the columns of the clause that failed, such as "width_height".
        missing: "drop" drops a row for which a clause cannot be said because a column is null, with "_missing" behind
            the reason; "keep" counts such a clause as true.
    """

    rule: str
    reason: str | None = None
    missing: str = "drop"

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns in the rule."""
        return parse(self.rule).columns

    def problems(self) -> list[str]:
        """Rules that cannot be read, names that are none."""
        found = []
        if not isinstance(self.rule, str):
            found.append(f"{self.name}: rule must be a text such as 'nsfw < 0.0006', got {self.rule!r}")
        else:
            try:
                parse(self.rule)
            except ConfigError as error:
                found.append(f"{self.name}: {error}")
        if self.reason is not None and not (
            isinstance(self.reason, str) and re.fullmatch("[a-z][a-z0-9_]*", self.reason)
        ):
            found.append(f"{self.name}: reason must be None or a name such as 'unsafe_image', got {self.reason!r}")
        if self.missing not in ("drop", "keep"):
            found.append(f"{self.name}: missing must be 'drop' or 'keep', got {self.missing!r}")
        return found

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """Fields that are none, and types that cannot be compared."""
        there = Features({name: features[name] for name in self.needs if name in features})
        return self._misfits(there.arrow_schema)

    def _misfits(self, schema: pa.Schema) -> list[str]:
        return [f"{self.name}: {problem}" for problem in parse(self.rule).misfits(schema)]

    def verdicts(self, table: pa.Table) -> pa.Array:
        if wrong := self._misfits(table.schema):
            raise ConfigError(*wrong)
        reason = value = threshold = pa.nulls(len(table), pa.string())
        for clause in parse(self.rule).clauses:
            true = clause.evaluate(table)
            fails = pc.and_(pc.invert(pc.fill_null(true, self.missing == "keep")), reason.is_null())
            if pc.any(fails).as_py():
                reason = pc.if_else(fails, self._reasons(clause, true), reason)
                value = pc.replace_with_mask(value, fails, clause.value(table.filter(fails)))
                threshold = pc.if_else(fails, clause.threshold, threshold)
        return record.drops(self.name, len(table), reason, value, threshold)

    def _reasons(self, clause: Clause, true: pa.Array) -> pa.Array:
        name = self.reason or clause.reason
        return pc.if_else(true.is_null(), f"{name}_missing", name)
