"""The published method (Wav2Lip, 2020): a generator inpaints the lower half of a face crop from a mel spectrogram."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from inference.engine import AnalysisProgress, JobInput, RenderedFrame, job_detector
from inference.files.speech import Speech
from inference.generator.backends import load_backend, one_torch_thread
from inference.generator.compositing import FaceCompositor
from inference.generator.face_track_buffer import FADE, FaceTrackBuffer, constant_track, loaded_track
from inference.generator.generation import FaceGenerator, GeneratedFrame, ReferenceSelector
from inference.options import Options
from inference.prefetch import Prefetcher
from preprocessing.errors import UsageError
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.face_track import FaceTrack, TrackedFace
from preprocessing.faces.tracking import stream_face_track
from preprocessing.media.audio import AudioConfig
from wav2lip.generator.checkpoints import load_generator


@dataclass(frozen=True)
class ModelOrigin:
    """The checkpoint of a generator, and the device and backend it runs on."""

    checkpoint: Path
    device: str
    backend: str


@dataclass
class GeneratorEngine:
    """A generator and its audio front-end, for any number of jobs.

    Attributes:
        origin: None for a generator not loaded from a file.
        lock: serializes calls of the backend.
    """

    generator: FaceGenerator
    audio: AudioConfig
    origin: ModelOrigin | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, checkpoint: Path | str, device: str = "auto", backend: str = "auto") -> GeneratorEngine:
        """Loads a generator: one of ours (.safetensors) or a released one (.pth).

        Raises:
            MediaError: the file is missing or not a generator.
            UsageError: no such device or backend.
        """
        with one_torch_thread():
            network, audio, geometry = load_generator(checkpoint)
            generator = FaceGenerator(load_backend(network, backend, device), network.config, geometry)
        return cls(generator, audio, ModelOrigin(Path(checkpoint), device, backend))

    def provenance(self, options: Options) -> tuple[list[Path], str] | None:
        """The checkpoint and where it runs; None for a generator not loaded from a file."""
        if self.origin is None:
            return None
        return [self.origin.checkpoint], f"{self.origin.backend} on {self.origin.device}"

    def start(self, job: JobInput, progress: AnalysisProgress | None = None) -> GeneratorJob:
        """Loads the speech and starts tracking the face.

        Raises:
            MediaError: the speech file has no audio.
        """
        sounds = [said for role in job.roles for said in role.utterances]
        if len(sounds) > 1 or sounds[0].first or sounds[0].last or sounds[0].active is not None:
            raise UsageError("a generator animates one face with one sound: leave out checkpoint_path for several")
        with job.clock("sound"):
            speech = Speech.load(job.audio, job.source.fps, self.audio, job.options.rest, job.options.audio_track)
        geometry = CropGeometry(self.generator.geometry.kind, self.generator.geometry.size, job.options.pads)
        generator = FaceGenerator(self.generator.backend, self.generator.config, geometry)
        return GeneratorJob(job, speech, generator, self.lock)


class GeneratorJob:
    """One job of a `GeneratorEngine`; tracking runs in a thread, ahead of generation."""

    planar = False

    def __init__(self, job: JobInput, speech: Speech, generator: FaceGenerator, lock: threading.Lock) -> None:
        self._job, self._speech, self._generator, self._lock = job, speech, generator, lock
        self._track = FaceTrackBuffer(self._faces(), job.source.size)
        self.speech_frames = speech.frames

    def has_face(self) -> bool:
        """Whether any frame has the face; waits for the first one that does."""
        return self._track.first_found() is not None

    def track(self) -> FaceTrack:
        """The face track of all frames; waits for the tracker to finish."""
        return self._track.track()

    def close(self) -> None:
        """Stops the tracker thread."""
        self._track.close()

    def _faces(self) -> Iterator[TrackedFace]:
        """The face in each frame to be shown."""
        source, options = self._job.source, self._job.options
        count = source.count if options.save_track else min(source.count, self._speech.frames)
        if options.box is not None:
            return constant_track(options.box, source.count)
        if options.load_track is not None:
            return loaded_track(options.load_track, source.size, count)
        if (person := self._job.roles[0].person) is not None:
            return person.faces(count)
        faces = stream_face_track(
            source.frames(0, count), job_detector(options, self._generator.backend.device.type), select=options.select,
            every=options.detect_every or 5, fps=float(source.fps),
            **({"smooth": 0.0} if options.nosmooth else {}),
        )  # fmt: skip
        return self._job.clock.iterate("detect", faces)

    def render(
        self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int
    ) -> Generator[RenderedFrame, None, None]:
        """Renders the mouths; generation runs in a thread, at most `depth` frames ahead; see `RenderJob.render`."""
        compositor = FaceCompositor(self._generator.geometry.kind, self._job.options.blend)
        with closing(Prefetcher(self._generate(frames, total, depth), depth)) as generated:
            for item in generated:
                with self._job.clock("composite"):
                    frame = compositor.composite(item)
                yield RenderedFrame(item.frame, frame, item.crop is not None)

    def _generate(self, frames: Iterable[tuple[int, np.ndarray]], total: int, depth: int) -> Iterator[GeneratedFrame]:
        """Generates the face of each frame that has one, batch by batch."""
        options, config = self._job.options, self._generator.config
        batch_size = min(options.batch_size, max(4, depth))
        silence = -self._speech.config.max_abs_value if options.rest else -np.inf
        selector = ReferenceSelector(config.mask_row, silence)
        for batch in _batches(enumerate(frames), batch_size):
            crops, references, mels, generated = [], [], [], []
            for position, (number, frame) in batch:
                face, presence = self._face(position, number, total)
                if face is None or presence <= 0:
                    generated.append(GeneratedFrame(position, frame))
                    continue
                with self._job.clock("crop"):
                    crops.append(self._generator.crop(frame, face))
                mels.append(self._speech.window(position))
                references.append(selector.reference(crops[-1], mels[-1], face.shot))
                generated.append(GeneratedFrame(position, frame, crops[-1], None, presence, face.shot))
            with self._lock, self._job.clock("generate"):
                faces = iter(self._generator.generate(crops, references, np.stack(mels), batch_size) if crops else ())
            for item in generated:
                yield item if item.crop is None else replace(item, face=next(faces))

    def _face(self, position: int, number: int, total: int) -> tuple[TrackedFace | None, float]:
        """The face in a frame, and the weight of its generated mouth."""
        face = self._track.face(number) if position < self.speech_frames else None
        presence = self._track.presence(number) if face else 0.0
        if total > self.speech_frames:  # the rest of the video follows: fade out, so that the mouth does not snap back
            presence = min(presence, (self.speech_frames - position) / FADE)
        return face, presence


def _batches(items: Iterable, size: int) -> Iterator[list]:
    batch: list = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
