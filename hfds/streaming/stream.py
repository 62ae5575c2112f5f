"""`hfds.stream`: exported samples as a torch IterableDataset. docs/streaming.md has it with examples."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import inf
from numbers import Integral
from pathlib import Path
from typing import Any

from hfds.errors import ConfigError
from hfds.masks import EXTENSION as MASK
from hfds.streaming.cache import Cache
from hfds.streaming.course import SHUFFLES
from hfds.streaming.dataset import Stream
from hfds.streaming.decoding import COLUMNS, DECODE, Decode, Size, is_size
from hfds.streaming.reading import Reader
from hfds.streaming.rows import Rows, samples_at, withdrawn_at

Place = str | Path


def stream(
    place: Place | Mapping[Place, float],
    split: str,
    *,
    seed: int = 0,
    shuffle: str | None = "full",
    columns: Sequence[str] = COLUMNS,
    decode: str | None = "fast",
    size: int | Size | None = 512,
    transform: Callable[..., Any] | None = None,
    where: str | None = None,
    without: Collection[str] = (),
    until: str = "first",
    on_error: str = "raise",
    run: int = 1,
    ahead: int | None = None,
    cache: str | Path | None = None,
    cache_bytes: int = 100 << 30,
) -> Stream:
    """The samples of a release's split as a torch IterableDataset; each is a dict of `columns`.

    Rows that were withdrawn from the dataset are left out.

    Args:
        place: the folder of an export ("dist/image-to-prompt/wds/v4"), "<dataset's folder or org/name>@<release>", or
            any fsspec URL of a folder `wds/<release>`; or several of them with the weights by which they are mixed.
        split: "train".
        seed: the order is a function of it and of the epoch alone.
        shuffle: "full"; "blocks" mixes runs of neighbours, for places where many short reads are slow; None for the
            order of the tars.
        columns: "image", "text" (the caption), "mask" (the number of the entity at each pixel, 0 for none: int32,
            (height, width)), "json", columns of the index, other members by extension, keys of the JSON. Where
            "image" and columns of the index are all, nothing else is read.
        decode: "fast" decodes a JPEG at the smallest part of its size that covers `size`, "exact" in full; None leaves
            the encoded bytes.
        size: pixels of the pictures, a number for squares or (width, height): they are resized to cover it and cut
            around their middle. None leaves each as it is.
        transform: makes `image` of the RGB picture (a PIL.Image, which is at least of `size`), or of its bytes where
            `decode` is None; without it `image` is a uint8 tensor (3, height, width), or bytes. With "mask" among the
            columns it is called with picture and mask, of one size, and gives both.
        where: a rule over columns of the index, such as "aesthetic >= 5 and width >= 512" (docs/rules.md).
        without: ids of rows that are left out.
        until: when the epoch of a mixture ends: "first", before any row would come again, or "all", when all have come.
        on_error: "raise", or "skip" a sample that cannot be read or decoded, which is counted and logged.
        run: samples that one worker of a plain DataLoader takes in a row: its batch size.
        ahead: samples of a remote place that a worker asks for at once, while as many before them are used; 64, or its
            part of the window of "blocks", when None.
        cache: a folder that keeps the shards of remote places, at most `cache_bytes` of them.
        cache_bytes: see above.

    Raises:
        ConfigError: something of this cannot be.
        SourceError: there are no samples at the place, or they cannot be read.
    """
    problems = [
        f"{name} must be one of {', '.join(map(repr, choices))}, got {given!r}"
        for name, given, choices in (
            ("shuffle", shuffle, SHUFFLES), ("decode", decode, DECODE), ("until", until, ("first", "all")),
            ("on_error", on_error, ("raise", "skip")),
        )
        if given not in choices
    ]  # fmt: skip
    weights = dict(place) if isinstance(place, Mapping) else {place: 1.0} if isinstance(place, str | Path) else {}
    if not weights or not all(isinstance(one, str | Path) for one in weights):
        problems.append(f"a place is a path or URL, or a mapping of several to their weights, got {place!r}")
    if any(not isinstance(weight, int | float) or not 0 < weight < inf for weight in weights.values()):
        problems.append(f"weights must be numbers above 0, got {[*weights.values()]}")
    if size is not None and not is_size(size):
        problems.append(f"size is a number of pixels, or (width, height), got {size!r}")
    if not isinstance(seed, Integral):
        problems.append(f"seed must be a whole number, got {seed!r}")
    listed = [*without] if isinstance(without, Iterable) and not isinstance(without, str) else [None]
    left_out = {one for one in listed if isinstance(one, str)}
    if len(left_out) < len({*listed}):
        problems.append(f"without must be ids of rows, got {str(without)[:100]}")
    if isinstance(columns, str) or not columns:
        problems.append(f"columns must be a list of names, got {columns!r}")
    if run < 1 or (ahead is not None and ahead < 1):
        problems.append(f"run and ahead must be at least 1, got {run} and {ahead}")
    if problems:
        raise ConfigError(*problems)
    samples = [samples_at(one) for one in weights]
    if "mask" in columns:
        for one in samples:
            if MASK not in one.manifest.extensions:
                raise ConfigError(f"{one.place} has no masks: leave 'mask' out of the columns")
    indexed = tuple(set.intersection(*({*one.manifest.index} for one in samples)))  # others are in the JSON
    strict, made = on_error == "raise", Decode(tuple(columns), indexed, decode, size, transform)
    kept = Cache(Path(cache), cache_bytes) if cache else None
    return Stream(
        rows=[Rows(one, split, where, left_out, withdrawn_at(one), strict) for one in samples],
        readers=[Reader(one, None if one.local else kept, alone=not made.whole) for one in samples],
        weights=tuple(map(float, weights.values())),
        decode=made,
        order=(int(seed), shuffle, until, where, sorted(left_out), *map(float, weights.values())),
        strict=strict,
        run=run,
        ahead=ahead,
    )
