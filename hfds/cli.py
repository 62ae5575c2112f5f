"""The command line: one call into the library per command, a table for people and `--json` for programs.

Exit codes: 0 ok, 1 drift or leak, 2 wrong configuration, 3 source unavailable, 4 stopped by --max-hours.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import typer

from hfds.commands import building, cards, duplicates, exporting, releases, stores, trainers, withdrawing
from hfds.errors import HfdsError

app = typer.Typer(help=__doc__, pretty_exceptions_enable=False, add_completion=False)


def _add(to: typer.Typer, *commands: Callable[..., None]) -> None:
    for command in commands:
        to.command()(command)


def _group(name: str, help_: str, *commands: Callable[..., None]) -> None:
    group = typer.Typer(help=help_, no_args_is_help=True)
    group.callback()(lambda: None)  # without it a group of one command is that command
    _add(group, *commands)
    app.add_typer(group, name=name)


_add(app, building.sources, building.releases, building.plan, building.build, building.retry, building.explain)
_add(app, duplicates.tune, releases.diff, cards.card, releases.push, releases.verify, withdrawing.yank)
_group("audit", "What is wrong with a built release.", duplicates.leaks)
_group(
    "export", "A built release in the formats that trainers read.", exporting.webdataset,
    trainers.simpletuner, trainers.imagefolder, trainers.coco, trainers.emu3, trainers.files, trainers.csv,
)  # fmt: skip
_group("store", "What models said about rows, kept for every release.", stores.ls, stores.verify, stores.gc)


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors of ours are one sentence on stderr (or JSON on stdout), and an exit code."""
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(given, standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            _fail("stopped; what was finished is kept, run again to go on", 130, given)
        sys.exit(code if isinstance(code, int) else 0)  # that of a typer.Exit
    except HfdsError as error:
        _fail(str(error), error.exit_code, given)
    except typer.TyperException as error:  # what was typed, where `app` does not print it itself
        _fail(getattr(error, "format_message", error.__str__)(), getattr(error, "exit_code", 2), given)
    except Exception as error:  # noqa: BLE001  a mistake of ours: never one of the codes that mean something
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}; this is a bug of hfds", 70, given)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(*_: object) -> NoReturn:
    """What a launcher sends to the ranks that are left when one has died; what was computed is committed on the way."""
    message = "hfds: ended from outside, as by a launcher when another rank died; what was computed is kept, run again"
    typer.secho(message, err=True, fg="red")
    raise SystemExit(143)


def _forked() -> None:
    """Background processes end at once when they are told to."""
    if signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


# A signal that comes while Python forks is forgotten where Python handles it, and a pool then waits for ever.
os.register_at_fork(
    before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
    after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}),
    after_in_child=_forked,
)


def _fail(message: str, code: int, given: list[str]) -> NoReturn:
    if "--json" in given:
        typer.echo(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False))
    else:
        typer.secho(f"hfds: {message}", err=True, fg="red")
    sys.exit(code)


if __name__ == "__main__":
    main()
