"""What a user installs: one wheel of three packages and the card templates, and an import that costs nothing."""

import subprocess
import sys
import venv
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
NAMES = {"hfds", "builders", "processors", "cards"}
HEAVY = {"accelerate", "datasets", "diffusers", "faiss", "ray", "torch", "transformers", "vllm", "webdataset"}

# Imports the installed wheel with the packages of this environment, from which the working tree is taken away.
IMPORT_FROM_WHEEL = """
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

wheel, tree = map(Path, sys.argv[1:])
sys.path[:] = [str(wheel), *(entry for entry in sys.path if Path(entry).resolve() != tree)]

from importlib.resources import files
import builders, hfds, processors

for module in (hfds, builders, processors):
    assert Path(module.__file__).is_relative_to(wheel), module.__file__
    assert set(packages_distributions()[module.__name__]) == {"hfds"}, packages_distributions()[module.__name__]
assert any(part.name.endswith(".md") for part in files("cards").iterdir())
"""

# Imports hfds from the working tree and prints every package that was asked for on the way, installed or not.
ASKED_BY_HFDS = """
import sys

sys.path.insert(0, sys.argv[1])
asked = set()

class Listener:
    def find_spec(name, path=None, target=None):
        asked.add(name.partition(".")[0])

sys.meta_path.insert(0, Listener)
import hfds
print(*asked)
"""


def python(code: str, *arguments: object, executable: Path | str = sys.executable) -> str:
    """What `code` prints in a fresh interpreter that knows neither the working directory nor PYTHONPATH."""
    command = [str(part) for part in (executable, "-I", "-c", code, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip(*arguments: object, executable: Path | str = sys.executable) -> None:
    command = [str(part) for part in (executable, "-m", "pip", "--disable-pip-version-check", *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_the_three_packages_and_the_cards(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()

    assert {name.partition("/")[0] for name in names} == NAMES | {"hfds-0.1.0.dist-info"}
    assert {"hfds/__init__.py", "builders/__init__.py", "processors/__init__.py"} <= set(names)
    assert any(name.startswith("cards/") and name.endswith(".md") for name in names)
    assert "hfds-0.1.0.dist-info/licenses/LICENSE" in names


def test_wheel_imports_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    pip("install", wheel, "--no-deps", "--no-index", "--target", tmp_path)

    python(IMPORT_FROM_WHEEL, tmp_path.resolve(), ROOT)


@pytest.mark.slow
@pytest.mark.network
def test_wheel_installs_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    executable = tmp_path / "venv" / "bin" / "python"
    pip("install", wheel, "--constraint", ROOT / "constraints.txt", executable=executable)

    python("import hfds, builders, processors", executable=executable)
    python("import importlib.util as u; assert not u.find_spec('torch')", executable=executable)


def test_importing_hfds_asks_for_nothing_heavy() -> None:
    asked = set(python(ASKED_BY_HFDS, ROOT).split())

    assert "hfds" in asked
    assert not asked & HEAVY


def test_no_other_distribution_owns_the_names() -> None:
    owners = packages_distributions()

    assert {name: set(owners.get(name, ())) - {"hfds"} for name in NAMES} == {name: set() for name in NAMES}
