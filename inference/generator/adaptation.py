"""Fine-tunes a generator on the face video before a job; see `wav2lip.adapt`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from inference.engine import AnalysisProgress
from inference.options import Options
from preprocessing.faces.crops import CropGeometry
from preprocessing.faces.face_track import FaceDetector
from preprocessing.media.audio import AudioConfig
from wav2lip.adapt.command import adapt
from wav2lip.adapt.person_clips import VideoPart
from wav2lip.generator.checkpoints import AnyGenerator, load_generator


def adapt_to_face(
    face: Path, checkpoint: Path | str | None, options: Options, detector: FaceDetector,
    progress: AnalysisProgress | None,
) -> tuple[AnyGenerator, AudioConfig, CropGeometry]:  # fmt: skip
    """The generator of `checkpoint` (None: the embedded one), fine-tuned on the face video.

    Raises:
        MediaError: the video has no audio, or too few frames with the face.
    """
    part = VideoPart(options.start, options.end, options.select, options.face_id, options.detect_every or 5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "person.safetensors"
        adapt(
            face, path, checkpoint=checkpoint, steps=options.adapt_steps, part=part, detector=detector,
            progress=progress,
        )  # fmt: skip
        return load_generator(path)
