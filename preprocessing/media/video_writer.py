"""Writes frames to a video file: ffmpeg encodes them from a pipe; audio is muxed at the end."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Self

import cv2
import ffmpeg
import imageio_ffmpeg
import numpy as np

from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.color_conversion import ColorTags, tag_options, tagged, to_yuv, writable
from preprocessing.media.containers import open_media
from preprocessing.media.output_formats import LIGHT, OUTPUTS, SILENT, comment_writer, filtered, video_options
from preprocessing.media.planar_frame import PlanarFrame
from preprocessing.media.sound.mix import channel_count, mix, sample_rate
from preprocessing.media.sound.mux import ENCODED, AudioSource, heard_tracks, plain
from preprocessing.media.video_reader import VideoInfo
from preprocessing.unfinished import UnfinishedFolder, final_path

# Generic lines that ffmpeg prints after the actual error.
GENERIC = re.compile(r"Conversion failed|Task finished|Terminating|Error opening output|Error closing file")


def ffmpeg_binary() -> str:
    """Path of ffmpeg: the one on PATH, else the one bundled with imageio-ffmpeg."""
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


class VideoWriter:
    """Writes uint8 BGR frames (height, width, 3) at `fps` to an H.264 .mp4, .mov or .mkv, or a VP9 .webm, with audio,
    or to an animated .gif or .webp without.

    Colors are converted and tagged like `source`; `PlanarFrame`s, if it is to write such, are encoded as they are.
    H.264 in 4:2:0, which all players show, needs even sides: an odd one grows by a copy of its last row or column.
    Audio is trimmed to the length of the video, never the reverse, unless `duration` (seconds) limits both. A single
    complete audio track is copied if its timing survives it in the container; otherwise all tracks are mixed into AAC,
    in .mkv FLAC, in .webm Opus. A track that ends before its start is silent. `finish` may write another version of the
    complete file, given its path and the new one's, as signing does. The file is renamed into place when complete;
    errors leave nothing.

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
        preset: str = LIGHT,
        source: VideoInfo | None = None,
        metadata: dict[str, str] | None = None,
        finish: Callable[[Path, Path], None] | None = None,
        planar: bool = False,
    ) -> None:
        self.path, self.shape, self.fps = final_path(Path(path)), (height, width, 3), Fraction(fps)
        _check_arguments(self.path, self.shape, self.fps, duration)
        self.frames, self._last_step = 0, finish
        self._limit = None if duration is None else max(1, round(duration * self.fps))
        self._suffix = self.path.suffix.lower()
        self._tracks = heard_tracks(() if self._suffix in SILENT else sounds)
        self._comment = (metadata or {}).get("comment", "")
        self._file_options = _file_options(self._suffix, metadata or {})
        self._folder = _hidden_folder(self.path)
        tags, aspect = writable(source), source.sample_aspect_ratio if source else Fraction(1)
        self._planar, self._border = planar, (height % 2, width % 2)
        video = _raw_video((height + height % 2, width + width % 2), self.fps, tags, aspect, planar)
        options = video_options(self._suffix, crf, preset) | self._file_options
        options |= {} if self._suffix in SILENT else tag_options(tags)
        try:
            output = filtered(video, self._suffix).output(plain(self._target("video")), **options)
            self._encoder = _Ffmpeg(output, piped=True)
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
        if any(self._border):
            frame = cv2.copyMakeBorder(frame, 0, self._border[0], 0, self._border[1], cv2.BORDER_REPLICATE)
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
        result = self._joined() if self._tracks else self._target("video")
        if self._comment and (write := comment_writer(self._suffix)):
            write(result, self._target("marked"), self._comment)
            result = self._target("marked")
        if self._last_step:
            self._last_step(result, self._target("finished"))
            result = self._target("finished")
        try:
            os.replace(result, self.path)
        except OSError as error:
            raise MediaError(error.strerror) from error

    def _joined(self) -> Path:
        """Muxes the audio with the encoded video, trimmed to the video's exact length."""
        target, length, frame = self._target("joined"), float(self.frames / self.fps), float(1 / self.fps)
        if len(self._tracks) == 1 and self._tracks[0].fits(self._suffix, length, frame):
            with suppress(MediaError):  # this version of ffmpeg may not take the codec: then it is encoded
                self._mux(self._tracks[0].copied(length), {"c:a": "copy"}, target)
                if _has_sound(target):
                    return target
        encoder = ENCODED[self._suffix]
        channels, rate = channel_count(self._tracks), sample_rate(self._tracks, encoder["c:a"] == "flac")
        sound = ffmpeg.input("pipe:", format="f32le", ar=rate, ac=channels)["a:0"]
        self._mux(sound, encoder, target, mix(self._tracks, channels, length, rate))
        return target

    def _mux(
        self, audio: Any, audio_options: dict[str, Any], target: Path, blocks: Generator[np.ndarray] | None = None
    ) -> None:  # fmt: skip
        video = ffmpeg.input(plain(self._target("video")))["v:0"]
        options = {"c:v": "copy", "map_chapters": -1, **audio_options, **self._file_options}
        muxer = _Ffmpeg(ffmpeg.output(video, audio, plain(target), **options), piped=blocks is not None)
        try:
            if blocks is not None:
                with closing(blocks):
                    for block in blocks:
                        muxer.write(block)
            muxer.finish()
        finally:
            muxer.kill()


def _has_sound(path: Path) -> bool:
    """Whether the file's audio track has packets."""
    with open_media(path) as container:
        return any(packet.size for stream in container.streams.audio[:1] for packet in container.demux(stream))


def _raw_video(
    shape: tuple[int, int], fps: Fraction, tags: ColorTags, aspect: Fraction, planar: bool
) -> Any:  # fmt: skip
    """Raw frames from the pipe, converted to the color space of `tags` unless they are planar."""
    height, width = shape
    if planar:
        raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="yuv420p", s=f"{width}x{height}", framerate=fps)
        return tagged(raw, tags, aspect)
    raw = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="bgr24", s=f"{width}x{height}", framerate=fps)
    return to_yuv(raw, tags, "yuv420p", aspect)


def _file_options(suffix: str, metadata: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {"movflags": "+faststart"} if suffix in (".mp4", ".mov") else {}
    # ffmpeg-python takes each option once; the specifier (g: the whole file) tells the repetitions apart.
    return options | {f"metadata:g:{n}": f"{name}={text}" for n, (name, text) in enumerate(metadata.items())}


def _check_arguments(path: Path, shape: tuple[int, int, int], fps: Fraction, duration: float | None) -> None:
    if path.suffix.lower() not in OUTPUTS:
        raise UsageError(f"the output must end in {', '.join(OUTPUTS)}, not {display_path(path.name)}")
    if min(shape) < 2 or not 0 < fps <= 1000:
        raise UsageError(f"a video needs sides of at least 2 pixels and 0 < fps <= 1000, not {shape[:2]} at {fps}")
    if duration is not None and not duration > 0:
        raise UsageError(f"duration must be positive seconds, not {duration}")


def _hidden_folder(path: Path) -> UnfinishedFolder:
    """A hidden folder next to the output, on the same disk, so that finishing is a rename."""
    if path.is_dir():
        raise MediaError(f"{display_path(path)} is a folder: the output must be a file")
    try:
        return UnfinishedFolder(path.parent)
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

    def write(self, data: np.ndarray) -> None:
        assert self._process.stdin, "this process reads nothing"
        try:
            self._process.stdin.write(np.ascontiguousarray(data).data)
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
