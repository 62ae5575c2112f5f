"""AugmentPrompts with a server that speaks OpenAI's chat completions, and with a model in this process."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from fixtures import toy, writers
from fixtures.chat import ASK, ChatServer
from fixtures.llamas import llama
from fixtures.toy import Toy
from fixtures.writers import FAULTS
from hub.faults import Fault

from hfds import Input, Release, Run, build
from hfds.errors import Stopped, WriterError
from hfds.model import Model
from hfds.release import Built
from hfds.writer import Question
from processors.augment import AugmentPrompts
from processors.augmenting.answers import SCHEMA
from processors.clean_prompt import CleanPrompt
from processors.dedup import MarkDuplicates
from processors.keep_prompt import KeepPrompt
from processors.models.generate import Generate
from processors.models.openai_server import OpenAIServer
from processors.split import Split


def say(body: dict[str, Any]) -> dict[str, Any]:
    """What the writer of the other tests would say, faults and all."""
    messages = tuple((one["role"], one["content"]) for one in body["messages"])
    kind = FAULTS[body["seed"] % len(FAULTS)]
    text, finish = writers._text(kind, Question(messages, body["seed"]), "response_format" in body)
    if kind == "refusal":
        return {"content": None, "refusal": text}
    if kind == "failed":
        return {"status": 400, "error": {"message": "this model's maximum context length is exceeded"}}
    return {"content": text, "finish_reason": finish}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(say) as server:
        yield server


def made(server: ChatServer, tmp_path: Path, work: str = "work", **changes: Any) -> Built:
    given = {"concurrency": 4, "patience": 0.2, "known_as": "here", "prices": (1000, 2000), **changes}
    writer = OpenAIServer(server.url, "tiny", **given)
    rules = (CleanPrompt(), KeepPrompt(), MarkDuplicates("prompt"))
    augment = AugmentPrompts(writer, wanted=150, requests=40, rules=rules, license="CC0-1.0", seed=1866)
    release = Release("toys", "v1", (Input(Toy),), (Split(0.3), augment), columns=("prompt", "lineage"))
    sources = toy.write(tmp_path / "sources", a=[(f"{n:02d}", f"the {n}th prompt of a painter") for n in range(30)])
    return build(release, Run.here(tmp_path / work), sources=sources, out=tmp_path / f"dist-{work}")


def test_a_server_with_faults_gives_the_same_rows(tmp_path: Path, server: ChatServer) -> None:
    calm = made(server, tmp_path)
    body = server.asked[0].body
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert [one["role"] for one in body["messages"]] == ["system", "user"]
    asked = len(server.asked)
    written = calm.lock["sources"][-1]["written"]
    assert (written["models"], written["ended"]) == (["tiny"], "wanted")
    reasons = {one["reason"] for one in calm.funnel[-1]["dropped"]}
    assert {"refused", "cut", "not_json", "empty_answer", "filtered"} <= reasons
    assert written["cost"] == pytest.approx(written["prompt_tokens"] / 1e3 + written["completion_tokens"] / 500)
    server.faults = [
        Fault(ASK, 429, {"Retry-After": "0"}, times=3),
        Fault(ASK, 500, times=3),
    ]
    shaken = made(server, tmp_path, "shaken")
    assert shaken.digest == calm.digest
    assert shaken.lock["sources"] == calm.lock["sources"]
    assert len(server.asked) == 2 * asked, "no answer was asked for twice"


def test_a_budget_and_a_server_that_is_gone(tmp_path: Path, server: ChatServer) -> None:
    with pytest.raises(Stopped, match="budget"):
        made(server, tmp_path, budget_tokens=2000)
    first = len(server.asked)
    assert 0 < first < 30
    server.stop()
    with pytest.raises(WriterError):
        made(server, tmp_path, tries=2)
    server.start()
    built = made(server, tmp_path)
    seeds = Counter(one.body["seed"] for one in server.asked)
    assert max(seeds.values()) == 1, "what was answered is not asked again"
    assert len(seeds) == built.lock["sources"][-1]["written"]["requests"]
    alone = made(server, tmp_path, "alone")
    assert alone.digest == built.digest


def test_the_example_in_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs/generate.md").read_text().split("## New prompts from a language model")[1]
    there: dict[str, Any] = {}
    exec(compile(page.split("```python\n")[1].split("```")[0], "docs/generate.md", "exec"), there)
    Release("toys", "v1", (Input(Toy),), there["steps"], columns=("prompt", "lineage")).check()


def test_a_model_in_this_process(tmp_path: Path) -> None:
    llama(tmp_path / "llama", ends=20, room=2048)
    writer = Generate(Model(str(tmp_path / "llama")), max_tokens=16, batch_size=8)
    rules = (MarkDuplicates("prompt"),)
    augment = AugmentPrompts(writer, 3, rules, form="lines", from_fine=1, from_rows=0, requests=8)
    rows = Dataset.from_dict({"id": ["toy/a"], "prompt": ["a prompt of a painter"]})
    grown = augment.grow(rows, Run.here(tmp_path / "work"))
    written = grown.source["written"]
    assert grown.source["revision"] == writer.model.identity
    assert written["kept"] == sum(row["dropped"] is None for row in grown.rows) - 1 >= 3
    assert written["completion_tokens"] > 0
    again = replace(augment, requests=4, rules=()).grow(rows, Run.here(tmp_path / "work"))
    assert set(again.rows["id"][:]) <= set(grown.rows["id"][:]), "of answers that were there"
