"""New rows through rules: those that look at single rows see nothing but new ones, those that compare see all rows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from datasets import Dataset, concatenate_datasets

from hfds.annotator import ModelAnnotator
from hfds.processor import Annotator, Step, WholeDataset, beside
from hfds.run import Run
from processors.dedup import LinedUp, MarkDuplicates


@dataclass(frozen=True)
class Behind(MarkDuplicates):
    """MarkDuplicates of the rows behind the first `settled` ones, which stay and are not compared with each other."""

    settled: int = 0

    @property
    def name(self) -> str:
        """That of the step in whose place it is."""
        return MarkDuplicates.__name__

    def line_up(self, rows: Dataset, earlier: Dataset | None) -> LinedUp:
        """As of every other one, where nothing is compared with but these rows."""
        lined = super().line_up(rows, earlier)
        return lined._replace(fixed=int((lined.order < self.settled).sum()))


def compared(rules: Sequence[Step], rows: Dataset, run: Run) -> Dataset:
    """What `rules` compare new rows with: the columns of `rows` that they need for it, and those that annotators among
    them add; what a model says of `rows` is what it says of new rows too."""
    wanted = {name for rule in rules if isinstance(rule, WholeDataset) for name in (*rule.needs, *rule.reads)}
    makers = [
        rule
        for rule in rules
        if isinstance(rule, Annotator)
        and wanted & set(rule.adds)
        and (isinstance(rule, ModelAnnotator) or not set(rule.adds) <= set(rows.column_names))
    ]
    seen = wanted | {name for maker in makers for name in (*maker.needs, *maker.adds)} | {"id", "dropped"}
    found = rows.select_columns([name for name in rows.column_names if name in seen])
    for maker in makers:
        found = maker(found, run)
    return found


def ruled(
    rules: Sequence[Step], before: Dataset, made: Sequence[Dataset], new: Dataset, earlier: Dataset | None, run: Run
) -> Dataset:
    """`new` rows with what `rules` add and mark; no mark is made on the others.

    Args:
        before: from `compared`.
        made: new rows of rounds before, as they came from here.
        earlier: the rows of the earlier releases that rules look at.
    """
    for rule in rules:
        if not isinstance(rule, WholeDataset):
            new = rule(new, run)
            continue
        settled = len(before) + sum(map(len, made))
        if isinstance(rule, MarkDuplicates) and rule.keep == "first" and not rule.against:
            rule = Behind(**{field.name: getattr(rule, field.name) for field in fields(rule)}, settled=settled)
        names = [name for name in dict.fromkeys((*rule.needs, *rule.reads, "dropped")) if name in new.column_names]
        parts = [part.select_columns(names) for part in (before, *made, new) if len(part)]
        together = concatenate_datasets(parts)
        marks = rule(together, run, earlier if rule.releases else None).select_columns([*rule.adds])
        marks = marks.select(range(settled, len(together)))
        new = beside(new.remove_columns([name for name in rule.adds if name in new.column_names]), marks)
    return new
