"""MarkDuplicates over everything that it compares: which rows stay, who their partners are, and how similar."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value
from fixtures.toy import Toy

from hfds import Input, Release
from hfds.errors import ConfigError
from hfds.record import FEATURES
from hfds.release import GIVEN
from hfds.run import Run
from processors.dedup import MarkDuplicates
from processors.duplicates.alike import Alike
from processors.minhash import MinHashPrompt
from processors.split import Split

WORDS = "one two three four five six seven eight nine ten eleven"
V1 = Release("toys", "v1", (Input(Toy),))
TEXTS = [WORDS, WORDS + " twelve", "a cat on a mat", "One, two, three " + WORDS[14:], None, "", "another thing"]


def rows(**columns: Any) -> Dataset:
    count = len(next(iter(columns.values())))
    return Dataset.from_dict({"id": [f"toy/{n}" for n in range(count)], **columns})


def vectors(*angles: float) -> Dataset:
    """Rows with embeddings in two dimensions, at these degrees."""
    turns = np.radians(np.array(angles))
    features = Features({"id": Value("string"), "embedding": List(Value("float32"), length=2)})
    points = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    return Dataset.from_dict({"id": [f"toy/{n}" for n in range(len(angles))], "embedding": points.tolist()}, features)


def partners(made: Dataset) -> list[str | None]:
    return [dropped and dropped["partner"] for dropped in made["dropped"]]


def values(made: Dataset) -> list[str | None]:
    return [dropped and dropped["value"] for dropped in made["dropped"]]


def test_texts_by_the_share_of_their_shingles() -> None:
    made = MarkDuplicates(above=0.7)(rows(prompt=TEXTS))
    assert partners(made) == [None, "toy/0", None, "toy/0", None, None, None]
    assert values(made) == [None, "0.9", None, "1", None, None, None]
    assert made["dropped"][1] == {
        "step": "MarkDuplicates", "reason": "duplicate_prompt", "value": "0.9", "threshold": "0.7", "partner": "toy/0",
        "partner_in": None,
    }  # fmt: skip
    assert partners(MarkDuplicates(above=0.95)(rows(prompt=TEXTS))) == [None, None, None, "toy/0", None, None, None]
    assert partners(MarkDuplicates()(rows(prompt=TEXTS))) == [None, None, None, "toy/0", None, None, None]


def test_embeddings_by_their_cosine() -> None:
    pytest.importorskip("torch")
    made = MarkDuplicates("embedding", above=0.9)(vectors(0, 20, 40, 60, 0))
    assert partners(made) == [None, "toy/0", None, "toy/2", "toy/0"], "the second is gone, so the third stays"
    assert [value and round(float(value), 4) for value in values(made)] == [None, 0.9397, None, 0.9397, 1]


def test_many_embeddings_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    given = vectors(0, 20, 40, 60, 0).add_column("score", [0, 1, 2, 3, 4])
    step = MarkDuplicates("embedding", above=0.9, keep="best", best=("score",))
    expected = partners(step(given))
    monkeypatch.setattr("processors.duplicates.comparison.IN_MEMORY", 0)
    run = Run.here(tmp_path)
    assert partners(step(given, run)) == expected
    assert [file.suffix for file in run.steps.iterdir()] == [".arrow"], "neither vectors nor a journal are left"


def test_hashes_by_their_bits(tmp_path: Any) -> None:
    hashes = pa.array([0, 0b111, 2**64 - 1, None], pa.uint64())
    given = Dataset(pa.table({"id": ["a", "b", "c", "d"], "perceptual_hash": hashes}))
    made = MarkDuplicates("perceptual_hash", within=3)(given, Run.here(tmp_path))
    assert partners(made) == [None, "a", None, None]
    assert values(made)[1] == f"{1 - 3 / 64:.6g}"
    assert partners(MarkDuplicates("perceptual_hash", within=2)(given)) == [None] * 4


@pytest.mark.parametrize(
    "keep, expected",
    [
        ("first", [None, "toy/0", None, "toy/2", None]),
        ("cluster", [None, "toy/0", "toy/0", "toy/0", None]),
        ("none", ["toy/1", "toy/0", "toy/1", "toy/2", None]),
    ],
)
def test_which_row_stays(keep: str, expected: list[str | None]) -> None:
    pytest.importorskip("torch")
    chain = vectors(0, 20, 40, 60, 180)
    assert partners(MarkDuplicates("embedding", above=0.9, keep=keep)(chain)) == expected
    if keep == "cluster":
        apart = values(MarkDuplicates("embedding", above=0.9, keep=keep)(chain))
        assert [value and round(float(value), 2) for value in apart] == [None, 0.94, 0.77, 0.5, None]
    if keep == "none":
        twice = rows(prompt=["a", "b", "a", "c", "a"])
        assert partners(MarkDuplicates(keep=keep)(twice)) == ["toy/2", None, "toy/0", None, "toy/0"]


STYLE = "behance by jesper ejsing, by rhads, makoto shinkai and lois van baarle, ilya kuvshinov, rossdraws global"
WORLDS = ["fantasy elven forest", *(f"hero world {name}" for name in ("warcraft", "mad max")), "medieval town"]
WORLDS += [f"hero world {name}" for name in ("naruto", "blazing saddles")]


def test_the_prompts_of_the_documentation() -> None:
    worlds = rows(prompt=[f"{world}, {STYLE} illumination" for world in WORLDS])
    made = {keep: MarkDuplicates(above=0.7, keep=keep)(worlds) for keep in ("first", "cluster", "none")}
    assert partners(made["first"]) == [None, "toy/0", None, "toy/0", "toy/0", None]
    assert [value and round(float(value), 2) for value in values(made["first"])] == [None, 0.71, None, 0.75, 0.71, None]
    assert partners(made["cluster"]) == [None, *["toy/0"] * 5]
    assert None not in partners(made["none"])


def test_texts_by_their_signatures() -> None:
    given = MinHashPrompt()(rows(prompt=TEXTS))
    made = MarkDuplicates("prompt_minhash", above=0.7)(given)
    assert partners(made) == partners(MarkDuplicates(above=0.7)(given))
    assert values(made) == [None, "0.9", None, "1", None, None, None]
    assert made["dropped"][1]["reason"] == "duplicate_prompt_minhash"
    pairs = Dataset.from_dict({"id": ["a", "b"], "prompt": [WORDS, WORDS + " x y"]})
    for words, similarity in ((2, 10 / 12), (5, 7 / 9)):
        step = MarkDuplicates(f"prompt_minhash{words}", above=0.1)
        (value,) = values(step(MinHashPrompt(words=words)(pairs)))[1:]
        assert float(value or 0) == pytest.approx(similarity, abs=1e-5)
    with pytest.raises(ConfigError, match=r"column .prompt_minhash. is .*, wanted texts"):
        MarkDuplicates("prompt_minhash")(given)
    with pytest.raises(KeyError, match="needs the column 'prompt'"):
        MarkDuplicates("prompt_minhash", above=0.7)(given.remove_columns(["prompt"]))


def test_several_columns_at_once() -> None:
    given = rows(
        prompt=[WORDS, WORDS + " twelve", WORDS, "else", None, "ELSE"], image_hash=["x", "x", "y", "z", "z", None]
    )
    parts = (Alike(above=0.8), Alike("image_hash"))
    both, either = (MarkDuplicates(of=parts, match=match)(given) for match in ("both", "either"))
    assert partners(both) == [None, "toy/0", None, None, None, None]
    assert partners(either) == [None, "toy/0", "toy/0", None, "toy/3", "toy/3"]
    assert values(both)[1] == "0.9"
    assert values(either)[1] == "1"
    assert both["dropped"][1]["reason"] == "duplicate_prompt_and_image_hash"
    assert either["dropped"][1]["reason"] == "duplicate_prompt_or_image_hash"
    assert either["dropped"][1]["threshold"] == "0.8"
    kept = {keep: MarkDuplicates(of=parts, keep=keep)(given) for keep in ("cluster", "none")}
    assert partners(kept["cluster"]) == [None, "toy/0", "toy/0", None, "toy/3", "toy/3"]
    assert partners(kept["none"]) == ["toy/1", "toy/0", "toy/0", "toy/4", "toy/3", "toy/3"]
    assert values(kept["cluster"]) == [None, "1", "1", None, "1", "1"]
    scored = given.add_column("score", [0.0, 1, 2, 0, 1, 2])
    assert partners(MarkDuplicates(of=parts, keep="best", best=("score",))(scored)) == [
        "toy/2", "toy/2", None, "toy/5", None, None,
    ]  # fmt: skip


def test_rows_that_only_others_connect_may_have_nothing_to_compare() -> None:
    given = rows(prompt=[WORDS, WORDS, None, "!!", "??"], image_hash=[None, "x", "x", "y", "y"])
    made = MarkDuplicates(of=(Alike(above=0.8), Alike("image_hash")), keep="cluster")(given)
    assert partners(made) == [None, "toy/0", "toy/0", None, "toy/3"]
    assert values(made) == [None, "1", "0", None, "1"]


def test_several_columns_against_an_earlier_release() -> None:
    there = Dataset.from_dict(
        {"id": ["old/1"], "release": ["toys/v1"], "split": ["train"], "prompt": [WORDS], "image_hash": ["x"]}
    )
    given = rows(prompt=[WORDS, WORDS, "else"], image_hash=["x", "y", "x"])
    for match, expected in (("both", ["old/1", None, None]), ("either", ["old/1"] * 3)):
        step = MarkDuplicates(of=(Alike(above=0.8), Alike("image_hash")), match=match, against=(V1,))
        assert partners(step(given, earlier=there)) == expected


def test_the_best_row_stays() -> None:
    given = rows(prompt=["a", "A", "b", "a!", "B"], score=[1.0, 3.0, 0.5, None, 0.5], source=["x", "y", "x", "z", "y"])
    assert partners(MarkDuplicates(keep="best", best=("score",))(given)) == ["toy/1", None, None, "toy/1", "toy/2"]
    assert partners(MarkDuplicates(keep="best", best=("source", "score"))(given)) == [
        None, "toy/0", None, "toy/0", "toy/2",
    ]  # fmt: skip


def test_train_gives_way_to_validation_or_the_other_way_round() -> None:
    given = rows(prompt=["a", "a", "b", "b", "c"], split=["train", "validation", "train", "train", "validation"])
    assert partners(MarkDuplicates(against=("split:validation",))(given)) == ["toy/1", None, None, None, None]
    assert partners(MarkDuplicates(against=("split:train",))(given)) == [None, "toy/0", None, None, None]
    near = rows(prompt=[WORDS, WORDS, WORDS + " twelve"], split=["train", "train", "test"])
    assert partners(MarkDuplicates(above=0.8, against=("split:test",))(near)) == ["toy/2", "toy/2", None]
    assert partners(MarkDuplicates(against=("split:validation",))(near)) == [None] * 3, "which has no rows here"


def test_one_input_gives_way_to_another() -> None:
    given = rows(prompt=["a", "a", "b", "b", "b"], input=["x/a", "y/a", "x/a", "x/a", "y/a"])
    assert partners(MarkDuplicates(against=("input:y/a",))(given)) == ["toy/1", None, "toy/4", "toy/4", None]
    with pytest.raises(ConfigError, match="no row is of the input 'y/b': did you mean 'y/a'"):
        MarkDuplicates(against=("input:y/b",))(given)
    with pytest.raises(ConfigError, match="no row is of the split 'vaildation'"):
        MarkDuplicates(against=("split:vaildation",))(rows(prompt=["a"], split=["validation"]))
    with pytest.raises(
        ConfigError, match="no row has a split yet: rows are compared with those of 'validation' after Sp"
    ):
        MarkDuplicates(against=("split:validation",))(rows(prompt=["a"], split=[None]).cast(SPLIT))


SPLIT = Features({"id": Value("string"), "prompt": Value("string"), "split": Value("string")})


def earlier(**columns: Any) -> Dataset:
    count = len(columns["id"])
    return Dataset.from_dict({"release": ["toys/v1"] * count, **columns})


def test_rows_of_earlier_releases() -> None:
    step = MarkDuplicates(above=0.8, against=(V1,))
    there = earlier(id=["toy/0", "old/1"], split=["train", "validation"], prompt=["z", WORDS])
    given = rows(prompt=["new", WORDS + " twelve", "one", "one", WORDS])
    made = step(given, earlier=there)
    assert partners(made) == [None, "old/1", None, None, "old/1"], "equal new rows are not compared with each other"
    assert made["dropped"][1]["partner_in"] == "toys/v1:validation"
    assert [value and round(float(value), 2) for value in values(made)] == [None, 0.9, None, None, 1.0]
    again = earlier(id=["toy/1", "toy/4"], split=["train", "train"], prompt=[WORDS, WORDS])
    assert partners(step(given, earlier=again)) == [None] * 5, "a row that was there before is not its own duplicate"
    assert partners(step(rows(prompt=[None, WORDS]), earlier=there)) == [None, "old/1"]
    for split, expected in (("validation", "old/1"), ("train", None)):
        held_back = MarkDuplicates(above=0.8, against=((V1, split),))
        assert partners(held_back(given, earlier=there)) == [None, expected, None, None, expected]
    with pytest.raises(ConfigError, match="no row of toys/v1 is of the split 'vaildation': did you mean 'validation'"):
        MarkDuplicates(against=((V1, "vaildation"),))(given, earlier=there)
    with pytest.raises(ConfigError, match="MarkDuplicates needs the rows of toys/v1"):
        step(given)


def test_the_key_of_a_step_names_earlier_releases() -> None:
    steps = [
        MarkDuplicates(),
        MarkDuplicates(against=(V1,)),
        MarkDuplicates(of=(Alike("prompt"),)),
        Split(earlier=(V1,)),
    ]
    assert len({step.key() for step in steps}) == 4
    assert all("toys/v1" in step.key() for step in (steps[1], steps[3]))
    assert MarkDuplicates(device="cuda:0").key() == MarkDuplicates().key()


def test_dropped_rows_are_nobodys_partner_and_no_rows_at_all() -> None:
    given = MarkDuplicates()(rows(prompt=["a", "a", "a"]))
    assert partners(MarkDuplicates(above=0.5)(given)) == [None, "toy/0", "toy/0"]
    for step in (MarkDuplicates(above=0.5), MarkDuplicates(keep="cluster"), MarkDuplicates(keep="none", above=0.5)):
        assert partners(step(rows(prompt=[None, ""]))) == [None, None]


@pytest.mark.parametrize(
    "step, message",
    [
        (MarkDuplicates(above=1.5), "above must be a similarity above 0 and at most 1, got 1.5"),
        (MarkDuplicates(within=40), "within must be 0 to 16 bits, got 40"),
        (MarkDuplicates(above=0.5, within=3), "give one of them"),
        (MarkDuplicates(keep="last"), "keep must be one of first, best, cluster, none, got 'last'"),
        (MarkDuplicates(keep="best"), "keep='best' and the columns in best belong together"),
        (MarkDuplicates(against=("sets",)), "against must be a tuple of releases, (release, split), 'split:<name>'"),
        (MarkDuplicates(against=((V1, ""),)), "against must be a tuple of releases, (release, split)"),
        (MarkDuplicates(against=("split:test",), keep="none"), "so keep must be 'first', got 'none'"),
        (MarkDuplicates(keep="best", best=("split",)), "column 'split' in best is Value('string'), wanted numbers"),
        (MarkDuplicates(match="any"), "match must be one of either, both, got 'any'"),
        (MarkDuplicates(of=()), "of must be the name of a column or a tuple of Alike(...), got ()"),
        (MarkDuplicates(of=(Alike("prompt", within=3),)), "wanted 64-bit hashes (uint64)"),
        (MarkDuplicates(of=(Alike(),), above=0.5), "above and within belong into the Alike(...) of each column"),
        (MarkDuplicates(within=3), "column 'prompt' is Value('string'), wanted 64-bit hashes (uint64)"),
        (MarkDuplicates("width", above=0.5), "column 'width' is Value('int64'), wanted texts or embeddings"),
    ],
)
def test_what_cannot_be(step: MarkDuplicates, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        step(rows(prompt=["a"], width=[1], split=["train"]))
    assert message in str(error.value)


def test_a_vector_that_is_none() -> None:
    pytest.importorskip("torch")
    broken = vectors(0, 10).map(lambda row: {"embedding": [0.0, 0.0]})
    with pytest.raises(ConfigError, match="column 'embedding' of row 'toy/0' is zero and has no direction"):
        MarkDuplicates("embedding", above=0.9)(broken)


def test_vectors_of_different_lengths() -> None:
    features = Features({"id": Value("string"), "embedding": List(Value("float32"))})
    mixed = Dataset.from_dict({"id": ["a", "b"], "embedding": [[1.0, 0.0], [1.0]]}, features)
    with pytest.raises(ConfigError, match="column 'embedding': vectors have 1 and 2 dimensions"):
        MarkDuplicates("embedding", above=0.9)(mixed)


def test_the_steps_of_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs/duplicates.md").read_text()
    there: dict[str, Any] = {}
    exec(compile(page.split("```python\n")[1].split("```")[0], "docs/duplicates.md", "exec"), there)
    known: dict[str, Any] = {**FEATURES, **GIVEN}
    for step in there["steps"]:
        assert step.problems() == []
        assert step.misfits(known) == []
        known.update(step.adds)
