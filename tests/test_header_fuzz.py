"""Damaged and hostile headers: every reader refuses them in one line, or reads a header that is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from inference.generator.face_track_buffer import loaded_track
from inference.job import Job, read_config
from preprocessing.dataset.clips import Clip
from preprocessing.errors import Wav2LipError
from preprocessing.faces.face_track import FaceTrack
from tests.material import still_track, write_numbered_clip
from training.checkpoint import Checkpoint
from training.checkpoint_header import read_header

DRAWS = 60
JOB = {
    "face": "talk.mp4", "out": "sub/out.mp4", "keep-audio": 0.2, "crf": 18, "fps": "30000/1001", "yunet": "a.onnx",
    "start": 1.5, "pads": [0, 10, 0, 0], "nosmooth": True,
    "parts": [{"person": 1, "audio": "a.wav", "from": 3.2, "to": 9.0}, {"person": [2, 5], "audio": "b.wav"}],
}  # fmt: skip

hostile = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_subnormal=False), st.text(max_size=5),
    st.sampled_from([0, -1, 1e308, "1", [], {}, [[]], [None] * 4, {"size": 1}]),
)  # fmt: skip


def _safetensors_parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _safetensors(header: dict[str, Any], tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whole file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    Checkpoint("x", {"a": 1, "deep": {"b": [2]}}, {"sample_rate": 16000}, {"kind": "box"}, {"w": torch.ones(2)}).save(
        folder / "checkpoint"
    )
    write_numbered_clip(folder / "clip", np.full((3, 48, 48, 3), 90, np.uint8))
    still_track(4).save(folder / "track")
    (folder / "job").write_text(json.dumps(JOB))
    return {kind: folder / kind for kind in READERS}


READERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda path: (Checkpoint.load(path), read_header(path, None)),
    "clip": Clip.open,
    "track": lambda path: list(loaded_track(path, (160, 160), 1)),
    "job": lambda path: Job.of(read_config(path)),
}


def _refused_or_sound(kind: str, path: Path) -> bool:
    """Whether the reader takes the file; any error but a deliberate one falls through."""
    try:
        READERS[kind](path)
    except Wav2LipError as error:
        refusal = str(error)
    else:
        return True
    assert "\n" not in refusal
    assert len(refusal) < 2000
    return False


@pytest.mark.parametrize("kind", READERS)
def test_damaged_bytes(files: dict[str, Path], tmp_path: Path, kind: str) -> None:
    whole = files[kind].read_bytes()
    assert _refused_or_sound(kind, files[kind])

    @settings(max_examples=DRAWS, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=12), st.booleans())
    def damage(position: int, patch: bytes, cut: bool) -> None:
        data = whole[:position] if cut else whole[:position] + patch + whole[position + len(patch) :]
        (tmp_path / kind).write_bytes(data)
        _refused_or_sound(kind, tmp_path / kind)

    damage()


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in _places(item, (*path, key)))]


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _replaced(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize(("kind", "entry"), [("checkpoint", "header"), ("clip", "clip"), ("track", ""), ("job", "")])
def test_values_of_the_wrong_kind(files: dict[str, Path], tmp_path: Path, kind: str, entry: str) -> None:
    data = files[kind].read_bytes()
    whole, tensors = _safetensors_parts(data) if entry else (json.loads(data), b"")
    record = json.loads(whole["__metadata__"][entry]) if entry else whole
    taken = []

    @settings(max_examples=DRAWS, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(_places(record)), hostile)
    def replace(place: tuple[Any, ...], value: Any) -> None:
        text = json.dumps(_replaced(record, place, value))
        if entry:
            metadata = whole["__metadata__"] | {entry: text}
            (tmp_path / kind).write_bytes(_safetensors(whole | {"__metadata__": metadata}, tensors))
        else:
            (tmp_path / kind).write_text(text)
        taken.append(_refused_or_sound(kind, tmp_path / kind))

    replace()
    assert not all(taken)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((90, 20, 30, 80), "a box is empty or inverted"),
        ((20, 20, 20, 80), "a box is empty or inverted"),
        ((-60, 20, -10, 80), "a box lies outside the frame of 160x160 pixels"),
        ((170, 20, 190, 80), "a box lies outside the frame of 160x160 pixels"),
    ],
)
def test_a_track_with_an_impossible_box_is_refused_in_a_sentence(tmp_path: Path, box: tuple, words: str) -> None:
    track = still_track(3)
    track.size = (160, 160)
    track.boxes[1] = np.array(box, np.float32)
    track.save(tmp_path / "track.json")
    with pytest.raises(Wav2LipError, match=words):
        FaceTrack.load(tmp_path / "track.json")
