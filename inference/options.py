"""Options and report of a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path

from inference.files.face_source import SYNC_MODES
from inference.generator.compositing import BLENDS
from inference.photo.motions import PHOTO_MOTIONS
from preprocessing.errors import UsageError
from preprocessing.faces.identity import parse_select
from preprocessing.media.color_conversion import parse_color
from preprocessing.media.output_formats import LIGHT

DEVICES = ("auto", "cpu", "cuda", "mps")
PRESETS = (LIGHT, "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@dataclass(frozen=True)
class Options:
    """Options of a job; each has a flag of the same name in `inference.cli`.

    Attributes:
        fps: frame rate of the output, a fraction or any other number; None: the video's own, 25 for a photo.
        static: use only the first frame of the video.
        start, end: the used part of the face video, in seconds.
        pads: pixels added around the detected box: top, bottom, left, right ("box" geometry only).
        box: a constant face box (top, bottom, left, right) instead of detection.
        resize_factor, rotate, crop: see `inference.files.face_source.Framing`.
        nosmooth: do not smooth the face track.
        batch_size: faces per generator batch.
        face_det_batch_size: no effect: detection runs on one frame at a time.
        detector, yunet, s3fd: the face detector, and the model files of two of them.
        detect_every: detect faces in every n-th frame and track them in between; None: 50, or 5 with a generator.
        select: face to track: largest, left, right, center or pixel "X,Y"; or speaking (whoever speaks the video's own
            sound), or all.
        face_id: the person with this number in `inference.faces.list_faces` instead, from 1.
        sync_mode: how the video continues if the speech is longer: bounce, loop, freeze or cut.
        tail: if the video is longer: "cut" it, or "keep" the rest unchanged.
        blend: feather, multiband, poisson or none.
        audio_track: audio track of the speech file, counting from 0; None: the one that a player starts with.
        background: what transparent parts of the picture show, a color: "black", "#00ff00".
        keep_audio: gain with which the video's own audio is mixed in; 1: unchanged, 0: none.
        rest: bring the mouth to rest in silence.
        strength: scale of the lip motion, 0 to 1.5; no effect on a generator.
        paint: let a network paint where the person's own open mouths fall short; no effect where none is known, as in a
            photo of closed lips, or on a generator.
        photo_motion: a photo stands still ("none"), moves its head a little ("head"), or blinks, too ("full"); no
            effect on a video, or with a generator.
        crf: H.264 quality, 0 (lossless) to 51.
        preset: trade of speed for file size: light, or x264's ultrafast to veryslow.
        save_track, load_track: face track file (JSON), written or used instead of detection.
        preview: number of passages in a picture next to the video: six consecutive frames each, before above after.
        sign: sign the video with a C2PA manifest and, without a certificate, a self-made chain that nobody trusts.
        sign_cert, sign_key: sign it with this chain of certificates and its private key (PEM).
        profile: measure CPU seconds by stage; the stages then run one after the other.
    """

    fps: Fraction | None = None
    static: bool = False
    start: float = 0.0
    end: float | None = None
    pads: tuple[int, int, int, int] = (0, 10, 0, 0)
    box: tuple[int, int, int, int] | None = None
    resize_factor: int = 1
    rotate: bool = False
    crop: tuple[int, int, int, int] = (0, -1, 0, -1)
    nosmooth: bool = False
    batch_size: int = 8
    face_det_batch_size: int = 16
    detector: str = "auto"
    yunet: Path | None = None
    s3fd: Path | None = None
    detect_every: int | None = None
    select: str = "largest"
    face_id: int | None = None
    sync_mode: str = "bounce"
    tail: str = "cut"
    blend: str = "feather"
    audio_track: int | None = None
    background: str = "black"
    keep_audio: float = 0.0
    rest: bool = True
    strength: float = 1.0
    paint: bool = False
    photo_motion: str = "none"
    crf: float = 14
    preset: str = LIGHT
    save_track: Path | None = None
    load_track: Path | None = None
    preview: int = 0
    sign: bool = False
    sign_cert: Path | None = None
    sign_key: Path | None = None
    profile: bool = False

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Options:
        """Options from values by name, with underscores or dashes, as a JSON or YAML file or a table's cells give them.

        Text is converted to the option's type ("0.2", "true", "0 10 0 0"); lists become tuples.

        Raises:
            UsageError: an option is unknown, of the wrong type or out of range; names it.
        """
        kinds = {item.name: str(item.type) for item in fields(cls)}
        given = {str(name).replace("-", "_"): value for name, value in values.items()}
        if unknown := sorted(given.keys() - kinds.keys()):
            raise UsageError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(kinds))}")
        return cls(**{name: _converted(value, kinds[name]) for name, value in given.items()})  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        _check_types(self)
        choices = (("sync_mode", SYNC_MODES), ("tail", ("cut", "keep")), ("blend", BLENDS), ("preset", PRESETS),
                   ("photo_motion", PHOTO_MOTIONS))  # fmt: skip
        for name, values in choices:
            if getattr(self, name) not in values:
                raise UsageError(f"{name} must be one of {', '.join(values)}, not {getattr(self, name)!r}")
        for name, low, high in (("fps", 1, 240), ("batch_size", 1, 4096), ("face_det_batch_size", 1, 4096),
                                ("detect_every", 1, 250), ("keep_audio", 0, 4), ("crf", 0, 51), ("preview", 0, 16),
                                ("strength", 0, 1.5), ("start", 0, 1e7), ("end", 0, 1e7), ("resize_factor", 1, 64),
                                ("face_id", 1, 1e6), ("audio_track", 0, 1e3)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} must be between {low:g} and {high:g}, not {value}")
        if self.end is not None and self.end <= self.start:
            raise UsageError(f"end must be after start ({self.start:g} s), not {self.end:g} s")
        if (self.sign_cert is None) != (self.sign_key is None):
            raise UsageError("sign_cert and sign_key go together: a certificate signs only with its private key")
        self._check_face()
        parse_color(self.background)
        if self.fps is not None:
            object.__setattr__(self, "fps", Fraction(self.fps).limit_denominator(1001))  # 29.97 becomes 2997/100

    def _check_face(self) -> None:
        """Refuses an unknown word, and two ways of saying which face is meant."""
        if self.select not in ("speaking", "all"):
            try:
                parse_select(self.select)
            except UsageError as error:
                raise UsageError(str(error).replace(" or a point", ", speaking, all or a point")) from None
        chosen = {"select": self.select != Options.select, "face_id": self.face_id is not None}
        named = [name for name, given in chosen.items() if given]
        if len(named) > 1:
            raise UsageError(
                f"select {self.select} and face_id {self.face_id} both say which face: leave one of them out"
            )
        several = self.select in ("speaking", "all")
        for name in ("load_track", "box"):
            if getattr(self, name) is not None and named and (name == "load_track" or several):
                raise UsageError(f"{name} already says which face: leave out {named[0]} {getattr(self, named[0])}")


@dataclass(frozen=True)
class Report:
    """The result of a job.

    Attributes:
        outfile: the video.
        frames: number of frames.
        faces: number of frames that got a generated mouth; the others are unchanged.
        fps: frame rate.
        seconds: busy time by stage; stages overlap. "total" is the wall time of the whole job.
        preview: the contact sheet, if requested.
        notes: remarks on how the input was read, each one line.
        cpu: CPU seconds by stage, with the option `profile`.
    """

    outfile: Path
    frames: int
    faces: int
    fps: Fraction
    seconds: dict[str, float] = field(default_factory=dict)
    preview: Path | None = None
    notes: tuple[str, ...] = ()
    cpu: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "outfile": str(self.outfile), "frames": self.frames, "faces": self.faces, "fps": str(self.fps),
            "duration": round(self.frames / float(self.fps), 3),
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
            "preview": None if self.preview is None else str(self.preview),
            "notes": list(self.notes),
        }  # fmt: skip


PATH_OPTIONS = frozenset(item.name for item in fields(Options) if str(item.type).startswith("Path"))
"""Options that name a file; a service must not take them from its clients."""

_NUMBER = (int, float, Fraction)
_ACCEPTED: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "an integer"),
    "float": (_NUMBER, "a number"),
    "Fraction": (_NUMBER, "a number"),
    "str": ((str,), "a string"),
    "Path": ((str, Path), "a path"),
}


_CONVERTERS: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "Fraction": Fraction,
    "bool": lambda text: {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()],
    "Path": Path,
}


def _converted(value: object, kind: str) -> object:
    """A value as the type `kind`; one that cannot be converted is returned unchanged, for `_check_types` to refuse."""
    kind = kind.removesuffix(" | None")
    if kind.startswith("tuple"):
        parts = value.replace(",", " ").split() if isinstance(value, str) else value
        return tuple(_converted(part, "int") for part in parts) if isinstance(parts, list | tuple) else value
    if not isinstance(value, str) or kind not in _CONVERTERS:
        return value
    try:
        return _CONVERTERS[kind](value.strip())
    except (ValueError, KeyError, ZeroDivisionError):
        return value


def _check_types(options: Options) -> None:
    """Checks the types of all options, which a call from Python may get wrong.

    Raises:
        UsageError: an option has the wrong type; names it, the expected type and the value.
    """
    for item in fields(options):
        value, kind = getattr(options, item.name), str(item.type)
        if value is None and kind.endswith("| None"):
            continue
        kind = kind.removesuffix(" | None")
        if kind.startswith("tuple"):
            integers = isinstance(value, Sequence) and all(isinstance(x, int) for x in value)
            if isinstance(value, str) or not integers or len(value) != 4:
                raise UsageError(f"{item.name} must be four integers (top, bottom, left, right), not {value!r}")
            continue
        accepted, text = _ACCEPTED[kind]
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind != "bool"):
            raise UsageError(f"{item.name} must be {text}, not {value!r}")
