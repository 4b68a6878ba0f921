"""Runs a job: a face and speech in, a lip-synced video out. The stages run concurrently as a stream of frames."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.casting import Census, cast, needs_census
from inference.engine import AnalysisProgress, JobInput, LipSyncEngine, RenderedFrame, RenderJob, Role
from inference.files.checks import check_files
from inference.files.face_source import FaceSource, Framing
from inference.files.preview import Preview
from inference.files.soundtrack import audio_sources, timed_parts
from inference.job import Job
from inference.mesh.engine import MeshEngine
from inference.options import Options, Report
from inference.parts import Part
from inference.people_file import recall_people
from inference.prefetch import StageClock
from preprocessing.errors import CancelledError, MediaError, UsageError, display_path
from preprocessing.media.color_conversion import parse_color
from preprocessing.media.containers import audio_stream, decodable_tracks, open_media
from preprocessing.media.video_reader import VideoInfo
from preprocessing.media.video_writer import VideoWriter

if TYPE_CHECKING:  # live sessions are rare, and their modules take a while to import
    from inference.live.avatar import Avatar
    from inference.live.clock import Clock
    from inference.live.session import LiveSession

QUEUE_BYTES = 48 * 2**20  # of frames queued between two stages

MARK = "AI-generated: the lip movements in this video were synthesized by software (Wav2Lip) to match other speech."
METADATA = {"comment": MARK, "description": MARK, "synopsis": MARK, "keywords": "AI-generated, synthetic, lip sync"}

Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]
"""Asked for every frame; True ends the job."""


class LipSync:
    """Loaded networks, for any number of jobs, which may run concurrently in threads. There is no global state."""

    def __init__(self, engine: LipSyncEngine) -> None:
        self.engine = engine

    @classmethod
    def load(
        cls, checkpoint: Path | str | None = None, device: str = "auto", backend: str = "auto",
        landmarks: str = "mesh", fan: Path | str | None = None,
    ) -> LipSync:  # fmt: skip
        """Loads the default engine, which warps the person's own pixels (`MeshEngine`), or a generator.

        Args:
            checkpoint: a generator, ours (.safetensors) or a released one (.pth); None: the default engine.
            device, backend: where a generator runs; the default engine runs on the CPU, but for FAN.
            landmarks, fan: the default engine's landmark network, see `MeshEngine.load`.

        Raises:
            MediaError: the file is missing or not a generator.
            UsageError: no such device, backend or landmarks, or landmarks for a generator.
        """
        if checkpoint is None:
            return cls(MeshEngine.load(landmarks, fan, device))
        if landmarks != "mesh" or fan is not None:
            raise UsageError("landmarks and fan are for the default engine: a generator needs a face box only")
        from inference.generator.engine import GeneratorEngine  # imports torch, which the default engine rarely needs

        return cls(GeneratorEngine.load(checkpoint, device, backend))

    def __call__(
        self, face: Path | str, audio: Path | str | None, outfile: Path | str, *, parts: Sequence[Part] = (),
        progress: Progress | None = None, analysis_progress: AnalysisProgress | None = None,
        cancelled: Cancelled | None = None, people: Path | None = None, **options: object,
    ) -> Report:  # fmt: skip
        """Lip-syncs the face in a video or photo to the audio, or several people to the audio of their `parts`.

        Args:
            audio: the file with the speech; None if there are parts.
            parts: who says what and when.
            progress: called with the number of frames done and the expected total.
            analysis_progress: called during analysis, before the first frame is rendered; see `AnalysisProgress`.
            cancelled: asked for every frame, in any thread; if it returns True, the job ends and leaves no file.
            people: file with the people in the video, see `people_file`, which need not be found then.
            options: see `Options`.

        Raises:
            CancelledError: `cancelled` returned True.
            MediaError: a file cannot be read or written, or no face is found.
            UsageError: an option is unknown, of the wrong type or out of range.
        """
        sound = None if audio is None else _path("audio", audio)
        job = Job(_path("face", face), sound, _path("outfile", outfile), Options.of(options), tuple(parts))
        return self.run(job, progress, analysis_progress, cancelled, people)

    def run(
        self, job: Job, progress: Progress | None = None, analysis_progress: AnalysisProgress | None = None,
        cancelled: Cancelled | None = None, people: Path | None = None,
    ) -> Report:  # fmt: skip
        """Runs a job; see `__call__`."""
        return run_job(
            self.engine, job, _or_cancel(progress, cancelled), _or_cancel(analysis_progress, cancelled), people
        )

    def avatar(
        self, face: Path | str, *, fps: Fraction | float | None = None, progress: AnalysisProgress | None = None,
        **options: object,
    ) -> Avatar:  # fmt: skip
        """Prepares the person in a video or photo for live sessions, or opens a saved avatar.

        Args:
            face: a video, a photo, or a file ending in .avatar.
            fps: the frame rate; None for the video's own, 25 for a photo.
            options: how the face is found, see `Options`.

        Raises:
            MediaError: the file cannot be read, or shows no face.
            UsageError: the networks are a generator's, or an option is wrong or does not apply to a saved avatar.
        """
        from inference.live.avatar import Avatar
        from inference.live.avatar_file import open_avatar

        if not isinstance(self.engine, MeshEngine):
            raise UsageError("live sessions need the default mouth: load it without a checkpoint")
        if Path(face).suffix.lower() == ".avatar":
            if options or fps is not None:
                named = ", ".join(options) or "fps"
                raise UsageError(f"{display_path(face)} is prepared already: {named} has no effect")
            return open_avatar(Path(face))
        chosen = Options.of(options if fps is None else {"fps": fps} | options)
        return Avatar.prepare(self.engine, open_source(Path(face), chosen), chosen, progress)

    def live(
        self, person: Path | str | Avatar, *, fps: Fraction | float | None = None, lookahead: float = 0.2,
        sample_rate: int = 48000, strength: float = 1.0, queue_seconds: float = 60.0, photo_motion: str = "full",
        clock: Clock | None = None, progress: AnalysisProgress | None = None, **options: object,
    ) -> LiveSession:  # fmt: skip
        """Starts a session in which the person speaks what is pushed; see `LiveSession` and `LiveConfig`.

        Args:
            person: an avatar, which several sessions may share, or what `avatar` accepts.
            clock: sets the pace; None for the computer's.

        Raises:
            MediaError, UsageError: as `avatar`; a setting is out of range.
        """
        from inference.live.avatar import Avatar
        from inference.live.session import LiveConfig, LiveSession

        config = LiveConfig(lookahead, sample_rate, strength, queue_seconds, photo_motion)
        if not isinstance(self.engine, MeshEngine):
            raise UsageError("live sessions need the default mouth: load it without a checkpoint")
        if isinstance(person, Avatar):
            return LiveSession(self.engine, person, config, clock).warm_up()
        prepared = self.avatar(person, fps=fps, progress=progress, **options)
        return LiveSession(self.engine, prepared, config, clock, owns_avatar=True).warm_up()


def _path(name: str, value: object) -> Path:
    """Raises UsageError for anything but a path, as a call from Python may contain it."""
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise UsageError(f"{name} must be a path, not {value!r}")
    return Path(value)


def lipsync(
    face: Path | str, audio: Path | str, outfile: Path | str, *, checkpoint: Path | str | None = None,
    device: str = "auto", backend: str = "auto", progress: Progress | None = None, **options: Any,
) -> Report:  # fmt: skip
    """Loads the networks and runs one job; see `LipSync`."""
    return LipSync.load(checkpoint, device, backend)(face, audio, outfile, progress=progress, **options)


def run_job(
    engine: LipSyncEngine, job: Job, progress: Progress | None = None,
    analysis_progress: AnalysisProgress | None = None, people: Path | None = None,
) -> Report:  # fmt: skip
    """Runs the stages of a job; see `LipSync.__call__` for the arguments."""
    options = job.options
    clock, begin, children = StageClock(options.profile), time.perf_counter(), _children_cpu()
    with clock("other"):
        check_files(job.face, job.sounds(), job.outfile, options)
        source = open_source(job.face, options)
        notes = input_notes(source, job.sounds(), options)
        parts = timed_parts(job.parts, source)
        roles = _roles(job, parts, Census(source, options, analysis_progress), clock, people)
        if parts:
            options = replace(options, tail="keep")
        given = JobInput(source, job.sounds()[0], options, clock, roles)
        with closing(engine.start(given, analysis_progress)) as started:
            if not started.has_face():
                raise MediaError(
                    f"{display_path(source.path)} shows no face in any frame: if there is one, say where with --box "
                    "TOP BOTTOM LEFT RIGHT, or try another detector (--detector center, yunet, sfd or haar)"
                )
            total = expected_frames(source, started.speech_frames, options)
            depth = int(np.clip(QUEUE_BYTES // (source.size[0] * source.size[1] * 3), 2, 32))
            preview = Preview(options.preview, total)
            decoded = clock.prefetched(
                clock.iterate("decode", source.play(total, options.sync_mode, started.planar)), depth
            )
            with closing(decoded), closing(started.render(decoded, total, depth)) as rendered, VideoWriter(
                job.outfile, *source.size, source.fps, sounds=audio_sources(job.audio, parts, source, options),
                crf=options.crf, preset=options.preset, source=output_format(source, options), metadata=METADATA,
                planar=started.planar, finish=output_signer(engine, job),
            ) as writer:  # fmt: skip
                count, faces = write_frames(rendered, writer, clock, preview, progress, total)
                sheet = finish(writer, started, preview, job.outfile, options)
    if options.profile:
        clock.cpu["encoder process"] = _children_cpu() - children
    seconds = {**clock.seconds, "total": time.perf_counter() - begin}
    return Report(job.outfile, count, faces, source.fps, seconds, sheet, notes, dict(clock.cpu))


def _roles(
    job: Job, parts: Sequence[Part], census: Census, clock: StageClock, people: Path | None
) -> tuple[Role, ...]:  # fmt: skip
    """Who says what; empty if the face is chosen while it is tracked."""
    if not needs_census(job.options, parts):
        return ()
    with clock("people"):
        if people is not None:
            recall_people(people, census)
        roles = cast(job.audio, parts, job.options, census)
    if len(roles) > 1 and job.options.save_track:
        raise UsageError(f"save_track saves one face, but {len(roles)} people speak")
    return roles


def _or_cancel(progress: Callable[..., None] | None, cancelled: Cancelled | None) -> Callable[..., None] | None:
    """A progress callback that raises CancelledError once `cancelled` returns True."""
    if cancelled is None:
        return progress

    def check(*done: object) -> None:
        if cancelled():
            raise CancelledError("the job was cancelled: no output was written")
        if progress:
            progress(*done)

    return check


def _children_cpu() -> float:
    """CPU seconds of ended child processes: the video encoder's."""
    used = os.times()
    return used.children_user + used.children_system


def open_source(face: Path, options: Options) -> FaceSource:
    """Opens the face video with the framing of the options.

    Raises:
        MediaError: the file has no frames.
        UsageError: `start` is after the end, or `box` outside the frame.
    """
    framing = Framing(options.resize_factor, options.rotate, options.crop)
    source = FaceSource(
        face, framing, fps=options.fps, static=options.static, start=options.start, end=options.end,
        background=parse_color(options.background),
    )  # fmt: skip
    if options.box is not None:
        top, bottom, left, right = options.box
        if not (0 <= top < bottom <= source.size[1] and 0 <= left < right <= source.size[0]):
            raise UsageError(
                f"box {' '.join(map(str, options.box))} (top bottom left right) is not inside the frame of "
                f"{source.size[0]}x{source.size[1]} pixels"
            )
    return source


def input_notes(source: FaceSource, sounds: Sequence[Path], options: Options) -> tuple[str, ...]:
    """What is changed while the files are read, one line each."""
    name, (width, height) = display_path(source.path), source.size
    notes = [f"{name}: {note}" for note in source.info.notes if options.fps is None or "frames per second" not in note]
    if width % 2 or height % 2:
        notes.append(f"{name}: frames of {width}x{height} pixels grow to even sides, which players need")
    for audio in dict.fromkeys(sounds):
        with open_media(audio) as container:
            chosen, count = audio_stream(container, audio, options.audio_track), len(decodable_tracks(container))
            if count > 1 and options.audio_track is None:
                track = f"audio track {decodable_tracks(container).index(chosen)} of 0 to {count - 1} is used"
                notes.append(f"{display_path(audio)}: {track} (--audio-track N)")
    return tuple(notes)


def expected_frames(source: FaceSource, speech_frames: int, options: Options) -> int:
    """Number of output frames, from the files' headers; `speech_frames`: length of the speech in frames."""
    if source.still:
        return speech_frames
    video_longer = source.count > speech_frames
    if (video_longer and options.tail == "keep") or (not video_longer and options.sync_mode == "cut"):
        return source.count
    return speech_frames


def output_signer(engine: LipSyncEngine, job: Job) -> Callable[[Path, Path], None] | None:
    """Signs the finished video, if the options ask for it."""
    options = job.options
    if not (options.sign or options.sign_cert):
        return None
    from inference.provenance.signing import make_signer

    weights = engine.provenance(options)
    models = weights[0] if weights else []
    return make_signer(job.outfile, job.face, job.sounds(), models, options.sign_cert, options.sign_key)


def output_format(source: FaceSource, options: Options) -> VideoInfo:
    """Color properties and pixel aspect ratio of the output."""
    info = source.info
    return replace(info, sample_aspect_ratio=1 / info.sample_aspect_ratio) if options.rotate else info


def write_frames(
    frames: Iterable[RenderedFrame], writer: VideoWriter, clock: StageClock, preview: Preview,
    progress: Progress | None, total: int,
) -> tuple[int, int]:  # fmt: skip
    """Encodes the frames; returns the number of frames and the number with a generated mouth."""
    count = changed = 0
    for frame in frames:
        with clock("encode"):
            writer.write(frame.result)
        preview.add(count, frame.source, frame.result, frame.mouth, frame.changed)
        count, changed = count + 1, changed + frame.changed
        if progress:
            progress(count, total)
    if progress and count != total:
        progress(count, count)  # a damaged file has fewer frames than its header says
    return count, changed


def finish(writer: VideoWriter, job: RenderJob, preview: Preview, outfile: Path, options: Options) -> Path | None:
    """Writes the requested side files, then renames the video to its final name: all of them or none."""
    written: list[Path] = []
    sheet = None
    try:
        if options.save_track:
            job.track().save(options.save_track)
            written.append(Path(options.save_track))
        if options.preview:
            sheet = preview.save(outfile)
            written += [sheet] if sheet else []
        writer.close()
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise
    return sheet
