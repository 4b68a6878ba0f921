"""Draws recordings of all kinds and runs them through a whole job: `python -m tests.media_fuzz --minutes 30`.

Each must give either one clear line or a video whose length, rate, orientation and synchrony are right, and whose
pixels are those of the recording. The job's engine changes nothing, so that the picture can be compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from inference.engine import JobInput, RenderedFrame
from inference.files.speech import read_speech
from inference.pipeline import LipSync
from preprocessing.errors import Wav2LipError
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import AudioConfig, frame_count, load_audio
from preprocessing.media.reading.frame_rate import speech_rate
from preprocessing.media.reading.orientation import EXIF
from preprocessing.media.video_reader import probe, read_frames
from preprocessing.media.video_writer import ffmpeg_binary

# Container, video codec and pixel format, audio codecs that fit.
KINDS = (
    (".mp4", "libx264", "yuv420p", ("aac", "libmp3lame", "ac3")),
    (".mp4", "mpeg4", "yuv420p", ("aac",)),
    (".mov", "mjpeg", "yuvj420p", ("pcm_s16le", "aac")),
    (".mkv", "ffv1", "yuv420p10le", ("flac", "libopus", "pcm_s16le", "libmp3lame")),
    (".mkv", "libx264", "yuv444p", ("aac", "flac")),
    (".webm", "libvpx", "yuv420p", ("libopus",)),
    (".avi", "mpeg4", "yuv420p", ("pcm_s16le", "libmp3lame")),
    (".ts", "libx264", "yuv420p", ("aac", "mp2")),
    (".ts", "mpeg2video", "yuv420p", ("mp2", "ac3")),
    (".flv", "flv1", "yuv420p", ("aac",)),
    (".nut", "ffv1", "bgra", ("flac",)),
)  # fmt: skip
RATES = ("2", "8", "12.5", "15", "24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60", "90", "120")
BROADCAST = tuple(rate for rate in RATES if 23 < Fraction(rate) <= 60 and rate != "48")  # what MPEG-2 can say
LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 6: "5.1", 8: "7.1"}
ANY_RATE = {"pcm_s16le", "flac"}
DARK, LIGHT, MARK, FLASH = 50, 90, 170, 240  # levels: the picture's halves, its corner, one frame in the middle


@dataclass(frozen=True)
class Recording:
    """A light top left corner on two levels of gray, one white frame (two at high rates), and a click with it."""

    suffix: str
    codec: str
    pixels: str
    sound: str
    width: int
    height: int
    fps: str
    frames: int
    sample_rate: int
    channels: int
    orientation: int  # number of the EXIF orientation
    out: str
    start: float  # seconds

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.fps)

    @property
    def flash(self) -> int:
        """The first white frame."""
        return self.frames * 2 // 3

    def is_white(self, number: int) -> bool:
        """Whether a frame is white: as many as become one frame when the rate is reduced."""
        return self.flash <= number < self.flash + -(-self.rate // speech_rate(self.rate))


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    """Any combination that the containers allow."""
    suffix, codec, pixels, sounds = draw(st.sampled_from(KINDS))
    sound = draw(st.sampled_from(sounds))
    fps = draw(st.sampled_from(BROADCAST if codec == "mpeg2video" else RATES))
    seconds = draw(st.floats(0.8, 1.6))
    sample_rates = (8000, 11025, 16000, 44100, 48000, 96000) if sound in ANY_RATE else (48000,) if (
        "opus" in sound) else (44100,) if suffix == ".flv" else (32000, 44100, 48000)  # fmt: skip
    few = sound in ("libmp3lame", "mp2") or suffix in (".flv", ".avi")
    return Recording(
        suffix, codec, pixels, sound,
        width=draw(st.integers(24, 48)) * 2 + (draw(st.booleans()) if codec == "ffv1" else 0),
        height=draw(st.integers(24, 48)) * 2 + (draw(st.booleans()) if codec == "ffv1" else 0),
        fps=fps, frames=max(3, round(seconds * Fraction(fps))),
        sample_rate=draw(st.sampled_from(sample_rates)),
        channels=draw(st.sampled_from((1, 2) if few else (1, 2, 6) if sound in ("ac3", "libopus") else (*LAYOUTS,))),
        orientation=draw(st.integers(1, 8)) if suffix in (".mp4", ".mov") else 1,
        out=draw(st.sampled_from((".mp4", ".mov", ".mkv"))),
        start=draw(st.sampled_from((0.0, 0.0, 0.2))),
    )  # fmt: skip


# Making --------------------------------------------------------------------------------------------------------------


def upright(recording: Recording, flash: bool) -> np.ndarray:
    """The picture as it must be shown, (H, W, 3) uint8."""
    turned = EXIF[recording.orientation].turned
    height, width = (recording.width, recording.height) if turned else (recording.height, recording.width)
    picture = np.full((height, width, 3), DARK, np.uint8)
    picture[:, width // 2 :] = LIGHT
    picture[: height // 3, : width // 3] = MARK
    return np.full_like(picture, FLASH) if flash else picture


def stored(recording: Recording, flash: bool) -> np.ndarray:
    """The picture as the camera stores it: turning it by the orientation gives the upright one."""
    turn, picture = EXIF[recording.orientation], upright(recording, flash)
    picture = picture[:, ::-1] if turn.mirrored else picture
    return np.ascontiguousarray(np.rot90(picture, -(turn.rotation // 90)))


def make(recording: Recording, folder: Path) -> Path:
    """Writes the recording."""
    path = folder / f"made{recording.suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream(recording.codec, rate=recording.rate)
        video.width, video.height, video.pix_fmt = recording.width, recording.height, recording.pixels
        video.bit_rate = 4_000_000
        sound = container.add_stream(recording.sound, rate=recording.sample_rate, layout=LAYOUTS[recording.channels])
        for number in range(recording.frames):
            frame = av.VideoFrame.from_ndarray(stored(recording, recording.is_white(number)), format="bgr24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for block in _clicks(recording):
            container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    turn = EXIF[recording.orientation]
    if recording.orientation == 1:
        return path
    final = folder / f"turned{recording.suffix}"
    flags = ["-display_rotation", str(turn.rotation)] + (["-display_hflip"] if turn.mirrored else [])
    words = [ffmpeg_binary(), "-v", "error", *flags, "-i", str(path), "-map", "0", "-c", "copy", str(final)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return final


def _clicks(recording: Recording) -> Iterator[av.AudioFrame]:
    """Quiet noise with a loud tone of 10 ms that begins with the white frame."""
    rate = recording.sample_rate
    count = round(recording.frames / recording.rate * rate)
    samples = np.random.default_rng(0).normal(0, 0.004, count)
    begin = round(recording.flash / recording.rate * rate)
    tone = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(round(0.01 * rate)) / rate)
    samples[begin : begin + len(tone)] += tone[: max(0, count - begin)]
    interleaved = np.repeat((samples * 32000).astype(np.int16), recording.channels)[None]
    frame = av.AudioFrame.from_ndarray(interleaved, "s16", LAYOUTS[recording.channels])
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    yield frame


# Checking ------------------------------------------------------------------------------------------------------------


class UnchangedJob:
    """A job that shows the frames as they are."""

    def __init__(self, job: JobInput) -> None:
        self._job, self.planar = job, job.source.planar
        samples = read_speech(job.audio)
        self.speech_frames = frame_count(len(samples), job.source.fps, AudioConfig())

    def has_face(self) -> bool:
        return True

    def render(self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int) -> Iterator[RenderedFrame]:
        yield from (RenderedFrame(frame, frame, False) for _, frame in frames)

    def track(self) -> FaceTrack:
        raise NotImplementedError

    def close(self) -> None: ...


class UnchangedEngine:
    """An engine without networks."""

    def provenance(self, options) -> None:
        return None

    def start(self, job: JobInput, progress: object = None) -> UnchangedJob:
        return UnchangedJob(job)


def check(recording: Recording, folder: Path) -> str:
    """Runs a job on a recording, with its own sound as the speech. Returns the refusal, "" if there is none.

    Raises:
        AssertionError: the result is wrong.
    """
    given, out = make(recording, folder), folder / f"out{recording.out}"
    try:
        model = LipSync(UnchangedEngine())  # type: ignore[arg-type]
        report = model(given, given, out, start=recording.start, sync_mode="freeze")
    except Wav2LipError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert refusal.isprintable(), f"a refusal is one line, not {refusal!r}"
        assert not out.exists(), "a refused job leaves no video"
        return refusal
    info, wanted = probe(out), upright(recording, False)
    height, width = wanted.shape[:2]
    assert report.fps == speech_rate(recording.rate) or abs(report.fps / speech_rate(recording.rate) - 1) < 0.002
    assert (info.width, info.height) == (width + width % 2, height + height % 2), "the size is wrong"
    heard, shown = load_audio(given), list(read_frames(out, fps=report.fps))
    assert abs(len(shown) - len(heard) / 16000 * report.fps) <= 1.5, f"{len(shown)} frames for {len(heard)} samples"
    _check_pixels(shown, wanted)
    _check_sync(recording, report.fps, shown, load_audio(out))
    return ""


def _check_pixels(shown: list[np.ndarray], wanted: np.ndarray) -> None:
    """The first frame is not the white one; blocks may blur edges, but not swap sides."""
    height, width = wanted.shape[:2]
    off = np.abs(shown[0][:height, :width].astype(float) - wanted).mean(axis=2)
    edges = cv2.dilate((np.abs(cv2.Laplacian(wanted[..., 0].astype(np.float32), cv2.CV_32F)) > 0).astype(np.uint8),
                       np.ones((9, 9), np.uint8))  # fmt: skip
    assert np.median(off[edges == 0]) < 6, "the picture is not the recording's"
    assert np.percentile(off[edges == 0], 98) < 16, "the picture is not the recording's"


def _check_sync(recording: Recording, fps: Fraction, shown: list[np.ndarray], heard: np.ndarray) -> None:
    """The white frame comes with the click: the sound is not cut, the picture is.

    Both may be later than they were made: MP3 in AVI begins with the encoder's delay, which shifts the picture, too.
    """
    bright = np.flatnonzero([frame.mean() > (FLASH + MARK) / 2 for frame in shown])
    assert len(bright), "the white frame is missing"
    flash, click = recording.flash / float(recording.rate), np.argmax(np.abs(heard) > 0.5 * np.abs(heard).max()) / 16000
    assert abs(click - flash) < 0.06, f"the click is at {click:.3f} s, not {flash:.3f} s"
    apart = bright[0] / float(fps) + recording.start - click
    assert abs(apart) <= 1 / float(min(fps, recording.rate)) + 0.03, f"the white frame is {apart:.3f} s after the click"


def run(minutes: float, number: int) -> int:
    """Draws for some minutes; prints what falls."""
    end, counts = time.monotonic() + 60 * minutes, Counter[str]()
    while time.monotonic() < end:
        number += 1

        @seed(number)
        @settings(max_examples=20, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(recordings())
        def draws(recording: Recording) -> None:
            with tempfile.TemporaryDirectory() as folder:
                refusal = check(recording, Path(folder))
            counts["refused: " + refusal.partition(":")[0][-60:] if refusal else "right"] += 1

        try:
            draws()
        except Exception as error:
            counts["wrong"] += 1
            notes = " ".join(getattr(error, "__notes__", []))
            print(f"seed {number}: {type(error).__name__}: {error}\n  {notes}", flush=True)
    print(dict(counts))
    return 1 if counts["wrong"] else 0


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.media_fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the first series of 20 draws")
    flags = parser.parse_args()
    return run(flags.minutes, flags.seed)


if __name__ == "__main__":
    sys.exit(main())
