"""Write: answers of a language model as columns, kept, never paid for twice, and rows without one dropped by reason."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from fixtures import toy
from fixtures.chat import ASK, ChatServer
from fixtures.llamas import llama
from hub import Fault

from hfds import Input, Release
from hfds.errors import ConfigError, HfdsError, OutOfSpace, Stopped, WriterError
from hfds.journal import Journal
from hfds.model import Model
from hfds.plan import plan
from hfds.run import Run
from hfds.store import answers_folder
from processors.models.generate import Generate
from processors.models.openai_server import OpenAIServer
from processors.write import Write

torch.set_num_threads(1)

ROWS = 200
TROUBLE = {
    "prompt 3": {"refusal": "I cannot."},
    "prompt 5": {"content": "Once upon a", "finish_reason": "length"},
    "prompt 7": {"content": ""},
    "prompt 9": {"content": None, "finish_reason": "content_filter"},
    "prompt 11": {"status": 400, "error": "too long"},
}


def asked_of(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"]).removeprefix("Rewrite: ")


def rewrite(body: dict[str, Any]) -> dict[str, Any]:
    prompt = asked_of(body)
    return TROUBLE.get(prompt, {"content": f"{prompt}, rewritten by {body['seed']}"})


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    running.forget(rewrite)
    return running


def rows(count: int = ROWS) -> Dataset:
    return Dataset.from_dict({"id": [f"x/{n}" for n in range(count)], "prompt": [f"prompt {n}" for n in range(count)]})


def step(server: ChatServer, **options: Any) -> Write:
    writer = OpenAIServer(server.url, "tiny", **{"concurrency": 8, "tries": 2, "timeout": 5, **options})
    return Write(writer, "Rewrite: {prompt}", into="rewritten")


def test_rows_get_what_was_written_and_those_without_it_are_dropped(server: ChatServer, tmp_path: Path) -> None:
    asking = step(server, prices=(1.0, 2.0))
    made = asking(rows(), Run(tmp_path))
    kept = made.filter(lambda row: row["dropped"] is None)
    assert len(kept) == ROWS - len(TROUBLE)
    for row in kept:
        by = row["rewritten_by"]
        assert row["rewritten"] == f"{row['prompt']}, rewritten by {by['seed']}"
        assert (by["model"], by["prompt_tokens"], by["completion_tokens"]) == ("tiny", 10, 10)
        assert by["cost"] == pytest.approx(3e-5)
    assert len({row["rewritten_by"]["seed"] for row in kept}) == len(kept)
    dropped = {row["prompt"]: row["dropped"] for row in made if row["dropped"]}
    assert {prompt: (why["step"], why["reason"], why["value"]) for prompt, why in dropped.items()} == {
        "prompt 3": ("Write", "refused", "I cannot."),
        "prompt 5": ("Write", "cut_answer", "Once upon a"),
        "prompt 7": ("Write", "empty_answer", None),
        "prompt 9": ("Write", "filtered", None),
        "prompt 11": ("Write", "Rejected", "400 too long"),
    }

    assert len(server.asked) == ROWS
    again = asking(rows(), Run(tmp_path))
    assert again.to_dict() == made.to_dict()
    assert asking(rows(ROWS + 10), Run(tmp_path))[ROWS]["rewritten"]
    assert len(server.asked) == ROWS + 10, "nothing is paid for twice, nor is a copy"


def test_a_plan_says_what_missing_answers_cost(server: ChatServer, tmp_path: Path) -> None:
    sources = toy.write(tmp_path / "sources", a=[(str(n), f"prompt number {n}") for n in range(300)])
    asking = step(server, prices=(1.0, 2.0))
    planned = plan(Release("toys", "v1", (Input(toy.Toy),), (asking,)), Run(tmp_path / "work"), sources=sources)
    assert planned["steps"][-1]["cost"] == planned["cost"] == pytest.approx(300 * 3e-5)
    assert 0 < len(server.asked) < 300


def test_the_same_step_gives_the_same_without_a_store_and_by_another_speed(server: ChatServer, tmp_path: Path) -> None:
    asking = step(server)
    slower = replace(asking, writer=replace(asking.writer, concurrency=1, requests_per_minute=60_000))
    assert slower.key() == asking.key()
    assert asking(rows(30)).to_dict() == slower(rows(30), Run(tmp_path)).to_dict()
    assert replace(asking, seed=1).key() != asking.key()
    assert replace(asking, seed=1)(rows(1))["rewritten_by"] != asking(rows(1))["rewritten_by"]


def test_a_schema_in_another_order_is_another_question(server: ChatServer) -> None:
    asking = step(server)
    first, second = (replace(asking, schema={"properties": {n: {} for n in names}}) for names in ("ab", "ba"))
    assert first.key() != second.key()
    assert first.key() == replace(asking, schema={"properties": {"a": {}, "b": {}}}).key()
    assert json.loads(json.dumps(first.entry())) == first.entry()


def test_two_batches_are_on_their_way_at_once(server: ChatServer, tmp_path: Path) -> None:
    server.delay = 0.05
    step(server, concurrency=4)(rows(64), Run(tmp_path))
    step(server, concurrency=4)(rows(64), Run(tmp_path))
    times = sorted(asked.at for asked in server.asked)
    assert server.most == 4
    gaps = [later - one for one, later in zip(times, times[4:], strict=False)]
    assert max(gaps) < 0.5
    assert len(server.asked) == 64


def test_a_budget_ends_the_run_and_what_was_paid_for_is_kept(server: ChatServer, tmp_path: Path) -> None:
    small = step(server, budget_tokens=50 * 20 + 700, max_tokens=10)
    with pytest.raises(Stopped, match="has no room for another request"):
        small(rows(), Run(tmp_path))
    paid = Counter(asked.text for asked in server.asked)
    assert 50 <= len(paid) < ROWS
    made = step(server, max_tokens=10)(rows(), Run(tmp_path))
    assert sum(row["dropped"] is None for row in made) == ROWS - len(TROUBLE)
    assert Counter(asked.text for asked in server.asked).most_common(1)[0][1] == 1, "nothing is paid for twice"


def test_steps_of_a_run_share_the_budget_of_their_writer(server: ChatServer, tmp_path: Path) -> None:
    budget = {"budget_tokens": 50 * 20 + 700, "max_tokens": 10}
    first, run = step(server, **budget), Run(tmp_path)
    first(rows(40), run)  # half of the budget
    before = len(server.asked)
    second = Write(step(server, **budget).writer, "Say {prompt} again", into="again")  # equal, and not the same one
    with pytest.raises(Stopped, match="has no room for another request"):
        second(rows(), run)
    assert before + 5 <= len(server.asked) <= 90
    with pytest.raises(Stopped):  # a pass later, when it is opened anew
        second(rows(), run)
    assert len(server.asked) <= 90
    again = Run(tmp_path)  # another run has it anew
    with pytest.raises(Stopped):
        second(rows(), again)
    assert len(server.asked) > 90


def test_what_a_server_calls_itself_costs_no_second_request(server: ChatServer, tmp_path: Path) -> None:
    whole = {"choices": [{"message": {"content": "yes"}}], "model": "half a pair \ud83d" + "x" * 1000}
    server.say = lambda body: {"whole": json.dumps(whole)}
    made = step(server)(rows(20), Run(tmp_path))
    assert made[0]["rewritten_by"]["model"] == ("half a pair \\ud83d" + "x" * 1000)[:200]
    assert len(server.asked) == 20


def test_a_journal_that_was_cut_is_no_answer(server: ChatServer, tmp_path: Path) -> None:
    asking, run = step(server), Run(tmp_path)
    run.journal.mkdir()
    for number, text in enumerate(["", '{"key": "00']):
        (run.journal / f"{answers_folder(asking.name, asking.key())}-{number}.jsonl").write_text(text)
    assert asking(rows(20), run)["rewritten"][0]
    assert len(server.asked) == 20
    assert [*run.journal.glob("*.jsonl")] == []


@pytest.mark.parametrize("wrong, kind", [(errno.ENOSPC, OutOfSpace), (errno.ENOLCK, HfdsError)], ids=str)
def test_a_disk_that_takes_no_answer_ends_the_run_and_nothing_is_asked_again(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int, kind: type[HfdsError]
) -> None:
    def refuse(journal: Journal, line: str) -> None:
        raise OSError(wrong, os.strerror(wrong))

    server.delay = 0.02
    monkeypatch.setattr(Journal, "_add", refuse)
    with pytest.raises(kind, match=r"--workdir"):
        step(server)(rows(), Run(tmp_path))
    assert Counter(asked.text for asked in server.asked).most_common(1)[0][1] == 1
    assert len(server.asked) < ROWS


def test_a_server_that_is_gone_in_the_middle_leaves_what_it_answered(tmp_path: Path) -> None:
    with ChatServer(rewrite) as server:
        server.faults = [Fault(ASK, lost=True, after=90)]
        asking = step(server, tries=3)  # the last answer may come after the first try of another question
        with pytest.raises(WriterError, match="is gone or broken"):
            asking(rows(), Run(tmp_path))
        server.faults, server.asked = [], []
        asking(rows(), Run(tmp_path))
        assert len({asked.text for asked in server.asked}) == len(server.asked) == ROWS - 90


def test_a_server_that_refuses_every_question_drops_no_row(server: ChatServer, tmp_path: Path) -> None:
    server.faults = [Fault(ASK, 422, body='{"error": "no such field"}')]
    with pytest.raises(HfdsError, match=r"none of them is dropped|refuses every question"):
        step(server)(rows(), Run(tmp_path))
    server.faults = []
    made = step(server)(rows(), Run(tmp_path))
    assert sum(row["dropped"] is None for row in made) == ROWS - len(TROUBLE)


def test_without_a_key_nothing_is_asked_and_nothing_kept(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WRITER_KEY", raising=False)
    with pytest.raises(ConfigError, match="WRITER_KEY is not set"):
        step(server, key_variable="WRITER_KEY")(rows(), Run(tmp_path))
    monkeypatch.setenv("WRITER_KEY", "sk-SecretThatMustNotShow")
    server.key = "sk-SecretThatMustNotShow"
    made = step(server, key_variable="WRITER_KEY")(rows(20), Run(tmp_path))
    assert sum(row["dropped"] is None for row in made) == 20 - len(TROUBLE)
    left = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert left
    assert not any(b"SecretThatMustNotShow" in data for data in left)


PROGRAM = """
    import sys
    from datasets import Dataset
    from hfds.run import Run
    from processors.models.openai_server import OpenAIServer
    from processors.write import Write
    url, folder, count, seconds = sys.argv[1:]
    rows = Dataset.from_dict({"prompt": [f"prompt {n}" for n in range(int(count))]})
    writer = OpenAIServer(url, "tiny", concurrency=4)
    Write(writer, "Rewrite: {prompt}", into="rewritten")(rows, Run.accelerated(folder, commit_seconds=float(seconds)))
"""


def launch(url: str, folder: Path, ranks: int = 1, seconds: float = 0.05) -> list[subprocess.Popen[bytes]]:
    """The step in processes of their own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), url, str(folder), str(ROWS), str(seconds)]
    common = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(command, env={**common, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]


def test_after_a_kill_no_answer_is_asked_for_again(server: ChatServer, tmp_path: Path) -> None:
    server.delay = 0.05
    [process] = launch(server.url, tmp_path, seconds=60)
    while len(server.asked) < 100 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    server.delay = 0
    step(server)(rows(), Run(tmp_path))
    again = len(server.asked) - ROWS
    assert again <= 4 + 1, "what was on its way, by four threads"
    assert len({asked.text for asked in server.asked}) == ROWS
    assert [*(tmp_path / "journal").glob("Write-*")] == [], "all that it said is in the store"
    made = step(server)(rows(), Run(tmp_path))
    assert made.to_dict() == step(server)(rows(), Run(tmp_path / "once")).to_dict(), "dropped rows as well"


@pytest.mark.slow
def test_two_ranks_ask_each_question_once_and_give_the_same(server: ChatServer, tmp_path: Path) -> None:
    server.delay = 0.02
    processes = launch(server.url, tmp_path / "two", ranks=2)
    assert [process.wait(120) for process in processes] == [0, 0]
    assert sorted(asked.text for asked in server.asked) == sorted(f"Rewrite: prompt {n}" for n in range(ROWS))
    assert server.most <= 4, "the threads of both"
    server.asked.clear()
    made = step(server)(rows(), Run(tmp_path / "two"))
    assert server.asked == []
    assert made.to_dict() == step(server)(rows(), Run(tmp_path / "one")).to_dict()


def test_the_same_step_by_a_model_in_this_process(tmp_path: Path) -> None:
    model = Model(str(llama(tmp_path / "llama", ends=20)))
    asking = Write(Generate(model, max_tokens=16, batch_size=4), "Rewrite: {prompt}", into="rewritten")
    made = asking(rows(30), Run(tmp_path / "run"))
    assert {row["dropped"]["reason"] for row in made if row["dropped"]} <= {"cut_answer", "empty_answer"}
    kept = [row for row in made if row["dropped"] is None]
    assert kept
    assert {row["rewritten_by"]["model"] for row in kept} == {model.identity}
    assert asking(rows(30)).to_dict() == made.to_dict()
    assert asking.entry()["parameters"]["writer"] == asking.writer.entry()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"ask": "Rewrite it"}, "ask must name columns"),
        ({"ask": "Rewrite {prompt"}, "ask must name columns"),
        ({"ask": "Rewrite {prompt.__class__}"}, "ask must name columns"),
        ({"ask": "Rewrite {prompt!r}"}, "ask must name columns"),
        ({"ask": "Rewrite {}"}, "ask must name columns"),
        ({"into": ""}, "into must be the name of a column"),
        ({"into": "dropped"}, "into must be prompt or no column of the sources"),
        ({"into": "id"}, "into must be prompt or no column of the sources"),
        ({"into": "image"}, "into must be prompt or no column of the sources"),
        ({"system": 5}, "system must be a text"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"schema": {"type": "whatever"}}, "is no JSON Schema"),
        ({"writer": "gpt"}, "writer must be a hfds.writer.Writer"),
        ({"writer": OpenAIServer("nowhere", "tiny")}, "OpenAIServer: url must be that of a server"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(given: dict[str, Any], said: str) -> None:
    whole = {"writer": OpenAIServer("http://localhost/v1", "tiny"), "ask": "Rewrite: {prompt}", "into": "rewritten"}
    asking = Write(**{**whole, **given})
    assert any(said in problem for problem in asking.problems())
    with pytest.raises(ConfigError):
        asking(rows(1))


def test_the_page_is_right() -> None:
    page = (Path(__file__).parents[1] / "docs/generate.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "OpenAIServer(" in block)
    there: dict[str, Any] = {}
    exec(compile(code, "docs/generate.md", "exec"), there)
    assert there["step"].problems() == []
    assert there["large"].problems() == []
