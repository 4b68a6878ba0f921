"""Setup on a fresh machine: requirements, Makefile, the bundled recording, file names and contents."""

import ast
import os
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]
MADE_LOCALLY = {"build", "results", "runs", "data", "clips"}
SKETCHY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
EXTRAS = ("train", "web", "provenance", "onnx")
FILES = ("requirements.txt", *(f"requirements-{name}.txt" for name in (*EXTRAS, "dev")))
# import -> package
DISTRIBUTIONS = {
    "cv2": "opencv-python", "ffmpeg": "ffmpeg-python", "skimage": "scikit-image", "distributed": "dask",
    "c2pa": "c2pa-python", "starlette": "fastapi", "pydantic": "fastapi", "PIL": "pillow", "yaml": "pyyaml",
    "sklearn": "scikit-learn",
}  # fmt: skip

# A Python that only pretends: it makes its own copy for a venv and lacks libGL until the headless wheel is installed.
STUB_PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  *"import cv2"*) grep -q headless== calls || { echo "$CV2_ERROR" >&2; exit 1; };;
  *"version("*) echo 4.14.0.94;;
  *"install"*"-r"*) exit "$INSTALL_STATUS";;
esac
"""


def repository_files() -> Iterator[Path]:
    """All project files, with or without git."""
    for folder, folders, names in os.walk(REPOSITORY):
        top = Path(folder) == REPOSITORY
        folders[:] = [name for name in folders if name == ".ci" or not _made_locally(name, top)]
        yield from (Path(folder, name) for name in names if not name.startswith(".") or name == ".gitignore")


def _made_locally(folder: str, top: bool) -> bool:
    return folder.startswith((".", "__pycache__")) or (top and folder in MADE_LOCALLY)


def requirements(name: str = "requirements.txt") -> dict[str, Requirement]:
    """The requirements of one file by package name; included files are not followed."""
    lines = (line.split("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines())
    parsed = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    return {requirement.name: requirement for requirement in parsed}


def imported_modules(path: Path) -> set[str]:
    """Top-level names of all imports of a source file, including those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_the_asked_for_packages_are_required():
    wanted = {"torch", "librosa", "opencv-python", "face-alignment", "ffmpeg-python", "numpy"}
    assert wanted <= requirements().keys()
    assert {"pytest", "pytest-xdist", "ruff", "mypy"} <= requirements("requirements-dev.txt").keys()
    assert {"dask", "jsonargparse"} <= requirements("requirements-train.txt").keys()
    assert {"fastapi", "uvicorn"} <= requirements("requirements-web.txt").keys()
    assert {"c2pa-python"} <= requirements("requirements-provenance.txt").keys()
    included = {name: ["requirements.txt"] for name in EXTRAS}
    included["dev"] = [f"requirements-{name}.txt" for name in EXTRAS]
    for name, files in included.items():
        lines = (REPOSITORY / f"requirements-{name}.txt").read_text().splitlines()
        assert {f"-r {file}" for file in files} <= set(lines), name


def test_pins_keep_cuda_and_opencv_5_out():
    assert [(pin.operator, pin.version) for pin in requirements()["torch"].specifier] == [("==", "2.13.0")]
    opencv = requirements()["opencv-python"].specifier
    assert not opencv.contains(Version("5.0.0.93"))
    assert opencv.contains(Version("4.14.0.94"))


def test_nothing_required_brings_torchvision():
    forbidden = {"torchvision", "torchaudio", "facenet-pytorch", "lpips", "pytorch-fid", "torch-fidelity"}
    for path in REPOSITORY.glob("requirements*.txt"):
        assert not forbidden & requirements(path.name).keys(), path.name


OTHER_ENVIRONMENT = {"mediapipe"}  # imported only by scripts that run in an environment of their own


def test_every_third_party_import_is_required():
    sources = [path for path in repository_files() if path.suffix == ".py"]
    ours = {path.relative_to(REPOSITORY).parts[0].removesuffix(".py") for path in sources}
    required = requirements()
    for name in EXTRAS:
        required |= requirements(f"requirements-{name}.txt")
    known = {name.replace("-", "_") for name in required} | sys.stdlib_module_names | ours | OTHER_ENVIRONMENT
    for path in sources:
        if path.relative_to(REPOSITORY).parts[0] in ("tests", "benchmarks"):
            continue
        packages = {DISTRIBUTIONS.get(name, name).replace("-", "_") for name in imported_modules(path)}
        assert packages <= known, f"{path.relative_to(REPOSITORY)} imports what the requirements files lack"


def test_inference_needs_nothing_of_what_training_takes():
    extra = {"distributed", *requirements("requirements-train.txt")}
    for path in (REPOSITORY / "inference.py", *(REPOSITORY / "inference").rglob("*.py")):
        assert not imported_modules(path) & extra, path


def test_the_command_imports_no_extra():
    """The web service's and the signing's packages are loaded only where they are asked for."""
    code = "import sys, inference.cli, inference.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"fastapi", "uvicorn", "c2pa", "cryptography", "inference.web"} & set(done.stdout.split())


def test_no_file_knows_a_machine():
    machine = re.compile(rb"(?<![\w.~$}/-])/(work|root)/")
    for path in repository_files():
        found = machine.search(path.read_bytes())
        assert not found, f"{path.relative_to(REPOSITORY)} carries an absolute path of one machine"


def test_files_are_named_in_the_words_of_the_trade():
    for path in repository_files():
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        assert not SKETCHY_NAMES.intersection(part.lower() for part in parts), path


def test_licence_is_the_full_apache_text():
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 11_000 < len(text) < 12_000


def quiet_spans(samples: np.ndarray, rate: int) -> list[tuple[float, float]]:
    """Segments of at least 0.3 s below -50 dBFS (RMS over 10 ms), in seconds from the start."""
    hop = rate // 100
    blocks = samples[: len(samples) // hop * hop].reshape(-1, hop)
    quiet = np.sqrt((blocks**2).mean(axis=1)) < 10 ** (-50 / 20)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(int), [0]])))
    return [(start / 100, end / 100) for start, end in edges.reshape(-1, 2) if end - start >= 30]


def test_speech_is_short_clean_and_paused():
    path = REPOSITORY / "assets" / "speech.wav"
    assert path.stat().st_size < 250_000
    with wave.open(str(path)) as recording:
        assert (recording.getnchannels(), recording.getsampwidth()) == (1, 2)
        rate = recording.getframerate()
        samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2") / 2**15
    assert rate == 22_050
    assert len(samples) / rate == pytest.approx(5.395, abs=0.01)
    assert 0.5 < np.abs(samples).max() < 0.9  # loud enough, never clipped
    lead, pause, tail = quiet_spans(samples, rate)
    assert lead == pytest.approx((0, 0.40), abs=0.03)
    assert pause == pytest.approx((2.44, 3.24), abs=0.03)
    assert tail == pytest.approx((4.96, 5.39), abs=0.03)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the setup files in a folder with a space and a quote in its name, with a stub Python next to it."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path / "it's a checkout"
    folder.mkdir()
    for name in ("Makefile", *FILES):
        shutil.copy(REPOSITORY / name, folder)
    (folder / "stub").write_text(STUB_PYTHON)
    (folder / "stub").chmod(0o755)
    return folder


LIBRARY_ERROR = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"


def run_make(folder: Path, *arguments: str, install_status: int = 0, cv2_error: str = LIBRARY_ERROR):
    """Runs make with the stub Python, without flags inherited from an outer make."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    environment |= {"INSTALL_STATUS": str(install_status), "CV2_ERROR": cv2_error}
    command = ["make", f"PYTHON={folder / 'stub'}", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_setup_swaps_opencv_where_a_library_is_missing_and_happens_once(checkout: Path):
    done = run_make(checkout, ".venv/requirements.stamp")
    assert done.returncode == 0, done.stderr
    assert "libGL.so.1" in done.stdout
    calls = (checkout / "calls").read_text().splitlines()
    removed = next(i for i, call in enumerate(calls) if "uninstall" in call)
    assert calls[removed].endswith("opencv-python")
    assert calls[removed + 1].endswith("--no-deps --force-reinstall opencv-python-headless==4.14.0.94")
    run_make(checkout, ".venv/requirements.stamp")
    assert (checkout / "calls").read_text().splitlines() == calls


@pytest.mark.parametrize("changed", FILES)
def test_changed_requirements_are_installed_again(checkout: Path, changed: str):
    run_make(checkout, ".venv/requirements-dev.stamp")
    calls = (checkout / "calls").read_text()
    later = (checkout / ".venv/requirements-dev.stamp").stat().st_mtime + 5
    os.utime(checkout / changed, (later, later))
    run_make(checkout, ".venv/requirements-dev.stamp")
    assert (checkout / "calls").read_text().count("install --disable-pip-version-check -r requirements-dev.txt") == 2
    assert len((checkout / "calls").read_text()) > len(calls)


def test_failed_setup_leaves_no_stamp(checkout: Path):
    assert run_make(checkout, ".venv/requirements.stamp").returncode == 0
    assert run_make(checkout, ".venv/requirements-dev.stamp", install_status=1).returncode != 0
    assert not list((checkout / ".venv").glob("*.stamp"))


def test_another_opencv_failure_is_shown_not_swapped(checkout: Path):
    failed = run_make(checkout, ".venv/requirements.stamp", cv2_error="ImportError: numpy is too old")
    assert failed.returncode != 0
    assert "numpy is too old" in failed.stderr
    assert "uninstall" not in (checkout / "calls").read_text()


def test_missing_python_is_one_line(checkout: Path):
    failed = run_make(checkout, "PYTHON=no-such-python", "demo")
    assert failed.returncode != 0
    assert "Python 3.11 or newer is required" in failed.stderr
    assert len(failed.stderr.splitlines()) == 2  # ours and make's own
    assert not (checkout / ".venv").exists()


def test_ci_runs_the_same_tests():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"
