"""Small inputs for end-to-end tests: a real face, real speech and tiny generators."""

from __future__ import annotations

import tempfile
import wave
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import soxr
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from skimage.data import astronaut

from preprocessing.dataset.clips import CLIP_FPS, ClipHeader, encode, write_clip
from preprocessing.faces.crops import CropGeometry, crop
from preprocessing.faces.face_track import FaceTrack, estimate_points
from preprocessing.media.audio import load_audio
from preprocessing.media.mel import mel_spectrogram
from preprocessing.media.sound.mux import AudioSource
from preprocessing.media.speech_activity import speech_columns
from preprocessing.media.video_writer import VideoWriter
from training.checkpoint import Checkpoint
from wav2lip.generator.model import Generator, GeneratorConfig

SPEECH = Path(__file__).resolve().parents[1] / "assets" / "speech.wav"
SIDE = 160
BOX = (22, 90, 56, 108)  # top, bottom, left, right of the face in `photo()`


def photo() -> np.ndarray:
    """A real face, 160x160."""
    return cv2.resize(astronaut()[:320, 60:380, ::-1], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def write_photo(path: Path) -> Path:
    path.write_bytes(cv2.imencode(".png", photo())[1].tobytes())
    return path


def moving_photo(count: int) -> list[np.ndarray]:
    """The face, swaying by three pixels; the block at the top left encodes the frame number (see
    `number_of`), the one at the top right is black."""
    pictures = []
    for k in range(count):
        shift = np.array([[1, 0, 3 * np.sin(k / 4)], [0, 1, 0]], np.float64)
        picture = cv2.warpAffine(photo(), shift, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        picture[:16, :16], picture[:16, -16:] = 10 + 5 * k, 0
        pictures.append(picture)
    return pictures


def number_of(picture: np.ndarray) -> int:
    return round((float(picture[4:12, 4:12].mean()) - 10) / 5)


def write_video(
    path: Path, pictures: Sequence[np.ndarray], fps: Fraction = Fraction(25), sound: Path | None = None
) -> Path:  # fmt: skip
    sounds = [AudioSource(sound)] if sound else []
    with VideoWriter(path, pictures[0].shape[1], pictures[0].shape[0], fps, sounds=sounds, crf=8) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def write_sound(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """(n,) float, -1 to 1, as a 16-bit WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def speech(seconds: float) -> tuple[np.ndarray, int]:
    """(samples, rate): the start of the recording, looped if necessary."""
    with wave.open(str(SPEECH)) as file:
        rate, data = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return np.resize(data, round(seconds * rate)) / 32768, rate


def write_speech(path: Path, seconds: float) -> Path:
    return write_sound(path, *speech(seconds))


def write_generator(path: Path, **config: object) -> Path:
    """A checkpoint with a tiny untrained generator."""
    torch.manual_seed(0)
    shape = GeneratorConfig(**{"width": 2} | config)
    crop = {"kind": "points", "size": shape.size}
    Checkpoint("generator", asdict(shape), {}, crop, Generator(shape).state_dict()).save(path)
    return path


def pictures_of(path: Path) -> list[np.ndarray]:
    """All frames of a video decoded by PyAV, uint8 BGR; decoding errors are raised."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def sound_of(path: Path, rate: int = 16000) -> np.ndarray:
    """The audio track decoded by PyAV: (n,) float, mono."""
    resampler = av.AudioResampler("s16", "mono", rate)
    with av.open(str(path)) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]) / 32768


def write_numbered_clip(
    path: Path, faces: np.ndarray, samples: np.ndarray | None = None, *, speaker: str = "a", margin: int = 8,
    size: int | None = None, flags: np.ndarray | None = None, mel: np.ndarray | None = None, quality: int = 100,
    **header: Any,
) -> Path:  # fmt: skip
    """A clip of the given frames; uniform gray frames survive encoding unchanged, others nearly.

    Args:
        path: the .safetensors file.
        faces: (N, S, S, 3) uint8 BGR.
        samples: (n,) float or int16 at 16 kHz; the beginning of the recording if None.
        speaker: who is said to speak.
        margin: pixels of S around the square.
        size: side of the square; S - 2 * margin if None.
        flags: (T,) bool, where there is speech; by the samples' level if None.
        mel: (80, T), put into the file in place of the sound's own; T is 1 + N * 640 // 200.
        quality: of the JPEGs.
        header: other fields of `ClipHeader`.
    """
    count = len(faces)
    if samples is None:
        sound, rate = speech(count / CLIP_FPS)
        samples = soxr.resample(sound, rate, 16000)
    if flags is None:
        flags = speech_columns(samples)
    crop = CropGeometry("points", size or faces.shape[1] - 2 * margin)
    values = {"source": "a.mp4", "sha256": "", "start": 0.0} | header
    head = ClipHeader(**values, frames=count, speaker=speaker, crop=crop, margin=margin)
    write_clip(path, head, [encode(face, quality) for face in faces], samples, still_track(count), flags)
    if mel is not None:
        change_clip(path, mel=np.ascontiguousarray(mel, np.float32))
    return path


def still_track(count: int) -> FaceTrack:
    """A face track that stays still for `count` frames of 160x160."""
    top, bottom, left, right = BOX
    box = np.array([left, top, right, bottom], np.float32)
    points = np.repeat(estimate_points(box)[None], count, axis=0)
    found, shot = np.ones(count, bool), np.zeros(count, np.int32)
    return FaceTrack(np.repeat(box[None], count, axis=0), points, found, shot, (SIDE, SIDE), "25")


def change_clip(path: Path, metadata: dict[str, str] | None = None, **tensors: np.ndarray | None) -> None:
    """Rewrites a clip's file with different metadata and tensors (None removes one), without validation."""
    with safe_open(path, "numpy") as file:
        old = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        head = file.metadata() if metadata is None else metadata
    save_file({name: tensor for name, tensor in (old | tensors).items() if tensor is not None}, path, head)


def swaying_photo(count: int) -> list[np.ndarray]:
    """The unmarked face, swaying by three pixels; brightness, 90 to 110 %, distinguishes adjacent frames."""
    pictures = []
    for k in range(count):
        shift = np.array([[1, 0, 3 * np.sin(k / 4)], [0, 1, 2 * np.cos(k / 5)]], np.float64)
        picture = cv2.warpAffine(photo(), shift, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
        pictures.append(cv2.convertScaleAbs(picture, alpha=0.9 + 0.2 * (k * 7 % 11) / 10))
    return pictures


def write_talk(path: Path, pictures: Sequence[np.ndarray], seconds: float | None = None) -> Path:
    """A video at 25 fps with the recording as its audio, ending with it or after `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        sound = write_speech(Path(folder) / "speech.wav", seconds or len(pictures) / 25)
        return write_video(path, pictures, sound=sound)


def write_talking_clips(folder: Path, count: int = 2, frames: int = 40, margin: int = 8) -> Path:
    """Clips of the astronaut, whose mouth opens with the loudness of the recording, each of another "speaker"."""
    points = np.array([[206, 108], [246, 108], [228, 130], [210, 148], [244, 148]], np.float64)  # of the whole picture
    matrix = CropGeometry("points", 96).matrix(np.zeros(4), points, (512, 512))
    matrix[:, 2] += margin
    face = crop(np.ascontiguousarray(astronaut()[..., ::-1]), matrix, 96 + 2 * margin)
    samples = load_audio(SPEECH)[6400:]
    mel, spoken = mel_spectrogram(samples), speech_columns(samples)
    for number in range(count):
        columns = slice(number * frames * 16 // 5, (number + 1) * frames * 16 // 5 + 1)
        part = samples[number * frames * 640 : (number + 1) * frames * 640]
        faces = np.repeat(face[None], frames, axis=0)
        for index, loud in enumerate(mel[:40, columns].mean(axis=0)[: frames * 3 : 3]):
            cv2.ellipse(faces[index], (56, 66), (10, int(4 + loud)), 0, 0, 360, (30, 20, 60), -1)
        path, speaker = folder / f"{number}.safetensors", f"speaker{number}"
        write_numbered_clip(path, faces, part, flags=spoken[columns], speaker=speaker, margin=margin)
    return folder
