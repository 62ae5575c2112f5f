"""Language and people: what a prompt is written in, and how many persons it names; KeepPrompt decides by both.

DetectLanguage is langdetect (character n-grams and naive Bayes), CountPersons the entity recogniser of a spaCy
pipeline. Both load what they need when they are first shown a prompt, and what they say of one is kept in the store.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features, Value

from hfds.annotator import ModelAnnotator
from hfds.batch import Batch
from hfds.errors import ConfigError, MissingExtra
from hfds.model import hash_of

LONGEST = 10_000  # characters that are read of a prompt; langdetect stops there too
PERSON = {"PERSON", "PER"}  # the label of the English pipelines, and that of the others


@dataclass(frozen=True)
class DetectLanguage(ModelAnnotator):
    """`language`: the ISO 639-1 code of a prompt ("zh-cn" and "zh-tw" for Chinese), null where it has no letters.

    The same text gives the same answer in any order and any process: langdetect samples n-grams at random, and here
    each text starts from `seed`, in a factory of its own instead of langdetect's global one.

    Raises:
        MissingExtra: langdetect is not installed.
    """

    seed: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt",)

    @property
    def adds(self) -> Features:
        return Features({"language": Value("string")})

    @property
    def means(self) -> Mapping[str, str]:
        return {"language": "of the prompt, ISO 639-1; null where it has no letters"}

    def problems(self) -> list[str]:
        right = type(self.seed) is int and self.seed >= 0
        return [] if right else [f"DetectLanguage: seed must be a whole number from 0, got {self.seed!r}"]

    def prepare(self, batch: Batch) -> list[str | None]:
        return [self._language(text[:LONGEST]) for text in batch.texts("prompt")]

    def annotate(self, model: None, items: list[str | None]) -> pa.Table:
        return pa.table({"language": items}, self.adds.arrow_schema)

    def key(self) -> str:
        return f"{super().key()} {_installed('langdetect')}"

    def __getstate__(self) -> dict[str, Any]:
        return asdict(self)  # without what is loaded

    def _language(self, text: str) -> str | None:
        detector = self._factory.create()  # or MissingExtra
        from langdetect.lang_detect_exception import LangDetectException

        try:
            detector.append(text)
            return str(detector.detect())
        except LangDetectException:  # nothing in it that a language could be told by
            return None

    @cached_property
    def _factory(self) -> Any:
        try:
            from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory
        except ImportError:
            raise MissingExtra("DetectLanguage", "langdetect", "language") from None
        factory = DetectorFactory()
        factory.set_seed(self.seed)
        # Sorted: langdetect takes them in the order of the directory, which is the file system's.
        factory.load_json_profile([file.read_text("utf-8") for file in sorted(Path(PROFILES_DIRECTORY).iterdir())])
        return factory


@dataclass(frozen=True)
class CountPersons(ModelAnnotator):
    """`persons`: how many persons a prompt names, each time it names them; `model` is a spaCy pipeline or its folder.

    Raises:
        MissingExtra: spaCy is not installed.
        ConfigError: the pipeline is not installed, or finds no entities.
    """

    model: str = "en_core_web_sm"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt",)

    @property
    def adds(self) -> Features:
        return Features({"persons": Value("int32")})

    @property
    def means(self) -> Mapping[str, str]:
        return {"persons": "how many persons the prompt names"}

    def problems(self) -> list[str]:
        right = isinstance(self.model, str) and self.model.strip()
        return [] if right else [f"CountPersons: model must be the name of a spaCy pipeline, got {self.model!r}"]

    def prepare(self, batch: Batch) -> list[int]:
        documents = self._pipeline.pipe([text[:LONGEST] for text in batch.texts("prompt")])
        return [sum(entity.label_ in PERSON for entity in document.ents) for document in documents]

    def annotate(self, model: None, items: list[int]) -> pa.Table:
        return pa.table({"persons": items}, self.adds.arrow_schema)

    def key(self) -> str:
        folder = Path(self.model)
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
        return f"{super().key()} {hash_of(files) if files else _installed(self.model)}"

    def __getstate__(self) -> dict[str, Any]:
        return asdict(self)

    @cached_property
    def _pipeline(self) -> Any:
        try:
            import spacy
        except ImportError:
            raise MissingExtra("CountPersons", "spacy", "language") from None
        try:
            pipeline = spacy.load(self.model, exclude=["parser", "attribute_ruler", "lemmatizer", "tagger"])
        except OSError as error:
            raise ConfigError(
                f"CountPersons needs the spaCy pipeline {self.model!r}, which cannot be loaded "
                f"({str(error).splitlines()[0]}): python -m spacy download {self.model}"
            ) from None
        if not any("doc.ents" in pipeline.get_pipe_meta(name).assigns for name in pipeline.pipe_names):
            raise ConfigError(
                f"CountPersons needs a spaCy pipeline that finds entities, got {self.model!r} with the components "
                f"{', '.join(pipeline.pipe_names) or 'none'}: try en_core_web_sm"
            )
        return pipeline


def _installed(package: str) -> str:
    """The release of a package that gives the answers; "" where it is not installed."""
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):
        return ""
