"""Models behind a server: every question answered once, limits kept, and one sentence where it cannot go on."""

import itertools
import json
import logging
import pickle
import threading
import time
import traceback
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import numpy as np
import pytest
from fixtures.chat import ASK, TOKENS, ChatServer
from hub import Fault

from hfds.errors import ConfigError, Stopped, WriterError
from hfds.writer import Answer, BadAnswer, Question, Usage, checked, in_order, schema_problems
from processors.models.completions import LARGEST, received
from processors.models.connection import Connection, Rejected
from processors.models.limits import Budget, Pace
from processors.models.openai_server import OpenAIServer

SECRET = "sk-SecretThatMustNotShow"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
NOW = {"Retry-After": "0"}


@pytest.fixture(scope="module")
def running() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


@pytest.fixture
def server(running: ChatServer) -> ChatServer:
    running.forget()
    return running


def questions(count: int) -> list[Question]:
    return [Question((("user", f"question {n}"),), n) for n in range(count)]


def writer(server: ChatServer, **options: Any) -> OpenAIServer:
    return OpenAIServer(server.url, "tiny", **{"timeout": 5, "tries": 3, **options})


def ask(writer: OpenAIServer, count: int = 1, schema: Any = None) -> list[Answer | Exception]:
    opened = writer.open("cpu")
    try:
        return in_order(opened, questions(count), schema)
    finally:
        opened.close()


def heard(opened: Connection, asked: list[Question]) -> tuple[dict[int, Any], Exception | None]:
    """What was given before it came to its end, and what ended it."""
    found: dict[int, Any] = {}
    try:
        for position, said in opened.write(asked):
            assert position not in found
            found[position] = said
    except (ConfigError, Stopped, WriterError) as error:
        return found, error
    finally:
        opened.close()
    return found, None


def test_every_question_is_answered_once_and_its_use_is_counted(server: ChatServer) -> None:
    server.delay = 0.01
    opened = writer(server, concurrency=8, prices=(1.0, 3.0)).open("cpu")
    found, error = heard(opened, questions(100))
    assert error is None
    assert [found[n].text for n in range(100)] == [f"question {n} {n}" for n in range(100)]
    assert sorted(asked.text for asked in server.asked) == sorted(f"question {n}" for n in range(100))
    assert 4 <= server.most <= 8
    cost = (TOKENS * 1.0 + TOKENS * 3.0) / 1e6
    assert found[0] == Answer("question 0 0", "stop", Usage(1, TOKENS, TOKENS, cost), "tiny")
    assert opened.usage.requests == 100
    assert opened.usage.cost == pytest.approx(100 * cost)


def test_a_request_says_all_that_the_key_says(server: ChatServer) -> None:
    asking = writer(server, temperature=0.5, top_p=0.9, max_tokens=7, body={"top_k": 5, "top_p": None})
    ask(asking, schema=SCHEMA)
    body = server.asked[0].body
    assert {name: body[name] for name in ("model", "temperature", "max_tokens", "seed", "top_k")} == {
        "model": "tiny", "temperature": 0.5, "max_tokens": 7, "seed": 0, "top_k": 5,
    }  # fmt: skip
    assert "top_p" not in body
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "authorization" not in server.asked[0].headers
    entry = asking.entry()
    assert json.loads(json.dumps(entry)) == entry
    slower = replace(asking, concurrency=1, requests_per_minute=5, budget_tokens=9, key_variable="KEY", tries=1)
    assert slower.entry() == entry
    assert replace(asking, temperature=0.6).entry() != entry
    assert replace(asking, known_as="here").entry() == replace(asking, known_as="here", url="http://x/v1").entry()


def test_two_ways_to_write_the_same_writer_have_one_key() -> None:
    first = OpenAIServer("http://localhost:8000/v1", "tiny", temperature=1, top_p=1)
    for second in (replace(first, temperature=1.0, top_p=1.0), replace(first, url=f"{first.url}/")):
        assert json.dumps(second.entry()) == json.dumps(first.entry())
    assert json.dumps(replace(first, max_tokens=7).entry()["max_tokens"]) == "7"


FINISHES = {
    "refusal": ({"refusal": "I cannot help with that."}, "refusal", "I cannot help with that."),
    "cut": ({"content": "a cat and", "finish_reason": "length"}, "length", "a cat and"),
    "filtered": ({"content": "", "finish_reason": "content_filter"}, "content_filter", ""),
    "filtered-question": (
        {"status": 400, "error": {"message": "The prompt was filtered", "code": "content_filter"}},
        "content_filter",
        "The prompt was filtered",
    ),
    "odd-finish": ({"content": "a cat", "finish_reason": None}, "stop", "a cat"),
    "other-word": ({"content": "a cat", "finish_reason": "end_turn"}, "stop", "a cat"),
    "cut-elsewhere": ({"content": "a cat and", "finish_reason": "MAX_TOKENS"}, "length", "a cat and"),
    "filtered-elsewhere": ({"content": "", "finish_reason": "SAFETY"}, "content_filter", ""),
    "refused-elsewhere": ({"content": "No.", "finish_reason": "refusal"}, "refusal", "No."),
    "half-a-pair": ({"whole": '{"choices": [{"message": {"content": "a \\ud83d cat"}}]}'}, "stop", "a ? cat"),
}


@pytest.mark.parametrize("said, finish, text", FINISHES.values(), ids=FINISHES)
def test_how_an_answer_ended_is_told(server: ChatServer, said: dict[str, Any], finish: str, text: str) -> None:
    server.say = lambda body: said
    for schema in (None, SCHEMA) if finish != "stop" else (None,):
        [answer] = ask(writer(server), schema=schema)
        assert isinstance(answer, Answer)
        assert (answer.finish, answer.text) == (finish, text)


@pytest.mark.parametrize("end", ["abort", "error", "tool_calls"])
def test_an_answer_that_came_to_no_end_of_its_own_is_a_failure_that_is_kept(server: ChatServer, end: str) -> None:
    server.say = lambda body: {"content": '{"n": 1}', "finish_reason": end}
    for schema in (None, SCHEMA):
        [bad] = ask(writer(server), schema=schema)
        assert isinstance(bad, BadAnswer)
        assert (bad.reason, bad.value) == ("broken_answer", f'{end}: {{"n": 1}}')
        assert bad.answer == Answer('{"n": 1}', end, Usage(1, TOKENS, TOKENS), "tiny")


BAD = {
    "empty": ("", None, "empty_answer"),
    "blank": (" \n", None, "empty_answer"),
    "nothing": (None, SCHEMA, "empty_answer"),
    "prose": ("Sure! Here is your JSON.", SCHEMA, "not_json"),
    "fenced": ('```json\n{"n": 1}\n```', SCHEMA, "not_json"),
    "cut": ('{"n": 1', SCHEMA, "not_json"),
    "nan": ('{"n": NaN}', SCHEMA, "not_json"),
    "deep": ("[" * 100_000, SCHEMA, "not_json"),
    "other": ('{"m": 1}', SCHEMA, "not_of_schema"),
    "other-type": ('{"n": "one"}', SCHEMA, "not_of_schema"),
}


@pytest.mark.parametrize("text, schema, reason", BAD.values(), ids=BAD)
def test_an_answer_that_is_not_what_was_asked_for_is_told_and_counted(
    server: ChatServer, text: Any, schema: Any, reason: str
) -> None:
    server.say = lambda body: {"content": text}
    opened = writer(server).open("cpu")
    [(_, bad)] = opened.write(questions(1), schema)
    opened.close()
    assert isinstance(bad, BadAnswer)
    assert bad.reason == reason
    assert bad.answer.text == (text or "")
    assert opened.usage == bad.answer.usage == Usage(1, TOKENS, TOKENS)
    again = pickle.loads(pickle.dumps(bad))
    assert (again.reason, again.value, again.answer) == (bad.reason, bad.value, bad.answer)


def test_an_answer_of_the_schema_is_given_as_it_was_written(server: ChatServer) -> None:
    server.say = lambda body: {"content": '{"n":  1}'}
    [answer] = ask(writer(server), schema=SCHEMA)
    assert isinstance(answer, Answer)
    assert answer.text == '{"n":  1}'


# Trouble that passes.
BUSY = {
    "429": Fault(ASK, 429, times=1),
    "429-now": Fault(ASK, 429, NOW, times=2),
    "500": Fault(ASK, 500, NOW, times=2),
    "529": Fault(ASK, 529, NOW, times=1),
    "429-nowhere": Fault(ASK, 429, {"Retry-After": f"Mon, 01 Jan 2026 00:00:00 +{'9' * 18}"}, times=1),
    "503-page": Fault(ASK, 503, NOW, "<html>Bad gateway</html>", times=1),
    "lost": Fault(ASK, lost=True, times=1),
    "cut": Fault(ASK, cut=30, times=1),
    "refused-body": Fault(ASK, taken=10, times=1),
    "portal": Fault(ASK, 200, body="<html>Log in</html>", times=1),
    "wrong-json": Fault(ASK, 200, body='{"choices": []}', times=1),
    "wrong-types": Fault(ASK, 200, body='{"choices": [{"message": {"content": {"a": 1}}}]}', times=1),
    "no-object": Fault(ASK, 200, body="[1, 2]", times=1),
    "slow": Fault(ASK, delay=3, times=1),
}


@pytest.mark.parametrize("fault", BUSY.values(), ids=BUSY)
def test_what_passes_is_tried_again(server: ChatServer, fault: Fault) -> None:
    server.faults = [replace(fault)]
    answers = ask(writer(server, timeout=0.5), 5)
    assert [isinstance(answer, Answer) and answer.text for answer in answers] == [f"question {n} {n}" for n in range(5)]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_for_all(server: ChatServer, form: str) -> None:
    in_two = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)  # dates have whole seconds
    server.faults = [Fault(ASK, 429, {"Retry-After": "1" if form == "seconds" else in_two}, times=1)]
    began = time.monotonic()
    answers = ask(writer(server, concurrency=1), 4)
    assert all(isinstance(answer, Answer) for answer in answers)
    assert min(asked.at for asked in server.asked) - began >= 0.9


def test_a_date_that_is_over_is_no_reason_to_ask_at_once(server: ChatServer) -> None:
    server.faults = [Fault(ASK, 503, {"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}, times=2)]
    began = time.monotonic()
    [answer] = ask(writer(server))
    assert isinstance(answer, Answer)
    assert time.monotonic() - began >= 0.7  # a quarter of a second and a half, at least


def test_a_server_that_asks_for_no_wait_is_not_stormed(server: ChatServer) -> None:
    server.faults = [Fault(ASK, 429, NOW, times=5)]
    began = time.monotonic()
    [answer] = ask(writer(server, tries=6))
    assert isinstance(answer, Answer)
    assert time.monotonic() - began >= 0.5


def test_a_wait_beyond_patience_ends_the_run(server: ChatServer) -> None:
    server.faults = [Fault(ASK, 429, {"Retry-After": "3600"}, after=3)]
    found, error = heard(writer(server, concurrency=1).open("cpu"), questions(9))
    assert len(found) == 3
    assert isinstance(error, WriterError)
    assert "asks to wait for 3,600 seconds" in str(error)
    assert "run again then" in str(error)


def test_a_question_whose_turn_does_not_come_is_not_given_up_while_others_are_answered(server: ChatServer) -> None:
    busy = threading.Event()

    def say(body: dict[str, Any]) -> dict[str, Any]:
        late = body["messages"][-1]["content"] == "question 0" and not busy.is_set()
        return {"status": 429, "error": "slow down"} if late else {"content": "yes"}

    server.say, server.delay = say, 0.05
    opened = writer(server, concurrency=2, tries=2).open("cpu")
    found = {}
    for position, said in opened.write(questions(50)):
        found[position] = said
        if len(found) == 30:
            busy.set()
    opened.close()
    assert all(isinstance(said, Answer) for said in found.values())
    assert len(found) == 50
    assert sum(asked.text == "question 0" for asked in server.asked) > 2  # more than its tries


def test_a_question_that_breaks_the_server_is_told_apart_from_a_server_that_is_broken(server: ChatServer) -> None:
    def say(body: dict[str, Any]) -> dict[str, Any]:
        poison = body["messages"][-1]["content"] == "question 2"
        return {"status": 500, "error": {"message": "index out of range"}} if poison else {"content": "yes"}

    server.say, server.delay = say, 0.05
    answers = ask(writer(server, concurrency=2, tries=2), 30)
    assert isinstance(answers[2], Rejected)
    assert str(answers[2]) == "500 index out of range"
    assert sum(isinstance(answer, Answer) for answer in answers) == 29


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_question_that_breaks_the_server_may_be_the_last_one(server: ChatServer, concurrency: int) -> None:
    def say(body: dict[str, Any]) -> dict[str, Any]:
        poison = body["messages"][-1]["content"] in ("question 8", "question 9")
        return {"status": 500, "error": {"message": "index out of range"}} if poison else {"content": "yes"}

    server.say = say
    opened = writer(server, concurrency=concurrency).open("cpu")
    found, error = heard(opened, questions(10))
    assert error is None
    assert [type(found[n]) for n in range(10)] == [*[Answer] * 8, Rejected, Rejected]
    assert 9 <= opened.usage.requests <= 10, "one that was answered is asked again, and paid for"


def test_a_question_that_is_too_long_is_refused_alone(server: ChatServer) -> None:
    def say(body: dict[str, Any]) -> dict[str, Any]:
        long = body["messages"][-1]["content"] == "question 2"
        return {"status": 400, "error": {"message": "maximum context length is 512"}} if long else {"content": "yes"}

    server.say = say
    answers = ask(writer(server), 5)
    assert str(answers[2]) == "400 maximum context length is 512"
    assert sum(isinstance(answer, Answer) for answer in answers) == 4


STOPS = {
    "wants-a-key": (Fault(ASK, 401), ConfigError, "wants a key: give key_variable"),
    "no-model": (
        Fault(ASK, 404, body='{"error": {"message": "The model `tiny` does not exist"}}'),
        ConfigError,
        "knows no model 'tiny', or is no such server (404 The model `tiny` does not exist)",
    ),
    "redirect": (Fault(ASK, 307, {"Location": "https://evil.example/v1?x"}), ConfigError, "redirects to evil.example"),
    "no-credit": (
        Fault(ASK, 429, body='{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'),
        WriterError,
        "has no credit left for this key (429 You exceeded your quota)",
    ),
    "refuses-all": (Fault(ASK, 422, body='{"error": "bad field"}'), WriterError, "refuses every question"),
    "broken": (Fault(ASK, 500, NOW), WriterError, "is gone or broken after 2 tries (500)"),
    "lost": (Fault(ASK, lost=True), WriterError, "is gone or broken after 2 tries"),
    "no-chat": (Fault(ASK, 200, body="<html>"), WriterError, "is gone or broken after 2 tries"),
}


@pytest.mark.parametrize("fault, kind, said", STOPS.values(), ids=STOPS)
def test_what_does_not_pass_ends_the_run_in_one_sentence(
    server: ChatServer, fault: Fault, kind: type[Exception], said: str
) -> None:
    server.faults = [replace(fault)]
    found, error = heard(writer(server, tries=2, concurrency=4).open("cpu"), questions(40))
    assert isinstance(error, kind)
    assert said in str(error)
    assert server.url in str(error)
    assert "\n" not in str(error)
    assert all(isinstance(one, Rejected) for one in found.values())


def test_a_server_that_is_gone_in_the_middle_leaves_what_it_answered() -> None:
    found: dict[int, Any] = {}
    with ChatServer() as server:
        server.delay = 0.02
        opened = writer(server, concurrency=4, tries=3).open("cpu")
        said = opened.write(questions(400))
        found.update(itertools.islice(said, 20))
        server.stop()
        with pytest.raises(WriterError, match=r"is gone or broken after 3 tries .* run again to go on"):
            found.update(said)
        assert 20 <= len(found) < 200
        assert all(isinstance(one, Answer) for one in found.values())
        assert opened.usage.requests == len(found)

        server.start()  # the same connection goes on when asked again
        rest = [n for n in range(400) if n not in found][:30]
        server.asked.clear()
        answers = in_order(opened, [questions(400)[n] for n in rest])
        opened.close()
    assert all(isinstance(answer, Answer) for answer in answers)
    assert len(server.asked) == len(rest)


def test_closing_early_begins_no_further_question(server: ChatServer) -> None:
    server.delay = 0.02
    opened = writer(server, concurrency=2).open("cpu")
    saying = opened.write(questions(1000))
    next(saying)
    saying.close()  # type: ignore[attr-defined]
    opened.close()
    assert len(server.asked) <= 6


# The key.


def test_the_key_comes_from_the_environment_and_shows_nowhere(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("WRITER_KEY", f" {SECRET}\n")
    server.key = SECRET
    asking = writer(server, key_variable="WRITER_KEY")
    assert isinstance(ask(asking)[0], Answer)
    server.key = "another"  # and the server says back what it was sent
    opened = asking.open("cpu")
    with pytest.raises(ConfigError) as raised:
        [*opened.write(questions(1))]
    opened.close()
    said = str(raised.value)
    assert "refuses the key in WRITER_KEY (401 Incorrect API key: Bearer [key])" in said
    everything = [said, repr(raised.value), repr(asking), repr(opened), str(asking.entry()), str(asking.problems())]
    assert SECRET not in "".join([*everything, caplog.text])
    assert raised.value.__cause__ is None
    assert caplog.text


ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in SECRET)
SAID_BACK = {
    "filtered": Fault(
        ASK, 400, body=json.dumps({"error": {"code": "content_filter", "message": f"filtered for key {SECRET}"}})
    ),
    "cut-in-the-middle": Fault(ASK, 200, body=json.dumps({"e": "x" * 70 + SECRET})),
    "no-chat": Fault(ASK, 200, body=json.dumps({"error": f"bad {SECRET}"})),
    "page": Fault(ASK, 200, body=f"<html>{SECRET}"),
    "content": Fault(ASK, 200, body=json.dumps({"choices": [{"message": {"content": f"a cat {SECRET}"}}]})),
    "escaped": Fault(ASK, 200, body=f'{{"choices": [{{"message": {{"content": "a cat {ESCAPED}"}}}}]}}'),
    "model": Fault(ASK, 200, body=json.dumps({"choices": [{"message": {"content": "a cat"}}], "model": SECRET})),
    "finish": Fault(ASK, 200, body=json.dumps({"choices": [{"message": {}, "finish_reason": SECRET}]})),
    "parts": Fault(ASK, 200, body=json.dumps({"choices": [{"message": {"content": ["x" * 85 + SECRET]}}]})),
    "refused": Fault(ASK, 422, body=json.dumps({"error": "x" * 280 + SECRET})),
    "redirect": Fault(ASK, 307, {"Location": f"https://{SECRET}.example/v1?{SECRET}"}),
    "pause": Fault(ASK, 429, {"Retry-After": f"{SECRET}"}),
    "header": Fault(ASK, 200, {"X-Key": f"Bearer {SECRET}"}, body="{}"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SAID_BACK.values(), ids=SAID_BACK)
def test_a_key_that_is_said_back_reaches_nobody(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("WRITER_KEY", SECRET)
    server.faults = [replace(fault)]
    opened = writer(server, key_variable="WRITER_KEY", tries=1, concurrency=1).open("cpu")
    said: list[str] = []
    try:
        for _, one in opened.write(questions(1)):
            said.append(repr(one))
            if isinstance(one, BaseException):
                said += traceback.format_exception(one)
    except (ConfigError, WriterError):
        said.append(traceback.format_exc())
    opened.close()
    assert said
    assert SECRET[:12].lower() not in "".join([*said, caplog.text]).lower()
    assert not logging.getLogger("httpcore2.http11").filters


def test_a_key_that_is_no_secret_is_a_word_like_others(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", "EMPTY")
    server.say = lambda body: {"content": "an EMPTY room"}
    [answer] = ask(writer(server, key_variable="WRITER_KEY"))
    assert isinstance(answer, Answer)
    assert answer.text == "an EMPTY room"


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_without_a_key_nothing_is_asked(server: ChatServer, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("WRITER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("WRITER_KEY", value)
    with pytest.raises(ConfigError, match="the environment variable WRITER_KEY is not set"):
        writer(server, key_variable="WRITER_KEY").open("cpu")
    assert server.asked == []


def test_a_redirect_carries_neither_key_nor_question(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", SECRET)
    with ChatServer() as other:
        for status in (301, 302, 307, 308):
            server.faults = [Fault(ASK, status, {"Location": f"{other.url}/chat/completions"})]
            with pytest.raises(ConfigError, match=r"redirects to 127\.0\.0\.1"):
                ask(writer(server, key_variable="WRITER_KEY"))
        assert other.asked == []


# Answers without end.

POST = httpx2.Request("POST", "http://localhost/v1/chat/completions")


@pytest.mark.parametrize("packed", [True, False])
def test_of_an_answer_no_more_is_read_than_one_may_have(packed: bool) -> None:
    parts, sent = zlib.compressobj(wbits=31), itertools.repeat(b" " * 65536, 2000)  # 131 MB
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for part in sent:
            read += len(part)
            yield parts.compress(part) if packed else part

    headers = {"content-encoding": "gzip"} if packed else {}
    response = received(httpx2.Response(200, headers=headers, content=body(), request=POST))
    assert len(response.content) == LARGEST
    assert read < 2 * LARGEST


def test_an_answer_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("processors.models.completions.LONGEST", 0.2)

    def body() -> Iterator[bytes]:
        for _ in range(100):
            time.sleep(0.02)
            yield b" "

    assert 1 <= len(received(httpx2.Response(200, content=body(), request=POST)).content) < 50


def test_an_answer_that_is_too_large_is_none_and_is_counted(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processors.models.completions.LARGEST", 500)
    server.say = lambda body: {"content": "a" * (1000 if body["messages"][-1]["content"] == "question 0" else 10)}
    opened = writer(server, tries=1, concurrency=1, max_tokens=9).open("cpu")
    found, error = heard(opened, questions(3)[::-1])
    assert error is None
    assert [type(said) for said in found.values()] == [Answer, Answer, Rejected]
    assert opened.usage == Usage(4, 3 * TOKENS + 64 + len("question 0"), 3 * TOKENS + 9)  # one was asked again


@pytest.mark.parametrize("packed", ["br", "zstd", "gzip, gzip"])
def test_an_answer_that_is_packed_as_it_was_not_asked_for_is_none(packed: str) -> None:
    with pytest.raises(ValueError, match=f"an answer that is packed as {packed}"):
        received(httpx2.Response(200, headers={"content-encoding": packed}, content=iter([b"abc"])))


@pytest.mark.parametrize("said", ["", "utf-8", "identity", "none, Identity"])
def test_an_answer_that_is_not_packed_is_read_whatever_it_says_of_it(said: str) -> None:
    request = httpx2.Request("POST", "http://localhost")
    found = httpx2.Response(200, headers={"content-encoding": said}, content=iter([b"abc"]), request=request)
    assert received(found).content == b"abc"


@pytest.mark.parametrize("said", ["rot13", "hex", "undefined"])
def test_an_error_in_no_encoding_of_text_is_told(server: ChatServer, said: str) -> None:
    server.faults = [Fault(ASK, 500, {**NOW, "Content-Type": f"text/html; charset={said}"}, body="<html>Bad gateway")]
    _, error = heard(writer(server).open("cpu"), questions(5))
    assert isinstance(error, WriterError)
    assert "500 <html>Bad gateway" in str(error)


# Limits.


def test_a_pace_is_kept_to_whatever_comes_late() -> None:
    now = 0.0
    pace, random = Pace(3000, clock=lambda: now), np.random.default_rng(0)
    turns = []
    for _ in range(10_000):
        now += random.exponential(0.01)  # who asks is twice as fast as may be, and not even
        turns.append(now + pace.reserve())
    for second in range(int(turns[-1])):
        assert sum(second <= turn < second + 1 for turn in turns[second * 50 : second * 50 + 200]) <= 56
    assert len(turns) / turns[-1] == pytest.approx(50, rel=0.02)


def test_a_pace_waits_after_a_pause_and_takes_corrections() -> None:
    now = 0.0
    pace = Pace(60, clock=lambda: now)
    assert [pace.reserve(), pace.reserve()] == pytest.approx([0, 1])
    pace.pause(10)
    assert pace.reserve() == pytest.approx(10)
    pace.correct(-1)
    assert pace.reserve() == pytest.approx(10)
    assert Pace(None).reserve(1e9) == 0
    unlimited = Pace(None, clock=lambda: now)
    unlimited.pause(3)
    assert [unlimited.reserve(), unlimited.reserve()] == [3, 3]


def test_requests_a_minute_are_kept_to(server: ChatServer) -> None:
    asking = writer(server, requests_per_minute=6000, concurrency=20)
    answers = ask(asking, 150)
    assert all(isinstance(answer, Answer) for answer in answers)
    times = sorted(asked.at for asked in server.asked)
    assert len(times) == 150
    assert 149 / (times[-1] - times[0]) <= 102 * 1.1  # with the slack of a tenth of a second over one and a half


def test_tries_count_as_requests(server: ChatServer) -> None:
    server.faults = [Fault(ASK, 500, NOW, times=10)]
    began = time.monotonic()
    ask(writer(server, requests_per_minute=1200, concurrency=20, tries=20), 10)
    assert time.monotonic() - began >= 20 / 20 - 0.2


def test_tokens_a_minute_are_kept_to_by_what_answers_took(server: ChatServer) -> None:
    asking = writer(server, tokens_per_minute=60_000, concurrency=10, max_tokens=20)
    began = time.monotonic()
    ask(asking, 60)
    assert 60 * 2 * TOKENS / 1000 * 0.85 <= time.monotonic() - began <= 60 * 2 * TOKENS / 1000 * 1.3 + 0.5


def test_ranks_share_limits_and_budget(server: ChatServer) -> None:
    opened = writer(server, requests_per_minute=120, budget_tokens=1000, concurrency=8).open("cpu", ranks=4)
    assert opened._requests.seconds == 2
    assert opened._budget.tokens == 250
    assert opened._threads._max_workers == 2
    opened.close()
    few = writer(server, concurrency=2).open("cpu", ranks=4)
    assert few._threads._max_workers == 1  # none would ask nothing
    few.close()


@pytest.mark.parametrize("limit", [{"budget_tokens": 4000}, {"budget": 0.008, "prices": (1.0, 3.0)}], ids=str)
def test_a_budget_is_not_gone_beyond_and_what_was_paid_for_is_given(server: ChatServer, limit: Any) -> None:
    server.delay = 0.005
    opened = writer(server, concurrency=16, max_tokens=TOKENS, **limit).open("cpu")
    found, error = heard(opened, questions(1000))
    assert isinstance(error, Stopped)
    assert error.exit_code == 4
    assert "has no room for another request" in str(error)
    assert "run again to go on" in str(error)
    assert len(found) == len(server.asked) == opened.usage.requests
    assert all(isinstance(said, Answer) for said in found.values())
    tokens, money = 2 * TOKENS * len(found), 4 * TOKENS * len(found) / 1e6
    most = 64 + len("question 999") + TOKENS  # of a question, as it is reckoned before it is asked
    if "budget" in limit:
        assert 0.008 - most * 3 / 1e6 <= money <= 0.008
    else:
        assert 4000 - most <= tokens <= 4000


def test_where_tokens_are_not_counted_the_most_is(server: ChatServer) -> None:
    server.say = lambda body: {"content": "yes", "usage": None}
    [answer] = ask(writer(server, max_tokens=9))
    assert isinstance(answer, Answer)
    assert answer.usage == Usage(1, 64 + len("question 0"), 9)


COUNTED = {"prompt_tokens": 40, "completion_tokens": 10}
USELESS = {
    "no-choices": ({"choices": [], "usage": COUNTED}, Usage(1, 40, 10)),
    "parts": (
        {"choices": [{"message": {"content": [{"type": "text", "text": "a cat"}]}}], "usage": COUNTED},
        Usage(1, 40, 10),
    ),
    "not-counted": ({"choices": []}, Usage(1, 64 + len("question 0"), 9)),
}


@pytest.mark.parametrize("said, used", USELESS.values(), ids=USELESS)
def test_every_try_that_is_paid_for_is_in_the_budget(server: ChatServer, said: Any, used: Usage) -> None:
    server.faults = [Fault(ASK, 200, body=json.dumps(said), times=2)]
    opened = writer(server, max_tokens=9).open("cpu")
    [(_, answer)] = opened.write(questions(1))
    assert isinstance(answer, Answer)
    assert opened.usage == used + used + answer.usage
    opened.close()


def test_tries_that_are_of_no_use_do_not_go_beyond_the_budget(server: ChatServer) -> None:
    server.faults = [Fault(ASK, 200, NOW, json.dumps({"choices": [], "usage": COUNTED}))]
    opened = writer(server, max_tokens=9, tries=8, budget_tokens=190).open("cpu")
    found, error = heard(opened, questions(1))
    assert not found
    assert isinstance(error, Stopped)
    assert opened.usage == Usage(3, 120, 30)


@pytest.mark.parametrize("count", [-5, 1 << 31, 1e30, True, "9", None], ids=str)
def test_what_no_answer_can_have_used_is_not_believed(server: ChatServer, count: Any) -> None:
    server.say = lambda body: {"content": "yes", "usage": {"prompt_tokens": 3, "completion_tokens": count}}
    [answer] = ask(writer(server, max_tokens=9))
    assert isinstance(answer, Answer)
    assert answer.usage == Usage(1, 64 + len("question 0"), 9)


BODIES = {
    "longer": ({"max_tokens": 700}, 700),
    "other-name": ({"max_tokens": None, "max_completion_tokens": 600}, 600),
    "both": ({"max_completion_tokens": 600}, 600),
    "several": ({"n": 3}, 27),
    "longer-and-several": ({"max_tokens": 70, "n": 2}, 140),
    "none": ({"max_tokens": None}, 9),
}


@pytest.mark.parametrize("body, most", BODIES.values(), ids=BODIES)
def test_the_most_is_reckoned_by_what_is_sent(server: ChatServer, body: Any, most: int) -> None:
    server.say = lambda body: {"content": "yes", "usage": None}
    [answer] = ask(writer(server, max_tokens=9, body=body))
    assert isinstance(answer, Answer)
    assert answer.usage == Usage(1, 64 + len("question 0"), most)


def test_a_budget_waits_for_what_may_use_less_than_it_might() -> None:
    budget = Budget("it", 100, None, None)
    budget.begin(Usage(1, 60, 0))
    begun = threading.Event()

    def begin() -> None:
        budget.begin(Usage(1, 60, 0))
        begun.set()

    thread = threading.Thread(target=begin)
    thread.start()
    assert not begun.wait(0.05)
    budget.end(Usage(1, 60, 0), Usage(1, 10, 0))
    assert begun.wait(5)
    thread.join()
    budget.end(Usage(1, 60, 0), Usage(1, 60, 0))
    with pytest.raises(Stopped, match="70 tokens used"):
        budget.begin(Usage(1, 60, 0))


# Parameters.

WRONG = {
    "no-url": ({"url": "localhost:8000"}, "url must be that of a server"),
    "file": ({"url": "file:///etc/passwd"}, "url must be that of a server"),
    "odd-url": ({"url": "http://[::1"}, "url must be that of a server"),
    "user": ({"url": f"http://me:{SECRET}@localhost/v1"}, "must hold no user and no key"),
    "query": ({"url": "http://localhost/v1?key=1"}, "url must be that of a server"),
    "model": ({"model": ""}, "model must be what the server calls it"),
    "hot": ({"temperature": -1}, "temperature must be"),
    "top_p": ({"top_p": 0}, "top_p must be"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens must be"),
    "threads": ({"concurrency": 0}, "concurrency must be a whole number from 1"),
    "rate": ({"requests_per_minute": 0}, "requests_per_minute must be above 0"),
    "budget": ({"budget": 5.0}, "needs prices"),
    "no-end": ({"budget_tokens": 9, "body": {"max_tokens": None}}, "a budget needs an answer that ends"),
    "prices": ({"prices": (1.0, -1.0)}, "prices must be two numbers from 0"),
    "free": ({"prices": 1.0}, "prices must be two numbers from 0"),
    "words": ({"prices": ("1", "2")}, "prices must be two numbers from 0"),
    "dear": ({"prices": (1.0, float("inf"))}, "prices must be two numbers from 0"),
    "stream": ({"body": {"stream": True}}, "body must not ask for a stream"),
    "fields": ({"body": ["top_k"]}, "body must be fields of a request"),
    "no-json": ({"body": {"stop": {"."}}, "budget_tokens": 9}, "body must be JSON"),
    "no-number": ({"body": {"top_k": float("nan")}}, "body must be JSON"),
    "key": ({"key_variable": SECRET}, "never the key itself"),
    "no-name": ({"key_variable": 5}, "must be the name of an environment variable"),
}


@pytest.mark.parametrize("given, said", WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_said_before_anything_is_asked(given: dict[str, Any], said: str) -> None:
    asking = OpenAIServer(**{"url": "http://localhost:8000/v1", "model": "tiny", **given})
    [problem] = asking.problems()
    assert said in problem
    assert SECRET not in problem
    with pytest.raises(ConfigError):
        asking.open("cpu")


def test_a_schema_that_is_none_is_said(server: ChatServer) -> None:
    opened = writer(server).open("cpu")
    with pytest.raises(ConfigError, match="is no JSON Schema: 'whatever' is not valid"):
        next(opened.write(questions(1), {"type": "whatever"}))
    opened.close()


REFERENCES = {
    "nowhere": {"$ref": "#/$defs/x"},
    "below": {"type": "object", "properties": {"a": {"items": {"$ref": "#/$defs/x"}}}, "$defs": {"y": {}}},
    "behind-another": {"$ref": "#/parts/y", "parts": {"y": {"$ref": "#/$defs/x"}}},
    "another-page": {"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}},
    "no-anchor": {"$ref": "#x"},
}


@pytest.mark.parametrize("schema", REFERENCES.values(), ids=REFERENCES)
def test_a_schema_that_refers_to_nothing_is_said_before_anything_is_asked(server: ChatServer, schema: Any) -> None:
    opened = writer(server).open("cpu")
    with pytest.raises(ConfigError, match=r"the schema of answers has no '.*x', to which it refers"):
        next(opened.write(questions(1), schema))
    opened.close()
    assert server.asked == []


def test_a_schema_with_a_pattern_that_is_none_is_said() -> None:
    [problem] = schema_problems({"type": "string", "pattern": "("})
    assert "is no JSON Schema" in problem


GOOD = {
    "recursive": {"properties": {"n": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"items": {"$ref": "#/$defs/x"}}}},
    "whole": {"properties": {"n": {"$ref": "#"}}},
    "anchor": {"properties": {"n": {"$ref": "#x"}}, "$defs": {"y": {"$anchor": "x"}}},
    "own-id": {"$id": "http://x/y", "properties": {"n": {"$ref": "y#/$defs/z"}}, "$defs": {"z": {}}},
    "old": {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/x", "definitions": {"x": {}}},
    "of-json-schema": {"properties": {"n": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}},
    "a-property": {"properties": {"$ref": {"type": "string"}}},
    "a-value": {"const": {"$ref": "#/nowhere"}},
}


@pytest.mark.parametrize("schema", GOOD.values(), ids=GOOD)
def test_a_schema_that_refers_to_what_is_there_is_none_of_these(schema: Any) -> None:
    assert schema_problems(schema) == []


def test_an_answer_that_was_paid_for_is_kept_whatever_its_schema_does() -> None:
    answer = Answer('{"n": 1}', "stop", Usage(1, 1, 1), "tiny")
    for schema in ({"$ref": "#"}, {"$ref": "#/nowhere"}):
        bad = checked(answer, schema)
        assert isinstance(bad, BadAnswer)
        assert (bad.reason, bad.answer) == ("not_of_schema", answer)
