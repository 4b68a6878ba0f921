"""A clip's header: what it is, where it comes from and how it was made, as the head of its file says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from preprocessing.errors import UsageError
from preprocessing.faces.crops import CropGeometry
from preprocessing.media.audio import AudioConfig

CLIP_FPS = 25  # the released networks were trained at 25 frames a second
FORMAT, VERSION = "wav2lip-clip", "1"
MAX_SIDE = 4096  # pixels of a stored picture; a header that names more is damaged


@dataclass(frozen=True)
class ClipHeader:
    """What a clip is.

    Attributes:
        source: the video's path below the folder of videos; sha256: of that file.
        start: seconds of the first frame in the video, a multiple of 1/25.
        frames: number of pictures, `fps` a second.
        speaker: who speaks; person: 0 for the video's first person, 1 for the next, ...
        audio: the front-end that made the mel.
        crop: how the face was cut; its size is the side of the network's square in stored pixels.
        margin: pixels around that square that each picture carries, so that a trainer can move it.
        versions: of the programs that took part.
        picture: width and height of the video's frames, where known.
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
            raise UsageError(f"a clip has 1 or more frames at {CLIP_FPS} fps, from second 0 or later on")
        if self.crop.size < 1 or self.margin < 0 or self.side > MAX_SIDE:
            raise UsageError(f"a clip's square and margin make pictures of 1 to {MAX_SIDE} pixels, not {self.side}")

    @property
    def side(self) -> int:
        """Side of the stored pictures in pixels."""
        return self.crop.size + 2 * self.margin

    @property
    def samples(self) -> int:
        """Samples of sound, as long as the pictures: 640 a frame."""
        return self.frames * self.audio.sample_rate // self.fps

    @property
    def columns(self) -> int:
        """Mel columns."""
        return 1 + self.samples // self.audio.hop_length

    def metadata(self) -> dict[str, str]:
        """As the texts that a safetensors file carries."""
        record = asdict(self) | {"start": float(self.start)}
        return {"format": FORMAT, "version": VERSION, "clip": json.dumps(record, allow_nan=False)}

    @classmethod
    def parse(cls, metadata: dict[str, str], config: AudioConfig, name: str) -> ClipHeader:
        """Reads `metadata` back. `config`: the front-end it must have; `name`: the file's, for messages.

        Raises:
            UsageError: it is no clip's, of another version or front-end, or damaged.
        """
        if metadata.get("format") != FORMAT:
            raise UsageError(f"{name} is not a prepared clip; make clips with preprocessing.build")
        if metadata.get("version") != VERSION:
            raise UsageError(f"{name} is a clip of version {metadata.get('version')}; this program reads {VERSION}")
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
    # By `type`, since a bool is an int to isinstance, and 3.0 frames would pass as 3.
    wrong = [f"{key} is no {kind.__name__}" for key, kind in TYPES.items() if type(record[key]) is not kind]
    if wrong:
        raise UsageError(", ".join(wrong))


def _geometry(record: dict[str, Any]) -> CropGeometry:
    if type(record["size"]) is not int:
        raise UsageError("the size of the crop is no int")
    return CropGeometry(**record | {"pads": tuple(record["pads"])})


def _pair(values: list[int] | None) -> tuple[int, int] | None:
    if values is None:
        return None
    width, height = values
    if type(width) is not int or type(height) is not int:
        raise UsageError("picture is no pair of int")
    return width, height
