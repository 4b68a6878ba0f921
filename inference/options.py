"""How one job is done, and what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path

from inference.face_source import SYNC_MODES
from inference.generator.compositing import BLENDS
from preprocessing.errors import UsageError
from preprocessing.faces.identity import parse_select


@dataclass(frozen=True)
class Options:
    """How one job is done; `inference.cli` has a flag of the same name for each.

    Attributes:
        fps: pictures in a second of a photo, as a fraction or any other number.
        static: use the video's first picture only.
        start, end: the part of the face's video that is used, in seconds.
        pads: pixels added to the detector's box: top, bottom, left, right ("box" geometry only).
        box: a constant face box (top, bottom, left, right) instead of a detector.
        resize_factor, rotate, crop: see `inference.face_source.Framing`.
        nosmooth: take the face's place as it is detected.
        batch_size: faces that the generator sees at once.
        face_det_batch_size: without effect: key pictures are looked at one at a time.
        detector, yunet, s3fd: who finds faces, and the model files of two detectors.
        detect_every: look for faces in every n-th frame and follow them in between; None: 50, with a generator 5.
        select: largest, left, right, center or "X,Y": whom to follow.
        face_id: follow the n-th person to appear instead, from 0 on.
        sync_mode: what the picture does when the speech is longer: bounce, loop, freeze or cut.
        tail: when the video is longer: "cut" it, or "keep" the rest as it is.
        blend: feather, multiband, poisson or none.
        keep_audio: level (1: as it is) at which the video's own sound stays under the speech; 0: not at all.
        rest: bring the mouth to rest where the speech is silent.
        strength: factor of the lip motion, 0 to 1.5; not of a generator.
        crf: quality of H.264, 0 (lossless) to 51.
        save_track, load_track: file that keeps where the face is, for a second take.
        preview: number of pictures, before and after, on a contact sheet beside the video.
        adapt: teach the generator this person first, from the face's video and its own sound; for this job only.
        adapt_steps: steps of that training.
    """

    fps: Fraction = Fraction(25)
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
    keep_audio: float = 0.0
    rest: bool = True
    strength: float = 1.0
    crf: float = 14
    save_track: Path | None = None
    load_track: Path | None = None
    preview: int = 0
    adapt: bool = False
    adapt_steps: int = 200

    def __post_init__(self) -> None:
        _check_types(self)
        legal = (("sync_mode", SYNC_MODES), ("tail", ("cut", "keep")), ("blend", BLENDS))
        for name, values in legal:
            if getattr(self, name) not in values:
                raise UsageError(f"{name} is one of {', '.join(values)}, not {getattr(self, name)!r}")
        for name, low, high in (("fps", 1, 240), ("batch_size", 1, 4096), ("face_det_batch_size", 1, 4096),
                                ("detect_every", 1, 250), ("keep_audio", 0, 4), ("crf", 0, 51), ("preview", 0, 64),
                                ("strength", 0, 1.5), ("start", 0, 1e7), ("end", 0, 1e7), ("resize_factor", 1, 64),
                                ("face_id", 0, 1e6), ("adapt_steps", 1, 1e5)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} lies between {low:g} and {high:g}, not at {value}")
        if self.end is not None and self.end <= self.start:
            raise UsageError(f"end must lie after start ({self.start:g} s), not at {self.end:g} s")
        parse_select(self.select)
        self._check_adapt()
        object.__setattr__(self, "fps", Fraction(self.fps).limit_denominator(1001))  # 29.97 is exactly that

    def _check_adapt(self) -> None:
        """What is learnt from is the video as it is, with the face that a detector finds."""
        for name in ("resize_factor", "rotate", "crop", "box", "load_track") if self.adapt else ():
            if getattr(self, name) != getattr(Options, name):
                raise UsageError(f"adapt looks for the face in the video as it is: it does not go with {name}")


@dataclass(frozen=True)
class Report:
    """What a job did.

    Attributes:
        outfile: the video.
        frames: its pictures.
        faces: in how many of them the face was found and given its mouth; the others are as they were.
        fps: pictures in a second.
        seconds: by stage, how long it was busy; stages overlap. "total" is the whole job's.
        preview: the contact sheet, if one was asked for.
    """

    outfile: Path
    frames: int
    faces: int
    fps: Fraction
    seconds: dict[str, float] = field(default_factory=dict)
    preview: Path | None = None


_NUMBER = (int, float, Fraction)
_ACCEPTED: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": (_NUMBER, "a number"),
    "Fraction": (_NUMBER, "a number"),
    "str": ((str,), "a text"),
    "Path": ((str, Path), "a path"),
}


def _check_types(options: Options) -> None:
    """Refuses a value of the wrong type, as a call from Python may give it.

    Raises:
        UsageError: naming the option, what it takes and what it got.
    """
    for item in fields(options):
        value, kind = getattr(options, item.name), str(item.type)
        if value is None and kind.endswith("| None"):
            continue
        kind = kind.removesuffix(" | None")
        if kind.startswith("tuple"):
            whole = isinstance(value, Sequence) and all(isinstance(x, int) for x in value)
            if isinstance(value, str) or not whole or len(value) != 4:
                raise UsageError(f"{item.name} takes four whole numbers: top, bottom, left, right; not {value!r}")
            continue
        accepted, text = _ACCEPTED[kind]
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind != "bool"):
            raise UsageError(f"{item.name} takes {text}, not {value!r}")
