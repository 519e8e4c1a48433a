"""The Dockerfile names what there is, builds what pip builds, and takes its versions from constraints.txt alone.

No container is built here: what can be checked without one is checked, and the package is built from exactly the files
that are copied into the image.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parent.parent
FOLDER = CHECKOUT / "reports" / "guide" / "docker"
KNOWN = {"ARG", "FROM", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


class Step(NamedTuple):
    instruction: str
    words: list[str]


def steps() -> list[Step]:
    text = re.sub(r"\\\n", " ", (FOLDER / "Dockerfile").read_text())
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Step(words[0], words[1:]) for words in lines]


def copied() -> list[str]:
    return [source for step in steps() if step.instruction == "COPY" for source in step.words[:-1]]


def test_every_instruction_is_known_and_every_stage_is_there() -> None:
    assert {step.instruction for step in steps()} <= KNOWN
    stages = [step.words for step in steps() if step.instruction == "FROM"]
    names = {words[2] for words in stages if len(words) == 3}
    # KIND chooses the last stage's base: it has a default, and each kind a stage.
    assert steps()[0] == Step("ARG", ["KIND=cpu"])
    assert stages[-1] == ["torch-${KIND}"]
    assert names == {"torch-cpu", "torch-gpu"}
    assert {words[0] for words in stages[:-1]} == {"python:3.11-slim"}


def test_the_image_has_a_python_that_prbench_supports() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert "Programming Language :: Python :: 3.11" in project["classifiers"]
    extras = {extra for step in steps() for word in step.words for extra in re.findall(r"/src\[(\w+)\]", word)}
    assert extras == {"minilm"} <= set(project["optional-dependencies"])


def test_versions_come_from_constraints_alone() -> None:
    installs = [" ".join(step.words) for step in steps() if step.words[:2] == ["pip", "install"]]
    assert len(installs) == 3
    for line in installs:
        assert "-c /src/constraints.txt" in line
        assert "==" not in line
    pins = [line for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert any(re.fullmatch(r"torch==[\d.]+", pin) for pin in pins)


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    ignored = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line]
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[1] == "*"
    for source in copied():
        assert (CHECKOUT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in kept), f"{source} does not reach the builder"
    assert kept == set(copied())


def test_the_package_is_built_from_what_is_copied(tmp_path: Path) -> None:
    for source in dict.fromkeys(copied()):
        if (CHECKOUT / source).is_dir():
            shutil.copytree(CHECKOUT / source, tmp_path / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CHECKOUT / source, tmp_path)
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"prbench/cli.py", "prbench/_registry/methods/mrm.toml", "prbench/_registry/reports/claims.toml"} <= names
