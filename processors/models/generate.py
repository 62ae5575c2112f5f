"""Language models by transformers' `generate`: the small default, which needs no server and no further package."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hfds.asking import is_memory
from hfds.errors import BadRow, ConfigError
from hfds.model import Model
from hfds.writer import Answer, Question, Usage, checked, schema_problems
from processors.models.chat import load_chat, marks_of, messages, refuse_marks, told_schema, unfenced
from processors.models.checkpoint import load, need, read_json
from processors.models.sampling import Chooser, numbers, sampling_entry, sampling_problems

_log = logging.getLogger(__name__)


class Shapes(NamedTuple):
    """The shapes of what a device is shown, which decide the last bits of what it gives: prompts are padded to a
    multiple of `step` tokens, batches filled up to a multiple of `rows` where their size is one, else whole."""

    step: int
    rows: int


# A CPU gives a row the same bits in batches of 4, 8, 12 and 16 rows, and not in those of 1, 2, 3, 9 and 15 (measured
# with Llamas in float32; in bfloat16 in all of them). A GPU chooses its kernels by the whole shape.
CPU, GPU = Shapes(step=16, rows=8), Shapes(step=64, rows=1 << 30)


@dataclass(frozen=True)
class Generate:
    """A chat model in this process.

    A prompt is padded by its own length alone and shown in batches that are filled up with copies, and every answer has
    random numbers of its own. So on one device, with one batch size, an answer does not depend on what is
    asked beside it. Nothing keeps the model to a schema: it is told it, a code block around its JSON is taken off, and
    what is not of the schema is a BadAnswer.

    Args:
        model: the checkpoint, with its tokenizer and the template of its chats.
        temperature, top_p, max_tokens: of the sampling; 0 as temperature takes the likeliest token.
        batch_size: answers that are written at once.
    """

    model: Model
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    batch_size: int = 16

    @property
    def at_once(self) -> int:
        """Enough for batches of prompts of one length to be full, mostly."""
        return 64 * self.batch_size

    def entry(self) -> dict[str, Any]:
        """What its answers depend on."""
        sampling = sampling_entry(self.temperature, self.top_p, self.max_tokens)
        return {"backend": type(self).__name__, "model": self.model.identity, **sampling}

    def problems(self) -> list[str]:
        """What is wrong with its parameters."""
        if not isinstance(self.model, Model):
            return [f"{type(self).__name__}: model must be a hfds.model.Model, got {self.model!r}"]
        found = [*self.model.problems(), *sampling_problems(self.temperature, self.top_p, self.max_tokens)]
        if type(self.batch_size) is not int or self.batch_size < 1:
            found.append(f"batch_size must be a whole number from 1, got {self.batch_size!r}")
        return [f"{type(self).__name__}: {problem}" for problem in found]

    def open(self, device: str, ranks: int = 1) -> "Generator":
        """The model on `device`.

        Raises:
            ConfigError: a parameter cannot be, or the folder of the model is not whole.
            MissingExtra: transformers is not installed.
        """
        if problems := self.problems():
            raise ConfigError(*problems)
        need(type(self).__name__, "torch", "transformers")
        return Generator(self, device)


class Generator:
    """A chat model on a device; see `hfds.writer.Opened`."""

    def __init__(self, writer: Generate, device: str):
        from transformers import AutoModelForCausalLM, GenerationConfig

        self.writer, self.name = writer, writer.model.identity
        self.tokenizer = load_chat(writer.model)
        self.marks = marks_of(self.tokenizer)
        self.network = load(AutoModelForCausalLM, writer.model, device)
        if (file := writer.model.folder() / "generation_config.json").is_file():
            read_json(file)  # else transformers goes on without a word, and without the ends of answers that it names
        ends = self.network.generation_config.eos_token_id
        ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        if not ends:
            raise ConfigError(f"{writer.model.repo} must say which token ends an answer: it has no eos_token_id")
        self.ends = sorted(ends)
        pad = self.tokenizer.pad_token_id
        known = self.network.get_input_embeddings().num_embeddings  # a tokenizer may have got one that is not in it
        self.pad = pad if pad is not None and pad < known else self.ends[0]
        # In place of its own, which would change how it samples without a word in the key.
        self.network.generation_config = GenerationConfig(
            max_new_tokens=writer.max_tokens, do_sample=False, eos_token_id=self.ends, pad_token_id=self.pad
        )
        room = getattr(self.network.config.get_text_config(), "max_position_embeddings", None)
        self.room = (room or 1 << 30) - writer.max_tokens
        if self.room < 1:  # else every question would be too long
            raise ConfigError(
                f"{writer.model.repo} has room for {room} tokens, and max_tokens={writer.max_tokens} leaves none for a "
                "question: give less"
            )
        self.size, self.shapes = writer.batch_size, CPU if device == "cpu" else GPU
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """Of all answers."""
        return self._usage

    def write(
        self, questions: Sequence[Question], schema: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Answer | Exception]]:
        """See `hfds.writer.Opened`."""
        if schema is not None and (problems := schema_problems(schema)):
            raise ConfigError(*problems)
        prompts: dict[int, np.ndarray] = {}
        for position, question in enumerate(questions):
            try:
                prompts[position] = self._prompt(question, schema)
            except Exception as error:  # noqa: BLE001  templates raise anything
                yield position, error
        lengths = {position: _multiple(len(ids), self.shapes.step) for position, ids in prompts.items()}
        for length in sorted({*lengths.values()}, reverse=True):  # where memory is short, that shows first
            waiting = [[position for position in prompts if lengths[position] == length]]
            while waiting:
                batch = waiting.pop()
                if len(batch) > self.size:
                    waiting += [batch[self.size :], batch[: self.size]]
                    continue
                seeds = [questions[position].seed for position in batch]
                try:
                    answers = self._answers([prompts[position] for position in batch], seeds, length)
                except Exception as error:  # noqa: BLE001  models raise anything
                    if is_memory(error) and self.size > 1:
                        self._shrink(error)
                        waiting.append(batch)
                    elif len(batch) > 1:  # one of them makes the others fail
                        middle = len(batch) // 2
                        waiting += [batch[middle:], batch[:middle]]
                    else:
                        yield batch[0], error.with_traceback(None)
                    continue
                for position, answer in zip(batch, answers, strict=True):
                    self._usage += answer.usage
                    yield position, checked(answer if schema is None else _bare(answer), schema)

    def close(self) -> None:
        """Frees the memory of the model."""
        self.network = self.tokenizer = None

    def _prompt(self, question: Question, schema: Mapping[str, Any] | None) -> np.ndarray:
        refuse_marks(question, self.marks)
        asked = told_schema(question, schema) if schema is not None else question
        found = self.tokenizer.apply_chat_template(messages(asked), add_generation_prompt=True, return_dict=True)
        ids = np.array(found["input_ids"], np.int64)
        if len(ids) > self.room:
            raise BadRow(
                "too_long_prompt", f"{len(ids)} tokens, and {self.room} leave room for {self.writer.max_tokens} more"
            )
        return ids

    def _shrink(self, error: Exception) -> None:
        import torch

        error.with_traceback(None)  # which would hold on to the device's memory
        self.size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _log.warning("%s: out of memory, going on with %d answers at a time", self.writer.model.repo, self.size)

    def _answers(self, prompts: list[np.ndarray], seeds: list[int], length: int) -> list[Answer]:
        """The answers to prompts of which each has `length` tokens when it is padded."""
        import torch

        rows = self.size if self.size % self.shapes.rows else _multiple(len(prompts), self.shapes.rows)
        ids, there = np.full((rows, length), self.pad), np.zeros((rows, length), np.int64)
        for row in range(rows):
            prompt = prompts[min(row, len(prompts) - 1)]
            ids[row, length - len(prompt) :], there[row, length - len(prompt) :] = prompt, 1
        seeds = seeds + seeds[-1:] * (rows - len(seeds))
        device, writer = self.network.device, self.writer
        chooser = Chooser(seeds, writer.temperature, writer.top_p, writer.max_tokens, device)
        with torch.inference_mode():
            found = self.network.generate(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(there).to(device),
                logits_processor=[chooser if writer.temperature else numbers],
            )
        written = found[: len(prompts), length:].cpu().numpy()
        return [self._answer(len(prompt), tokens) for prompt, tokens in zip(prompts, written, strict=True)]

    def _answer(self, prompt: int, tokens: np.ndarray) -> Answer:
        ends = np.flatnonzero(np.isin(tokens, self.ends))
        own = tokens[: ends[0] + 1] if len(ends) else tokens
        text = self.tokenizer.decode(own.tolist(), skip_special_tokens=True)
        return Answer(text, "stop" if len(ends) else "length", Usage(1, prompt, len(own)), self.name)


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of


def _bare(answer: Answer) -> Answer:
    return Answer(unfenced(answer.text), answer.finish, answer.usage, answer.model)
