"""Metrics in the tables: title, protocols, better direction, and the network behind each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaluation.report.results import MATCHED, SILENT, STILLS, SWAPPED

SPEECH_PROTOCOLS = (MATCHED, SWAPPED)


@dataclass(frozen=True)
class Column:
    """A metric.

    Attributes:
        key: in rows, JSON and CSV.
        title: in tables.
        group: the table it belongs to.
        protocols: those that have it.
        better: direction of improvement; "real": closer to the real video's value, "one": closer to 1, "zero": to 0,
            "half": to 0.5.
        form: format specification.
        judge: network behind it: "" none, "judge" our judge, "syncnet" syncnet_python's, "encoder" our face encoder,
            "mesh" a face mesh.
        meaning: one sentence for the legend.
    """

    key: str
    title: str
    group: Literal["sync", "motion", "mouth", "picture"]
    protocols: tuple[str, ...]
    better: Literal["higher", "lower", "real", "one", "zero", "half"]
    form: str
    judge: Literal["", "judge", "syncnet", "encoder", "mesh"]
    meaning: str


COLUMNS = (
    Column("offset", "AV offset", "sync", SPEECH_PROTOCOLS, "zero", "+.1f", "judge",
           "Frames of 40 ms by which the audio is early (positive) or late (negative), at the judge's minimum "
           "distance."),
    Column("within_1", "within 1 frame", "sync", SPEECH_PROTOCOLS, "higher", ".2f", "judge",
           "Share of videos whose offset is -1, 0 or 1."),
    Column("distance", "distance", "sync", SPEECH_PROTOCOLS, "lower", ".3f", "judge",
           "The judge's minimum mean cosine distance over offsets, computed like LSE-D; blind to a constant offset."),
    Column("confidence", "confidence", "sync", SPEECH_PROTOCOLS, "higher", ".3f", "judge",
           "Median distance over the offsets minus the minimum, computed like LSE-C."),
    Column("cosine", "cosine", "sync", SPEECH_PROTOCOLS, "higher", ".3f", "judge",
           "The judge's mean cosine similarity of video and audio at zero shift."),
    Column("lse_offset", "AV offset", "sync", SPEECH_PROTOCOLS, "zero", "+.1f", "syncnet",
           "AV offset by syncnet_python's network and protocol."),
    Column("lse_d", "LSE-D", "sync", SPEECH_PROTOCOLS, "lower", ".3f", "syncnet",
           "Lip sync error, distance; tends to favor generated videos over real ones."),
    Column("lse_c", "LSE-C", "sync", SPEECH_PROTOCOLS, "higher", ".3f", "syncnet",
           "Lip sync error, confidence; tends to favor generated videos over real ones."),
    Column("opening_r", "opening vs. real, r", "motion", (MATCHED,), "higher", ".2f", "",
           "Correlation of the mouth opening with the real one, at the best lag of at most 3 frames."),
    Column("opening_lag", "lag vs. real", "motion", (MATCHED,), "zero", "+.1f", "",
           "Best lag of the opening vs. real, in frames; positive: the generated mouth is early."),
    Column("sound_r", "opening vs. audio, r", "motion", SPEECH_PROTOCOLS, "real", ".2f", "",
           "Correlation of the mouth opening with the audio level, at the best lag of at most 3 frames; chance level "
           "is above zero, see unsynced."),
    Column("sound_lag", "lag vs. audio", "motion", SPEECH_PROTOCOLS, "real", "+.1f", "",
           "Best lag of the opening vs. audio, in frames; positive: the mouth is early."),
    Column("articulation", "articulation", "motion", SPEECH_PROTOCOLS, "one", ".2f", "",
           "Standard deviation of the opening, relative to the real mouth."),
    Column("moving", "moving in silence", "motion", (SILENT,), "zero", ".2f", "",
           "Share of the silent frames in which the mouth moves."),
    Column("leak", "leak", "motion", (SILENT,), "zero", ".2f", "",
           "Share of moving frames in silence, relative to that of the real video."),
    Column("response", "response to audio", "motion", (SWAPPED,), "higher", ".2f", "",
           "1 - r between the openings with own and with swapped audio: 0 means that the mouth ignores the audio."),
    Column("other_frame", "agreement across stills, r", "motion", (STILLS,), "higher", ".2f", "",
           "Correlation of the openings of two videos made from two stills of the face with the same audio."),
    Column("mesh_opening_r", "opening vs. driver, r", "mouth", SPEECH_PROTOCOLS, "higher", ".2f", "mesh",
           "Correlation of the lips' opening with that of the person whose audio is spoken, at the best lag of at most "
           "1 frame; that person's recording is put in sync first, if our judge finds it out of sync."),
    Column("mesh_width_r", "width vs. driver, r", "mouth", SPEECH_PROTOCOLS, "higher", ".2f", "mesh",
           "The same of the mouth's width."),
    Column("closures_kept", "closures kept", "mouth", SPEECH_PROTOCOLS, "higher", ".2f", "mesh",
           "Share of the frames in speech with the driver's lips closed, in which the lips close within one frame; "
           "chance level is above zero, see unsynced."),
    Column("amplitude", "amplitude", "mouth", SPEECH_PROTOCOLS, "one", ".2f", "mesh",
           "Standard deviation of the lips' opening, relative to the driver's."),
    Column("mesh_redness", "lip redness, p5", "mouth", SPEECH_PROTOCOLS, "one", ".2f", "mesh",
           "Redness of the lips minus that of the skin beside them, 5th percentile over frames, relative to the median "
           "of the face's own video."),
    Column("mesh_sharpness", "sharpness", "mouth", SPEECH_PROTOCOLS, "one", ".2f", "mesh",
           "Variance of the Laplacian around the lips, median over frames, relative to the face's own video."),
    Column("mesh_flicker", "lips' flicker", "mouth", SPEECH_PROTOCOLS, "one", ".2f", "mesh",
           "Second difference in time of the gray mouth inside the lips, median over frames, relative to the face's "
           "own video, which speaks other words."),
    Column("silence_motion", "motion in silence", "mouth", (SILENT,), "zero", ".2f", "mesh",
           "Standard deviation of the lips' opening in silence, relative to that with the face's own audio; up to 0.15 "
           "is at rest."),
    Column("untouched", "change outside", "mouth", SPEECH_PROTOCOLS, "zero", ".2f", "mesh",
           "Mean absolute difference from the face's own video outside the lower face, in levels of 255; copy shows "
           "what encoding alone costs."),
    Column("mesh_found", "face found", "mouth", SPEECH_PROTOCOLS, "higher", ".2f", "mesh",
           "Share of frames in which the mesh finds the face."),
    Column("psnr", "PSNR, dB", "picture", (MATCHED,), "higher", ".2f", "",
           "On the mouth square, against the real frames."),
    Column("ssim", "SSIM", "picture", (MATCHED,), "higher", ".3f", "", "On the mouth square, against the real frames."),
    Column("sharpness", "sharpness", "picture", SPEECH_PROTOCOLS, "one", ".2f", "",
           "Variance of the Laplacian on the mouth square, relative to the real video."),
    Column("palest_lips", "lip redness, p5", "picture", SPEECH_PROTOCOLS, "one", ".2f", "",
           "Contrast in redness between lips and skin, 5th percentile over frames, relative to the real video; near 0 "
           "the lips have vanished."),
    Column("seam_colour", "seam color", "picture", SPEECH_PROTOCOLS, "zero", ".2f", "",
           "Deviation from the real video of the color step across our mask's border, in levels of 255."),
    Column("seam_gradient", "seam gradient", "picture", SPEECH_PROTOCOLS, "one", ".2f", "",
           "Gradient across our mask's border, relative to the real video."),
    Column("flicker", "flicker", "picture", SPEECH_PROTOCOLS, "zero", ".2f", "",
           "Frame-to-frame change of the mouth square where nobody speaks, minus that of the real video, in levels of "
           "255; negative: calmer than the real video."),
    Column("identity", "identity", "picture", SPEECH_PROTOCOLS, "real", ".3f", "encoder",
           "Mean cosine distance from the real video's mean embedding in our encoder, which separates people only "
           "roughly; frames of the real video differ from their mean, too."),
)  # fmt: skip

# Computed over all frames of a system, see `evaluation.report.results.SystemMetric`.
SYSTEM_COLUMNS = (
    Column("frechet", "Fréchet distance, our encoder", "picture", SPEECH_PROTOCOLS, "lower", ".2f", "encoder",
           "Fréchet distance between face features of our encoder; not comparable with a published FID."),
    Column("kernel", "kernel distance x 1000", "picture", SPEECH_PROTOCOLS, "lower", ".2f", "encoder",
           "KID's estimator on features of the mouth square in our encoder; below 0 as often as not for equal "
           "distributions."),
    Column("precision", "precision", "picture", SPEECH_PROTOCOLS, "higher", ".2f", "encoder",
           "Share of the generated mouths that lie among the real ones (3 neighbors)."),
    Column("recall", "recall", "picture", SPEECH_PROTOCOLS, "higher", ".2f", "encoder",
           "Share of the real mouths that lie among the generated ones: low if the system always paints the same."),
    Column("bins", "different bins", "picture", SPEECH_PROTOCOLS, "lower", ".2f", "encoder",
           "Share of the clusters of real mouths that are significantly more or less frequent among the generated "
           "ones; above 0.05 even for real clips, whose frames depend on each other."),
    Column("classifier", "told apart", "picture", SPEECH_PROTOCOLS, "half", ".2f", "encoder",
           "Accuracy of a linear classifier of generated and real mouths on clips that it has not seen; 0.5: not told "
           "apart."),
    Column("fid", "FID", "picture", SPEECH_PROTOCOLS, "lower", ".1f", "",
           "Fréchet distance between Inception features of the face crops."),
)  # fmt: skip


def column(key: str) -> Column:
    """The column with this key."""
    return next(each for each in (*COLUMNS, *SYSTEM_COLUMNS) if each.key == key)
