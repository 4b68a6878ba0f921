"""The street runs one way: imports point to the left, and importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# Each room's distance from the street's start; the first two are neighbours and do not know each other.
ROOMS = {"preprocessing": 0, "training": 0, "syncnet": 1, "wav2lip": 2, "inference": 3, "evaluation": 4}
OUTSIDE = ("tests", "benchmarks")  # they may import every room, and no room may import them
DYNAMIC = ("import_module", "__import__")


def imported(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a source file imports, wherever in the file it does so."""
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


def backward_imports(sources: Mapping[str, str]) -> list[str]:
    """The imports that run against the street, as "file:line: what", of sources by path ("syncnet/model.py")."""
    found = []
    for path, source in sorted(sources.items()):
        room = path.split("/")[0]
        for line, name in imported(path, source):
            other = name.split(".")[0]
            to_the_right = other in ROOMS and other != room and ROOMS[other] >= ROOMS[room]
            if to_the_right or other in OUTSIDE:
                found.append(f"{path}:{line}: {room} imports {name}")
    return found


def street() -> dict[str, str]:
    files = [file for room in ROOMS for file in (REPOSITORY / room).rglob("*.py")]
    return {file.relative_to(REPOSITORY).as_posix(): file.read_text(encoding="utf-8") for file in files}


def test_no_import_runs_back():
    sources = street()
    assert len(sources) > 10
    assert backward_imports(sources) == []


def test_the_rooms_do_import_each_other():
    """So that an empty list above means order, not blindness."""
    names = {name for path, text in street().items() if path.startswith("wav2lip/") for _, name in imported(path, text)}
    assert "syncnet.model.SyncNet" in names


@pytest.mark.parametrize(
    ("path", "source", "name"),
    [
        ("syncnet/model.py", "import wav2lip.generator.model", "wav2lip.generator.model"),
        ("syncnet/model.py", "from wav2lip import model", "wav2lip.generator.model"),
        ("syncnet/model.py", "from wav2lip.generator.model import Generator as G", "wav2lip.generator.model.Generator"),
        ("preprocessing/faces/face_track.py", "import numpy, syncnet", "syncnet"),
        ("preprocessing/faces/face_track.py", "from training import checkpoint", "training.checkpoint"),
        ("training/run.py", "from preprocessing import clips", "preprocessing.dataset.clips"),
        ("wav2lip/generator/model.py", "def f():\n    import inference", "inference"),
        (
            "wav2lip/generator/model.py",
            "if TYPE_CHECKING:\n    import evaluation.report.table",
            "evaluation.report.table",
        ),
        ("inference/cli.py", "from ..evaluation import table", "evaluation.report.table"),
        (
            "preprocessing/detectors/sfd.py",
            "from ...wav2lip.model import Generator",
            "wav2lip.generator.model.Generator",
        ),
        ("syncnet/model.py", "importlib.import_module('wav2lip.generator.model')", "wav2lip.generator.model"),
        ("evaluation/__main__.py", "import tests.conftest", "tests.conftest"),
    ],
)
def test_a_planted_backward_import_is_found(path, source, name):
    line = 1 + source.count("\n")
    assert backward_imports({path: source}) == [f"{path}:{line}: {path.split('/')[0]} imports {name}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "inference/pipeline.py",
            "from wav2lip.generator.model import Generator\nimport preprocessing.media.video_reader, training.run",
        ),
        ("preprocessing/detectors/sfd.py", "from ..faces import Detection\nfrom . import haar\nimport torch"),
        ("syncnet/model.py", "import wav2lips\nprint('import wav2lip')"),
        ("evaluation/report/table.py", "from inference import pipeline"),
    ],
)
def test_imports_within_a_room_and_to_the_left_pass(path, source):
    assert backward_imports({path: source}) == []


def test_every_folder_of_the_street_is_a_package():
    folders = {Path(path).parent for path in street()}
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
    """What a program that imports the modules in an empty folder, with an empty home and odd arguments, does."""
    (folder / "home").mkdir(parents=True)
    environment = {"HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-B", "-c", WATCH, str(repository), ",".join(modules), ",".join(ROOMS)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)
    left = [str(path) for path in folder.rglob("*") if path.name != "home"]
    return done.stdout + done.stderr + "".join(left) + ("" if done.returncode == 0 else f"exit {done.returncode}")


def test_importing_does_nothing(tmp_path):
    modules = [path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in sorted(street())]
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
