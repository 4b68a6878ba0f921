"""Writes frames to a video file: ffmpeg encodes them from a pipe; audio is muxed at the end."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Self

import ffmpeg
import imageio_ffmpeg
import numpy as np

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.audio_mux import COPIED_CODECS, AudioSource, AudioTrack, plain, soundtrack
from preprocessing.media.color_conversion import ColorTags, tag_options, tagged, to_yuv, writable
from preprocessing.media.planar_frame import PlanarFrame
from preprocessing.media.video_reader import VideoInfo

# Generic lines that ffmpeg prints after the actual error.
GENERIC = re.compile(r"Conversion failed|Task finished|Terminating|Error opening output|Error closing file")


def ffmpeg_binary() -> str:
    """Path of ffmpeg: the one on PATH, else the one bundled with imageio-ffmpeg."""
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


class VideoWriter:
    """Writes uint8 BGR frames (height, width, 3) at `fps` to an H.264 .mp4, .mov or .mkv with audio.

    Colors are converted and tagged like `source`. Audio is trimmed to the length of the video, never the reverse,
    unless `duration` (seconds) limits both. A single complete audio track is copied if the container supports its
    codec; otherwise all tracks are mixed into AAC. `finish` may write another version of the complete file, given its
    path and the new one's, as signing does. The file is renamed into place when complete; errors leave nothing.
    Colors are converted and tagged like `source`; `PlanarFrame`s, if it is to write such, are encoded as they are.
    Audio is trimmed to the length of the video, never the reverse, unless `duration` (seconds) limits both. A single
    complete audio track is copied if the container supports its codec; otherwise all tracks are mixed into AAC. The
    file is renamed into place when complete; errors leave nothing.

    Raises UsageError for an invalid argument or frame, MediaError if audio cannot be read or the file not written.
    """

    def __init__(
        self,
        path: Path | str,
        width: int,
        height: int,
        fps: Fraction,
        *,
        sounds: Sequence[AudioSource] = (),
        duration: float | None = None,
        crf: float = 14,
        preset: str = "veryfast",
        source: VideoInfo | None = None,
        metadata: dict[str, str] | None = None,
        finish: Callable[[Path, Path], None] | None = None,
        planar: bool = False,
    ) -> None:
        self.path, self.shape, self.fps = Path(path), (height, width, 3), Fraction(fps)
        _check_arguments(self.path, self.shape, self.fps, duration)
        self.frames, self._last_step = 0, finish
        self._limit = None if duration is None else max(1, round(duration * self.fps))
        self._suffix = self.path.suffix.lower()
        self._tracks = [AudioTrack.of(source_audio) for source_audio in sounds]
        self._file_options = _file_options(self._suffix, metadata or {})
        self._folder = _hidden_folder(self.path)
        tags, aspect = writable(source), source.sample_aspect_ratio if source else Fraction(1)
        self._planar = planar
        video = _raw_video(self.shape, self.fps, tags, aspect, planar)
        options = {"c:v": "libx264", "crf": crf, "preset": preset, **tag_options(tags), **self._file_options}
        try:
            self._encoder = _Ffmpeg(video.output(plain(self._target("video")), **options), piped=True)
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 BGR (height, width, 3). Frames beyond `duration` are dropped."""
        if frame.shape != self.shape or frame.dtype != np.uint8:
            raise UsageError(f"a frame must be uint8 {self.shape}, not {frame.dtype} {frame.shape}")
        if isinstance(frame, PlanarFrame) != self._planar:
            raise UsageError("a writer takes either planar frames or arrays, as it was told at the start")
        if self.frames == self._limit:
            return
        try:
            self._encoder.write(frame.planes if isinstance(frame, PlanarFrame) else frame)
        except MediaError as error:
            self.abort()
            raise MediaError(f"{display_path(self.path)} cannot be written: {error}") from error
        self.frames += 1

    def close(self) -> None:
        """Finish the file and rename it into place. A second call does nothing."""
        try:
            if self._encoder.running:
                self._finish()
        except MediaError as error:
            raise MediaError(f"{display_path(self.path)} cannot be written: {error}") from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop without leaving anything behind; after `close` this does nothing."""
        self._encoder.kill()
        self._folder.cleanup()

    def _target(self, name: str) -> Path:
        return Path(self._folder.name, name + self._suffix)

    def _finish(self) -> None:
        self._encoder.finish()
        if not self.frames:
            raise MediaError("no frames were written")
        result = self._target("video")
        if self._tracks:
            result = self._target("joined")
            self._join(result)
        if self._last_step:
            self._last_step(result, self._target("finished"))
            result = self._target("finished")
        try:
            os.replace(result, self.path)
        except OSError as error:
            raise MediaError(error.strerror) from error

    def _join(self, target: Path) -> None:
        """Mux the audio with the encoded video, trimmed to the video's exact length."""
        video = ffmpeg.input(plain(self._target("video")))["v:0"]
        audio, options = soundtrack(self._tracks, self._suffix, float(self.frames / self.fps), float(1 / self.fps))
        options = {"c:v": "copy", "map_chapters": -1, **options, **self._file_options}
        joiner = _Ffmpeg(ffmpeg.output(video, audio, plain(target), **options))
        try:
            joiner.finish()
        finally:
            joiner.kill()


def _raw_video(
    shape: tuple[int, int, int], fps: Fraction, tags: ColorTags, aspect: Fraction, planar: bool
) -> Any:  # fmt: skip
    """Raw frames from the pipe, converted to the color space of `tags` unless they are planar."""
    height, width, _ = shape
    if planar:
        raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="yuv420p", s=f"{width}x{height}", framerate=fps)
        return tagged(raw, tags, aspect)
    raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="bgr24", s=f"{width}x{height}", framerate=fps)
    # 4:2:0 halves both dimensions, so odd ones need 4:4:4.
    pixels = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    return to_yuv(raw, tags, pixels, aspect)


def _file_options(suffix: str, metadata: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {} if suffix == ".mkv" else {"movflags": "+faststart"}
    # ffmpeg-python takes each option once; the specifier (g: the whole file) tells the repetitions apart.
    return options | {f"metadata:g:{n}": f"{name}={text}" for n, (name, text) in enumerate(metadata.items())}


def _check_arguments(path: Path, shape: tuple[int, int, int], fps: Fraction, duration: float | None) -> None:
    if path.suffix.lower() not in COPIED_CODECS:
        raise UsageError(f"the output must end in {', '.join(COPIED_CODECS)}, not {display_path(path.name)}")
    if min(shape) < 2 or not 0 < fps <= 1000:
        raise UsageError(f"a video needs sides of at least 2 pixels and 0 < fps <= 1000, not {shape[:2]} at {fps}")
    if duration is not None and not duration > 0:
        raise UsageError(f"duration must be positive seconds, not {duration}")


def _hidden_folder(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden folder next to the output, on the same disk, so that finishing is a rename."""
    if path.is_dir():
        raise MediaError(f"{display_path(path)} is a folder: the output must be a file")
    try:
        return tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent)
    except OSError as error:
        raise MediaError(f"{display_path(path)} cannot be written: {error.strerror}") from error


class _Ffmpeg:
    """One ffmpeg process; stderr goes to a temporary file, so it never blocks on a full pipe."""

    def __init__(self, output: Any, *, piped: bool = False) -> None:
        command = output.global_args("-nostdin", "-v", "error").compile(cmd=ffmpeg_binary(), overwrite_output=True)
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        stdin = subprocess.PIPE if piped else subprocess.DEVNULL
        try:
            # Separate process group: Ctrl-C reaches only us, and we stop ffmpeg.
            self._process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=self._log, process_group=0
            )
        except OSError as error:
            raise MediaError(f"ffmpeg cannot be started: {error.strerror}") from error

    @property
    def running(self) -> bool:
        """Whether the process has not been waited for yet."""
        return self._process.returncode is None

    def write(self, frame: np.ndarray) -> None:
        assert self._process.stdin, "this process reads no frames"
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError as error:
            raise MediaError(self._wait() or "ffmpeg stopped reading") from error

    def finish(self) -> None:
        """Wait for ffmpeg to exit; raises MediaError with its message on failure."""
        failure = self._wait()
        if failure:
            raise MediaError(failure)

    def kill(self) -> None:
        if self.running:
            self._process.kill()
            self._wait()
        self._log.close()

    def _wait(self) -> str | None:
        """Close the pipe and wait; returns the error message, None on success."""
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
        code = self._process.wait()
        if code == 0:
            return None
        if code < 0:
            return f"ffmpeg was killed ({signal.Signals(-code).name})"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        reported = [re.sub(r"^(\[[^]]*\] *)+", "", line) for line in lines if line.strip() and not GENERIC.search(line)]
        return reported[-1] if reported else f"ffmpeg ended with status {code}"
