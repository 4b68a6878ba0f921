"""`pip install .`: the wheel is complete, and the installed command works outside the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import wav2lip
from tests.conftest import REPOSITORY
from tests.material import write_photo, write_speech

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def requirements(name: str) -> set[str]:
    """The packages that a requirements file adds, without comments."""
    lines = (re.sub(r"\s*#.*", "", line) for line in (REPOSITORY / name).read_text().splitlines())
    return {line for line in lines if line and not line.startswith("-r")}


def test_extras_are_the_requirements_files():
    extras = PROJECT["optional-dependencies"]
    assert set(extras["train"]) == requirements("requirements-train.txt")
    assert set(extras["web"]) == requirements("requirements-web.txt")
    assert set(extras["provenance"]) == requirements("requirements-provenance.txt")
    assert set(extras["onnx"]) == requirements("requirements-onnx.txt")
    assert set(extras["dev"]) - {"wav2lip[train,web,provenance,onnx]"} == requirements("requirements-dev.txt")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The project's wheel, built from a copy of what git tracks, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPOSITORY, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / "source" / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        folder,
        "./source",
    ]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_code_and_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name.startswith(f"wav2lip-{wav2lip.__version__}-py3-none-any")
    tracked = [
        path.relative_to(REPOSITORY).as_posix()
        for room in ("preprocessing", "training", "syncnet", "wav2lip", "inference", "evaluation")
        for path in (REPOSITORY / room).rglob("*")
        if path.suffix in {".py", ".safetensors", ".npy", ".typed", ".html", ".css", ".js", ".svg"}
    ]
    assert len(tracked) > 100
    assert [name for name in tracked if name not in names] == []
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


@pytest.mark.slow
def test_the_installed_command_works_away_from_the_checkout(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env").rglob("site-packages"))
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run([sys.executable, *install], check=True, timeout=120)
    # The dependencies are those of the environment that runs the tests; the checkout is not among them.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    photo = write_photo(tmp_path / "photo.png")
    speech = write_speech(tmp_path / "speech.wav", 0.4)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    program = (
        "import sys, inference.cli; assert 'site-packages' in inference.cli.__file__;"
        "sys.argv[0] = 'wav2lip'; sys.exit(inference.cli.main())"
    )
    command = [tmp_path / "env/bin/python", "-c", program, "--face", photo, "--audio", speech]
    done = subprocess.run(
        [*command, "--outfile", "out.mp4", "--detector", "haar"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.mp4").stat().st_size > 1000
    refused = subprocess.run(
        [*command, "--no-such-flag"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("wav2lip: error: ")
