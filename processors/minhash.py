"""MinHash: signatures of prompts, by which near-duplicates are found among many without comparing all of them.

What a signature is, and how two are compared: `processors.duplicates.minhash`. `MarkDuplicates(of="prompt_minhash",
above=0.7)` compares the prompts themselves wherever their signatures agree in part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features, List, Value

from hfds.annotator import ModelAnnotator
from hfds.batch import Batch
from processors.duplicates.minhash import signatures
from processors.duplicates.shingles import shingles


@dataclass(frozen=True)
class MinHashPrompt(ModelAnnotator):
    """`prompt_minhash`: the MinHash signature of a prompt's runs of words, `permutations` numbers of uint32. Of runs of
    other than three words the column has their number behind its name, `prompt_minhash5`.

    Null for a prompt without words, such as "!?", which has nothing to be compared by.

    Args:
        permutations: numbers in a signature; more find more of the pairs.
        words: in a run.
        seed: of the permutations. Signatures of different seeds have nothing in common.
    """

    batch_size: ClassVar[int] = 4096

    permutations: int = 128
    words: int = 3
    seed: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt",)

    @property
    def adds(self) -> Features:
        return Features({self._column: List(Value("uint32"), length=self.permutations)})

    @property
    def means(self) -> Mapping[str, str]:
        return {self._column: f"MinHash signature of the prompt's runs of {self.words} words"}

    @property
    def _column(self) -> str:
        return "prompt_minhash" + (str(self.words) if self.words != 3 else "")

    def problems(self) -> list[str]:
        found = []
        if type(self.permutations) is not int or not 1 <= self.permutations <= 4096:
            found.append(f"{self.name}: permutations must be 1 to 4096, got {self.permutations!r}")
        if type(self.words) is not int or self.words < 1:
            found.append(f"{self.name}: words must be a whole number from 1, got {self.words!r}")
        if type(self.seed) is not int or self.seed < 0:
            found.append(f"{self.name}: seed must be a whole number from 0, got {self.seed!r}")
        return found

    def prepare(self, batch: Batch) -> list[np.ndarray | None]:
        sets = shingles(batch.table["prompt"].combine_chunks(), self.words)
        made = signatures(sets, self.permutations, self.seed)
        return [row if size else None for row, size in zip(made, sets.sizes.tolist(), strict=True)]

    def annotate(self, model: None, items: list[np.ndarray | None]) -> pa.Table:
        schema = self.adds.arrow_schema
        there = np.array([item is not None for item in items], bool)
        numbers = np.zeros((len(items), self.permutations), np.uint32)
        numbers[there] = [item for item in items if item is not None] or numbers[:0]
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(numbers.ravel()), type=schema.field(self._column).type, mask=pa.array(~there)
        )
        return pa.table({self._column: column}, schema)
