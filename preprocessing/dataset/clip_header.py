"""The header of a clip file: its contents, source and processing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from preprocessing.errors import UsageError
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig

CLIP_FPS = 25  # the released networks were trained at 25 fps
FORMAT, VERSION = "wav2lip-clip", "1"
MAX_SIDE = 4096  # pixels of a stored frame; a larger value means a damaged header


@dataclass(frozen=True)
class ClipHeader:
    """Description of a clip.

    Attributes:
        source: path of the video relative to the video folder; sha256: hash of that file.
        start: time of the first frame in the video in seconds, a multiple of 1/25.
        frames: number of frames at `fps` frames per second.
        speaker: who speaks; person: index of the person in the video, from 0.
        audio: the front-end that computed the mel spectrogram.
        crop: geometry of the face crop; its size is the side of the network input square in stored pixels.
        margin: pixels stored around that square so that training can jitter the crop.
        versions: versions of the software used.
        picture: (width, height) of the video frames, if known.
    """

    source: str
    sha256: str
    start: float
    frames: int
    fps: int = CLIP_FPS
    speaker: str = ""
    language: str = ""
    licence: str = ""
    person: int = 0
    audio: AudioConfig = AudioConfig()
    crop: CropGeometry = field(default_factory=CropGeometry)
    margin: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    picture: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.fps != CLIP_FPS or not 0 <= self.start < 1e9:
            raise UsageError(f"a clip needs at least 1 frame, {CLIP_FPS} fps and a start of 0 s or later")
        if self.crop.size < 1 or self.margin < 0 or self.side > MAX_SIDE:
            raise UsageError(f"a clip's crop and margin must add up to 1 to {MAX_SIDE} pixels, not {self.side}")

    @property
    def side(self) -> int:
        """Side of the stored frames in pixels."""
        return self.crop.size + 2 * self.margin

    @property
    def samples(self) -> int:
        """Number of audio samples, 640 per frame."""
        return self.frames * self.audio.sample_rate // self.fps

    @property
    def columns(self) -> int:
        """Number of mel columns."""
        return 1 + self.samples // self.audio.hop_length

    def metadata(self) -> dict[str, str]:
        """The header as safetensors metadata strings."""
        record = asdict(self) | {"start": float(self.start)}
        return {"format": FORMAT, "version": VERSION, "clip": json.dumps(record, allow_nan=False)}

    @classmethod
    def parse(cls, metadata: dict[str, str], config: AudioConfig, name: str) -> ClipHeader:
        """Parses `metadata`. `config`: the required front-end; `name`: file name for error messages.

        Raises:
            UsageError: not a clip's metadata, another version or front-end, or damaged.
        """
        if metadata.get("format") != FORMAT:
            raise UsageError(f"{name} is not a prepared clip; make clips with preprocessing.build")
        if metadata.get("version") != VERSION:
            raise UsageError(
                f"{name} is a clip of version {metadata.get('version')}; this program reads version {VERSION}"
            )
        try:
            record = json.loads(metadata["clip"])
            _check_types(record)
            values = {key: record[key] for key in TYPES}
            values |= {"audio": config, "crop": _geometry(record["crop"]), "picture": _pair(record["picture"])}
            header = cls(**values)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{name} is not a prepared clip: its header is damaged ({error})") from error
        config.require(record["audio"], name)
        return header


TYPES = {
    "source": str, "sha256": str, "start": float, "frames": int, "fps": int, "speaker": str, "language": str,
    "licence": str, "person": int, "audio": dict, "crop": dict, "margin": int, "versions": dict,
}  # fmt: skip


def _check_types(record: dict[str, Any]) -> None:
    # Compare `type`: isinstance accepts a bool as an int.
    wrong = [f"{key} is not {kind.__name__}" for key, kind in TYPES.items() if type(record[key]) is not kind]
    if wrong:
        raise UsageError(", ".join(wrong))


def _geometry(record: dict[str, Any]) -> CropGeometry:
    if type(record["size"]) is not int:
        raise UsageError("the crop size is not an int")
    return CropGeometry(**record | {"pads": tuple(record["pads"])})


def _pair(values: list[int] | None) -> tuple[int, int] | None:
    if values is None:
        return None
    width, height = values
    if type(width) is not int or type(height) is not int:
        raise UsageError("picture is not a pair of int")
    return width, height
