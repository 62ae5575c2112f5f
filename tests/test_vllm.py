"""vLLM for real, engine and server, with a tiny Llama. It has an environment of its own: make test-vllm."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pyarrow as pa
import pytest
from fixtures.launched import ended, launch
from fixtures.llamas import llama

from hfds.errors import ConfigError, WriterError
from hfds.model import Model
from hfds.writer import Answer, Opened, Question, in_order
from processors.models.openai_server import OpenAIServer
from processors.models.vllm import VLLM

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

SCHEMA = {
    "type": "object",
    "properties": {
        "prompts": {"type": "array", "items": {"type": "string", "pattern": "^[a-z ]{1,12}$"}, "maxItems": 2}
    },
    "required": ["prompts"],
    "additionalProperties": False,
}
ON_CPU = {"enforce_eager": True, "max_model_len": 256}
QUESTIONS = [Question((("system", "You write."), ("user", f"about {n}")), n) for n in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        patch.setenv("WORLD_SIZE", "2")  # as a rank of two has it
        patch.setenv("RANK", "1")
        yield


@pytest.fixture(scope="module")
def engine(folder: Path, environment: None) -> Iterator[Opened]:
    opened = VLLM(Model(str(folder)), max_tokens=48, engine=ON_CPU).open("cpu")
    assert os.environ["WORLD_SIZE"] == "2"
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def url(folder: Path, environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]
    command += [
        "--port",
        str(port),
        "--structured-outputs-config",
        '{"backend":"xgrammar","disable_any_whitespace":true}',
    ]
    environ = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK")}
    log = tmp_path_factory.mktemp("log") / "server.txt"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environ)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def texts(found: list[Answer | Exception]) -> list[str]:
    assert all(isinstance(one, Answer) for one in found), found
    return [one.text for one in found if isinstance(one, Answer)]


def test_the_engine_answers_each_question_by_its_own_seed(engine: Opened, folder: Path) -> None:
    found = in_order(engine, QUESTIONS)
    assert len({*texts(found)}) == len(QUESTIONS)
    assert texts(in_order(engine, QUESTIONS[::-1])) == texts(found)[::-1]
    [first, *_] = found
    assert isinstance(first, Answer)
    assert first.finish == "length"
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (3 + 2 + len("You write.about 0"), 48)
    assert first.model == Model(str(folder)).identity
    assert engine.usage.requests == 2 * len(QUESTIONS)


def test_the_engine_keeps_to_a_schema(engine: Opened) -> None:
    for text in texts(in_order(engine, QUESTIONS[:8], SCHEMA)):
        assert {*json.loads(text)} == {"prompts"}


def test_a_question_that_cannot_be_asked_fails_alone(engine: Opened) -> None:
    long, marked = Question((("user", "a" * 300),), 0), Question((("user", "hello<|end|>"),), 0)
    found = in_order(engine, [QUESTIONS[0], long, QUESTIONS[1], marked])
    assert isinstance(found[1], Exception)
    assert "maximum context length" in str(found[1])
    assert len(texts([found[0], found[2]])) == 2
    assert getattr(found[3], "reason", None) == "special_token"


def test_more_than_the_engine_reads_at_once(engine: Opened) -> None:
    found = in_order(engine, [Question((("user", f"{n} " + "a" * 190),), n) for n in range(60)])
    assert len(texts(found)) == 60


def test_closing_early_leaves_the_engine_free(engine: Opened) -> None:
    said = engine.write(QUESTIONS)
    next(said)
    said.close()  # type: ignore[attr-defined]
    assert len(texts(in_order(engine, QUESTIONS[:3]))) == 3


def test_an_engine_that_dies_is_told_and_what_it_answered_is_heard(folder: Path, environment: None) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    opened = VLLM(Model(str(folder)), max_tokens=200, engine={**ON_CPU, "max_num_seqs": 2}).open("cpu")
    said = opened.write(QUESTIONS)
    heard = [next(said)]
    for child in psutil.Process().children(recursive=True):
        if child.pid not in before:
            child.kill()
    with pytest.raises(WriterError, match=r"the engine of .* died"):
        heard.extend(said)
    assert 1 <= len(heard) < len(QUESTIONS)
    assert all(isinstance(one, Answer) for _, one in heard)
    opened.close()


RANK = """
import sys
from datasets import Dataset
from hfds.model import Model
from hfds.run import Run
from processors.models.vllm import VLLM
from processors.write import Write

if __name__ == "__main__":  # the engine is a process that reads this file too
    folder, work = sys.argv[1:]
    rows = Dataset.from_dict({"prompt": [f"prompt {n}" for n in range(40)]})
    writer = VLLM(Model(folder), max_tokens=24, engine={"enforce_eager": True, "max_model_len": 256})
    made = Write(writer, "Another like {prompt}", into="more")(rows, Run.accelerated(work))
    print("rows done:", sum(text is not None or why is not None for text, why in zip(made["more"], made["dropped"])))
"""


def test_two_ranks_have_an_engine_each(folder: Path, environment: None, tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        said = ended(launch(2, program, folder, tmp_path / "work"))
    assert [code for code, _, _ in said] == [0, 0], said
    assert all("rows done: 40\n" in out for _, out, _ in said)
    [answers] = (tmp_path / "work/store").glob("Write-*")
    parts = [pa.ipc.open_file(str(part)).read_all() for part in answers.glob("*/*.arrow")]
    assert len(parts) >= 2, "each rank wrote its own"
    keys = [key for part in parts for key in part["key"].to_pylist()]
    assert len(keys) == len({*keys}) == 40


def test_a_model_that_does_not_start_is_told(folder: Path, environment: None) -> None:
    with pytest.raises(ConfigError, match=r"vLLM does not start with .*max_model_len"):
        VLLM(Model(str(folder)), engine={**ON_CPU, "max_model_len": 1 << 20}).open("cpu")


def test_the_server_answers_as_the_engine_does(url: str, engine: Opened) -> None:
    opened = OpenAIServer(url, "tiny", max_tokens=48, concurrency=8).open("cpu")
    assert texts(in_order(opened, QUESTIONS)) == texts(in_order(engine, QUESTIONS))
    for text in texts(in_order(opened, QUESTIONS[:8], SCHEMA)):
        assert {*json.loads(text)} == {"prompts"}
    too_long, fine = in_order(opened, [Question((("user", "a" * 300),), 0), QUESTIONS[0]])
    assert str(too_long).startswith("400 This model's maximum context length is 256 tokens")
    assert isinstance(fine, Answer)
    opened.close()


def test_the_server_knows_no_other_model(url: str) -> None:
    opened = OpenAIServer(url, "large").open("cpu")
    with pytest.raises(ConfigError, match="knows no model 'large'"):
        in_order(opened, QUESTIONS[:1])
    opened.close()
