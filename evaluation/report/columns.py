"""The figures of the tables: what each is called, where it is measured, which way is better, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaluation.report.results import MATCHED, SILENT, STILLS, SWAPPED

SPOKEN = (MATCHED, SWAPPED)


@dataclass(frozen=True)
class Column:
    """A figure.

    Attributes:
        key: in rows, JSON and CSV.
        title: in tables.
        group: the table it stands in.
        protocols: those that have it.
        better: the way to a better video; "real": the nearer to the real video's figure, "one": to 1, "zero": to 0.
        form: how it is printed.
        judge: who gave it: "" our own measure, "judge" our judge, "syncnet" syncnet_python's network, "encoder" ours.
        meaning: one sentence for the legend.
    """

    key: str
    title: str
    group: Literal["sync", "motion", "picture"]
    protocols: tuple[str, ...]
    better: Literal["higher", "lower", "real", "one", "zero"]
    form: str
    judge: Literal["", "judge", "syncnet", "encoder"]
    meaning: str


COLUMNS = (
    Column("offset", "AV offset", "sync", SPOKEN, "zero", "+.1f", "judge",
           "Frames of 40 ms by which the sound is early (positive) or late (negative), at the judge's least "
           "distance."),
    Column("within_1", "within 1 frame", "sync", SPOKEN, "higher", ".2f", "judge",
           "Share of videos whose offset is -1, 0 or 1."),
    Column("distance", "distance", "sync", SPOKEN, "lower", ".3f", "judge",
           "The judge's least mean cosine distance over the offsets, as LSE-D is taken; blind to a constant offset."),
    Column("confidence", "confidence", "sync", SPOKEN, "higher", ".3f", "judge",
           "The median over the offsets less the least, as LSE-C is taken."),
    Column("cosine", "cosine", "sync", SPOKEN, "higher", ".3f", "judge",
           "The judge's mean cosine of picture and sound as they are, without a shift."),
    Column("lse_offset", "AV offset", "sync", SPOKEN, "zero", "+.1f", "syncnet",
           "The same by syncnet_python's network and protocol."),
    Column("lse_d", "LSE-D", "sync", SPOKEN, "lower", ".3f", "syncnet",
           "Lip sync error, distance; it prefers generated videos to real ones."),
    Column("lse_c", "LSE-C", "sync", SPOKEN, "higher", ".3f", "syncnet",
           "Lip sync error, confidence; it prefers generated videos to real ones."),
    Column("opening_r", "opening with the real mouth's, r", "motion", (MATCHED,), "higher", ".2f", "",
           "Correlation of the mouth's opening with the real one's, at the best lag of at most 3 frames."),
    Column("opening_lag", "its lag", "motion", (MATCHED,), "zero", "+.1f", "",
           "That lag, in frames; positive: the generated mouth is early."),
    Column("sound_r", "opening with the sound, r", "motion", SPOKEN, "real", ".2f", "",
           "Correlation of the mouth's opening with the sound's level, at the best lag of at most 3 frames; chance "
           "is above zero, see unsynced."),
    Column("sound_lag", "its lag", "motion", SPOKEN, "real", "+.1f", "",
           "That lag, in frames; positive: the mouth is early."),
    Column("articulation", "articulation", "motion", SPOKEN, "one", ".2f", "",
           "How far the opening varies, by the real mouth's."),
    Column("moving", "moving in silence", "motion", (SILENT,), "zero", ".2f", "",
           "Share of the frames without a sound in which the mouth moves."),
    Column("leak", "leak", "motion", (SILENT,), "zero", ".2f", "",
           "That share by the share of the real video's frames in which its mouth moves."),
    Column("response", "response to another sound", "motion", (SWAPPED,), "higher", ".2f", "",
           "1 - r of the openings with the face's own sound and with the other one: 0 is a mouth that does not "
           "listen."),
    Column("other_frame", "same from another frame, r", "motion", (STILLS,), "higher", ".2f", "",
           "Correlation of the openings of two videos made from two stills of the face with the same sound."),
    Column("psnr", "PSNR, dB", "picture", (MATCHED,), "higher", ".2f", "",
           "Of the mouth's square against the real one."),
    Column("ssim", "SSIM", "picture", (MATCHED,), "higher", ".3f", "", "Of the mouth's square against the real one."),
    Column("sharpness", "sharpness", "picture", SPOKEN, "one", ".2f", "",
           "Variance of the Laplacian on the mouth's square, by the real one's."),
    Column("palest_lips", "palest lips", "picture", SPOKEN, "one", ".2f", "",
           "How red the lips are against the skin in the twentieth of the frames where they are palest, by the real "
           "one's: near 0, they have vanished."),
    Column("seam_colour", "seam, colour", "picture", SPOKEN, "zero", ".2f", "",
           "By how many levels of 255 the colours on the two sides of our mask's border are farther apart, or "
           "nearer, than in the real picture."),
    Column("seam_gradient", "seam, gradient", "picture", SPOKEN, "one", ".2f", "",
           "Slope of the picture across our mask's border, by the real one's."),
    Column("flicker", "flicker", "picture", SPOKEN, "zero", ".2f", "",
           "Change of the mouth's square from frame to frame where nobody speaks, beyond the real one's, in levels "
           "of 255; negative: calmer than it."),
    Column("identity", "identity", "picture", SPOKEN, "real", ".3f", "encoder",
           "Mean cosine distance of the faces from the real video's mean face in our encoder, which knows people only "
           "roughly; frames of the real video differ from their mean too."),
)  # fmt: skip

# Of all of a system's frames together, see `evaluation.report.results.SystemFigure`.
WHOLES = (
    Column("frechet", "Fréchet distance, our encoder", "picture", SPOKEN, "lower", ".2f", "encoder",
           "Fréchet distance of the faces' features in our own encoder; not comparable with a published FID."),
    Column("fid", "FID", "picture", SPOKEN, "lower", ".1f", "",
           "Fréchet distance of the faces' features in the user's Inception network."),
)  # fmt: skip


def column(key: str) -> Column:
    """The column of a key."""
    return next(each for each in (*COLUMNS, *WHOLES) if each.key == key)
