"""Chat completions as JSON (platform.openai.com/docs/api-reference/chat): requests, answers, and what errors say."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hfds.record import printable
from hfds.tries import answer_of
from hfds.writer import Answer, Question, Usage

SECRET = 8  # characters that a key has at least; a shorter one ("EMPTY") is no secret, and may stand anywhere
ENDS = {  # what servers of this form, and those behind which others stand, say of an answer's end, in small letters
    "stop": ("stop", "eos", "eos_token", "end_turn", "stop_sequence"),
    "length": ("length", "max_tokens", "max_output_tokens", "model_length"),
    "content_filter": ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
    "refusal": ("refusal",),
}
MANY = 1 << 31  # tokens that no question and no answer has
MODEL = 200  # characters of what a server calls itself
LARGEST = 1 << 25  # bytes of an answer
LONGEST = 3600.0  # seconds that one may take from its first byte on
PACKED = ("gzip", "deflate", "br", "zstd")  # ways in which a body may be, of which the first two are asked for
ROOM = 32  # tokens, at most, that a chat template puts around a message


def most_tokens(sampling: Mapping[str, Any], body: Mapping[str, Any]) -> int | None:
    """The tokens that answers to one request may have together, by its fields; None where they do not say."""
    whole = {**sampling, **body}
    limits = [whole.get(name) for name in ("max_tokens", "max_completion_tokens")]
    known = [limit for limit in limits if type(limit) is int and limit > 0]
    counts = [whole.get(name) for name in ("n", "best_of")]
    return max(known) * max([1, *(count for count in counts if type(count) is int)]) if known else None


@dataclass(frozen=True)
class Form:
    """How requests to one model look.

    Args:
        model: what the server calls it.
        sampling: fields of all requests, "max_tokens" among them.
        body: further ones, in place of others of their names; one that is None is left out.
        cost: of so many tokens of a prompt and of its answer.
    """

    model: str
    sampling: Mapping[str, float]
    body: Mapping[str, Any]
    cost: Callable[[int, int], float]

    def request(self, question: Question, schema: Mapping[str, Any] | None) -> bytes:
        """The body of a request."""
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": text} for role, text in question.messages],
            **self.sampling,
            "seed": question.seed,
        }
        if schema is not None:
            named = {"name": "answer", "schema": dict(schema), "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": named}
        whole = {**fields, **self.body}
        return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()

    def most(self, question: Question, schema: Mapping[str, Any] | None) -> Usage:
        """What a question uses at most: no token is less than a byte."""
        prompt = sum(len(text.encode("utf-8", "replace")) + ROOM for _, text in question.messages) + ROOM
        prompt += len(json.dumps(dict(schema))) if schema is not None else 0
        return self._usage(prompt, most_tokens(self.sampling, self.body) or int(self.sampling["max_tokens"]))

    def answer(self, response: Any, most: Usage) -> Answer:
        """The answer in a response to a question that uses at most `most`; see `used`.

        Raises:
            httpx2.HTTPStatusError: its status is that of an error.
            ValueError: it holds no answer.
        """
        if response.status_code == 400 and _error(response).get("code") == "content_filter":  # so says Azure
            return Answer(_message(response), "content_filter", Usage(1), self.model)
        response.raise_for_status()
        try:
            data = response.json()
            choice = data["choices"][0]
            content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
            finish = _finish(choice.get("finish_reason"))
            made_by = " ".join(str(data[name]) for name in ("model", "system_fingerprint") if data.get(name))
        except (LookupError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"no chat completion but {response.text[:100]!r}") from None
        if not isinstance(text := refusal or content or "", str):
            raise ValueError(f"no text but {str(text)[:100]!r}")
        return Answer(
            text.encode("utf-8", "replace").decode(),  # JSON may hold half a pair of surrogates
            "refusal" if refusal else finish,
            self.used(response, most),
            printable(made_by)[:MODEL] or self.model,
        )

    def used(self, response: Any, most: Usage) -> Usage:
        """What a response says that its question used; `most` where it says nothing, or what no answer can use."""
        try:
            said = response.json()["usage"]
            counts = [said[f"{of}_tokens"] for of in ("prompt", "completion")]
        except (ValueError, LookupError, TypeError, RecursionError):
            return most
        believed = all(type(count) is int and 0 <= count < MANY for count in counts)
        return self._usage(*counts) if believed else most

    def _usage(self, prompt: int, completion: int) -> Usage:
        return Usage(1, prompt, completion, self.cost(prompt, completion))


def _finish(said: Any) -> str:
    """How an answer ended, in the words of `hfds.writer.Answer`. Who says nothing says that it ended as it should."""
    word = "stop" if said is None else printable(" ".join(str(said).split()))[:40]
    return next((finish for finish, words in ENDS.items() if word.lower() in words), word)


def no_credit(error: BaseException) -> bool:
    """Whether an error says that the account behind a key is empty, which waiting does not fill."""
    answer = answer_of(error)
    return answer is not None and (answer.status_code == 402 or _error(answer).get("code") == "insufficient_quota")


def told(error: BaseException, key: str | None) -> str:
    """An error as a few words, never with the key, which a server may say back."""
    text = " ".join(str(error).split()) or type(error).__name__
    if (answer := answer_of(error)) is not None:
        text = f"{answer.status_code} {_message(answer)}".strip()
    return printable(hidden(key, text))[:300]


def received(response: Any) -> Any:
    """A response whose body is read: as much as an answer may have, for as long as one may take. The rest is left, and
    what is then cut is no chat completion. Its text is UTF-8, as JSON is, whatever it says.

    Raises:
        ValueError: it is packed in a way that was not asked for, which may be anything when it is unpacked.
    """
    words = response.headers.get("content-encoding", "").lower().split(",")
    packed = [word.strip() for word in words if word.strip() in PACKED]  # others, such as "utf-8", say nothing of it
    if packed not in ([], *([way] for way in PACKED[:2])):
        raise ValueError(f"an answer that is packed as {', '.join(packed)[:40]}")
    body, until = bytearray(), time.monotonic() + LONGEST
    for part in response.iter_bytes():
        body += part
        if len(body) > LARGEST or time.monotonic() > until:
            break
    return _with_body(response, bytes(body[:LARGEST]), [*response.headers.multi_items()])


def _with_body(response: Any, body: bytes, headers: list[tuple[str, str]]) -> Any:
    """A response with another body, without the words behind its status, which are the server's too."""
    own = ("content-encoding", "content-length", "content-type", "transfer-encoding")  # of the body as it was sent
    return type(response)(
        response.status_code,
        headers=[(name, value) for name, value in headers if name not in own],
        content=body,
        request=response.request,
    )


def without(key: str | None, response: Any) -> Any:
    """A response as if the server had never said the key back, in its body or its headers."""
    if key is None or len(key) < SECRET:
        return response
    try:
        text = json.dumps(json.loads(response.content))  # in which it is written in one way
    except (ValueError, RecursionError):
        text = response.text
    headers = [(name, hidden(key, value)) for name, value in response.headers.multi_items()]
    return _with_body(response, hidden(key, text).encode("utf-8", "replace"), headers)


def hidden(key: str | None, text: str) -> str:
    """`text` with "[key]" for the key, which JSON may write with escapes."""
    if key is None or len(key) < SECRET:
        return text
    return text.replace(json.dumps(key)[1:-1], "[key]").replace(key, "[key]")


def _error(response: Any) -> dict[str, Any]:
    """What a response says of an error, as the field "error" of its JSON has it."""
    try:
        found = response.json()["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {"message": found}


def _message(response: Any) -> str:
    said = _error(response).get("message") or response.text
    return " ".join(str(said).split())
