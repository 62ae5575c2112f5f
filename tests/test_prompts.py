"""Prompts: each rule and its switch, cleaning twice is cleaning once, and the first rule that fails is the reason."""

import ast
import os
import pickle
import random
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import spacy
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hfds import record
from hfds.errors import ConfigError
from hfds.run import Run
from processors.clean_prompt import V5_CLEAN, CleanPrompt
from processors.keep_prompt import V4_KEEP, V5_KEEP, KeepPrompt
from processors.language import CountPersons, DetectLanguage

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "examples/sources"
DOCS = (ROOT / "docs/prompts.md").read_text("utf-8")

TIDY: dict[str, Any] = {"punctuation": True, "whitespace": True, "ends": True}
NO_RULE = CleanPrompt(**{f.name: False if isinstance(f.default, bool) else () for f in fields(CleanPrompt)})
KEEP_ALL = KeepPrompt(
    chars=None, links=(), stop_words=(), first_person=(), unique_words=None, repeated_words=None, mean_word_length=None
)
GOOD = "a red cat sleeps on the warm roof of a house"


def rows(prompts: list[str | None], **columns: Any) -> Dataset:
    ids = [f"test/{n}" for n in range(len(prompts))]
    return Dataset(pa.table({"id": ids, "prompt": pa.array(prompts, pa.string()), **columns}))


def clean(step: CleanPrompt, *prompts: str | None) -> list[str | None]:
    return list(step(rows(list(prompts)))["prompt"])


def drop(step: KeepPrompt, prompt: str | None, **columns: Any) -> dict[str, str | None] | None:
    dropped = step(rows([prompt], **{name: [value] for name, value in columns.items()}))[0]["dropped"]
    return dropped and {name: dropped[name] for name in ("reason", "value", "threshold")}


def table(title: str) -> list[list[str]]:
    """The cells of the table in docs/prompts.md below a title, its two first lines left out."""
    lines = re.search(rf"^## {title}$.*?^\|(.*?)\n\n", DOCS + "\n\n", re.MULTILINE | re.DOTALL)
    assert lines
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1].split("\n")[2:]]


def literal(cell: str) -> Any:
    return ast.literal_eval(cell.strip("`").replace("\\|", "|"))


RULES = [(row[0].strip("`"), literal(row[2]), literal(row[3])) for row in table("CleanPrompt")]


# --- CleanPrompt


def test_docs_show_every_rule_in_order() -> None:
    assert list(dict.fromkeys(name for name, _, _ in RULES)) == [f.name for f in fields(CleanPrompt)]


@pytest.mark.parametrize("name, before, after", RULES)
def test_each_rule_and_its_switch(name: str, before: str, after: str) -> None:
    tidy = replace(NO_RULE, **(TIDY if name not in TIDY else {}))
    on = replace(tidy, **{name: getattr(V5_CLEAN, name)})

    assert clean(on, before) == [after]
    assert clean(tidy, before) != [after]
    assert clean(NO_RULE, before) == [before]


def test_null_empty_and_all_erased() -> None:
    assert clean(CleanPrompt(), None, "", " , ", "4k, HDR", "a\0b") == [None, "", "", "", "ab"]
    assert CleanPrompt()(rows([]))["prompt"][:] == []


def test_borders_of_words_know_accents_and_other_scripts() -> None:
    texts = ["hdé", "éhd", "e\u0301hd", "hd\u0301 x", "4kg", "4k高清 cat", "a_hd_b", "café hd", "hd—café", "x-n 4"]
    assert clean(CleanPrompt(), *texts) == [
        "hdé",
        "éhd",
        "e\u0301hd",
        "hd\u0301 x",
        "4kg",
        "高清 cat",
        "a_hd_b",
        "café",
        "—café",
        "x-n 4",
    ]


def test_what_one_rule_leaves_another_finds() -> None:
    texts = [
        "&amp;amp;lt;@12&gt; cat",
        "8 &#107; cat",
        "3 5 m\u200bm cat",
        "award ( 4 k ) winning cat",
        "[--height 512] cat",
    ]
    assert clean(CleanPrompt(), *texts) == ["cat", "cat", "cat", "cat", "cat"]


def test_a_word_is_not_lost_by_collapsing_repeats() -> None:
    before = [
        "new york, New York! new",
        "a b a b a b a",
        "Cat cat dog cat dog",
        "b, b, b a",
        ", , a",
        "no no repeats repeats no",
    ]
    after = ["New York! new", "a b a", "cat dog", "b a", ", , a", "no repeats no"]
    assert clean(replace(NO_RULE, repeats=True), *before) == after


def test_a_text_that_is_no_prompt_stays() -> None:
    long = "4k " * 5000
    assert clean(V5_CLEAN, long) == [long]


# --- idempotence

WORDS = (
    "a e é ſ ł _ 1 9 12345 f / . , ; : ! | - -- — ( ) [ ] & ; # amp; lt; &amp; &lt; < > <@1> k 4 8k hd u mm 35 ar "
    "16:9 iso 100 high res award winning unreal engine 5 render by and wlop artgerm artstation octane canon "
    "ƒ ， （ \u200b \u200d \xa0 \t \n \0 \u0301 猫 🐈"
)
PIECES = st.sampled_from(WORDS.split(" "))
TEXTS = st.one_of(
    st.text(),
    st.lists(PIECES).map("".join),
    st.lists(PIECES).map(" ".join),
    st.lists(st.tuples(PIECES, st.sampled_from(["", " ", "  ", ", "])).map("".join)).map("".join),
)
STEPS = st.builds(
    CleanPrompt,
    **{
        f.name: st.booleans() if isinstance(f.default, bool) else st.sampled_from([(), getattr(V5_CLEAN, f.name)])
        for f in fields(CleanPrompt)
    },
)


def assert_settled(step: CleanPrompt, prompts: pa.Array) -> None:
    once = step.columns(pa.table({"prompt": prompts}))
    twice = step.columns(once)
    assert twice["prompt"].to_pylist() == once["prompt"].to_pylist()
    longer = pc.greater(pc.utf8_length(once["prompt"]), pc.utf8_length(prompts))
    assert not pc.any(longer).as_py(), prompts.filter(longer).to_pylist()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([CleanPrompt(), V5_CLEAN]), st.lists(TEXTS, max_size=20))
def test_cleaning_twice_is_cleaning_once(step: CleanPrompt, texts: list[str]) -> None:
    assert_settled(step, pa.array(texts, pa.string()))


@settings(max_examples=100, deadline=None)
@given(STEPS, st.lists(TEXTS, max_size=20))
def test_with_any_rules_on_or_off(step: CleanPrompt, texts: list[str]) -> None:
    assert_settled(step, pa.array(texts, pa.string()))


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_a_prompt_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    for step in (V5_CLEAN, NO_RULE):
        assert clean(step, *texts) == [clean(step, text)[0] for text in texts]
    assert clean(NO_RULE, *texts) == texts
    dropped = [drop(KeepPrompt(), text) for text in texts]
    assert [d and d["reason"] for d in KeepPrompt()(rows(list(texts)))["dropped"]] == [
        d and d["reason"] for d in dropped
    ]


def test_words_are_counted_the_same_whatever_lies_in_memory_beyond_the_text() -> None:
    count = (
        "import pyarrow as pa; from datasets import Dataset; from processors.keep_prompt import KeepPrompt\n"
        "rows = Dataset(pa.table({'id': ['a/1'], 'prompt': ['iso awardf, &amp;  ']}))\n"
        "print(KeepPrompt()(rows)['dropped'][0]['reason'])"
    )
    for fill in ("0", "85", "255"):  # glibc fills what malloc gives with the complement
        memory = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_PERTURB_": fill}
        done = subprocess.run([sys.executable, "-c", count], env=os.environ | memory, capture_output=True, text=True)
        assert done.stdout == "few_unique_words\n", done.stderr


def real_prompts() -> pa.Array:
    lists = [file.read_text("utf-8").splitlines() for file in sorted((SOURCES / "prompt_lists").rglob("*.txt"))]
    demo = pq.read_table(SOURCES / "diffusiondb/metadata.parquet")["prompt"].to_pylist()
    return pa.array([*demo, *(line for lines in lists for line in lines)], pa.string())


@pytest.mark.parametrize("step", [CleanPrompt(), V5_CLEAN], ids=["v4", "v5"])
def test_real_prompts_settle(step: CleanPrompt) -> None:
    prompts = real_prompts()
    assert len(prompts) > 19_000
    assert_settled(step, prompts)


def test_a_hostile_text_takes_a_pass_for_each_layer_and_ends() -> None:
    text = "award " * 400 + "winning " * 400 + "a &" + "amp;" * 500
    assert clean(CleanPrompt(), text) == ["a &"]


# --- KeepPrompt

KEPT = [  # rule, prompt, reason, value, threshold; columns
    ({"chars": (16, 256)}, "a red cat", "too_short", "9", "16", {}),
    ({"chars": (16, 256)}, "", "too_short", "0", "16", {}),
    ({"chars": (16, 256)}, "ab " * 86, "too_long", "258", "256", {}),
    ({"links": ("http", "fps")}, "see HTTPS://example.com", "link", "http", None, {}),
    ({"links": ("http", "fps")}, "video at 6 0 f p s", "link", "f p s", None, {}),
    ({"links": ("http", "fps")}, "video at 60fps", "link", "0fps", None, {}),
    ({"stop_words": ("dof",)}, "a cat, DOF, red", "stop_word", "dof", None, {}),
    ({"stop_words": ("DOF",)}, "a cat, dof", "stop_word", "dof", None, {}),
    ({"stop_words": ("shutter speed",)}, "Shutter - speed 1", "stop_word", "shutter - speed", None, {}),
    ({"stop_words": ("1/160",)}, "at 1 / 160 s", "stop_word", "1 / 160", None, {}),
    ({"stop_words": ("élan",)}, "un Élan rouge", "stop_word", "élan", None, {}),
    ({"banned": ("#", "png", "rendered with")}, "cat.PNG", "banned", "png", None, {}),
    ({"banned": ("é",)}, "cafés", "banned", "é", None, {}),
    ({"first_person": ("i'm", "i need")}, "and I’m lost", "first_person", "i’m", None, {}),
    ({"first_person": ("i'm", "i need")}, "i  need a cat", "first_person", "i  need", None, {}),
    ({"words": (4, 60)}, "a red cat", "too_few_words", "3", "4", {}),
    ({"words": (1, 3)}, "a red cat , - sleeps", "too_many_words", "4", "3", {}),
    ({"unique_words": 4}, "Cat, cat! (dog) bird", "few_unique_words", "3", "4", {}),
    ({"repeated_words": 0.55}, "a b a b a b a b", "repeated_words", "0.75", "0.55", {}),
    ({"mean_word_length": 2.5}, "a bb ccc d", "short_words", "1.75", "2.5", {}),
    ({"hyphens": 5}, "a-b-c-d-e-f-g", "too_many_hyphens", "6", "5", {}),
    ({"by": 3}, "by a by b By c by d", "too_many_by", "4", "3", {}),
    ({"commas": 9}, ",".join("abcdefghijk"), "too_many_commas", "10", "9", {}),
    ({"language": "en"}, GOOD, "other_language", "fr", "en", {"language": "fr"}),
    ({"language": "en"}, GOOD, "other_language", None, "en", {"language": pa.scalar(None, pa.string())}),
    ({"persons": 3}, "by four people", "too_many_persons", "4", "3", {"persons": 4}),
    ({"persons": 3}, "in the Style of four", "too_many_persons", "4", "3", {"persons": 4}),
]


@pytest.mark.parametrize("rule, prompt, reason, value, threshold, columns", KEPT)
def test_each_reason_and_its_switch(
    rule: dict[str, Any], prompt: str, reason: str, value: str, threshold: str, columns: dict[str, Any]
) -> None:
    assert drop(replace(KEEP_ALL, **rule), prompt, **columns) == {
        "reason": reason,
        "value": value,
        "threshold": threshold,
    }
    assert drop(KEEP_ALL, prompt) is None


@pytest.mark.parametrize(
    "rule, prompt, columns",
    [
        ({"chars": (16, 256)}, "ab " * 85 + "a", {}),
        ({"chars": (3, 3)}, "éa猫", {}),
        ({"links": ("http", "fps")}, "portrait of psychedelic art", {}),
        ({"stop_words": ("canon", "dof")}, "canonical cannon dofus canoné", {}),
        ({"first_person": ("i'm", "i need")}, "hawaii need, aïi'm", {}),
        ({"unique_words": 4, "words": (4, 4)}, "a b c d", {}),
        ({"repeated_words": 0.5}, "a b a b", {}),
        ({"mean_word_length": 2.5}, "aa bbb", {}),
        ({"by": 0}, "baby byé standby", {}),
        ({"commas": 9, "hyphens": 0}, ",".join("abcdefghij"), {}),
        ({"language": "en"}, GOOD, {"language": "en"}),
        ({"persons": 3}, "four people", {"persons": 4}),
        ({"persons": 3}, "by three", {"persons": 3}),
        ({"persons": 3}, "by nobody knows", {"persons": pa.scalar(None, pa.int32())}),
    ],
)
def test_at_the_limit_a_prompt_stays(rule: dict[str, Any], prompt: str, columns: dict[str, Any]) -> None:
    assert drop(replace(KEEP_ALL, **rule), prompt, **columns) is None


def test_docs_list_every_field_and_reason_in_order() -> None:
    names = [row[0].strip("`") for row in table("KeepPrompt")]
    reasons = [name for row in table("KeepPrompt") for name in re.findall(r"`(\w+)`", row[3])]
    assert names == ["", *(f.name for f in fields(KeepPrompt))]
    assert reasons == ["no_prompt", *dict.fromkeys(reason for _, _, reason, *_ in KEPT)]


def test_the_first_rule_that_fails_is_the_reason() -> None:
    step = replace(V4_KEEP, words=(4, 60))
    nothing, english = pa.scalar(None, pa.string()), "en"
    assert drop(step, None, language=nothing) == {"reason": "no_prompt", "value": None, "threshold": None}
    assert drop(KEEP_ALL, None) == {"reason": "no_prompt", "value": None, "threshold": None}
    assert [
        drop(step, prompt, language=language)["reason"]
        for prompt, language in [
            ("http a", nothing),
            ("http canon i need a a a", nothing),
            ("canon i need a a a a a", nothing),
            ("i need a a a a a a a a a", nothing),
            ("aaaaaaaaaaaa bbbbbbbbbbb", nothing),
            ("a a a a a a a a a a a a", english),
            ("aa bb c d d d d d d d d d d d", english),
            ("a bb c ddd e ffff g hh i", nothing),
            (GOOD, nothing),
        ]
    ] == [
        "too_short", "link", "stop_word", "first_person", "too_few_words", "few_unique_words", "repeated_words",
        "short_words", "other_language",
    ]  # fmt: skip


def test_needs_depend_on_the_rules() -> None:
    assert KeepPrompt().needs == ("prompt",)
    assert V4_KEEP.needs == ("prompt", "language")
    assert V5_KEEP.needs == ("prompt", "language", "persons")
    with pytest.raises(KeyError, match="'language'"):
        V5_KEEP(rows([GOOD]))


@pytest.mark.parametrize(
    "step, problem",
    [
        (CleanPrompt(hd="no"), "CleanPrompt: hd must be True or False, got 'no'"),
        (CleanPrompt(words=["a"]), "CleanPrompt: words must be a tuple of phrases that begin"),
        (CleanPrompt(artists=("",)), "CleanPrompt: artists must be"),
        (CleanPrompt(sites=("_x",)), "CleanPrompt: sites must be"),
        (KeepPrompt(chars=(9, 3)), "KeepPrompt: chars must be None or two whole numbers"),
        (KeepPrompt(words=(True, 3)), "KeepPrompt: words must be"),
        (KeepPrompt(banned=(" ",)), "KeepPrompt: banned must be a tuple of phrases that are not blank"),
        (KeepPrompt(links="http"), "KeepPrompt: links must be"),
        (KeepPrompt(hyphens=-1), "KeepPrompt: hyphens must be None or a whole number from 0"),
        (KeepPrompt(repeated_words=55), "KeepPrompt: repeated_words must be None or a number from 0 to 1"),
        (KeepPrompt(mean_word_length=float("nan")), "KeepPrompt: mean_word_length must be"),
        (KeepPrompt(language="e"), "KeepPrompt: language must be None or a code such as 'en'"),
        (DetectLanguage(seed=-1), "DetectLanguage: seed must be a whole number from 0, got -1"),
        (CountPersons(model=""), "CountPersons: model must be the name"),
    ],
)
def test_problems_are_named(step: Any, problem: str) -> None:
    (found,) = step.problems()
    assert found.startswith(problem)
    if isinstance(step, CleanPrompt | KeepPrompt):
        with pytest.raises(ConfigError, match=re.escape(problem)):
            step(rows([GOOD], language=["en"]))


def test_presets_have_no_problems_and_can_be_printed_compared_and_hashed() -> None:
    for step in (CleanPrompt(), V5_CLEAN, KeepPrompt(), V4_KEEP, V5_KEEP, DetectLanguage(), CountPersons()):
        assert step.problems() == []
        assert step == replace(step)
        assert hash(step) == hash(replace(step))
        assert step.name in step.key()


# --- in a dataset


def test_dropped_rows_are_not_touched() -> None:
    dropped = record.drops("Earlier", 3, ["bad", None, "bad"])
    given = rows(["4k cat", "4k cat", None], dropped=dropped)

    cleaned = CleanPrompt()(given)
    kept = KeepPrompt()(cleaned)

    assert cleaned["prompt"][:] == ["4k cat", "cat", None]
    assert [d and (d["step"], d["reason"]) for d in kept["dropped"]] == [
        ("Earlier", "bad"),
        ("KeepPrompt", "too_short"),
        ("Earlier", "bad"),
    ]


@pytest.mark.parametrize(
    "clean_step, keep_step", [(CleanPrompt(), KeepPrompt()), (V5_CLEAN, replace(V5_KEEP, persons=None, language=None))]
)
def test_by_hand_and_on_two_processes_it_is_the_same(
    tmp_path: Path, clean_step: CleanPrompt, keep_step: KeepPrompt
) -> None:
    prompts = real_prompts().slice(0, 12_000)
    rows(prompts.to_pylist()).save_to_disk(tmp_path / "rows")
    given = Dataset.load_from_disk(tmp_path / "rows")

    by_hand = keep_step(clean_step(given))
    run = Run.here(tmp_path / "run", num_proc=2)
    shared = keep_step(clean_step(given, run), run)

    assert len(given) > 10_000, "more than a batch, so that two processes share it"
    assert shared.to_dict() == by_hand.to_dict()
    assert by_hand["id"][:] == given["id"][:]


# --- language and persons

SENTENCES = [
    "a red cat sleeps on the roof of the house",
    "ein roter Kater schläft auf dem Dach des Hauses",
    "123 !",
    "",
    None,
]


def test_languages_do_not_depend_on_order_neighbours_or_process() -> None:
    demo = real_prompts().slice(0, 60).to_pylist()
    shuffled = random.Random(1).sample(demo, len(demo))
    found = dict(zip(demo, DetectLanguage()(rows(demo))["language"], strict=True))
    again = dict(zip(shuffled, pickle.loads(pickle.dumps(DetectLanguage()))(rows(shuffled))["language"], strict=True))

    assert found == again
    assert DetectLanguage()(rows(SENTENCES))["language"][:] == ["en", "de", None, None, None]


def test_language_goes_into_keep_prompt() -> None:
    kept = V4_KEEP(DetectLanguage()(rows([GOOD, SENTENCES[1]])))
    assert [d and d["value"] for d in kept["dropped"]] == [None, "de"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("spacy") / "people"
    people = spacy.blank("en")
    names = [{"label": "PERSON", "pattern": name} for name in ("Frida Kahlo", "Ada Lovelace")]
    people.add_pipe("entity_ruler").add_patterns([*names, {"label": "ORG", "pattern": "Pixar"}])
    people.to_disk(folder)
    return str(folder)


def test_persons_are_counted_each_time_they_are_named(pipeline: str) -> None:
    prompts = ["by Frida Kahlo, Ada Lovelace and Frida Kahlo at Pixar", "a cat", "", None, "x" * 2_000_000]
    made = CountPersons(pipeline)(rows(prompts))

    assert made["persons"][:] == [3, 0, 0, None, 0]
    assert [d and d["value"] for d in replace(KEEP_ALL, persons=2)(made)["dropped"]] == ["3", None, None, None, None]


def test_what_is_loaded_is_not_part_of_the_step(pipeline: str) -> None:
    step = CountPersons(pipeline)
    step(rows([GOOD]))
    assert step == CountPersons(pipeline)
    assert len(pickle.dumps(step)) < 1000
    assert pickle.loads(pickle.dumps(step)) == step


def test_a_pipeline_that_is_missing_or_useless_is_named(tmp_path: Path) -> None:
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match="python -m spacy download xx_nowhere"):
        CountPersons("xx_nowhere")(rows([GOOD]))
    with pytest.raises(ConfigError, match=r"that finds entities, got .* with the components none"):
        CountPersons(str(tmp_path / "blank"))(rows([GOOD]))


@pytest.mark.parametrize("package, step", [("langdetect", "DetectLanguage"), ("spacy", "CountPersons")])
def test_what_is_not_installed_is_named_with_its_extra(package: str, step: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import pyarrow, processors.language as language\n"
        "from hfds.batch import Batch\n"
        f"language.{step}().prepare(Batch(pyarrow.table({{'prompt': ['a cat']}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.strip().endswith(f"{step} needs {package}: pip install 'hfds[language]'")
