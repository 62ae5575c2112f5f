"""Sources and releases by name: what the command line and `hfds.load` look things up in."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from builders import BUILDERS
from hfds.builder import Builder
from hfds.errors import ConfigError, nearest
from hfds.lock import release_names
from hfds.processor import Annotator, Step
from hfds.release import Release
from hfds.releases import RELEASES


def find_builder(name: str) -> type[Builder]:
    """The builder called `name`; raises ConfigError with the nearest name."""
    known = {builder.NAME: builder for builder in BUILDERS}
    if name not in known:
        raise ConfigError(f"there is no source {name!r}: {nearest(name, known)}")
    return known[name]


def find_release(dataset: str, name: str) -> Release:
    """A shipped release by dataset and name, or the release `name` of a Python file when `dataset` is a path to one.

    Raises:
        ConfigError: with the nearest names, or with what is wrong with the file.
    """
    if dataset.endswith(".py"):
        there = releases_in(Path(dataset))
        known = {release.name: release for release in there}
        if sum(release.name == name for release in there) > 1:
            raise ConfigError(f"{dataset} defines more than one release {name!r}: give each a name of its own")
        where = dataset
    else:
        names = sorted({release.dataset for release in RELEASES})
        if dataset not in names:
            raise ConfigError(f"there is no dataset {dataset!r}: {nearest(dataset, names)}")
        known = {release.name: release for release in RELEASES if release.dataset == dataset}
        where = f"{dataset}'s"
    if name not in known:
        raise ConfigError(f"release {name!r} is not one of {where} releases: {nearest(name, known)}")
    return known[name]


def dataset_name(dataset: str, name: str, out: Path) -> str:
    """The name of a dataset that was built below `out`, from that or from a Python file that defines a release of it:
    the release `name`, or any, where `name` is one that only was built, such as a patch.

    Raises:
        ConfigError: with the nearest names, or with what is wrong with the file.
    """
    if not dataset.endswith(".py"):
        return dataset
    there = releases_in(Path(dataset))
    datasets = [*dict.fromkeys(release.dataset for release in there if release.name == name)]
    if not datasets:
        built = {one: release_names(out / one) for one in dict.fromkeys(release.dataset for release in there)}
        datasets = [one for one, names in built.items() if name in names]
        known = sorted({release.name for release in there}.union(*built.values()))
    if not datasets:
        what = f"release {name!r} is neither defined in {dataset} nor built of its datasets in {out}"
        raise ConfigError(f"{what}: {nearest(name, known)}")
    if len(datasets) > 1:
        raise ConfigError(f"release {name!r} is one of {', '.join(datasets)}: give the dataset instead of {dataset}")
    return datasets[0]


def annotators_of(dataset: str, name: str) -> tuple[Step, ...]:
    """The steps of a release that add columns; none where only what was built of it is known."""
    try:
        return tuple(step for step in find_release(dataset, name).steps if isinstance(step, Annotator))
    except ConfigError:
        return ()


def releases_in(path: Path) -> list[Release]:
    """Every Release that a user's own Python file defines at its top level. The file is run: it is the user's code."""
    if not path.is_file():
        raise ConfigError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"hfds_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    if (beside := str(path.parent.resolve())) not in sys.path:
        sys.path.insert(0, beside)  # as Python does for a script
    sys.modules[spec.name] = module  # where dataclasses and the cache keys of builders look for a class's source
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    found = [value for value in vars(module).values() if isinstance(value, Release)]
    if not found:
        raise ConfigError(f"{path} defines no Release at its top level: V1 = Release(dataset=..., name='v1', ...)")
    return found


def load(
    source: str,
    config: str | None = None,
    *,
    data_dir: str | Path | None = None,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> Any:
    """A source's rows in the common schema, as `datasets.load_dataset` would give them, dropped rows included.

    Ids are unique where the source's keys are; a row that the source has twice has its id twice, and `build` tells the
    second apart.

    Args:
        source: a builder's name, such as "diffusiondb".
        config: one of its configs; its default when None.
        data_dir: the folder that holds the source as published; from the Hub when None.
        split: the name of one split, as a Dataset; a DatasetDict of all when None.
        streaming: an IterableDataset, with nothing written.
        num_proc: processes that prepare it.
        cache_dir: where the prepared rows go; the cache of `datasets` when None.
        options: further arguments of the builder or its config, such as revision="...", limit=1000 or seed=7.

    Raises:
        ConfigError: unknown source, config, split or option.
        SourceError: the source is missing or one of its files cannot be read.
    """
    if not (split is None or isinstance(split, str)):
        raise ConfigError(f"split must be the name of one split, got {split!r}")
    if options.get("limit") is not None and not (isinstance(options["limit"], int) and options["limit"] > 0):
        raise ConfigError(f"limit must be a number of rows from 1, got {options['limit']!r}")
    splits = None if split is None else (split,)
    builder = find_builder(source)(config, data_dir=data_dir, cache_dir=cache_dir, splits=splits, **options)
    if streaming:
        return builder.as_streaming_dataset(split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split)
