"""New prompts from a language model: what is asked, what answers become, what is new, and what is never paid twice."""

import json
import logging
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, List, Value, load_dataset
from fixtures import toy, written
from fixtures.launched import ended, launch
from fixtures.toy import Toy
from fixtures.voices import Compass
from fixtures.writers import FAULTS, Scribe, paid, prompts
from hypothesis import given
from hypothesis import strategies as st

from hfds import Input, Release, Run, build
from hfds.check import check
from hfds.commands.building import _told
from hfds.errors import ConfigError, HfdsError, OutOfSpace, Stopped, WriterError
from hfds.explain import explain
from hfds.journal import Journal, abandoned
from hfds.lock import answers_in_use
from hfds.plan import plan
from hfds.release import Built, forget_failures
from hfds.withdrawn import Tombstone, write_withdrawn
from hfds.writer import Answer, Opened, Usage
from processors.augment import AugmentPrompts
from processors.augmenting.answers import FAULTS as FAULT_NAMES
from processors.augmenting.answers import Part, fault, folded, parts
from processors.augmenting.asked import Asked, keys_of
from processors.augmenting.fine import FINE
from processors.augmenting.requests import drawn, lowest
from processors.clean_prompt import CleanPrompt
from processors.dedup import MarkDuplicates
from processors.keep_prompt import KeepPrompt
from processors.repeat import Repeat
from processors.split import Split

RULES = (CleanPrompt(), KeepPrompt(), MarkDuplicates("prompt"))
COLUMNS = ("prompt", "captions", "source", "source_revision", "license", "lineage")
LINES = [(f"{n:03d}", f"the {n}th prompt of somebody who paints, with many words") for n in range(40)]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return toy.write(tmp_path / "sources", a=LINES)


def step(**changes: Any) -> AugmentPrompts:
    given = {"writer": Scribe(), "wanted": 60, "requests": 8, "rules": RULES, "license": "CC0-1.0", **changes}
    return AugmentPrompts(**given)


def release(augment: AugmentPrompts, *behind: Any, name: str = "v1", **changes: Any) -> Release:
    given = {"columns": COLUMNS, **changes}
    return Release("toys", name, (Input(Toy),), (Split(0.3), augment, *behind), **given)


def made(release: Release, tmp_path: Path, sources: Path, work: str = "work", out: str = "dist") -> Built:
    return build(release, Run.here(tmp_path / work), sources=sources, out=tmp_path / out)


def rows_of(built: Built) -> list[dict[str, Any]]:
    loaded = load_dataset(str(built.folder), built.release.name)
    return [{**row, "split": split} for split, rows in loaded.items() for row in rows]


def ledger_of(built: Built) -> list[dict[str, Any]]:
    return [*load_dataset(str(built.folder), f"{built.release.name}-ledger", split="train")]


@pytest.mark.parametrize(
    "text, finish, expected",
    [
        ("a fox\n\n  an owl \n", "stop", [("a fox", None), ("  an owl ", None)]),
        ("1. a fox\n2) an owl\n- a cat\n* a dog\n3d render of a cube\nJ. R. Ewing", "stop",
         [("1. a fox", "numbering"), ("2) an owl", "numbering"), ("- a cat", "numbering"), ("* a dog", "numbering"),
          ("3d render of a cube", None), ("J. R. Ewing", None)]),
        ('"a fox"\n“an owl”\n"The End" on a page', "stop",
         [('"a fox"', "quotes"), ("“an owl”", "quotes"), ('"The End" on a page', None)]),
        ("Sure! Here they are:\na fox\nI hope you like these!", "stop",
         [("Sure! Here they are:", "preamble"), ("a fox", None), ("I hope you like these!", "preamble")]),
        ("I'm sorry, but I can't do that.", "stop", [("I'm sorry, but I can't do that.", "refused")]),
        ("As an AI language model I cannot paint", "stop", [("As an AI language model I cannot paint", "refused")]),
        ("a fox\nan owl in the", "length", [("a fox", None), ("an owl in the", "cut")]),
        ("a FOX  asleep.", "stop", [("a FOX  asleep.", "example")]),
        ("", "stop", [("", "empty_answer")]),
        ("", "length", [("", "cut")]),
        ("I won't", "refusal", [("I won't", "refused")]),
        ("", "content_filter", [("", "filtered")]),
    ],
)  # fmt: skip
def test_lines_taken_apart(text: str, finish: str, expected: list[tuple[str, str | None]]) -> None:
    assert parts(text, finish, "lines", {"a fox asleep"}) == [Part(*one) for one in expected]


def test_a_word_in_brackets_is_no_thought() -> None:
    found = parts("a robot [think] bubble\nan owl", "stop", "lines", ())
    assert found == [Part("a robot [think] bubble"), Part("an owl")]


@pytest.mark.parametrize("example", ["\uff21 fox\uff01", "a fox \u200d asleep", "a f\u00adox"])
def test_an_example_is_known_again_in_any_letters(example: str) -> None:
    assert fault(example, {folded(example)}) == "example"


@pytest.mark.parametrize(
    "text, finish, expected",
    [
        ('{"prompts": ["a fox", "an owl"]}', "stop", [("a fox", None), ("an owl", None)]),
        ('{"prompts": ["a fox", 7, null, " "]}', "stop",
         [("a fox", None), ("7", "wrong_json"), ("null", "wrong_json"), (" ", "blank")]),
        ('{"prompts": ["1. a fox", "a fox asleep"]}', "stop", [("1. a fox", "numbering"), ("a fox asleep", "example")]),
        ('{"prompts": []}', "stop", [('{"prompts": []}', "empty_answer")]),
        ('{"prompts": "a fox"}', "stop", [('{"prompts": "a fox"}', "wrong_json")]),
        ('{"prompts": ["a fox"], "more": 1}', "stop", [('{"prompts": ["a fox"], "more": 1}', "wrong_json")]),
        ('["a fox"]', "stop", [('["a fox"]', "wrong_json")]),
        ('Sure, here is JSON: {"prompts": []}', "stop", [('Sure, here is JSON: {"prompts": []}', "preamble")]),
        ('```json\n{"prompts": []}\n```', "stop", [('```json\n{"prompts": []}\n```', "preamble")]),
        ("I cannot help with that", "stop", [("I cannot help with that", "refused")]),
        ("a fox", "stop", [("a fox", "not_json")]),
        ('{"prompts": ["a fox", "an ow', "length", [("a fox", None), ('"an ow', "cut")]),
        ('{"prompts": ["a fox", ', "length", [("a fox", None)]),
        ('{"prompts": ["a fox"', "length", [("a fox", None)]),
        ('{"prom', "length", [('{"prom', "cut")]),
        ('{"prompts": ["a fox", {"an', "length", [("a fox", None), ('{"an', "cut")]),
        ('{"prompts": ["\\ud83d alone"]}', "stop", [("? alone", None)]),
        ('{"prompts": ["a fox\\nan owl\\na cat", "a dog\\n"]}', "stop",
         [("a fox\nan owl\na cat", "wrong_json"), ("a dog\n", None)]),
        ('{"prompts": ["a fox"], "prompts": ["an owl"]}', "stop",
         [('{"prompts": ["a fox"], "prompts": ["an owl"]}', "wrong_json")]),
        ("[" * 100_000, "stop", [("[" * 100_000, "not_json")]),
    ],
)  # fmt: skip
def test_json_taken_apart(text: str, finish: str, expected: list[tuple[str, str | None]]) -> None:
    assert parts(text, finish, "json", {"a fox asleep"}) == [Part(*one) for one in expected]


@given(st.text(), st.sampled_from(["stop", "length", "refusal", "content_filter"]))
def test_nothing_that_was_said_is_lost(text: str, finish: str) -> None:
    for form in ("lines", "json"):
        found = parts(text, finish, form, ())
        assert found
        if form == "lines" or len(found) == 1:
            said = "".join("".join(part.text.split()) for part in found)
            assert {part.fault for part in found} <= {None, *FAULT_NAMES}
            assert said == "".join(text.split()) or not text.strip()


def test_an_answer_that_its_backend_ended_is_broken_as_a_whole() -> None:
    for form in ("lines", "json"):
        assert parts('{"prompts": ["a fox"]}', "abort", form, ()) == [Part('{"prompts": ["a fox"]}', "broken_answer")]


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_of_a_cut_list_the_whole_texts_are_kept(texts: list[str], data: Any) -> None:
    whole = json.dumps({"prompts": texts})
    cut = data.draw(st.integers(0, len(whole) - 1))
    found = parts(whole[:cut], "length", "json", ())
    kept = [part.text for part in found if part.fault != "cut"]
    assert kept == texts[: len(kept)]
    rest = found[-1].text if found[-1].fault == "cut" else ""
    assert whole[:cut].endswith(rest)
    assert len(kept) >= sum(len(json.dumps({"prompts": texts[:n]})) - 2 <= cut for n in range(1, len(texts) + 1))


@pytest.mark.parametrize(
    "expected, texts",
    [
        ("refused", (
            "I apologize, but creating prompts of that kind is not something I do",
            "I apologize, but I can't help with that.", "My apologies, but no", "**I'm sorry**, no",
            "Unfortunately, this request goes against my guidelines", "This request violates the content policy",
            "Unable to comply with this request", "Sorry, this is not something I write",
        )),
        ("numbering", (
            "a. a fox", "iv. a fox", "IV. a fox", "[1] a fox", "**1.** a fox", "**Prompt 1:** a fox",
            "Prompt 2 - a fox", "#1 a fox", "1.A fox", "● a fox", "► a fox", "+ a fox", "1000. a fox", "① a fox",
            "1: a fox", "1- a fox", "ii) a fox", "\u200b1. a fox", "\ufeff- a fox", "（1）a fox", "１．a fox",
            "1、a fox", "1 . a fox", "1/ a fox", "1\\. a fox", "1 | a fox", "*1.* a fox", "-a fox", "> a fox",
            "✓ a fox", "・a fox", "Scene 1: a fox", "<li>a fox</li>",
        )),
        ("quotes", ('"a fox",', '"a fox".', "**a fox**", "'an owl's nest'", '**"a fox"**', "_a fox_",
                    '\u2060"a fox"', "<prompt>a fox</prompt>", '["a fox",', '"an owl"]', '{"prompts": ["a fox"]}')),
        ("preamble", (
            "Sure thing! Here are your prompts", "Alright, here are ten", "Sure, here you go", "Enjoy!", "---", "[",
            "{", "],", "These prompts each show one picture", "Hope these prompts help with your pictures",
            "<|im_end|>", "a fox<|im_end|>", '"prompts": [', "**Prompts**:", "****",
            "\u200bSure! Here", "Okay, so the user wants ten prompts", "We need to write 10 prompts", "Answer: a fox",
            "I'd be happy to help", "Hmm, let me think", "Ten new prompts for a model",
        )),
        (None, (
            '"an orange cat", painted in oil, "closed"', "'80s diner with a sign saying 'OPEN'", "Great, golden waves",
            "35 - a number painted on a door", "3d render of a cube", "J. R. Ewing at his desk", "2.5d city, isometric",
            "Great Wall of China at dawn", "[a fox:owl:0.5] in the snow", "(red) fox, (snow:1.2)", "a __wild__ fox",
            "an unfortunate knight", "Sorrow, a statue", "the prompter in an old theatre", "A sure-footed goat",
            "Enjoying the sun, a cat on a wall.", "80s album cover", "4k photo of a fox", "+1 on a jersey",
            "24/7 diner", "1970 | a kitchen", "9/11 memorial", "a hand-drawn <3 on a wall", "the user of a typewriter",
            "new moon, ten owls", "I will be home, a letter on a table", "[a] (fox)",
            "family of foxes \U0001f468\u200d\U0001f469",
        )),
    ],
)  # fmt: skip
def test_what_makes_a_text_no_prompt(expected: str | None, texts: tuple[str, ...]) -> None:
    assert {text: fault(text, ()) for text in texts} == dict.fromkeys(texts, expected)


def test_a_number_and_a_dash_are_numbering_where_an_answer_has_them_twice() -> None:
    listed = parts("1 - a fox\n10 - an owl\na cat", "stop", "lines", ())
    assert [part.fault for part in listed] == ["numbering", "numbering", None]
    assert [part.fault for part in parts("A. a fox\nB. an owl", "stop", "lines", ())] == ["numbering"] * 2
    assert [part.fault for part in parts("35 - a number on a door\na cat", "stop", "lines", ())] == [None, None]


def test_a_number_of_many_digits_is_looked_at_once() -> None:
    began = time.monotonic()
    assert fault("1" * 24 + " a fox", ()) is None
    assert time.monotonic() - began < 1


def test_what_a_model_thinks_is_no_prompt() -> None:
    def faults(text: str, finish: str = "stop") -> list[str | None]:
        return [part.fault for part in parts(text, finish, "lines", ())]

    assert faults("<think>\na plan\nanother\n</think>\na fox") == ["preamble"] * 4 + [None]
    assert faults("a plan\nanother\n</think>\n\na fox") == ["preamble"] * 3 + [None], "the template opened it"
    assert faults("<think>\na plan\nanot", "length") == ["preamble", "preamble", "cut"]
    assert faults("<think>short</think>\na fox") == ["preamble", None]
    for opened, closed in (("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<seed:think>", "</seed:think>")):
        assert faults(f"{opened}\na plan\n{closed}\na fox") == ["preamble"] * 3 + [None]


def test_examples_are_drawn_the_same_for_ever() -> None:
    assert drawn(1000, 5, 0, 0, "rows") == drawn(1000, 5, 0, 0, "rows") == [460, 886, 355, 540, 90]
    assert drawn(1000, 5, 0, 1, "rows") != drawn(1000, 5, 0, 0, "rows") != drawn(1000, 5, 1, 0, "rows")
    assert sorted(drawn(3, 5, 0, 0, "rows")) == [0, 1, 2], "there are no more"
    assert drawn(0, 5, 0, 0, "rows") == []
    often = Counter(at for number in range(2000) for at in drawn(10, 3, 0, number, "rows"))
    assert all(500 < count < 700 for count in often.values()), often


def test_without_a_row_only_requests_that_showed_it_are_others() -> None:
    rows = Dataset.from_dict({"id": [f"toy/{n}" for n in range(200)], "prompt": [f"prompt {n}" for n in range(200)]})
    before = step()._requests(rows).of(range(100))
    gone = before[7].examples[-1].id
    left = rows.filter(lambda row: row["id"] != gone).select([*range(100, 199), *range(100)])
    after = step()._requests(left).of(range(100))
    others = [one.number for one, then in zip(before, after, strict=True) if one != then]
    assert others == [one.number for one in before if gone in [example.id for example in one.examples]]
    assert 7 in others
    often = Counter(example.id for one in step()._requests(rows).of(range(2000)) for example in one.examples[3:])
    assert all(10 < often[id_] < 60 for id_ in rows["id"]), "each as often as the others"


def test_examples_of_many_rows_are_found_in_no_time() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64)
    began = time.monotonic()
    found = [lowest(hashes, 3, 0, number) for number in range(50)]
    assert time.monotonic() - began < 1
    assert found[0] == lowest(hashes, 3, 0, 0) != lowest(hashes, 3, 1, 0)


def test_what_is_asked(tmp_path: Path) -> None:
    gone = {"step": "x", "reason": "y"}
    rows = Dataset.from_dict(
        {
            "id": [f"toy/{n}" for n in range(5)],
            "prompt": ["a prompt in\n train", "of validation", "a dropped one", "  ", "another in train"],
            "split": ["train", "validation", "train", "train", "train"],
            "dropped": [None, None, gone, None, None],
        }
    )
    requests = step(avoid=("war", "cats"), prompts=7)._requests(rows).of(range(6))
    assert {example.id for one in requests for example in one.examples if example.id.startswith("toy")} == {
        "toy/0",
        "toy/4",
    }
    assert [len(one.examples) for one in requests] == [5] * 6, "three fine ones and the two that there are"
    text = requests[0].question.messages[-1][1]
    assert "- a prompt in train\n" in text, "on one line"
    assert "Write 7 new prompts" in text
    assert "war; cats" in text
    assert [one.style for one in requests] == [*step().styles, step().styles[0]], "styles take turns"
    assert all(one.style in one.question.messages[-1][1] for one in requests)
    assert len({one.question.seed for one in requests}) == 6
    again = step(avoid=("war", "cats"), prompts=7)._requests(rows).of([3])
    assert again == [requests[3]]
    assert step(avoid=("war", "cats"), prompts=7, seed=1)._requests(rows).of([3]) != again
    assert "JSON" in text
    assert "JSON" not in step(form="lines")._requests(rows).of([0])[0].question.messages[-1][1]


def test_a_release_with_new_prompts(tmp_path: Path, sources: Path) -> None:
    log = tmp_path / "log"
    built = made(release(step(writer=Scribe(log=str(log)))), tmp_path, sources)
    rows = [row for row in rows_of(built) if row["source"] == "augmented"]
    assert len(rows) >= 60
    assert {(row["split"], row["license"], row["source_revision"]) for row in rows} == {
        ("train", "CC0-1.0", "scribe-1@0123")
    }
    ids = {row["id"] for row in rows_of(built) if row["split"] == "train"}
    seeds = paid(log)
    for row in rows:
        lineage = row["lineage"]
        assert row["captions"][0]["text"] in prompts(lineage["seed"])
        assert lineage["seed"] in seeds
        assert [example.partition("/")[0] for example in lineage["examples"]] == ["fine"] * 3 + ["toy"] * 3
        assert set(lineage["examples"][3:]) <= ids, "no prompt of validation is an example"
    assert all(row["lineage"] is None for row in rows_of(built) if row["source"] == "toy")
    source = built.lock["sources"][-1]
    assert source["written"] == {
        "models": ["scribe-1@0123"], "requests": len(seeds), "rounds": source["written"]["rounds"],
        "kept": len(rows), "wanted": 60, "ended": "wanted", "prompt_tokens": 100 * len(seeds),
        "completion_tokens": source["written"]["completion_tokens"], "cost": 0.25 * len(seeds),
    }  # fmt: skip
    assert "scribe-1" in (built.folder / "README.md").read_text()
    assert check("toys", tmp_path / "dist") == []
    told = explain("toys", "v1", rows[0]["id"], tmp_path / "dist")
    assert told["source"]["input"] == "augmented/prompts"
    assert told["source"]["revision"] == "scribe-1@0123"
    assert "made_by AugmentPrompts" in _told(told["releases"][0])


@pytest.mark.parametrize("form", ["json", "lines"])
def test_all_that_was_said_is_accounted_for(tmp_path: Path, sources: Path, form: str) -> None:
    writer = Scribe(kinds=FAULTS, log=str(tmp_path / "log"))
    augment = step(writer=writer, form=form, wanted=150, requests=40, seed=1866)  # with it every fault comes early
    built = made(release(augment), tmp_path, sources)
    fates = [row for row in ledger_of(built) if row["input"] == "augmented/prompts"]
    asked = {}
    for line in (tmp_path / "log").read_text().splitlines():
        _, seed, text, finish = line.split("\t")
        asked[seed] = parts(json.loads(text), finish, form, ())
    failed = [row for row in fates if row["reason"] == "refused_request"]
    assert len(fates) == sum(map(len, asked.values())) + len(failed)
    assert [row["value"] for row in failed] == ["the question is too long"] * len(failed)
    assert {row["made_by"] for row in fates} == {"AugmentPrompts"}
    assert len({row["id"] for row in fates}) == len(fates)
    reasons = Counter(row["reason"] for row in fates if row["step"] == "AugmentPrompts")
    expected = {"refused", "cut", "empty_answer", "numbering", "filtered", "quotes", "example", "refused_request"}
    expected |= {"not_json", "wrong_json"} if form == "json" else {"preamble"}
    assert expected <= set(reasons)
    assert all(row["value"] for row in fates if row["reason"] in ("numbering", "quotes", "refused"))
    funnel = built.funnel[-1]
    assert funnel["rows"] == 0
    assert funnel["made"] == {"AugmentPrompts": len(fates)}
    assert len(fates) == sum(one["rows"] for one in funnel["dropped"]) + sum(funnel["kept"].values())
    assert built.lock["sources"][-1]["written"]["requests"] == len(asked) + len(failed)


def test_how_requests_are_put_into_rounds_changes_nothing(tmp_path: Path, sources: Path) -> None:
    writer = Scribe(kinds=FAULTS)
    several = made(release(step(writer=writer, requests=40)), tmp_path, sources)
    written = several.lock["sources"][-1]["written"]
    assert written["rounds"] > 1
    rows = {row["id"]: row for row in rows_of(several)}
    one = made(release(step(writer=writer, wanted=10 * 40, requests=40, least=1.0)), tmp_path, sources, "other", "once")
    first = one.lock["sources"][-1]["written"]
    assert (first["rounds"], first["requests"], first["ended"]) == (1, 40, "yield")
    assert first["requests"] > written["requests"]
    assert rows.items() <= {row["id"]: row for row in rows_of(one)}.items()


def test_new_is_what_neither_the_rows_nor_earlier_releases_have(tmp_path: Path, sources: Path) -> None:
    first = made(release(step()), tmp_path, sources)
    written = [row for row in rows_of(first) if row["lineage"]]
    held = toy.write(tmp_path / "earlier", a=[("0", written[0]["prompt"])])
    earlier = Release("toys", "v0", (Input(Toy),), columns=("prompt",))
    made(earlier, tmp_path, held)
    own = toy.write(tmp_path / "own", a=[*LINES, ("z", written[1]["prompt"])])
    against = (MarkDuplicates("prompt", against=(other,)) for other in (earlier, "split:validation"))
    rules = (*RULES, *against)
    later = made(release(step(rules=rules), name="v2"), tmp_path, own, "later")
    fates = {row["id"]: row for row in ledger_of(later)}
    partners = {row["partner"] for row in fates.values() if row["made_by"]}
    assert "toy/0" in partners
    assert {row["partner_in"] for row in fates.values() if row["partner"] == "toy/0"} == {"toys/v0:train"}
    assert "toy/z" in partners
    assert fates["toy/z"]["step"] is None, "what was there stays"
    ours = [row["prompt"].casefold() for row in rows_of(later)]
    assert len(set(ours)) == len(ours)
    assert later.lock["earlier"].keys() == {"toys/v0"}


def test_rules_compare_by_what_a_model_says(tmp_path: Path, sources: Path) -> None:
    rows = Dataset.from_dict({"id": ["toy/a", "toy/b"], "prompt": ["turned by 90", "turned by 3"]})
    rules = (Compass(log=str(tmp_path / "log")), MarkDuplicates("direction", above=0.9999))
    found = step(rules=rules, wanted=2, from_rows=1)(rows, Run.here(tmp_path / "work"))
    assert found.column_names == ["id", "prompt", "lineage", "dropped", "made"]
    new = [row for row in found if row["made"]]
    three = [row for row in new if row["prompt"].endswith(" 3")]
    assert three
    assert {row["dropped"]["partner"] for row in three} == {"toy/b"}
    assert {row["dropped"]["reason"] for row in new if row["prompt"].endswith("snow")} <= {"ValueError"}
    assert sum(row["dropped"] is None for row in new) >= 2
    assert all(row["dropped"] is None for row in found if not row["made"])


def test_what_was_there_stays_and_is_compared_with(tmp_path: Path) -> None:
    """b is like a, and would not be there after a MarkDuplicates; a new prompt that is like b alone is not new."""
    rows = Dataset.from_dict(
        {"id": ["toy/a", "toy/b"], "prompt": ["turned by -9", "turned by -3"], "other": [[1.0]] * 2}
    )
    rows = rows.cast_column("other", List(Value("float32"), length=1))
    rules = (Compass(), MarkDuplicates("direction", above=0.99))  # 8.1 degrees
    found = step(rules=rules, wanted=1)(rows)
    new = {row["prompt"].rpartition(" ")[2]: row["dropped"] for row in found if row["made"] and row["dropped"]}
    assert [(new[n] or {}).get("partner") for n in ("1", "2", "3", "4", "5")] == ["toy/b"] * 5
    assert found["other"][-1] is None


def test_by_hand_without_a_run(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"id": ["toy/a"], "prompt": ["somebody else's prompt"]})
    log = tmp_path / "log"
    found = step(writer=Scribe(log=str(log)), wanted=5)(rows)
    assert found["id"][0] == "toy/a"
    assert sum(row["dropped"] is None for row in found) >= 6
    assert len(paid(log)) == 1
    nothing = step(wanted=5, from_rows=0)(rows.select([]))
    assert len(nothing) == len(found) - 1


def test_when_little_is_new_it_ends(tmp_path: Path, sources: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        built = made(release(step(writer=Scribe(kinds=("refusal",)))), tmp_path, sources)
    written = built.lock["sources"][-1]["written"]
    assert (written["ended"], written["kept"], written["requests"]) == ("yield", 0, 6 + 8)
    assert "0 of 60 wanted prompts after 14 requests" in caplog.text
    assert "ended, as too little of what comes is new (least=0.1)" in caplog.text
    assert built.funnel[-1]["dropped"] == [{"step": "AugmentPrompts", "reason": "refused", "rows": 14}]
    assert "too little of what came was new" in (built.folder / "README.md").read_text()
    nothing = step(writer=Scribe(kinds=("refusal",)), least=0.0)(Dataset.from_dict({"id": ["a"], "prompt": ["a fox"]}))
    assert len(nothing) == 1 + 14, "nothing at all is an end, whatever the yield may be"


@pytest.mark.parametrize(
    "trouble, error, message", [("budget", Stopped, "budget"), ("gone_after", WriterError, "server is gone")]
)
def test_what_was_paid_for_is_kept(
    tmp_path: Path, sources: Path, trouble: str, error: type[HfdsError], message: str
) -> None:
    log = tmp_path / "log"
    good = Scribe(kinds=FAULTS, log=str(log))
    for _ in range(2):
        with pytest.raises(error, match=message):
            made(release(step(writer=replace(good, **{trouble: 3}))), tmp_path, sources)
    assert len(paid(log)) == 6
    built = made(release(step(writer=good)), tmp_path, sources)
    assert max(Counter(paid(log)).values()) == 1, "nothing is paid for twice"
    before = len(paid(log))
    run = Run.here(tmp_path / "elsewhere", store=str(tmp_path / "work/store"))
    again = build(release(step(writer=good)), run, sources=sources, out=tmp_path / "again")
    assert again.digest == built.digest
    assert len(paid(log)) == before, "the store has all answers"
    assert again.lock["sources"] == built.lock["sources"]


def test_when_the_hours_are_over_what_is_on_its_way_is_kept(tmp_path: Path, sources: Path) -> None:
    run = Run.here(tmp_path / "work", max_hours=1)

    @dataclass(frozen=True)
    class Slow(Scribe):
        """An hour goes by while it answers."""

        def open(self, device: str, ranks: int = 1) -> Opened:
            vars(run)["_began"] -= 3600
            return super().open(device, ranks)

    log = tmp_path / "log"
    with pytest.raises(
        Stopped, match="after 1 hours as asked, with 2 requests of AugmentPrompts, round 1 left; run again"
    ):
        build(release(step(writer=Slow(log=str(log)))), run, sources=sources, out=tmp_path / "dist")
    assert len(paid(log)) == 4, "as many as are asked at once"
    made(release(step(writer=Scribe(log=str(log)))), tmp_path, sources)
    assert max(Counter(paid(log)).values()) == 1


def test_where_nothing_answers_no_request_is_blamed(tmp_path: Path, sources: Path) -> None:
    broken = step(writer=Scribe(kinds=("raises",)), wanted=200, requests=20)
    with pytest.raises(HfdsError, match=r"each of 20 requests failed, the last with ConnectionError: nobody listens"):
        made(release(broken), tmp_path, sources)
    with Asked(broken.writer, broken._schema(), Run.here(tmp_path / "work")) as asked:
        assert asked.answers.parts("failed") == []


@pytest.mark.parametrize("wanted, requests, failures", [(100, 50, 60), (100, 8, 8), (5, 8, 9)])
def test_nor_is_one_of_a_small_round(tmp_path: Path, sources: Path, wanted: int, requests: int, failures: int) -> None:
    broken = step(writer=Scribe(kinds=("raises",)), wanted=wanted, requests=requests)
    for _ in range(2):
        with pytest.raises(HfdsError, match=f"each of {failures} requests failed"):
            made(release(broken), tmp_path, sources)
    with Asked(broken.writer, broken._schema(), Run.here(tmp_path / "work")) as asked:
        assert asked.answers.parts("failed") == []


def test_where_others_are_answered_a_request_is_blamed(tmp_path: Path, sources: Path) -> None:
    """Also one that was asked in a round before, or where all others were answered in a run before."""
    augment = step(writer=Scribe(kinds=("raises", "prompts")), wanted=60)
    built = made(release(augment), tmp_path, sources)
    failed = sum(row["reason"] == "ConnectionError" for row in ledger_of(built))
    assert failed
    run = Run.here(tmp_path / "work")
    assert forget_failures(release(augment), run, "AugmentPrompts") == {"AugmentPrompts": failed}
    assert made(release(augment), tmp_path, sources).digest == built.digest


def test_a_request_that_failed_is_asked_again_on_demand(tmp_path: Path, sources: Path) -> None:
    augment = step(writer=Scribe(kinds=("prompts", "failed")), wanted=20)
    built = made(release(augment), tmp_path, sources)
    failed = sum(row["reason"] == "refused_request" for row in ledger_of(built))
    assert failed
    run = Run.here(tmp_path / "work")
    assert forget_failures(release(augment), run, "AugmentPrompts", "refused_request") == {"AugmentPrompts": failed}
    assert made(release(augment), tmp_path, sources).digest == built.digest, "they fail again"


def test_what_was_paid_for_stays_when_failures_are_tried_again(tmp_path: Path, sources: Path) -> None:
    @dataclass(frozen=True)
    class Sick(Scribe):
        """Refuses half of the questions, and later none; its entry is that of the other."""

        def entry(self) -> dict[str, Any]:
            return Scribe().entry()

    sick = release(step(writer=Sick(kinds=("failed", "prompts")), wanted=160))
    before = ledger_of(made(sick, tmp_path, sources))
    failed = [row["id"] for row in before if row["reason"] == "refused_request"]
    assert failed
    assert forget_failures(sick, Run.here(tmp_path / "work")) == {"AugmentPrompts": len(failed)}
    log = tmp_path / "log"
    after = made(release(step(writer=Scribe(log=str(log)), wanted=160)), tmp_path, sources)
    assert {row["id"] for row in before} - {*failed} <= {row["id"] for row in ledger_of(after)}
    assert 0 < len(paid(log)) <= len(failed), "nothing else is asked"
    again = build(
        release(step(wanted=160)), Run.here(tmp_path / "new", store=str(tmp_path / "work/store")), sources=sources,
        out=tmp_path / "again",
    )  # fmt: skip
    assert again.digest == after.digest


def test_answers_of_a_step_and_of_its_rules_are_in_use(tmp_path: Path, sources: Path) -> None:
    lines = toy.write(tmp_path / "turned", a=[(str(n), f"turned to a side by {n}") for n in range(10)])
    rules = (Compass(), MarkDuplicates("direction", above=0.9999))
    made(release(step(rules=rules, wanted=3)), tmp_path, lines)
    folders = {path.name for path in (tmp_path / "work/store").iterdir() if path.is_dir()}
    assert {name.partition("-")[0] for name in folders} == {"AugmentPrompts", "Compass"}
    assert answers_in_use(tmp_path / "dist") == folders


def test_a_plan_asks_no_model(tmp_path: Path, sources: Path) -> None:
    log = tmp_path / "log"
    planned = plan(
        release(step(writer=Scribe(log=str(log)), wanted=95), MarkDuplicates("prompt")),
        Run.here(tmp_path / "work"), sources=sources, out=tmp_path / "dist",
    )  # fmt: skip
    augment, behind = planned["steps"][-2:]
    assert (augment["rows"], augment["requests"], augment["new"]) == (40, 10, 95)
    assert (behind["rows"], behind["estimated"]) == (135, True)
    assert paid(log) == []


def test_a_plan_knows_that_new_rows_are_new_to_models(tmp_path: Path) -> None:
    lines = toy.write(tmp_path / "turned", a=[(str(n), f"turned to a side by {n}") for n in range(10)])
    made(Release("toys", "v0", (Input(Toy),), (Split(0.3), Compass())), tmp_path, lines)
    run = Run.here(tmp_path / "work")
    planned = plan(release(step(wanted=95), Compass(), Repeat(2)), run, sources=lines, out=tmp_path / "dist")
    compass, behind = planned["steps"][-2:]
    assert (compass["rows"], compass["known"], compass["missing"], compass["estimated"]) == (105, 10, 95, True)
    assert (behind["rows"], behind["estimated"]) == (105, True)
    twice = release(step(wanted=95), Repeat(2), Compass())
    compass = plan(twice, run, sources=lines, out=tmp_path / "dist")["steps"][-1]
    assert (compass["rows"], compass["missing"]) == (210, 190)


def test_licences_and_withdrawals_hold_for_new_rows(tmp_path: Path, sources: Path) -> None:
    with pytest.raises(ConfigError, match="its rows are of the licence 'unknown', which allow_licenses does not name"):
        release(step(license="unknown"), allow_licenses=("CC0-1.0",)).check()
    allowed = made(release(step(), allow_licenses=("CC0-1.0",)), tmp_path, sources)
    first = next(row["id"] for row in rows_of(allowed) if row["lineage"])
    write_withdrawn([Tombstone(first, "asked_for", "id", "v3")], tmp_path / "dist/toys")
    again = made(release(step(), allow_licenses=("CC0-1.0",), name="v3"), tmp_path, sources)
    assert next(row["step"] for row in ledger_of(again) if row["id"] == first) == "Withdraw"


def test_what_was_withdrawn_counts_neither_as_new_nor_as_a_duplicate(tmp_path: Path, sources: Path) -> None:
    augment = step(wanted=60, rules=(MarkDuplicates("prompt"),))
    built = made(release(augment), tmp_path, sources)
    alike = next(row for row in ledger_of(built) if row["partner"] and row["partner"].startswith("augmented/"))
    went, stays = alike["partner"], alike["id"]
    others = [row["id"] for row in rows_of(built) if row["lineage"] and row["id"] != went]
    write_withdrawn([Tombstone(id_, "asked_for", "id", "v2") for id_ in (went, *others[:9])], tmp_path / "dist/toys")
    again = made(release(augment, name="v3"), tmp_path, sources)
    new = [row for row in rows_of(again) if row["lineage"]]
    assert len(new) >= 60
    assert stays in [row["id"] for row in new]
    assert again.lock["sources"][-1]["written"]["kept"] == len(new)


def test_new_rows_go_through_what_comes_behind(tmp_path: Path, sources: Path) -> None:
    built = made(release(step(), step(config="more", from_fine=0), Repeat(2)), tmp_path, sources)
    counts = Counter(row["input"] for row in ledger_of(built) if row["split"])
    assert counts["toy/lines"] == 80
    assert counts["augmented/prompts"] >= 120
    assert counts["augmented/more"] >= 120
    parents = {row["parent"] for row in ledger_of(built) if row["made_by"] == "Repeat"}
    assert any(parent.startswith("augmented/") for parent in parents)
    assert [one["input"] for one in built.lock["sources"]] == ["toy/lines", "augmented/prompts", "augmented/more"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"writer": "gpt"}, "writer must be a Writer"),
        ({"writer": Scribe(kinds=())}, "Scribe: kinds must not be empty"),
        ({"wanted": 0}, "wanted must be a whole number from 1, got 0"),
        ({"prompts": True}, "prompts must be a whole number from 1, got True"),
        ({"requests": 2.5}, "requests must be a whole number from 1, got 2.5"),
        ({"from_rows": -1}, "from_rows must be a whole number from 0, got -1"),
        ({"from_rows": 0, "from_fine": 0}, "a request needs examples"),
        ({"fine": ()}, "from_fine is 3, and fine holds no prompts"),
        ({"fine": "a fox"}, "fine must be a tuple of phrases"),
        ({"avoid": ("",)}, "avoid must be a tuple of phrases"),
        ({"styles": ()}, "styles must name one at least"),
        ({"least": 2}, "least must be a number from 0 to 1, got 2"),
        ({"seed": "x"}, "seed must be a whole number, got 'x'"),
        ({"form": "xml"}, "form must be one of json, lines, got 'xml'"),
        ({"license": " "}, "license must be an SPDX identifier"),
        ({"into": "a/b"}, "into must be letters, digits and _, got 'a/b'"),
        ({"config": ""}, "config must be letters, digits and _, got ''"),
        ({"rules": CleanPrompt()}, "rules must be a tuple of steps"),
        ({"rules": (Split(),)}, "rules must be annotators, filters and MarkDuplicates, got Split"),
        ({"rules": (KeepPrompt(chars=(9, 1)),)}, "rules: KeepPrompt: chars must be"),
        ({"rules": (MarkDuplicates("nothing"),)}, "MarkDuplicates needs the column 'nothing'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        release(step(**changes)).check()
    (problem,) = [problem for problem in str(raised.value).splitlines() if message in problem]
    assert problem.startswith("toys/v1: AugmentPrompts")


def test_two_steps_need_two_names() -> None:
    with pytest.raises(ConfigError, match="input augmented/prompts is there twice"):
        release(step(), step(seed=1)).check()


def test_without_a_row_in_train_there_is_no_example(tmp_path: Path, sources: Path) -> None:
    unsplit = Release("toys", "v1", (Input(Toy),), (step(),), columns=COLUMNS)
    with pytest.raises(ConfigError, match="no kept row is in it: put Split before it, or give from_rows=0"):
        made(unsplit, tmp_path, sources)
    assert made(unsplit.but("v1", steps=(step(from_rows=0),)), tmp_path, sources).digest


def test_a_writer_and_a_question_are_the_key(tmp_path: Path) -> None:
    (request,) = step(from_rows=0)._requests(Dataset.from_dict({"id": [], "prompt": []})).of([0])
    run = Run.here(tmp_path)
    with Asked(Scribe(), None, run) as asked, Asked(Scribe(name="other"), None, run) as other:
        asked.all([request.question], "test")
        assert asked.answers.folder != other.answers.folder
        assert asked.answers.folder == Asked(Scribe(log="x", budget=1, at_once=9), None, run).answers.folder
    seeds = keys_of([replace(request.question, seed=seed) for seed in (1, 2)])
    assert (seeds[0] != seeds[1]).any()
    assert Answer("", "stop", Usage(1) + Usage(1, 2, 3, 0.5), "x").usage == Usage(2, 2, 3, 0.5)


def program(ranks: int, tmp_path: Path, seconds: float = 0, killed_after: int = 0) -> list[Popen[str]]:
    """The ranks of a build in `tmp_path`."""
    script, sources = Path(written.__file__), toy.write(tmp_path / "sources", a=LINES)
    return launch(ranks, script, sources, tmp_path / "work", tmp_path / "dist", seconds, killed_after)


def paid_in(tmp_path: Path) -> list[list[int]]:
    """What each rank paid for."""
    return [paid(log) for log in sorted((tmp_path / "work").glob("paid-?"))]


def finished(tmp_path: Path, ranks: int) -> Counter[int]:
    """Lets a build finish, compares with one that nobody killed, and says how often each answer was paid for."""
    (code, digest, errors), *others = ended(program(ranks, tmp_path))
    assert (code, [other[0] for other in others]) == (0, [0] * (ranks - 1)), errors
    run = Run.here(tmp_path / "alone")
    alone = build(written.release(""), run, sources=tmp_path / "sources", out=tmp_path / "alone/dist")
    assert digest.split() == [alone.digest]
    lock = json.loads((tmp_path / "dist/toys/releases/v1.lock.json").read_text())
    assert lock["sources"] == alone.lock["sources"]
    return Counter(seed for own in paid_in(tmp_path) for seed in own)


def test_killed_and_run_with_another_number_of_ranks(tmp_path: Path) -> None:
    assert [code for code, _, _ in ended(program(1, tmp_path, killed_after=7))] == [-signal.SIGKILL]
    assert [len(own) for own in paid_in(tmp_path)] == [7]
    often = finished(tmp_path, 2)
    assert set(often.values()) == {1}, "nothing is paid for twice"
    both = [len(own) for own in paid_in(tmp_path)]
    assert abs(both[0] - 7 - both[1]) <= 4, "they share the requests of each round"
    assert not [*(tmp_path / "work/journal").glob("*.jsonl")]


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(7)
    numbers = (2, 1, 3, 2, 1, 3)
    for ranks in numbers:
        processes = program(ranks, tmp_path, seconds=0.2)
        before = sum(map(len, paid_in(tmp_path)))
        while sum(map(len, paid_in(tmp_path))) == before and processes[0].poll() is None:
            time.sleep(0.05)  # past the imports
        time.sleep(chance.random())
        assert any(process.poll() is None for process in processes), "the runs must be slower, or none is killed"
        for process in processes:
            process.send_signal(signal.SIGKILL)
        ended(processes)
    often = finished(tmp_path, 3)
    assert often.total() - len(often) <= sum(numbers), "what was just answered when a rank was killed"


def test_a_journal_that_a_process_left(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "Some-1")
    journal.add(b"0" * 16, {"text": "a fox\u2028", "cost": 0.5})
    journal.add(b"1" * 16, {"text": "an owl"})
    assert abandoned(tmp_path, "Some-1") == {}, "it is held"
    (path,) = tmp_path.iterdir()
    path.with_name("Some-1-7.jsonl").write_bytes(path.read_bytes()[:-3])
    path.with_name("Some-1-8.jsonl").write_text("[]\nno line\n{}\n")
    assert {path.name: said for path, said in abandoned(tmp_path, "Some-1").items()} == {
        "Some-1-7.jsonl": [(b"0" * 16, {"text": "a fox\u2028", "cost": 0.5})],
        "Some-1-8.jsonl": [],
    }, "without its last line, which is cut"
    journal.clear()
    assert not path.exists()


def test_a_journal_on_a_full_disk_says_so_and_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / f"Some-1-{os.getpid()}.jsonl"
    path.symlink_to("/dev/full")
    journal = Journal(tmp_path, "Some-1")
    with pytest.raises(OutOfSpace, match="where answers are kept"):
        journal.add(b"0" * 16, {"text": "a fox"})
    journal.clear()
    assert not path.is_symlink()


def test_the_faults_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs/generate.md").read_text()
    table = page.split("### What comes back")[1].split("### ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines() if line.startswith("| `")]
    told = {name.strip("` ") for row in rows for name in row[0].split(",")}
    assert told == {*FAULT_NAMES}
    known = {folded(prompt) for prompt in FINE}
    examples = {row[0].strip("`"): row[2].strip("`") for row in rows if row[2]}
    assert {name: fault(text, known) for name, text in examples.items()} == {name: name for name in examples}
