"""Imports run one way, from later layers to earlier ones, and importing a module does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("preprocessing", "training", "syncnet", "wav2lip", "inference", "evaluation")
# A module imports only from its own layer and from those before it. The longest prefix of its name says which is its.
LAYERS = (
    "preprocessing.errors", "preprocessing.unfinished", "preprocessing.folder_lock", "preprocessing.commands",
    "preprocessing.process_heap", "preprocessing.compiled_networks",
    "training",
    "preprocessing.media", "preprocessing.faces", "preprocessing.dataset", "preprocessing.build", "syncnet",
    "wav2lip.gan", "wav2lip.generator", "wav2lip", "inference.provenance", "inference", "inference.web",
    "evaluation.metrics", "evaluation.report", "evaluation.protocols", "evaluation.judge", "evaluation",
    "wav2lip.export",  # it writes the networks of all rooms
)  # fmt: skip
OUTSIDE = ("tests", "benchmarks")  # they may import every room, and no room may import them
DYNAMIC = ("import_module", "__import__")


def imported(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a source file imports, at any level."""
    package = path.split("/")[:-1]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = base + ([node.module] if node.module else [])
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in DYNAMIC:
                yield node.lineno, str(node.args[0].value)


def layer(name: str) -> int | None:
    """The index of a module's layer; None for third-party modules."""
    found = [prefix for prefix in LAYERS if name == prefix or name.startswith(prefix + ".")]
    return LAYERS.index(max(found, key=len)) if found else None


def backward_imports(sources: Mapping[str, str]) -> list[str]:
    """Imports that violate the layering, as "file:line: what", of sources by path ("syncnet/model.py")."""
    found = []
    for path, source in sorted(sources.items()):
        here = layer(path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
        for line, name in imported(path, source):
            there = layer(name)
            if (there is not None and here is not None and there > here) or name.split(".")[0] in OUTSIDE:
                found.append(f"{path}:{line}: imports {name}")
    return found


def packages() -> dict[str, str]:
    """The source of every module by its path."""
    files = [file for room in ROOMS for file in (REPOSITORY / room).rglob("*.py")]
    return {file.relative_to(REPOSITORY).as_posix(): file.read_text(encoding="utf-8") for file in files}


def test_no_import_runs_back():
    sources = packages()
    assert len(sources) > 10
    assert backward_imports(sources) == []


def test_every_module_has_a_layer():
    names = [path.removesuffix(".py").replace("/", ".") for path in packages() if path.count("/") > 1]
    assert [name for name in names if layer(name) is None] == []


def test_layers_do_import_each_other():
    """Guards against a check that never finds anything."""
    names = {
        name for path, text in packages().items() if path.startswith("wav2lip/") for _, name in imported(path, text)
    }
    assert "syncnet.model.ConvBlock" in names


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        ("syncnet/model.py", "import wav2lip.train", "wav2lip.train"),
        ("syncnet/model.py", "from wav2lip import generator", "wav2lip.generator"),
        ("syncnet/model.py", "from wav2lip.generator.model import Generator as G", "wav2lip.generator.model.Generator"),
        ("preprocessing/faces/crops.py", "import numpy, syncnet", "syncnet"),
        ("preprocessing/errors.py", "from training import checkpoint", "training.checkpoint"),
        ("preprocessing/media/audio.py", "from preprocessing.faces import crops", "preprocessing.faces.crops"),
        ("preprocessing/faces/crops.py", "from ..dataset.clips import Clip", "preprocessing.dataset.clips.Clip"),
        ("preprocessing/dataset/clips.py", "from preprocessing.build import report", "preprocessing.build.report"),
        ("training/run.py", "from preprocessing.media import audio", "preprocessing.media.audio"),
        ("wav2lip/gan/critics.py", "from wav2lip.generator import losses", "wav2lip.generator.losses"),
        ("wav2lip/generator/model.py", "def f():\n    import inference", "inference"),
        ("wav2lip/train.py", "if TYPE_CHECKING:\n    import evaluation.report.table", "evaluation.report.table"),
        ("inference/cli.py", "from ..evaluation import report", "evaluation.report"),
        ("preprocessing/faces/detectors/sfd.py", "from ....wav2lip.train import main", "wav2lip.train.main"),
        ("syncnet/model.py", "importlib.import_module('wav2lip.train')", "wav2lip.train"),
        ("evaluation/__main__.py", "import tests.conftest", "tests.conftest"),
    ],
)
def test_a_planted_backward_import_is_found(path, source, name):
    line = 1 + source.count("\n")
    assert backward_imports({path: source}) == [f"{path}:{line}: imports {name}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("inference/pipeline.py", "from wav2lip.train import main\nimport preprocessing.media.audio, training.run"),
        ("preprocessing/faces/detectors/sfd.py", "from ..crops import crop\nfrom . import haar\nimport torch"),
        ("preprocessing/media/audio.py", "from preprocessing.errors import MediaError\nimport training.run"),
        ("syncnet/model.py", "import wav2lips\nprint('import wav2lip')"),
        ("evaluation/protocols/run.py", "from inference import pipeline\nfrom evaluation.report import results"),
    ],
)
def test_imports_within_a_layer_and_from_earlier_ones_pass(path, source):
    assert backward_imports({path: source}) == []


def test_every_folder_of_the_street_is_a_package():
    folders = {Path(path).parent for path in packages()}
    assert [folder for folder in folders if not (REPOSITORY / folder / "__init__.py").is_file()] == []


WATCH = """
import importlib, os, sys, threading

repository, modules = sys.argv[1], sys.argv[2].split(",")
rooms = tuple(os.path.join(repository, room) + os.sep for room in sys.argv[3].split(","))
sys.path.insert(0, repository)
sys.argv = ["any", "--no-such-flag"]
done = []

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.mkdir"):
        done.append(f"{event} {args[0]}")
    if event == "open" and isinstance(args[0], str):
        data = os.path.abspath(args[0]).startswith(rooms) and not args[0].endswith((".py", ".pyc"))
        if data or set(args[1] or "") & set("wax+"):
            done.append(f"open {args[0]}")

import ctypes.util
ctypes.util.find_library = lambda name: f"lib{name}.so.6"  # aiortc's dependency asks ldconfig for libc
sys.addaudithook(watch)
for name in modules:
    importlib.import_module(name)
    assert threading.active_count() == 1, f"{name} starts a thread"
    assert not done, f"{name}: {done}"
torch = sys.modules.get("torch")
if torch:
    assert not torch.cuda.is_initialized(), "a device was chosen"
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32, "a global of torch was changed"
"""


def import_all(repository: Path, modules: list[str], folder: Path) -> str:
    """Side effects of importing the modules in an empty folder, with an empty home and odd arguments."""
    (folder / "home").mkdir(parents=True)
    environment = {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-B", "-c", WATCH, str(repository), ",".join(modules), ",".join(ROOMS)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)
    left = [str(path) for path in folder.rglob("*") if path.name != "home"]
    return done.stdout + done.stderr + "".join(left) + ("" if done.returncode == 0 else f"exit {done.returncode}")


def test_importing_does_nothing(tmp_path):
    modules = [path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in sorted(packages())]
    assert import_all(REPOSITORY, modules, tmp_path / "empty") == ""


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("print('hello')", "hello"),
        ("import argparse; argparse.ArgumentParser().parse_args()", "unrecognized arguments: --no-such-flag"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(1,)).start()", "starts a thread"),
        ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))", "socket.connect"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("open('left.txt', 'w')", "left.txt"),
        ("import pathlib; pathlib.Path.home().joinpath('.cache').mkdir()", "os.mkdir"),
        ("import pathlib; (pathlib.Path(__file__).parent / 'weights.bin').read_bytes()", "weights.bin"),
    ],
)
def test_a_planted_import_that_acts_is_seen(tmp_path, source, seen):
    room = tmp_path / "repository/syncnet"
    room.mkdir(parents=True)
    (room / "__init__.py").touch()
    (room / "weights.bin").write_bytes(b"0")
    (room / "acting.py").write_text(source)
    assert seen in import_all(tmp_path / "repository", ["syncnet.acting"], tmp_path / "empty")
