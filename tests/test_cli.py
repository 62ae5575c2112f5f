"""The command line: what it prints for people and for programs, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures import toy

import hfds
from hfds.cli import main


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Calls the command line; gives exit code, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's own release file, with sources beside it."""
    toy.write(tmp_path / "sources", a=toy.many(30))
    path = tmp_path / "my_release.py"
    path.write_text(toy.RELEASES.format(path=[str(Path(__file__).parent)]))
    return path


def test_sources_and_releases(call: Any) -> None:
    code, out, _ = call("sources", "--json")
    assert code == 0
    names = [entry["source"] for entry in json.loads(out)]
    assert names == ["dalle3", "diffusiondb", "gustavosta", "laion", "openprompts", "prompt_lists", "sd2_renders"]
    assert "dalle3" in call("sources")[1]
    code, out, _ = call("releases", "--json")
    assert ("image-to-prompt", "demo") in [(entry["dataset"], entry["release"]) for entry in json.loads(out)]
    assert "image-to-prompt" in call("releases")[1]


def test_plan_build_explain_of_a_users_own_file(call: Any, mine: Path, tmp_path: Path) -> None:
    where = ("--sources", tmp_path / "sources", "--workdir", tmp_path / "work")
    code, out, err = call("plan", mine, "v1", *where, "--json")
    assert (code, json.loads(out)["inputs"][0]["pieces"]) == (0, 1), err
    assert "toy/lines" in call("plan", mine, "v1", *where)[1]
    code, out, err = call("build", mine, "v1", *where, "--out", tmp_path / "dist", "--num-proc", "2", "--json")
    assert code == 0, err
    built = json.loads(out)
    assert built["funnel"][0]["rows"] == 30
    assert built["folder"] == str(tmp_path / "dist/toys")
    code, out, _ = call("build", mine, "v1", *where, "--out", tmp_path / "dist")
    assert code == 0
    assert built["digest"] in out
    assert "duplicate_prompt 20" in " ".join(out.split())
    code, out, _ = call("explain", mine, "v1", "toy/000004", "--out", tmp_path / "dist", "--json")
    assert code == 0
    assert [(row["id"], row["reason"]) for row in json.loads(out)["chain"]] == [
        ("toy/000004", "duplicate_prompt"),
        ("toy/000003", None),
    ]
    assert call("explain", "toys", "v1", "toy/000004", "--out", tmp_path / "dist")[0] == 0, "by the dataset's name too"
    code, out, _ = call("build", mine, "v1", *where, "--out", tmp_path / "try", "--rows", "9", "--json")
    assert json.loads(out)["funnel"][0]["rows"] == 9


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (
            ("build", "image-to-promt", "demo"),
            2,
            "there is no dataset 'image-to-promt': did you mean 'image-to-prompt'?",
        ),
        (("build", "image-to-prompt", "dmeo"), 2, "did you mean 'demo'?"),
        (("plan", "nowhere.py", "v1"), 2, "no file nowhere.py"),
        (
            ("build", "image-to-prompt", "demo", "--sources", "/nowhere"),
            3,
            "diffusiondb: no folder /nowhere/diffusiondb",
        ),
        (
            ("explain", "image-to-prompt", "demo", "x/y", "--out", "/nowhere"),
            2,
            "no dataset 'image-to-prompt' was built",
        ),
        (("build", "image-to-prompt", "demo", "--rows", "0"), 2, "--rows"),
        (("bild",), 2, "bild"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(call: Any, arguments: Any, code: int, message: str) -> None:
    got, _, err = call(*arguments)
    assert got == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_errors_as_json(call: Any) -> None:
    code, out, err = call("build", "--json")
    assert (code, json.loads(out)["exit_code"], err) == (2, 2, "")
    assert "Missing argument" in json.loads(out)["error"]
    code, out, _ = call("build", "image-to-prompt", "dmeo", "--json")
    assert (code, json.loads(out)["exit_code"]) == (2, 2)
    assert "did you mean 'demo'?" in json.loads(out)["error"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("import nothing_of_that_name", "cannot be read: ModuleNotFoundError"),
        ("V1 = (", "cannot be read: SyntaxError"),
        ("V1 = 1", "defines no Release"),
    ],
)
def test_a_users_file_that_is_wrong(call: Any, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    code, _, err = call("build", path, "v1")
    assert code == 2
    assert message in err


def test_every_public_name_is_there() -> None:
    assert [name for name in hfds.__all__ if getattr(hfds, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hfds.nothing  # noqa: B018


def test_load_gives_a_source_as_datasets_would(tmp_path: Path) -> None:
    from fixtures import dalle3

    dalle3.clean(tmp_path / "dalle3")
    rows = hfds.load("dalle3", "long", data_dir=tmp_path / "dalle3", cache_dir=tmp_path / "cache")
    assert {split: len(part) for split, part in rows.items()} == {"train": 8}
    train = hfds.load("dalle3", data_dir=tmp_path / "dalle3", cache_dir=tmp_path / "cache", split="train", num_proc=2)
    assert train[0]["prompt"] == "A short caption of one."
    streamed = hfds.load("dalle3", data_dir=tmp_path / "dalle3", split="train", streaming=True)
    assert next(iter(streamed))["id"] == "dalle3/one"
    for num_proc in (1, 2):
        few = hfds.load(
            "dalle3",
            data_dir=tmp_path / "dalle3",
            cache_dir=tmp_path / f"{num_proc}",
            split="train",
            limit=3,
            num_proc=num_proc,
        )
        assert len(few) == 3
    with pytest.raises(hfds.HfdsError, match=r"there is no source 'dale3': did you mean 'dalle3'\?"):
        hfds.load("dale3")
    with pytest.raises(hfds.HfdsError, match="dalle3/short has no split 'valid'"):
        hfds.load("dalle3", data_dir=tmp_path / "dalle3", split="valid")


def test_a_users_file_with_a_source_of_its_own(call: Any, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/own-source.md").read_text()
    source = page.split("```python\n")[1].split("```")[0]
    release = (
        "from __future__ import annotations\n" + source + "\nfrom hfds import Input, Release\n"
        'V1 = Release("mine", "v1", (Input(MyPrompts), Input(MyPrompts, folder="more")), columns=("prompt",))\n'
    )
    (tmp_path / "mine.py").write_text(release)
    for folder in ("my_prompts", "more"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            (tmp_path / folder / f"{name}.txt").write_text(f"{folder} {name}\nand another\n")
    where = ("--sources", tmp_path, "--workdir", tmp_path / "work", "--out", tmp_path / "dist", "--num-proc", "2")
    code, out, err = call("build", tmp_path / "mine.py", "v1", *where, "--json")
    assert code == 0, err
    assert [(entry["input"], entry["rows"]) for entry in json.loads(out)["funnel"]] == [
        ("my_prompts/default", 4),
        ("my_prompts/default@more", 4),
    ]


def test_two_releases_of_one_name_in_a_file(call: Any, mine: Path) -> None:
    mine.write_text(mine.read_text() + 'V3 = V1.but("v1", dataset="others")\n')
    code, _, err = call("plan", mine, "v1")
    assert code == 2
    assert "defines more than one release 'v1'" in err


def test_a_file_beside_a_release_file_can_be_imported(call: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("NAME = 'v9'\n")
    mine.write_text(mine.read_text() + "from beside_it import NAME\nV9 = V1.but(NAME)\n")
    assert call("plan", mine, "v9", "--sources", tmp_path / "sources", "--workdir", tmp_path / "work")[0] == 0


def test_a_folder_that_cannot_be_written(call: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--out", "--workdir"):
        given = ("--sources", tmp_path / "sources", "--workdir", tmp_path / "work", "--out", tmp_path / "dist")
        code, _, err = call("build", mine, "v1", *given, option, tmp_path / "file")
        assert code == 2, option
        assert "cannot write" in err
        assert "choose another --workdir, --store or --out" in " ".join(err.split())


def test_explain_names_what_was_built(call: Any, mine: Path, tmp_path: Path) -> None:
    where = ("--sources", tmp_path / "sources", "--workdir", tmp_path / "work", "--out", tmp_path / "dist")
    assert call("build", mine, "v1", *where)[0] == 0
    assert "did you mean 'toys'" in call("explain", "toy", "v1", "toy/1", "--out", tmp_path / "dist")[2]
    assert "did you mean 'v1'" in " ".join(call("explain", "toys", "v", "toy/1", "--out", tmp_path / "dist")[2].split())


def test_background_processes_end_when_they_are_told_to_as_soon_as_they_begin() -> None:
    end = (
        "import signal\nfrom unittest.mock import patch\nimport multiprocess\nfrom hfds import cli\n"
        "memory = [bytes(1000) for _ in range(300_000)]\n"  # what makes a fork take its time
        "def ended(*_, **__):\n"
        "    for _ in range(10):\n"
        "        with multiprocess.Pool(2) as pool:\n"
        "            pool.terminate()\n"
        "    print('ended')\n"
        "with patch.object(cli, 'app', ended):\n"
        "    cli.main(['sources'])\n"
    )
    done = subprocess.run([sys.executable, "-c", end], capture_output=True, text=True, timeout=60)
    assert done.stdout == "ended\n", done.stderr
