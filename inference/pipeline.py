"""The main job: a face, a sound, and out comes the face saying it. Streaming; memory does not grow with length."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from inference.backends import load_backend
from inference.compositing import ColourMatcher, composite, crop_mask
from inference.face_source import FaceSource, Framing
from inference.face_track_buffer import FADE, FaceTrackBuffer, constant_track, loaded_track
from inference.file_checks import check_files
from inference.generation import FaceCrop, FaceGenerator, ReferenceSelector
from inference.options import Options, Report
from inference.prefetch import Prefetcher, StageClock
from inference.preview import Preview
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceDetector, TrackedFace
from preprocessing.faces.tracking import stream_face_track
from preprocessing.media.audio import (
    AudioConfig,
    frame_count,
    load_audio,
    mel_spectrogram,
    mel_window,
    rest_in_silence,
    speech_columns,
)
from preprocessing.media.audio_mux import AudioSource
from preprocessing.media.video_reader import VideoInfo
from preprocessing.media.video_writer import VideoWriter
from wav2lip.generator.checkpoints import load_generator

SHORTEST = 0.1  # seconds of sound
QUEUE_BYTES = 48 * 2**20  # of pictures that wait between two stages

MARK = "AI-generated: the lips of this video were made by software (Wav2Lip) to fit another speech."
METADATA = {"comment": MARK, "description": MARK, "synopsis": MARK, "keywords": "AI-generated, synthetic, lip sync"}

Progress = Callable[[int, int], None]
AdaptProgress = Callable[[str, int, int], None]
"""Called with what is counted ("frame", "step"), how many of it are done, and their number."""


@dataclass(frozen=True)
class _GeneratedFrame:
    """A picture with its new face, not yet joined; `cut` is None where there is no face."""

    number: int
    frame: np.ndarray
    cut: FaceCrop | None = None
    face: np.ndarray | None = None
    presence: float = 0.0
    shot: int = 0


@dataclass(frozen=True)
class ModelOrigin:
    """What a generator was loaded from, and what it computes on."""

    checkpoint: Path | str | None
    device: str
    backend: str


class LipSync:
    """A loaded generator, for any number of jobs, also at once in threads. Nothing is global."""

    def __init__(self, generator: FaceGenerator, audio: AudioConfig, origin: ModelOrigin | None = None) -> None:
        """`origin`: for jobs that adapt the generator first."""
        self.generator, self.audio, self.origin = generator, audio, origin
        self.turn = threading.Lock()  # the engine computes for one thread at a time

    @classmethod
    def load(cls, checkpoint: Path | str | None = None, device: str = "auto", backend: str = "auto") -> LipSync:
        """Opens a generator: the embedded one, one of ours (.safetensors) or a released one (.pth).

        Raises:
            MediaError: the file is missing or no generator.
            UsageError: no such device or backend.
        """
        network, audio, geometry = load_generator(checkpoint)
        config = network.config
        engine = FaceGenerator(load_backend(network, backend, device), config, geometry)
        return cls(engine, audio, ModelOrigin(checkpoint, device, backend))

    def __call__(
        self, face: Path | str, audio: Path | str, outfile: Path | str, *, progress: Progress | None = None,
        adapt_progress: AdaptProgress | None = None, **options: object,
    ) -> Report:  # fmt: skip
        """Makes the face in a video or photo speak the audio.

        Args:
            progress: called with the number of pictures done and their expected total.
            adapt_progress: the same for the work before that, where the generator is to adapt.
            options: see `Options`.

        Raises:
            MediaError: a file cannot be read or written, or no face is found.
            UsageError: an option is wrong.
        """
        known = {f.name for f in fields(Options)}
        if unknown := sorted(options.keys() - known):
            raise UsageError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}")
        job = _Job(self, Path(face), Path(audio), Path(outfile), Options(**options))  # type: ignore[arg-type]
        return job.run(progress, adapt_progress)


def lipsync(
    face: Path | str, audio: Path | str, outfile: Path | str, *, checkpoint: Path | str | None = None,
    device: str = "auto", backend: str = "auto", progress: Progress | None = None,
    adapt_progress: AdaptProgress | None = None, **options: object,
) -> Report:  # fmt: skip
    """One job with a generator loaded for it; see `LipSync`."""
    model = LipSync.load(checkpoint, device, backend)
    return model(face, audio, outfile, progress=progress, adapt_progress=adapt_progress, **options)


class _Job:
    """One face, one sound, one video."""

    def __init__(self, model: LipSync, face: Path, audio: Path, outfile: Path, options: Options) -> None:
        self.model, self.options, self.outfile = model, options, outfile
        self.clock = StageClock()
        check_files(face, audio, outfile, options)
        framing = Framing(options.resize_factor, options.rotate, options.crop)
        self.source = FaceSource(
            face, framing, fps=options.fps, static=options.static, start=options.start, end=options.end
        )
        _check_box(options.box, self.source.size)
        with self.clock("sound"):
            self.audio = audio
            self.mel, self.spoken = self._listen(audio)
        self.total = self._total()
        self.sounds = [AudioSource(audio)]
        if options.keep_audio and self.source.info.has_audio:
            length = None if self.source.end is None else self.source.end - self.source.start
            self.sounds.append(AudioSource(face, start=self.source.start, duration=length, gain=options.keep_audio))
        self._use(model)

    def _use(self, model: LipSync) -> None:
        """Lets this generator speak."""
        geometry = CropGeometry(model.generator.geometry.kind, model.generator.geometry.size, self.options.pads)
        self.model, self.generator = model, FaceGenerator(model.generator.backend, model.generator.config, geometry)

    def _listen(self, audio: Path) -> tuple[np.ndarray, int]:
        """The mel, at rest in silence, and the number of pictures that the sound lasts."""
        config = self.model.audio
        samples = load_audio(audio, config)
        if len(samples) < SHORTEST * config.sample_rate:
            length = len(samples) / config.sample_rate
            raise MediaError(f"{display_path(audio)} lasts {length:.2f} s: at least {SHORTEST} s of speech are needed")
        mel = mel_spectrogram(samples, config)
        if self.options.rest:
            mel = rest_in_silence(mel, speech_columns(samples, config), config)
        return mel, frame_count(len(samples), self.source.fps, config)

    def _total(self) -> int:
        """Pictures of the result, as far as the files' headers tell."""
        if self.source.still:
            return self.spoken
        longer = self.source.count > self.spoken
        if (longer and self.options.tail == "keep") or (not longer and self.options.sync_mode == "cut"):
            return self.source.count
        return self.spoken

    def run(self, progress: Progress | None, adapt_progress: AdaptProgress | None = None) -> Report:
        with self.clock("total"):
            if self.options.adapt:
                with self.clock("adapt"):
                    self._adapt(adapt_progress)
            path = FaceTrackBuffer(self._faces(), self.source.size)
            try:
                if path.first_found() is None:
                    raise MediaError(f"{display_path(self.source.path)} shows no face that can be found in any picture")
                report = self._render(path, progress)
            finally:
                path.close()
        report.seconds.update(self.clock.seconds)
        return report

    def _adapt(self, progress: AdaptProgress | None) -> None:
        """Takes a generator that has learnt this person, in a file that goes away again."""
        from wav2lip.adapt.command import adapt  # the trainer's part of the program, which other jobs do not need
        from wav2lip.adapt.person_clips import VideoPart

        origin, options = self.model.origin, self.options
        if origin is None:
            raise UsageError("only a generator that was loaded from a file can adapt")
        part = VideoPart(options.start, options.end, options.select, options.face_id, options.detect_every)
        with tempfile.TemporaryDirectory() as folder:
            own = Path(folder) / "person.safetensors"
            adapt(
                self.source.path, own, checkpoint=origin.checkpoint, steps=options.adapt_steps, part=part,
                detector=self._detector(), progress=progress,
            )  # fmt: skip
            self._use(LipSync.load(own, origin.device, origin.backend))

    def _detector(self) -> FaceDetector:
        options, device = self.options, self.generator.backend.device.type
        return load_detector(options.detector, device, yunet=options.yunet, sfd=options.s3fd)

    def _faces(self) -> Iterator[TrackedFace]:
        """Where the face is in each picture that will be shown."""
        options, source = self.options, self.source
        count = source.count if options.save_track else min(source.count, self.spoken)
        if options.box is not None:
            return constant_track(options.box, source.count)
        if options.load_track is not None:
            return loaded_track(options.load_track, source.size, count)
        faces = stream_face_track(
            source.frames(0, count), self._detector(), select=options.select, face_id=options.face_id,
            every=options.detect_every, fps=float(source.fps), **({"smooth": 0.0} if options.nosmooth else {}),
        )  # fmt: skip
        return self.clock.iterate("detect", faces)

    def _render(self, path: FaceTrackBuffer, progress: Progress | None) -> Report:
        source, options = self.source, self.options
        depth = int(np.clip(QUEUE_BYTES // (source.size[0] * source.size[1] * 3), 2, 32))
        batch = min(options.batch_size, max(4, depth))
        preview = Preview(options.preview, self.total)
        count = faces = 0
        decoded = Prefetcher(self.clock.iterate("decode", source.play(self.total, options.sync_mode)), depth)
        with closing(decoded), closing(Prefetcher(self._generate(decoded, path, batch), depth)) as made, VideoWriter(
            self.outfile, *source.size, source.fps, sounds=self.sounds, crf=options.crf, source=self._looks(),
            metadata=METADATA,
        ) as writer:  # fmt: skip
            joiner = _FaceCompositor(self.generator.geometry.kind, options.blend)
            for item in made:
                with self.clock("composite"):
                    frame = joiner.join(item)
                with self.clock("encode"):
                    writer.write(frame)
                preview.show(count, item.frame, frame)
                count, faces = count + 1, faces + (item.cut is not None)
                if progress:
                    progress(count, self.total)
            if progress and count != self.total:
                progress(count, count)  # a damaged file holds less than it announces
            sheet = self._finish(writer, path, preview)
        return Report(self.outfile, count, faces, source.fps, {}, sheet)

    def _looks(self) -> VideoInfo:
        """The colours and the shape of the pixels that the result's pictures have."""
        info = self.source.info
        return replace(info, sample_aspect_ratio=1 / info.sample_aspect_ratio) if self.options.rotate else info

    def _finish(self, writer: VideoWriter, path: FaceTrackBuffer, preview: Preview) -> Path | None:
        """Writes what was asked for beside the video, then gives the video its name: all of them or none."""
        written: list[Path] = []
        sheet = None
        try:
            if self.options.save_track:
                path.track().save(self.options.save_track)
                written.append(Path(self.options.save_track))
            if self.options.preview:
                sheet = preview.save(self.outfile)
                written.append(sheet)
            writer.close()
        except BaseException:
            for file in written:
                file.unlink(missing_ok=True)
            raise
        return sheet

    def _generate(
        self, pictures: Iterable[tuple[int, np.ndarray]], path: FaceTrackBuffer, size: int
    ) -> Iterator[_GeneratedFrame]:
        """Gives each picture its face, a batch at a time."""
        config, silence = self.generator.config, -self.model.audio.max_abs_value if self.options.rest else -np.inf
        choice = ReferenceSelector(config.mask_row, silence, hold=config.output == "warp")
        for batch in _batches(enumerate(pictures), size):
            cuts, references, mels, made = [], [], [], []
            for shown_at, (number, frame) in batch:
                face = path.face(number) if shown_at < self.spoken else None
                presence = path.presence(number) if face else 0.0
                if self.total > self.spoken:  # the rest is kept, and the mouth must not snap back to it
                    presence = min(presence, (self.spoken - shown_at) / FADE)
                if face is None or presence <= 0:
                    made.append(_GeneratedFrame(shown_at, frame))
                    continue
                with self.clock("crop"):
                    cuts.append(self.generator.cut(frame, face))
                mels.append(mel_window(self.mel, Fraction(shown_at) / self.source.fps, self.model.audio)[None])
                references.append(choice.reference(cuts[-1], mels[-1], face.shot))
                made.append(_GeneratedFrame(shown_at, frame, cuts[-1], None, presence, face.shot))
            with self.model.turn, self.clock("generate"):
                faces = iter(self.generator.speak(cuts, references, np.stack(mels), size) if cuts else ())
            for item in made:
                yield item if item.cut is None else _GeneratedFrame(**(vars(item) | {"face": next(faces)}))


class _FaceCompositor:
    """Puts generated faces back, with the colours of the picture."""

    def __init__(self, kind: str, blend: str) -> None:
        self.kind, self.blend = kind, blend
        self.matcher = ColourMatcher(_mask(kind, 96))
        self.shot = -1

    def join(self, item: _GeneratedFrame) -> np.ndarray:
        """The picture as it is shown, (H, W, 3) uint8."""
        if item.cut is None or item.face is None:
            return item.frame
        if item.shot != self.shot:
            self.shot = item.shot
            self.matcher.reset()
        face = self.matcher.match(item.face, item.cut.fine.astype(np.float32))
        mask = _mask(self.kind, face.shape[0])
        if item.presence < 1:
            mask = mask * np.float32(item.presence)
        return composite(item.frame, face, item.cut.fine_matrix, mask, self.blend)


@lru_cache(maxsize=64)
def _mask(kind: str, side: int) -> np.ndarray:
    return crop_mask(kind, side)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    batch: list = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _check_box(box: tuple[int, int, int, int] | None, size: tuple[int, int]) -> None:
    if box is None:
        return
    top, bottom, left, right = box
    if not (0 <= top < bottom <= size[1] and 0 <= left < right <= size[0]):
        raise UsageError(
            f"box {' '.join(map(str, box))} (top bottom left right) does not lie inside the picture of "
            f"{size[0]}x{size[1]} pixels"
        )
