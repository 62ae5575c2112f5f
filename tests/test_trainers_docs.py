"""docs/trainers.md: its release is built, its commands are run, and its configs are what they write."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import dalle3, scenes
from fixtures.consumers import check_backends, rows_of, simpletuner
from hub import Hub

from hfds.archive import Reader, tar_members
from hfds.cli import app

PAGE = Path(__file__).parents[1] / "docs/trainers.md"


def blocks(language: str) -> list[str]:
    """The page's blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's release, of DALLE-3 as it is published; everything is below this folder instead of /data."""
    folder = tmp_path_factory.mktemp("data")
    dalle3.clean(folder / "SOURCES/dalle3")
    (folder / "dalle3.py").write_text(blocks("python")[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("hfds build dalle3.py v1 --sources SOURCES")
    return folder


def run(line: str, folder: Path = Path("/data")) -> None:
    """Runs a command of the page."""
    assert line in PAGE.read_text(encoding="utf-8")
    app([word.replace("/data", str(folder)) for word in line.split()[1:]], standalone_mode=False)


def exports() -> list[str]:
    """The page's commands that write from what is built here."""
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("hfds export ")]
    return [line for line in lines if " dalle3 " in line and " --hub " not in line]


@pytest.mark.parametrize("line", exports())
def test_every_command_of_the_page_works(built: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built)
    run(line, built)
    assert json.loads((built / line.rpartition("/")[2] / "export.json").read_text())["for"] == line.split()[2]


def test_there_is_a_command_for_every_format() -> None:
    assert [line.split()[2] for line in exports()] == ["simpletuner", "imagefolder", "coco", "emu3", "files", "csv"]


def test_the_config_is_that_of_the_page(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built)
    run(exports()[0], built)
    written = (built / "dalle3/multidatabackend.json").read_text()
    config = json.loads(blocks("json")[0])
    assert json.loads(written.replace(str(built), "/data")) == config
    check_backends(config)


@pytest.mark.parametrize("text_files", [False, True])
def test_the_manual_recipe_for_dalle3_is_one_command(
    built: Path, text_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built)
    more = ["--text-files"] * text_files
    app(
        ["export", "simpletuner", "dalle3", "v1", "--caption", "short", "--to", str(tmp_path), *more],
        standalone_mode=False,
    )
    samples = simpletuner(json.loads((tmp_path / "multidatabackend.json").read_text()), "train")
    ours = {sample.path.read_bytes(): (sample.size, sample.captions) for sample in samples}
    recipe, unusable, widthless = recipe_of(built / "SOURCES/dalle3")
    assert {data: found for data, found in ours.items() if data not in widthless} == recipe
    assert [captions for data, (_, captions) in ours.items() if data in widthless] == [["a list"]]
    left_out = json.loads((tmp_path / "export.json").read_text())["splits"]["train"]["left_out"]
    assert left_out == {"no_caption": unusable}


def recipe_of(folder: Path) -> tuple[dict[bytes, tuple[tuple[int, int], list[str]]], int, set[bytes]]:
    """By picture, the size and short caption that the recipe takes from its JSON; how many of those are no caption;
    and the pictures without a width, which it passes over."""
    members: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*.tar")):
        with Reader(str(path)) as reader:
            members |= {one.name: reader.read(one.offset, one.size) for one in tar_members(reader, path.name)}
    recipe, unusable, widthless = {}, 0, set()
    for name, data in members.items():
        stem, _, extension = name.rpartition(".")
        if extension == "json":
            continue
        said = json.loads(members[f"{stem}.json"])
        if "width" not in said:
            widthless.add(data)
        elif not isinstance(said["short_caption"], str) or said["short_caption"] == "No content found":
            unusable += 1
        else:
            recipe[data] = (int(said["width"]), int(said["height"])), [said["short_caption"]]
    return recipe, unusable, widthless


@pytest.mark.parametrize("block", [1, 2])
def test_what_the_page_says_in_python_holds(built: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built)
    run(exports()[1], built)
    run(exports()[5], built)
    code = blocks("python")[block].replace("/data", str(built))
    exec(compile(code, str(PAGE), "exec"), {})


HUB = """
import json, sys
from pathlib import Path
from datasets import load_dataset, load_dataset_builder
from hfds.cli import main
from hfds.publish import push

def config(name, to, *more):
    try:
        main(["export", "simpletuner", "scenes", name, "--hub", "org/scenes", "--to", to, *more])
    except SystemExit as end:
        return end.code

for name in ("v2", "v1"):  # so that v2 is the default config at both tags
    push("scenes", name, "org/scenes")
assert config("v1", "one") == 2
assert not Path("one").exists()
assert config("v2", "two", "--caption", "captions") == 2
assert config("v2", "two", "--json") == 0
found = {}
for one in json.loads(Path("two/multidatabackend.json").read_text()):
    if one["type"] == "huggingface":  # as SimpleTuner's backend does
        load_dataset_builder(one["dataset_name"])
        rows = load_dataset(one["dataset_name"], split=one["split"], revision=one["revision"], streaming=None)
        assert rows.features[one["image_column"]].dtype == "PIL.Image.Image"
        found[one["split"]] = rows[:][one["huggingface"]["caption_column"]]
print(json.dumps(found))
"""


def test_a_release_on_the_hub_needs_the_config_alone(hub: Hub, tmp_path: Path) -> None:
    columns = ("image", "prompt", "captions", "license", "width", "height")
    scenes.built(tmp_path, 12, *columns, name="v1")
    v2 = scenes.built(tmp_path, 20, *columns, name="v2")
    environment = hub.environment(tmp_path / "home", token="hf_write", xet=False)
    command = [sys.executable, "-c", HUB]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "at the tag v1 of org/scenes that is v2" in done.stderr
    assert "no columns image and captions" in done.stderr
    said, loaded = done.stdout.rstrip().rpartition("\n")[::2]
    rows = {split: rows_of(v2, split) for split in v2.lock["splits"]}
    assert json.loads(loaded) == {split: [row["prompt"] for row in some] for split, some in rows.items()}
    counted = {one["split"]: one["noted"].get("no_picture", 0) for one in json.loads(said)["splits"]}
    assert counted == {split: sum(row["image"] is None for row in some) for split, some in rows.items()}
    config = json.loads((tmp_path / "two/multidatabackend.json").read_text())
    check_backends(config)
    page = json.loads(blocks("json")[1])
    assert set(config[0]) == set(page[0])
    assert config[-1] == {**page[-1], "id": "scenes-v2-texts"}
    same = {
        **page[0],
        **{name: config[0][name] for name in ("id", "cache_dir_vae", "dataset_name", "revision")},
    }
    assert config[0] == same
