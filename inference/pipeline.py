"""One job: a face and a speech recording in, a video of that face speaking out. Stages stream into one another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.backends import load_backend
from inference.compositing import FaceCompositor
from inference.face_source import FaceSource, Framing
from inference.face_track_buffer import FADE, FaceTrackBuffer, constant_track, loaded_track
from inference.file_checks import check_files
from inference.generation import FaceGenerator, GeneratedFrame, ReferenceSelector
from inference.options import Options, Report
from inference.prefetch import Prefetcher, StageClock
from inference.preview import Preview
from inference.speech import Speech
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector, TrackedFace
from preprocessing.faces.tracking import stream_face_track
from preprocessing.media.audio import AudioConfig
from preprocessing.media.audio_mux import AudioSource
from preprocessing.media.video_reader import VideoInfo
from preprocessing.media.video_writer import VideoWriter
from wav2lip.generator.checkpoints import AnyGenerator, load_generator

QUEUE_BYTES = 48 * 2**20  # of frames that wait between two stages

MARK = "AI-generated: the lips of this video were made by software (Wav2Lip) to fit another speech."
METADATA = {"comment": MARK, "description": MARK, "synopsis": MARK, "keywords": "AI-generated, synthetic, lip sync"}

Progress = Callable[[int, int], None]
AdaptProgress = Callable[[str, int, int], None]
"""Called with the unit ("frame", "step"), how many are done, and their total."""
LoadedGenerator = tuple[AnyGenerator, AudioConfig, CropGeometry]
Adapter = Callable[[Path, Path | str | None, Options, FaceDetector, AdaptProgress | None], LoadedGenerator]
"""Fine-tunes a checkpoint to a face's own video: `inference.adaptation.adapt_to_face`."""


@dataclass(frozen=True)
class ModelOrigin:
    """The checkpoint that a generator was loaded from, and what it runs on."""

    checkpoint: Path | str | None
    device: str
    backend: str


class LipSync:
    """A loaded generator, for any number of jobs, also concurrent ones in threads. Nothing is global."""

    def __init__(
        self, generator: FaceGenerator, audio: AudioConfig, origin: ModelOrigin | None = None,
        adapter: Adapter | None = None,
    ) -> None:  # fmt: skip
        """`origin` and `adapter`: for jobs with the option `adapt`."""
        self.generator, self.audio, self.origin, self.adapter = generator, audio, origin, adapter
        self.lock = threading.Lock()  # the engine computes for one thread at a time

    @classmethod
    def load(
        cls, checkpoint: Path | str | None = None, device: str = "auto", backend: str = "auto",
        adapter: Adapter | None = None,
    ) -> LipSync:  # fmt: skip
        """Opens a generator: the embedded one, one of ours (.safetensors) or a released one (.pth).

        Raises:
            MediaError: the file is missing or not a generator.
            UsageError: no such device or backend.
        """
        origin = ModelOrigin(checkpoint, device, backend)
        return cls(*_engine(load_generator(checkpoint), origin), origin, adapter)

    def __call__(
        self, face: Path | str, audio: Path | str, outfile: Path | str, *, progress: Progress | None = None,
        adapt_progress: AdaptProgress | None = None, **options: object,
    ) -> Report:  # fmt: skip
        """Makes the face in a video or photo speak the audio.

        Args:
            progress: called with the number of frames done and their expected total.
            adapt_progress: the same for the fine-tuning of the option `adapt`.
            options: see `Options`.

        Raises:
            MediaError: a file cannot be read or written, or no face is found.
            UsageError: an option is unknown, of the wrong type or out of range.
        """
        known = {f.name for f in fields(Options)}
        if unknown := sorted(options.keys() - known):
            raise UsageError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}")
        given = Options(**options)  # type: ignore[arg-type]
        return run_job(self, Path(face), Path(audio), Path(outfile), given, progress, adapt_progress)


def lipsync(
    face: Path | str, audio: Path | str, outfile: Path | str, *, checkpoint: Path | str | None = None,
    device: str = "auto", backend: str = "auto", progress: Progress | None = None, **options: Any,
) -> Report:  # fmt: skip
    """One job with a generator loaded for it; see `LipSync`."""
    return LipSync.load(checkpoint, device, backend)(face, audio, outfile, progress=progress, **options)


def run_job(
    model: LipSync, face: Path, audio: Path, outfile: Path, options: Options, progress: Progress | None = None,
    adapt_progress: AdaptProgress | None = None,
) -> Report:  # fmt: skip
    """The stages of a job, in order; see `LipSync.__call__` for the arguments."""
    clock = StageClock()
    with clock("total"):
        check_files(face, audio, outfile, options)
        source = open_source(face, options)
        with clock("sound"):
            speech = Speech.load(audio, source.fps, model.audio, options.rest)
        generator = job_generator(model, source, options, clock, adapt_progress)
        total = expected_frames(source, speech, options)
        preview = Preview(options.preview, total)
        depth = int(np.clip(QUEUE_BYTES // (source.size[0] * source.size[1] * 3), 2, 32))
        with closing(FaceTrackBuffer(find_faces(source, speech, generator, options, clock), source.size)) as track:
            if track.first_found() is None:
                raise MediaError(f"{display_path(source.path)} shows no face that can be found in any frame")
            with closing(Prefetcher(clock.iterate("decode", source.play(total, options.sync_mode)), depth)) as decoded:
                generated = generate(decoded, track, speech, generator, options, model.lock, clock, total, depth)
                with closing(Prefetcher(generated, depth)) as queue, VideoWriter(
                    outfile, *source.size, source.fps, sounds=job_sounds(audio, source, options), crf=options.crf,
                    source=output_format(source, options), metadata=METADATA,
                ) as writer:  # fmt: skip
                    count, faces = write_frames(queue, writer, generator, options, clock, preview, progress, total)
                    sheet = finish(writer, track, preview, outfile, options)
    return Report(outfile, count, faces, source.fps, dict(clock.seconds), sheet)


def open_source(face: Path, options: Options) -> FaceSource:
    """The face's frames as the options frame them.

    Raises:
        MediaError: the file holds no frame. UsageError: `start` or `box` lies outside.
    """
    framing = Framing(options.resize_factor, options.rotate, options.crop)
    source = FaceSource(face, framing, fps=options.fps, static=options.static, start=options.start, end=options.end)
    if options.box is not None:
        top, bottom, left, right = options.box
        if not (0 <= top < bottom <= source.size[1] and 0 <= left < right <= source.size[0]):
            raise UsageError(
                f"box {' '.join(map(str, options.box))} (top bottom left right) does not lie inside the frame of "
                f"{source.size[0]}x{source.size[1]} pixels"
            )
    return source


def job_generator(
    model: LipSync, source: FaceSource, options: Options, clock: StageClock, progress: AdaptProgress | None
) -> FaceGenerator:  # fmt: skip
    """The model's generator, fine-tuned if asked for, with the job's padding of boxes."""
    generator = model.generator
    if options.adapt:
        if model.origin is None or model.adapter is None:
            raise UsageError("adapt needs a generator loaded with LipSync.load(..., adapter=adapt_to_face)")
        with clock("adapt"):
            detector = job_detector(generator, options)
            loaded = model.adapter(source.path, model.origin.checkpoint, options, detector, progress)
            generator, _ = _engine(loaded, model.origin)
    geometry = CropGeometry(generator.geometry.kind, generator.geometry.size, options.pads)
    return FaceGenerator(generator.backend, generator.config, geometry)


def job_detector(generator: FaceGenerator, options: Options) -> FaceDetector:
    """The face detector that the options name."""
    return load_detector(options.detector, generator.backend.device.type, yunet=options.yunet, sfd=options.s3fd)


def expected_frames(source: FaceSource, speech: Speech, options: Options) -> int:
    """Frames of the result, as far as the files' headers tell."""
    if source.still:
        return speech.frames
    longer = source.count > speech.frames
    if (longer and options.tail == "keep") or (not longer and options.sync_mode == "cut"):
        return source.count
    return speech.frames


def job_sounds(audio: Path, source: FaceSource, options: Options) -> list[AudioSource]:
    """The speech and, where it is to be kept, the video's own sound."""
    sounds = [AudioSource(audio)]
    if options.keep_audio and source.info.has_audio:
        length = None if source.end is None else source.end - source.start
        sounds.append(AudioSource(source.path, start=source.start, duration=length, gain=options.keep_audio))
    return sounds


def find_faces(
    source: FaceSource, speech: Speech, generator: FaceGenerator, options: Options, clock: StageClock
) -> Iterator[TrackedFace]:  # fmt: skip
    """The face in each frame that will be shown."""
    count = source.count if options.save_track else min(source.count, speech.frames)
    if options.box is not None:
        return constant_track(options.box, source.count)
    if options.load_track is not None:
        return loaded_track(options.load_track, source.size, count)
    faces = stream_face_track(
        source.frames(0, count), job_detector(generator, options), select=options.select, face_id=options.face_id,
        every=options.detect_every, fps=float(source.fps), **({"smooth": 0.0} if options.nosmooth else {}),
    )  # fmt: skip
    return clock.iterate("detect", faces)


def generate(
    frames: Iterable[tuple[int, np.ndarray]], track: FaceTrackBuffer, speech: Speech, generator: FaceGenerator,
    options: Options, lock: threading.Lock, clock: StageClock, total: int, depth: int,
) -> Iterator[GeneratedFrame]:  # fmt: skip
    """Generates a mouth for each numbered frame that shows the face, a batch at a time."""
    batch_size = min(options.batch_size, max(4, depth))
    silence = -speech.config.max_abs_value if options.rest else -np.inf
    selector = ReferenceSelector(generator.config.mask_row, silence, hold=generator.config.output == "warp")
    for batch in _batches(enumerate(frames), batch_size):
        crops, references, mels, made = [], [], [], []
        for shown_at, (number, frame) in batch:
            face = track.face(number) if shown_at < speech.frames else None
            presence = track.presence(number) if face else 0.0
            if total > speech.frames:  # the rest of the video follows: the mouth must not snap back to it
                presence = min(presence, (speech.frames - shown_at) / FADE)
            if face is None or presence <= 0:
                made.append(GeneratedFrame(shown_at, frame))
                continue
            with clock("crop"):
                crops.append(generator.crop(frame, face))
            mels.append(speech.window(shown_at))
            references.append(selector.reference(crops[-1], mels[-1], face.shot))
            made.append(GeneratedFrame(shown_at, frame, crops[-1], None, presence, face.shot))
        with lock, clock("generate"):
            faces = iter(generator.generate(crops, references, np.stack(mels), batch_size) if crops else ())
        for item in made:
            yield item if item.crop is None else replace(item, face=next(faces))


def write_frames(
    frames: Iterable[GeneratedFrame], writer: VideoWriter, generator: FaceGenerator, options: Options,
    clock: StageClock, preview: Preview, progress: Progress | None, total: int,
) -> tuple[int, int]:  # fmt: skip
    """Composites and encodes; returns how many frames there were and how many got a new mouth."""
    compositor = FaceCompositor(generator.geometry.kind, options.blend)
    count = faces = 0
    for item in frames:
        with clock("composite"):
            frame = compositor.composite(item)
        with clock("encode"):
            writer.write(frame)
        preview.show(count, item.frame, frame)
        count, faces = count + 1, faces + (item.crop is not None)
        if progress:
            progress(count, total)
    if progress and count != total:
        progress(count, count)  # a damaged file holds less than it announces
    return count, faces


def output_format(source: FaceSource, options: Options) -> VideoInfo:
    """Colours and pixel shape of the result."""
    info = source.info
    return replace(info, sample_aspect_ratio=1 / info.sample_aspect_ratio) if options.rotate else info


def finish(
    writer: VideoWriter, track: FaceTrackBuffer, preview: Preview, outfile: Path, options: Options
) -> Path | None:  # fmt: skip
    """Writes the files that were asked for next to the video, then gives the video its name: all of them or none."""
    written: list[Path] = []
    sheet = None
    try:
        if options.save_track:
            track.track().save(options.save_track)
            written.append(Path(options.save_track))
        if options.preview:
            sheet = preview.save(outfile)
            written.append(sheet)
        writer.close()
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise
    return sheet


def _engine(loaded: LoadedGenerator, origin: ModelOrigin) -> tuple[FaceGenerator, AudioConfig]:
    network, audio, geometry = loaded
    return FaceGenerator(load_backend(network, origin.backend, origin.device), network.config, geometry), audio


def _batches(items: Iterable, size: int) -> Iterator[list]:
    batch: list = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
