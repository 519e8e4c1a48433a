"""The wheel holds all that a checkout has, and nothing in it shadows another package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DATA_FOLDERS = ("methods", "datasets", "reports")


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    """What pyproject.toml says."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that nothing is left in the checkout.

    The copy has one published table more, since the checkout may have none yet.
    """
    folder = tmp_path_factory.mktemp("build")
    for name in ("prbench", *DATA_FOLDERS):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in CHECKOUT.glob("*"):
        if file.is_file():
            shutil.copy(file, folder)
    (folder / "reports" / "published").mkdir(exist_ok=True)
    (folder / "reports" / "published" / "planted.toml").write_text("")
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next((folder / "dist").glob("*.whl")))


@pytest.fixture(scope="module")
def site(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with the wheel in it, as pip unpacks it."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def run_installed(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the wheel's prbench from some folder."""
    environment = {**os.environ, "PYTHONPATH": str(site), "PRBENCH_HOME": str(cwd / "home")}
    code = "import sys; from prbench.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_every_package_is_listed(project: dict[str, dict[str, dict[str, object]]]) -> None:
    found = {".".join(file.parent.relative_to(CHECKOUT).parts) for file in (CHECKOUT / "prbench").rglob("*.py")} | {
        f"prbench._registry.{name}" for name in DATA_FOLDERS
    }
    listed = project["tool"]["setuptools"]["packages"]
    assert set(listed) == found, "list each package with Python files under [tool.setuptools] packages"  # type: ignore[call-overload]
    for package in found:
        if not package.startswith("prbench._registry"):
            assert (CHECKOUT / package.replace(".", "/") / "__init__.py").is_file(), f"{package} needs an __init__.py"


def test_the_data_folders_hold_no_code() -> None:
    for name in DATA_FOLDERS:
        assert [file for file in (CHECKOUT / name).rglob("*.py*") if file.suffix != ".toml"] == []


def test_the_wheel_holds_all_code_and_all_entries(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    expected = {file.relative_to(CHECKOUT).as_posix() for file in (CHECKOUT / "prbench").rglob("*.py")}
    expected |= {file.relative_to(CHECKOUT).as_posix() for file in (CHECKOUT / "prbench").rglob("*.toml")}
    expected |= {file.relative_to(CHECKOUT).as_posix() for file in (CHECKOUT / "prbench").rglob("templates/*")}
    for folder in DATA_FOLDERS:
        for file in (CHECKOUT / folder).rglob("*.toml"):
            expected.add(f"prbench/_registry/{file.relative_to(CHECKOUT).as_posix()}")
    expected |= {"prbench/py.typed", "prbench/_registry/reports/published/planted.toml"}
    assert expected - names == set()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_has_no_other_top_level_name(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"prbench"}


def test_the_wheel_works_from_any_folder(site: Path, tmp_path: Path) -> None:
    for kind in ("methods", "datasets", "encoders", "judges", "reports"):
        own = CHECKOUT / {"encoders": "prbench/encoders", "judges": "prbench/judging"}.get(kind, kind)
        done = run_installed(site, tmp_path, "list", kind, "--json")
        assert done.returncode == 0, done.stderr
        assert [row["name"] for row in json.loads(done.stdout)] == sorted(file.stem for file in own.glob("*.toml"))
    shown = json.loads(run_installed(site, tmp_path, "show", "mrm", "--json").stdout)
    assert shown["file"] == str((site / "prbench/_registry/methods/mrm.toml").resolve())


def test_the_wheel_and_a_checkouts_folder_clash_loudly(site: Path, tmp_path: Path) -> None:
    done = run_installed(site, tmp_path, "--registry", str(CHECKOUT), "list", "methods")
    assert done.returncode == 2
    assert "two methods are called" in done.stderr


def test_a_broken_installation_says_so(site: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(site, broken)
    shutil.rmtree(broken / "prbench" / "_registry")
    done = run_installed(broken, tmp_path, "list", "methods")
    assert done.returncode == 2
    assert "was installed without its entries" in done.stderr


def test_the_package_datasets_is_hugging_faces_or_absent(tmp_path: Path) -> None:
    code = "import importlib.util as u; s = u.find_spec('datasets'); print(s is None or s.origin is not None)"
    for folder in (tmp_path, CHECKOUT):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        assert done.stdout == "True\n", "a folder called datasets is importable"


def test_the_version_is_the_same_everywhere(project: dict[str, dict[str, object]]) -> None:
    from prbench import __version__

    assert project["project"]["version"] == __version__
    assert f'version: "{__version__}"' in (CHECKOUT / "CITATION.cff").read_text()


def test_ci_and_make_call_what_is_there() -> None:
    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)
    for target in ("demo", "test", "lint"):
        done = subprocess.run(["make", "-n", target], cwd=CHECKOUT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "make test" in (CHECKOUT / ".ci" / "run").read_text()
