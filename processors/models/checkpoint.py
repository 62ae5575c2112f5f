"""Checkpoint: the files of a model's folder put into a transformers model, whole or not at all.

Nothing of a repository is run: no remote code, and pickled weights are read with torch's weights-only loader.
"""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hfds.errors import ConfigError, MissingExtra
from hfds.model import Model


def need(who: str, *packages: str, extra: str = "models") -> None:
    """Raises MissingExtra for the first of `packages`, of an `extra`, that is not installed."""
    for package in packages:
        try:
            import_module(package)
        except ImportError:
            raise MissingExtra(who, package, extra) from None


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file of a checkpoint says.

    Raises:
        ConfigError: it holds no JSON object.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ConfigError(f"{file} cannot be read as JSON ({error}): fetch the checkpoint again") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} must hold a JSON object, got {type(found).__name__}")
    return found


def architecture(model: Model) -> str:
    """What its config.json says it is, "ViTForImageClassification"; the model type where that is all it says."""
    config = read_json(model.folder() / "config.json")
    names = config.get("architectures") or [config.get("model_type", "a model of no type")]
    return str(names[0])


def load(source: Any, model: Model, device: str, **given: Any) -> Any:
    """What `source.from_pretrained` makes of a checkpoint, on `device`, in its dtype and ready to infer.

    Args:
        source: a class of transformers.
        given: further arguments of `from_pretrained`.

    Raises:
        ConfigError: weights are missing, broken or of another shape; transformers would make random ones up.
    """
    return load_from(source, model.folder(), model, device, **given)


def load_from(source: Any, folder: Path, model: Model, device: str, **given: Any) -> Any:
    """What `load` gives, of a part of a checkpoint that has a folder of its own."""
    import torch
    from safetensors import SafetensorError

    part = f" ({folder.name})" if folder != model.folder() else ""
    try:
        with quiet():
            loaded, report = source.from_pretrained(
                folder,
                dtype=getattr(torch, model.dtype),
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **given,
            )
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise ConfigError(f"the model {model.repo}{part} cannot be loaded: {_first_line(error)}") from None
    if wrong := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise ConfigError(
            f"the model {model.repo}{part} cannot be used: {len(wrong)} of its weights are missing or of another shape "
            f"than its config.json says, such as {wrong[0]!r}"
        )
    return loaded.to(device)


def load_tokenizer(model: Model) -> Any:
    """Its tokenizer.

    Raises:
        ConfigError: it has none.
    """
    from transformers import AutoTokenizer

    folder = model.folder()
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):  # else CLIP's comes up empty
        raise ConfigError(f"{model.repo} must hold the tokenizer of its texts: it has no tokenizer.json or vocab.json")
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer of {model.repo} cannot be loaded: {_first_line(error)}") from None


def sees(config: Any, shape: tuple[int, int], model: Model) -> None:
    """That a network of this config takes pictures of height and width `shape`.

    Raises:
        ConfigError: it wants others; the model would fail on every picture.
    """
    wanted = getattr(config, "image_size", None)
    wanted = (wanted, wanted) if isinstance(wanted, int) else wanted
    if wanted is not None and tuple(wanted) != shape:
        raise ConfigError(
            f"{model.repo} contradicts itself: its config.json wants pictures of {wanted[0]}x{wanted[1]}, and its "
            f"preprocessing makes them {shape[0]}x{shape[1]}"
        )


@contextmanager
def quiet(library: str = "transformers") -> Iterator[None]:
    """Without the log and the bars of a library of Hugging Face, which say in many lines what is said here in one."""
    logging = import_module(f"{library}.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
