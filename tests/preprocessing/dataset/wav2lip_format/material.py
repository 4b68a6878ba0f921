"""Clips and folders in the original's layout."""

from __future__ import annotations

import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from preprocessing.dataset.clips import Clip
from preprocessing.dataset.manifest import ClipRow, read_videos, write_rows
from preprocessing.dataset.wav2lip_format import conversion as upstream
from preprocessing.dataset.wav2lip_format.face_folder import safe_name
from tests.material import change_clip, still_track, write_numbered_clip


def clip(clips: Path, name: str, speaker: str, split: str = "train", frames: int = 8, **values) -> ClipRow:
    """Writes a clip of noise to CLIPS/clips and returns its row."""
    rng = np.random.default_rng(len(name))
    target = f"clips/{safe_name(speaker)}/{name}.safetensors"
    samples = rng.integers(-9000, 9000, frames * 640).astype(np.int16)
    path = write_numbered_clip(
        clips / target, rng.integers(0, 256, (frames, 60, 60, 3), dtype=np.uint8), samples, speaker=speaker, margin=6,
        flags=rng.random(1 + frames * 640 // 200) < 0.5, quality=90, source="x/ä \n.mp4", sha256="ab", start=1.2,
        language="pl", licence="CC BY 4.0", person=1, versions={"opencv": "4"},
    )  # fmt: skip
    track = still_track(frames)
    boxes, points = track.boxes + rng.random((frames, 4)), track.points + rng.random((frames, 5, 2))
    boxes[3], points[3] = np.nan, np.nan
    found = np.arange(frames) != 3
    change_clip(path, boxes=boxes.astype("f4"), points=points.astype("f4"), found=found.astype("u1"))
    header = Clip.open(path).header
    fields = {
        "number": 2,
        "side": 61.3,
        "yaw": -7.125,
        "offset": 1.0,
        "confidence": 6.5,
        "sync_filter": "pass",
    } | values
    return ClipRow(
        target, header.source, 1, fields.pop("number"), 1.2, frames / 25, frames, speaker, split, "pl", "CC BY 4.0",
        header.crop.size, audio_sha256=upstream.hashlib.sha256(samples.tobytes()).hexdigest(), **fields,
    )  # fmt: skip


def build(clips: Path, rows: Iterable[ClipRow]) -> list[ClipRow]:
    rows = list(rows)
    write_rows(clips / "manifest.csv", rows)
    return rows


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> None:
    """(n,) or (n, channels) int16."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1 if samples.ndim == 1 else samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


def ramp(count: int) -> np.ndarray:
    """Samples whose values encode their position."""
    return (np.arange(count) % 30011 - 15000).astype(np.int16)


def fates(clips: Path) -> dict[str, tuple[str, str]]:
    return {row.video: (row.fate, row.reason) for row in read_videos(clips / "videos.csv")}
