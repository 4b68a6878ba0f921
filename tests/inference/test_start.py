"""What starting the command imports, counted in modules: seconds depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.conftest import REPOSITORY

HEAVY = {"torch", "scipy", "skimage", "librosa", "numba", "matplotlib", "face_alignment", "pandas", "dask"}
MOST = 650  # modules; without torch 500, with it 1,400


def imported(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has after running the code."""
    code += "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_command_line_alone_needs_no_array():
    assert not imported("import inference.cli; inference.cli.parser()") & {*HEAVY, "numpy", "cv2", "av", "openvino"}


def test_the_default_pipeline_imports_nothing_heavy():
    modules = imported("import inference.pipeline")
    assert not modules & HEAVY
    assert len(modules) < MOST


def test_the_default_networks_load_without_torch_once_compiled():
    code = "from inference.pipeline import LipSync; LipSync.load()"
    imported(code)  # compiles them if they are not cached
    assert not imported(code) & HEAVY
