"""Tuning says what a build at that threshold would do, without building."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures import toy
from fixtures.voices import Compass

from hfds import Input, Release, build
from hfds.cli import main
from hfds.errors import ConfigError
from hfds.run import Run
from hfds.tune import thresholds_of, tune
from processors.dedup import MarkDuplicates
from processors.duplicates.alike import Alike
from processors.hash_image import HashImage
from processors.split import Split

WORDS = "one two three four five six seven eight nine ten eleven twelve"
LINES = [
    *[(f"{n}", f"{WORDS} {' '.join(f'more{m}' for m in range(n % 7))}") for n in range(30)],
    ("p1", "a b c d e f g h i j k l m n o p"),
    ("p2", "a b c d e f g h i j k l m n o p q r"),
    *[(f"x{n}", f"{n} something else {n} entirely {n}") for n in range(10)],
]
V1 = Release("toys", "v1", (Input(toy.Toy),), (MarkDuplicates(above=0.8),), columns=("prompt",))


@pytest.mark.parametrize("keep", ["first", "none", "cluster"])
def test_as_many_rows_as_a_build_keeps(tmp_path: Path, keep: str) -> None:
    sources, run = toy.write(tmp_path / "sources", a=LINES), Run.here(tmp_path / "work")
    tuned = tune(
        V1.but("v1", steps=(MarkDuplicates(above=0.8, keep=keep),)), "1", [0.6, 0.7, 0.8, 0.9, 1], run, sources=sources
    )
    for row in tuned.thresholds:
        step = MarkDuplicates(above=row["threshold"], keep=keep)
        built = build(V1.but("v1", steps=(step,)), run, sources=sources, out=tmp_path / "dist")
        assert row["kept"] == sum(built.funnel[0]["kept"].values()), row
        assert row["kept"] + row["dropped"] == len(LINES)
    assert [row["now"] for row in tuned.thresholds] == [False, False, True, False, False]
    assert len({row["kept"] for row in tuned.thresholds}) == {"first": 4, "none": 2, "cluster": 3}[keep]


def test_the_pairs_at_the_border_are_the_least_alike(tmp_path: Path) -> None:
    sources, run = toy.write(tmp_path / "sources", a=LINES), Run.here(tmp_path / "work")
    tuned = tune(V1, "MarkDuplicates", [0.7, 0.9], run, sources=sources)
    assert [pair["threshold"] for pair in tuned.border] == [0.7] * 3 + [0.8] * 3 + [0.9] * 3, "its own, too"
    assert all(pair["similarity"] >= pair["threshold"] for pair in tuned.border)
    assert tuned.border[0]["similarity"] < 0.8 < tuned.border[6]["similarity"]
    assert tuned.border[0]["row_prompt"].startswith(WORDS)
    assert tuned.border[0]["partner"].startswith("toy/")


def test_pairs_are_found_again_and_damaged_ones_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, run = toy.write(tmp_path / "sources", a=LINES), Run.here(tmp_path / "work")
    tuned = tune(V1, "1", [0.7], run, sources=sources)
    with monkeypatch.context() as patched:
        patched.setattr("hfds.tune.alike", None)
        assert tune(V1, "1", [0.7], run, sources=sources) == tuned
    (file,) = run.steps.glob("tune-*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert tune(V1, "1", [0.7], run, sources=sources) == tuned


def test_embeddings_against_an_earlier_release(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    sources, run = toy.write(tmp_path / "sources", a=[("1", "east 0"), ("2", "north 90")]), Run.here(tmp_path / "work")
    compass = Compass(str(tmp_path / "asked.txt"))
    one = V1.but("v1", steps=(compass, Split(0.5)))
    build(one, run, sources=sources, out=tmp_path / "dist")
    toy.write(tmp_path / "sources", a=[("3", "east too 10"), ("4", "nearly east 20"), ("5", "west 180")])
    two = one.but("v2", steps=(compass, MarkDuplicates("direction", above=0.95, against=(one,))))
    tuned = tune(two, "2", [0.9, 0.95, 0.99], run, sources=sources, out=tmp_path / "dist")
    assert [(row["kept"], row["dropped"]) for row in tuned.thresholds] == [(1, 2), (2, 1), (3, 0)]
    assert {pair["partner"] for pair in tuned.border} == {"toy/1"}


def test_an_earlier_release_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    sources, run, dist = tmp_path / "sources", Run.here(tmp_path / "work"), tmp_path / "dist"
    two = V1.but("v2", inputs=(Input(toy.Toy, "halves", splits=("second",)),), steps=())
    two = two.but("v2", steps=(MarkDuplicates(above=0.8, against=(V1,)),))
    toy.write(sources, b=[(f"n{key}", text) for key, text in LINES], a=LINES)
    one = V1.but("v1", inputs=(Input(toy.Toy, "halves", splits=("first",)),))
    found = []
    for first in (LINES, [(key, f"other words {text[::-1]}") for key, text in LINES]):
        toy.write(sources, a=first)
        build(one, run, sources=sources, out=dist)
        found.append(tune(two, "1", [0.8], run, sources=sources, out=dist))
    assert [row["dropped"] for tuned in found for row in tuned.thresholds] == [len(LINES), 0]
    assert found[0].border == [] or all(pair["partner_prompt"] for pair in found[0].border)


def test_rows_that_are_not_compared_are_kept(tmp_path: Path) -> None:
    sources, run = toy.write(tmp_path / "sources", a=[*LINES, ("e1", ""), ("e2", " ")]), Run.here(tmp_path / "work")
    tuned = tune(V1, "1", [0.8], run, sources=sources)
    built = build(V1, run, sources=sources, out=tmp_path / "dist")
    assert tuned.thresholds[0]["kept"] == sum(built.funnel[0]["kept"].values())


def test_too_many_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfds.tune.MOST", 5)
    sources = toy.write(tmp_path / "sources", a=LINES)
    with pytest.raises(ConfigError, match=r"more than 5 pairs are alike at 0\.5: begin at a stricter one"):
        tune(V1, "1", [0.5], Run.here(tmp_path / "work"), sources=sources)


def test_bits_of_hashes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"within must be 0 to 16 bits, got 2\.5"):
        tune(
            V1.but("v1", steps=(HashImage(), MarkDuplicates("perceptual_hash", within=4))),
            "2",
            [2.5],
            Run.here(tmp_path),
        )


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.write(tmp_path / "sources", a=[*LINES, ("odd", WORDS + " \x1b[31m")])
    text = toy.RELEASES.format(path=[str(Path(toy.__file__).parent.parent)])
    (tmp_path / "releases.py").write_text(
        text.replace('MarkDuplicates("prompt")', 'MarkDuplicates("prompt", above=0.8)')
    )
    places = [
        "--sources",
        str(tmp_path / "sources"),
        "--workdir",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "dist"),
    ]
    command = ["tune", str(tmp_path / "releases.py"), "v1", "MarkDuplicates", "--threshold", "0.7..0.9", *places]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--points", "3"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "0.7" in said
    assert "0.9" in said
    assert "\x1b[31m" not in said
    with pytest.raises(SystemExit):
        main([*command, "--json"])
    assert [row["threshold"] for row in json.loads(capsys.readouterr().out)["thresholds"]] == [
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
    ]


@pytest.mark.parametrize(
    "step, thresholds, message",
    [
        (
            "Split",
            [0.8],
            "'Split' is no step of v1 whose threshold can be tuned: give one of 1 (MarkDuplicates prompt)",
        ),
        ("2", [0.8], "'2' is no step of v1"),
        ("1", [1.8], "above must be a similarity above 0 and at most 1, got 1.8"),
    ],
)
def test_steps_that_have_no_threshold(tmp_path: Path, step: str, thresholds: list[float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        tune(V1.but("v1", steps=(*V1.steps, Split())), step, thresholds, Run.here(tmp_path))
    assert message in str(error.value)


def test_a_release_without_such_a_step(tmp_path: Path) -> None:
    both = MarkDuplicates(of=(Alike(above=0.5), Alike("image_hash")))
    for steps in ((), (MarkDuplicates(),), (both,)):
        with pytest.raises(ConfigError, match="it has no MarkDuplicates over one column with above or within"):
            tune(replace(V1, steps=steps), "1", [0.5], Run.here(tmp_path))


def test_thresholds_as_they_are_typed() -> None:
    assert thresholds_of("0.75..0.95") == [0.75, 0.8, 0.85, 0.9, 0.95]
    assert thresholds_of("2..8", 4) == [2, 4, 6, 8]
    assert thresholds_of("0.8,0.9") == [0.8, 0.9]
    for typed in ("", "..", "a..b", "0.8;0.9"):
        with pytest.raises(ConfigError, match=r"thresholds are written 0.75..0.95"):
            thresholds_of(typed)
