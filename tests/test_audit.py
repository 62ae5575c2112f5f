"""The audit finds what crosses from one split into another, within a release and between releases, and nothing else."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from fixtures import dalle3, toy
from fixtures.make import tar as make_tar
from fixtures.voices import Compass

from builders.dalle3 import Dalle3
from hfds import Input, Release, build
from hfds.audit import CHECKS, checks_of, find_leaks
from hfds.cli import main
from hfds.errors import ConfigError, SourceMissing
from hfds.run import Run
from processors.duplicates.alike import Alike

TEXT = "a lighthouse on a cliff above the sea in the style of old masters oil on canvas"
V1 = Release(
    "toys",
    "v1",
    (
        Input(toy.Toy, "halves", into="train", splits=("first",)),
        Input(toy.Toy, "halves", into="test", splits=("second",)),
    ),
    columns=("prompt", "image_hash"),
)
V2 = V1.but("v2")


def built(folder: Path, release: Release, train: list[str], test: list[str]) -> Path:
    """`release` with these prompts in the folder's dist; their ids are toy/<number>, the same in every release."""
    numbers: dict[str, str] = json.loads((folder / "ids.json").read_text()) if (folder / "ids.json").exists() else {}
    for text in (*train, *test):
        numbers.setdefault(text, str(len(numbers)))
    (folder / "ids.json").write_text(json.dumps(numbers))
    lines = {"a": [(numbers[text], text) for text in train], "b": [(numbers[text], text) for text in test]}
    toy.write(folder / "sources", **lines)
    build(release, Run.here(folder / "work"), sources=folder / "sources", out=folder / "dist")
    return folder / "dist"


def found(dist: Path, name: str, **more: Any) -> list[tuple[Any, ...]]:
    audit = find_leaks("toys", name, Run.here(dist.parent / "work"), out=dist, **more)
    return [(leak["check"], leak["split"], leak["like"], leak["rows"]) for leak in audit.leaks]


TEXTS = {name: CHECKS[name] for name in ("prompt", "image", "words")}


def test_within_a_release(tmp_path: Path) -> None:
    dist = built(tmp_path, V1, [TEXT, "one two three", "only here"], [TEXT + " again", "ONE, two three!", "only there"])
    assert found(dist, "v1", checks=TEXTS) == [
        ("prompt", "train", "toys/v1:test", 1),
        ("prompt", "test", "toys/v1:train", 1),
        ("words", "train", "toys/v1:test", 2),
        ("words", "test", "toys/v1:train", 2),
    ]


def test_between_releases(tmp_path: Path) -> None:
    built(tmp_path, V1, ["stays in train", "moves out"], ["stays in test", "moves over"])
    dist = built(tmp_path, V2, ["stays in train", "moves over", "new"], ["stays in test", "new too"])
    assert found(dist, "v2", checks=TEXTS) == [
        ("prompt", "train", "toys/v1:test", 1),
        ("words", "train", "toys/v1:test", 1),
    ]
    assert found(dist, "v1", checks=TEXTS)[0] == ("prompt", "test", "toys/v2:train", 1)
    assert found(dist, "v2", checks=TEXTS, against=[]) == []
    audit = find_leaks("toys", "v2", Run.here(tmp_path / "work"), out=dist, checks=TEXTS)
    pair = audit.pairs[0]
    assert (pair["id"], pair["partner"], pair["partner_in"]) == ("toy/3", "toy/3", "toys/v1:test")
    assert pair["prompt"] == pair["partner_prompt"] == "moves over"


def test_a_release_that_cannot_be_compared_hides_nothing(tmp_path: Path) -> None:
    built(tmp_path, V1, [TEXT, "a"], [TEXT.upper(), "b"])
    dist = built(tmp_path, V1.but("v0", columns=("license",)), ["c"], ["d"])
    audit = find_leaks("toys", "v1", Run.here(tmp_path / "work"), out=dist, checks=TEXTS)
    assert [(leak["check"], leak["like"]) for leak in audit.leaks] == [
        ("prompt", "toys/v1:test"), ("prompt", "toys/v1:train"), ("words", "toys/v1:test"), ("words", "toys/v1:train"),
    ]  # fmt: skip
    assert {(one["check"], one["release"]) for one in audit.skipped} == {(check, "toys/v0") for check in TEXTS}
    with pytest.raises(ConfigError, match="toys/v0 has no column 'prompt'"):
        found(dist, "v0", checks=TEXTS)


def test_vectors_of_another_width_are_another_release_s(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    dist = built(tmp_path, V1, ["east 0", "north 90"], ["nearly east 10", "west 180"])
    wide, flat = (Compass(str(tmp_path / "asked.txt"), width=width) for width in (3, 2))
    run = Run.here(tmp_path / "work")
    build(V1.but("v0", steps=(wide,), columns=("direction",)), run, sources=tmp_path / "sources", out=dist)
    near = {"meaning": Alike("direction", above=0.9)}
    audit = find_leaks("toys", "v1", run, out=dist, checks=near, annotators=(flat,))
    assert len(audit.leaks) == 2
    assert [one["release"] for one in audit.skipped] == ["toys/v0"]


def test_a_clean_release_has_no_leaks_and_what_cannot_be_checked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKS, "meaning", Alike("direction", above=0.9))  # which nothing makes
    dist = built(tmp_path, V1, ["a text", "another"], ["a third one"])
    audit = find_leaks("toys", "v1", Run.here(tmp_path / "work"), out=dist)
    assert (audit.leaks, audit.pairs) == ([], [])
    assert [check["check"] for check in audit.checked][:3] == ["prompt", "image", "words"]
    assert [check["rows"] for check in audit.checked][:3] == [3, 0, 3]
    skipped = {one["check"]: one["because"] for one in audit.skipped}
    assert "toys/v1 has no column 'image', and no annotator" in skipped["picture"]
    assert "toys/v1 has no column 'direction', and no annotator" in skipped["meaning"]
    with pytest.raises(ConfigError, match="no column 'image'"):
        found(dist, "v1", checks=checks_of(["picture"]))


def test_meaning_by_the_annotator_of_the_release(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    dist = built(tmp_path, V1, ["east 0", "north 90"], ["nearly east 10", "west 180"])
    compass = Compass(str(tmp_path / "asked.txt"))
    near = {"meaning": Alike("direction", above=0.9)}
    for _ in range(2):
        assert found(dist, "v1", checks=near, annotators=(compass,)) == [
            ("meaning", "train", "toys/v1:test", 1),
            ("meaning", "test", "toys/v1:train", 1),
        ]
    assert len(compass.asked()) == 4, "and nothing is asked twice"


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dist = built(tmp_path, V1, [TEXT, "fine"], [TEXT + " `![x](http://y)` | <b>\x1b[31m\x07", "also fine"])
    (tmp_path / "releases.py").write_text(toy.RELEASES.format(path=[str(Path(toy.__file__).parent.parent)]))
    command = [
        "audit",
        "leaks",
        str(tmp_path / "releases.py"),
        "v1",
        "--out",
        str(dist),
        "--workdir",
        str(tmp_path / "w"),
    ]
    for name, code in (("prompt", 0), ("words", 1), ("words=0.99", 0)):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--check", name, "--report", str(tmp_path / "report.md")])
        assert ended.value.code == code
        said = capsys.readouterr().out
        assert ("2 leaks between the splits of toys/v1" in said) == (code == 1)
        if code:
            report = (tmp_path / "report.md").read_text()
    assert "## Worst pairs" in report
    assert "![x](" not in report
    assert "<b>" not in report
    assert "\x1b" not in report
    assert "\x07" not in report
    with pytest.raises(SystemExit):
        main([*command, "--check", "words", "--json", "--report", str(tmp_path / "report.json")])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "report.json").read_text())
    assert printed["leaks"][0]["rows"] == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "v9"}, "release toys/v9 is not built in"),
        ({"against": ["v7"]}, "release toys/v7 is not built in"),
    ],
)
def test_releases_that_are_not_there(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    dist = built(tmp_path, V1, ["a"], ["b"])
    with pytest.raises(ConfigError, match=message):
        find_leaks("toys", arguments.pop("name", "v1"), Run.here(tmp_path / "work"), out=dist, **arguments)
    next(dist.glob("toys/data/v1/test*")).unlink()
    with pytest.raises(SourceMissing, match="is gone: build that release again"):
        found(dist, "v1")


@pytest.mark.parametrize(
    "typed, message",
    [
        ("word", "there is no check 'word': did you mean 'words'?"),
        ("words=much", "check 'words' takes a number, got 'much'"),
        ("prompt=0.5", "check 'prompt' takes no limit, got '0.5'"),
        ("words=1.5", "above must be a similarity above 0 and at most 1"),
        ("picture=2.5", "check 'picture' takes a number, got '2.5'"),
    ],
)
def test_checks_that_do_not_exist(typed: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        checks_of([typed])
    assert message in str(error.value)


def test_pictures_that_look_alike(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[1] / "examples/sources/laion/00000.tar") as tar:
        names = [member for member in tar if member.name.endswith(".jpg")][:3]
        photos = [PIL.Image.open(io.BytesIO(tar.extractfile(name).read())).convert("RGB") for name in names]  # type: ignore[union-attr]
    for folder, pictures in ("a", photos[:2]), ("b", [photos[1].resize((300, 300)), photos[2]]):
        members: list[tuple[str, bytes]] = []
        for number, image in enumerate(pictures):
            image.save(buffer := io.BytesIO(), "JPEG", quality=60)
            members += [
                (f"{folder}{number}.jpg", buffer.getvalue()),
                (f"{folder}{number}.json", dalle3.meta(f"{folder}{number}")),
            ]
        make_tar(tmp_path / f"sources/{folder}/data/data-000000.tar", members)
    inputs = tuple(Input(Dalle3, folder=name, into=split) for name, split in (("a", "train"), ("b", "test")))
    release = Release("toys", "v1", inputs, columns=("image", "image_hash", "prompt"))
    build(release, Run.here(tmp_path / "work"), sources=tmp_path / "sources", out=tmp_path / "dist")
    checks = checks_of(["image", "picture"])
    audit = find_leaks("toys", "v1", Run.here(tmp_path / "work"), out=tmp_path / "dist", checks=checks)
    assert [(leak["check"], leak["split"], leak["rows"]) for leak in audit.leaks] == [
        ("picture", "train", 1), ("picture", "test", 1),
    ]  # fmt: skip
    assert {(pair["id"], pair["partner"]) for pair in audit.pairs} == {
        ("dalle3/a1", "dalle3/b0"),
        ("dalle3/b0", "dalle3/a1"),
    }
