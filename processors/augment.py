"""AugmentPrompts: new prompts that a language model writes from examples, as the image-to-prompt sets were extended.

The original (songjein/image-to-prompts-28th-solution) asked for prompts from five random ones and seven fixed ones,
took the first character off each line, and kept the rest.
"""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from datasets.utils import tqdm

from hfds import record
from hfds.add_rows import AddRows, dataset_of
from hfds.errors import ConfigError
from hfds.gather import no_further_bars
from hfds.processor import Annotator, Filter, Step, WholeDataset
from hfds.run import Run
from hfds.store import answers_folder
from hfds.writer import Writer
from processors.augmenting.answers import SCHEMA, folded
from processors.augmenting.asked import STEP, Asked, Said, answers_of, store_key
from processors.augmenting.course import WANTED, YIELD, Course
from processors.augmenting.fine import FINE, STYLES
from processors.augmenting.made import LINEAGE, SOURCE, made_rows
from processors.augmenting.requests import FORMS, Request, Requests, hashes_of, training_of
from processors.augmenting.ruled import compared, ruled
from processors.clean_prompt import CleanPrompt
from processors.dedup import MarkDuplicates
from processors.keep_prompt import V4_KEEP
from processors.language import DetectLanguage
from processors.parameters import wrong_parameters

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AugmentPrompts(AddRows):
    """Adds prompts that a language model writes from examples, until `wanted` new ones are kept.

    Request number r shows examples from `fine` and from the kept prompts in train, drawn by `seed`, r and their ids. It
    asks for `prompts` in the style whose turn it is, and is the same whatever was answered before. All that is answered
    becomes rows: prompts, what is none with its reason (`processors.augmenting.answers` has them), and a request that
    failed is a row with what it failed with. The prompts then go through `rules`, together with the rows that were
    there and those made before; what these rules mark of the rows that were there does not count.

    Answers are kept in the annotation store under what `writer` is and what was asked: nothing is paid for twice.

    Args:
        writer: the language model.
        wanted: new prompts that are to be kept; there may be more, because all that was paid for is looked at.
        rules: what every new prompt goes through: annotators, filters, and MarkDuplicates.
        fine: prompts that are good examples.
        from_fine, from_rows: how many examples a request shows of each.
        avoid: topics to stay away from. The model is told; a rule may look whether it heard.
        styles: from simple to complex; requests take them in turns.
        prompts: how many a request asks for.
        requests: how many are asked in a round, between two looks at what is new.
        least: the yield below which it ends: of what the last `requests` requests brought, the share that is kept.
            It ends too where that is nothing.
        form: "json" for a list by JSON Schema, "lines" for one prompt a line.
        license: of the new rows.
        into: the split that they are for; None where a later step decides.
        config: tells the new rows of several such steps apart: their input is "augmented/<config>".
        seed: another seed draws other examples and lets the model sample anew.
    """

    version: ClassVar[int] = 3
    writer: Writer
    wanted: int = 1000
    rules: tuple[Step, ...] = (CleanPrompt(), DetectLanguage(), V4_KEEP, MarkDuplicates("prompt"))
    fine: tuple[str, ...] = FINE
    from_fine: int = 3
    from_rows: int = 3
    avoid: tuple[str, ...] = ()
    styles: tuple[str, ...] = STYLES
    prompts: int = 10
    requests: int = 50
    least: float = 0.1
    form: str = "json"
    license: str = "unknown"
    into: str | None = "train"
    config: str = "prompts"
    seed: int = 0

    @property
    def label(self) -> str:
        """The input that its rows are."""
        return f"{SOURCE}/{self.config}"

    @property
    def needs(self) -> tuple[str, ...]:
        """What examples are, and what the rules compare."""
        return tuple(dict.fromkeys(("id", "prompt", *(name for name in self._compared() if name not in self._new()))))

    @property
    def reads(self) -> tuple[str, ...]:
        """Which rows are trained on."""
        return ("split",)

    @property
    def adds(self) -> Features:
        """Where a prompt is from, and what is none."""
        return Features({**LINEAGE, "dropped": record.FEATURES["dropped"]})

    @property
    def means(self) -> Mapping[str, str]:
        """Of the lineage."""
        return {
            "lineage": "how a prompt was made that a language model wrote: the model, the seed and the number of the "
            "request, the style that was asked for, and the ids of its examples; null for all other rows"
        }

    @property
    def releases(self) -> tuple[Any, ...]:
        """Those that its rules look at."""
        return tuple(dict.fromkeys(release for rule in self._whole() for release in rule.releases))

    @property
    def compares(self) -> tuple[str, ...]:
        """What these are compared by."""
        return tuple(dict.fromkeys(name for rule in self._whole() for name in rule.compares))

    @property
    def optional(self) -> tuple[str, ...]:
        """What only rules need that can do without it."""
        needed = {name for rule in self._whole() for name in rule.compares if name not in rule.optional}
        return tuple(name for name in self.compares if name not in needed)

    @property
    def stored(self) -> tuple[tuple[str, str], ...]:
        """Its own answers, and those of its rules."""
        return ((STEP, self._key()), *(one for rule in self.rules for one in rule.stored))

    def _whole(self) -> list[WholeDataset]:
        there = self.rules if isinstance(self.rules, tuple) else ()  # what else it is, `problems` says
        return [rule for rule in there if isinstance(rule, WholeDataset)]

    def _compared(self) -> set[str]:
        """The columns that rules read of all rows."""
        return {name for rule in self._whole() for name in rule.needs}

    def _new(self) -> set[str]:
        """The columns that annotators among the rules add."""
        return {name for rule in self.rules if isinstance(rule, Annotator) for name in rule.adds}

    def _schema(self) -> Mapping[str, Any] | None:
        return SCHEMA if self.form == "json" else None

    def _key(self) -> str:
        return store_key(self.writer, self._schema())

    def parameters(self) -> dict[str, Any]:
        """The writer by what its answers depend on, the rules as the lock has them."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**found, "writer": self.writer.entry(), "rules": [rule.entry() for rule in self.rules]}

    def key(self) -> str:
        """As of every step, with the keys of its rules."""
        return "\0".join((super().key(), *(rule.key() for rule in self.rules)))

    def entry(self) -> dict[str, Any]:
        """What the lock says of it, with its place in the store."""
        return {**super().entry(), "answers": answers_folder(STEP, self._key())}

    def problems(self) -> list[str]:
        """What cannot be, of the writer and of the rules too."""
        kinds = {
            "wanted": "number", "prompts": "number", "requests": "number", "from_fine": "natural",
            "from_rows": "natural", "fine": "phrases", "avoid": "phrases", "styles": "phrases", "least": "fraction",
            "seed": "seed",
        }  # fmt: skip
        found = wrong_parameters(self, kinds)
        if not all(callable(getattr(self.writer, name, None)) for name in ("open", "entry", "problems")):
            found.append(f"{self.name}: writer must be a Writer such as hfds.writer describes, got {self.writer!r}")
        else:
            found += [f"{self.name}: {problem}" for problem in self.writer.problems()]
        if self.form not in FORMS:
            found.append(f"{self.name}: form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if not (isinstance(self.license, str) and self.license.strip()):
            found.append(f"{self.name}: license must be an SPDX identifier or 'unknown', got {self.license!r}")
        for name in ("config", *(["into"] if self.into is not None else [])):
            if not (isinstance(value := getattr(self, name), str) and value.replace("_", "").isalnum()):
                found.append(f"{self.name}: {name} must be letters, digits and _, got {value!r}")
        return found or [*self._no_examples(), *self._wrong_rules()]

    def _no_examples(self) -> Iterator[str]:
        if not self.styles:
            yield f"{self.name}: styles must name one at least, got ()"
        if not self.from_fine and not self.from_rows:
            yield f"{self.name}: a request needs examples, and from_fine and from_rows are both 0"
        if self.from_fine and not self.fine:
            yield f"{self.name}: from_fine is {self.from_fine}, and fine holds no prompts"

    def _wrong_rules(self) -> Iterator[str]:
        if not isinstance(self.rules, tuple):
            yield f"{self.name}: rules must be a tuple of steps, got {self.rules!r}: a tuple of one is written (x,)"
            return
        for rule in self.rules:
            marks = isinstance(rule, WholeDataset) and not isinstance(rule, AddRows) and [*rule.adds] == ["dropped"]
            if not (isinstance(rule, Annotator | Filter) or marks):
                yield f"{self.name}: rules must be annotators, filters and MarkDuplicates, got {rule!r}"
            else:
                yield from (f"{self.name}, rules: {problem}" for problem in rule.problems())

    def misfits(self, features: Mapping[str, Any]) -> list[str]:
        """Rules must have the columns that they need, from the rows or from each other."""
        there, found = {**features, **record.FEATURES}, []
        for rule in self.rules:
            missing = [name for name in rule.needs if name not in there]
            found += [f"{self.name}, rules: {rule.name} needs the column {name!r}, which none adds" for name in missing]
            found += [f"{self.name}, rules: {problem}" for problem in ([] if missing else rule.misfits(there))]
            there.update(rule.adds)
        return found

    @property
    def licenses(self) -> tuple[str, ...]:
        """One for all."""
        return (self.license,)

    def expects(self) -> dict[str, int]:
        """Where everything that is answered is new."""
        return {"requests": math.ceil(self.wanted / self.prompts), "rows": self.wanted}

    def state(self, run: Run) -> str:
        """Failures may be tried again."""
        answers = answers_of(self.writer, self._schema(), run)
        return "".join(run.agree(lambda: answers.parts("failed")))

    def new_rows(
        self, rows: Dataset, run: Run, earlier: Dataset | None, refuse: tuple[Step, ...]
    ) -> tuple[Dataset, dict[str, Any]]:
        """The prompts that the model wrote and all else that it said, and what was asked and paid for.

        Raises:
            ConfigError: no row can be an example, or a rule lacks a column.
            Stopped: the run's hours or the writer's budget are over; what was paid for is kept.
            HfdsError: the writer is gone, or answers nothing; what was paid for is kept.
        """
        if wrong := self.misfits(rows.features):
            raise ConfigError(*wrong)
        with Asked(self.writer, self._schema(), run) as asked:
            made, course = self._loop(rows, run, earlier, refuse, asked)
        models = ", ".join(sorted(course.models))
        said = {"into": self.into, "revision": models or None, "license": self.license, "written": course.account()}
        return made, said

    def _loop(
        self, rows: Dataset, run: Run, earlier: Dataset | None, refuse: tuple[Step, ...], asked: Asked
    ) -> tuple[Dataset, Course]:
        """Round after round."""
        requests, before = self._requests(rows), compared(self.rules, rows, run)
        course = Course(self.wanted, self.prompts, self.requests, self.least)
        known = {folded(prompt) for prompt in self.fine}
        made: list[Dataset] = []
        with tqdm(total=self.wanted, desc=self.name, unit=" prompts", disable=run.local_rank > 0 or None) as bar:
            while asked_now := self._next(course, requests, asked):
                questions = [one.question for one in asked_now]
                said = asked.all(questions, f"{self.name}, round {course.rounds + 1}")
                asked.mark(self.key(), questions, said)
                new = dataset_of(self._rows([*zip(asked_now, said, strict=True)], known))
                with no_further_bars():
                    new = ruled((*refuse, *self.rules), before, made, new, earlier, run)
                made.append(new)
                course.add(new, (one.answer for one in said if one.answer is not None))
                bar.update(min(self.wanted, sum(course.kept)) - bar.n)
                bar.set_postfix_str(course.told())
        asked.settle(self.name)
        said_of = _log.warning if course.ended == YIELD else _log.info
        said_of(
            "%s: %d of %d wanted prompts after %d requests (%s)%s",
            self.name, sum(course.kept), self.wanted, len(course.written), course.told(),
            "" if course.ended == WANTED else f": ended, as too little of what comes is new (least={self.least:g})",
        )  # fmt: skip
        return concatenate_datasets(made), course

    def _next(self, course: Course, requests: Requests, asked: Asked) -> list[Request]:
        """The requests of the next round. When it is over, those that a run before asked and paid for: where failures
        are tried again, fewer may be enough than were."""
        if course.ended is None:
            return requests.of(course.next())
        more = requests.of(range(course.at, course.at + self.requests))
        paid = asked.marked(self.key(), [one.question for one in more])
        return [one for one, there in zip(more, paid, strict=True) if there]

    def _requests(self, rows: Dataset) -> Requests:
        training = training_of(rows) if self.from_rows else np.zeros(0, np.int64)
        if self.from_rows and not len(training):
            raise ConfigError(
                f"{self.name} takes {self.from_rows} examples from the rows in train, and no kept row is in it: put "
                "Split before it, or give from_rows=0"
            )
        return Requests(
            rows.select_columns(["id", "prompt"]), training, hashes_of(rows, training), self.seed, self.fine,
            self.from_fine, self.from_rows, self.styles, self.avoid, self.prompts, self.form,
        )  # fmt: skip

    def _rows(self, asked: Sequence[tuple[Request, Said]], known: Collection[str]) -> pa.Table:
        return made_rows(
            asked, step=self.name, key=self._key(), form=self.form, known=known, label=self.label,
            license=self.license, into=self.into,
        )  # fmt: skip
