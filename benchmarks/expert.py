"""What the experts are worth on clips of people they were not trained on.

    .venv/bin/python benchmarks/expert.py CLIPS [--split val] [--expert FILE] [--judge FILE]

For each of the two: a table by speaker; how many planted shifts are found (whole clips of 3 s or more whose sound is
moved by -10 to 10 frames and heard anew: within one frame of the clip's own offset plus what was planted); and how the
cosine of the windows with speech, at the clip's own offset, changes with the picture and with the sound. At last, how
far the two agree on each clip's offset.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from preprocessing.dataset.augmentation import IDENTITY_IMAGE, ImageTransform  # noqa: E402
from preprocessing.dataset.clips import Clip, open_clips  # noqa: E402
from preprocessing.dataset.windows import face_window  # noqa: E402
from preprocessing.media.audio import mel_spectrogram, speech_columns  # noqa: E402
from syncnet.data import WINDOW  # noqa: E402
from syncnet.offset import REACH, cosine_distances, sync_score  # noqa: E402
from syncnet.sync_expert import EXPERT, JUDGE, SyncExpert, windows_with_speech  # noqa: E402
from syncnet.validation import LONG, NEAREST, SHORT, ClipSyncResult, Validation, balanced_accuracy, score_embeddings  # noqa: E402

SAMPLES = 640  # of sound a frame
PLANTED = [shift for shift in range(-10, 11) if shift]  # frames by which the sound is made late
ORIGINAL, SHIFTED, ANOTHER = "original", f"sound {NEAREST} frames away", "another sentence"


@dataclass
class Findings:
    """What one expert says: its judgements; by planted shift, whether it was found; cosines by picture and sound."""

    judgements: list[ClipSyncResult] = field(default_factory=list)
    planted: dict[int, list[bool]] = field(default_factory=lambda: defaultdict(list))
    cosines: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def soften(faces: np.ndarray) -> np.ndarray:
    """Pictures (N, S, S, 3) as soft as a generator's: down to half their size and up again."""
    side = faces.shape[1]
    small = [cv2.resize(face, (side // 2, side // 2), interpolation=cv2.INTER_AREA) for face in faces]
    return np.stack([cv2.resize(face, (side, side), interpolation=cv2.INTER_LINEAR) for face in small])


def disguises(scale: float) -> dict[str, list[Callable[[Clip, SyncExpert], np.ndarray]]]:
    """By name, what makes the changed pictures of a clip; `scale`: pixels the expert sees for a pixel of a 96 crop."""

    def seen(view: ImageTransform) -> Callable[[Clip, SyncExpert], np.ndarray]:
        return lambda clip, expert: face_window(clip, expert.region, 0, clip.frames, view)

    moves = [seen(ImageTransform(shift=(pixels * scale, pixels * scale))) for pixels in (-2, 2)]
    return {
        "moved by 2 px each way": moves,
        "blur, sigma 0.8 px": [seen(ImageTransform(blur=0.8 * scale))],
        "JPEG, quality 60": [seen(ImageTransform(quality=60))],
        "half size and back": [lambda clip, expert: soften(seen(IDENTITY_IMAGE)(clip, expert))],
    }


def cosine_at(video: np.ndarray, audio: np.ndarray, shift: int, counted: np.ndarray) -> float:
    """Mean cosine of the pictures that count with the sounds `shift` windows later."""
    distances = cosine_distances(video, audio, REACH + NEAREST)[counted, REACH + NEAREST + shift]
    return float(1 - np.nanmean(distances)) if (~np.isnan(distances)).any() else float("nan")


def late(clip: Clip, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Mel and speech flags of a clip whose sound comes so many frames later (negative: earlier), as long as before."""
    audio = clip.audio
    moved, distance = np.zeros_like(audio), abs(frames) * SAMPLES
    if frames > 0:
        moved[distance:] = audio[:-distance]
    else:
        moved[: len(audio) - distance] = audio[distance:]
    return mel_spectrogram(moved), speech_columns(moved)


def plant(findings: Findings, expert: SyncExpert, clip: Clip, video: np.ndarray, own: int) -> None:
    """Moves the sound of a clip whose offset is `own`, and looks for it."""
    starts = np.arange(len(video))
    for shift in PLANTED:
        expected = own - shift
        if abs(expected) <= REACH:
            mel, speech = late(clip, shift)
            distances = cosine_distances(video, expert.embed_speech(mel, starts))
            found = sync_score(distances, windows_with_speech(speech, starts)).offset
            findings.planted[shift].append(abs(found - expected) <= 1)


def disturb(
    findings: Findings,
    expert: SyncExpert,
    clip: Clip,
    other: Clip,
    video: np.ndarray,
    audio: np.ndarray,
    said: ClipSyncResult,
) -> None:
    """Notes the cosine of one clip with its picture and its sound as they are and changed."""
    here, cosines = -said.score.offset, findings.cosines
    cosines[ORIGINAL].append(cosine_at(video, audio, here, said.windows_with_speech))
    for name, pictures in disguises(expert.region.scale).items():
        changed = [expert.embed_mouths(make(clip, expert)) for make in pictures]
        cosines[name].append(
            float(np.mean([cosine_at(each, audio, here, said.windows_with_speech) for each in changed]))
        )
    away = [cosine_at(video, audio, here + shift, said.windows_with_speech) for shift in (-NEAREST, NEAREST)]
    cosines[SHIFTED].append(float(np.mean(away)))
    starts = np.arange(min(len(video), other.frames - WINDOW + 1))
    both = said.windows_with_speech[starts] & windows_with_speech(other.speech, starts)
    cosines[ANOTHER].append(cosine_at(video[starts], expert.embed_speech(other.mel, starts), 0, both))


def examine(expert: SyncExpert, clips: Sequence[Clip]) -> Findings:
    """Everything about one expert; a clip's other sentence is the next clip's."""
    findings = Findings()
    for index, clip in enumerate(tqdm(clips, unit="clip", disable=None)):
        video, audio = expert.embed(clip)
        said = score_embeddings(clip, video, audio)
        findings.judgements.append(said)
        if clip.frames >= LONG:
            plant(findings, expert, clip, video, said.score.offset)
        disturb(findings, expert, clip, clips[(index + 1) % len(clips)], video, audio, said)
    return findings


def share(value: float | None) -> str:
    """A share as per cent; a dash where there is none."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f}"


def print_speakers(judgements: Sequence[ClipSyncResult]) -> None:
    """The table by speaker; its accuracy is at the threshold that is best for all."""
    everybody = Validation(judgements)
    values = everybody.values()
    print(f"Threshold {values['threshold']:.3f}; accuracy at the best threshold of windows with speech: ", end="")
    print(f"{share(values['accuracy_heard'])} %. Shares in per cent.\n")
    print("| speaker | clips | windows | accuracy | pairwise | offset within 1 | of 3 s or more | offsets |")
    print("|---|---|---|---|---|---|---|---|")
    people = defaultdict(list)
    for said in judgements:
        people[said.speaker].append(said)
    for name, some in [*sorted(people.items()), ("**all**", judgements)]:
        theirs = Validation(some)
        accuracy = balanced_accuracy(*theirs.cosines(), np.array([values["threshold"]]))[0]
        offsets = " ".join(f"{offset}×{n}" for offset, n in sorted(Counter(s.score.offset for s in some).items()))
        figures = [accuracy, theirs.values()["pairwise"], theirs.within_1(SHORT), theirs.within_1(LONG)]
        windows = sum(said.windows for said in some)
        print(f"| {name} | {len(some)} | {windows} | {' | '.join(map(share, figures))} | {offsets} |")


def print_planted(planted: dict[int, list[bool]]) -> None:
    """The table of planted shifts."""
    print("\n| sound made late by, frames | clips | found within 1, % |\n|---|---|---|")
    for shift, found in sorted(planted.items()):
        print(f"| {shift} | {len(found)} | {share(float(np.mean(found)))} |")
    every = [one for found in planted.values() for one in found]
    print(f"| **all** | {len(every)} | {share(float(np.mean(every)) if every else None)} |")


def print_cosines(cosines: dict[str, list[float]]) -> None:
    """The table of changed pictures and sounds: means over clips, in the order of their notes."""
    print("\n| picture or sound | mean cosine | less than the original |\n|---|---|---|")
    original = np.nanmean(cosines[ORIGINAL])
    for name, values in cosines.items():
        print(f"| {name} | {np.nanmean(values):.3f} | {original - np.nanmean(values):.3f} |")


def print_agreement(pairs: Sequence[tuple[ClipSyncResult, ClipSyncResult]], most: int = 30) -> None:
    """How far two experts agree on the clips' offsets, and the clips that one of them finds off."""
    offsets = np.array([(a.score.offset, b.score.offset) for a, b in pairs])
    gaps, off = np.abs(offsets[:, 0] - offsets[:, 1]), np.abs(offsets) > 1
    print(f"Of {len(pairs)} clips: the same offset in {share((gaps == 0).mean())} %,", end=" ")
    print(f"within one frame of each other in {share((gaps <= 1).mean())} %.")
    alike, unlike = (int((off.all(1) & (gaps > 1 if apart else gaps <= 1)).sum()) for apart in (False, True))
    alone = [int((off[:, one] & ~off[:, 1 - one]).sum()) for one in (0, 1)]
    print(f"Off by two frames or more: by both and alike {alike}, by both but not alike {unlike},", end=" ")
    print(f"by the expert alone {alone[0]}, by the judge alone {alone[1]}.\n")
    print("| clip | frames | offset | confidence | offset, judge | confidence, judge |\n|---|---|---|---|---|---|")
    for a, b in [pairs[index] for index in np.flatnonzero(off.any(1))[:most]]:
        scores = " | ".join(f"{said.score.offset} | {said.score.confidence:.2f}" for said in (a, b))
        print(f"| {a.clip} | {a.frames} | {scores} |")


def main() -> None:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--split", help="only the clips of this split, e.g. val (default: all)")
    parser.add_argument("--expert", type=Path, default=EXPERT)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_flush_denormal(True)
    try:
        clips = open_clips(args.clips, WINDOW + NEAREST, args.split)
        experts = {"expert": SyncExpert.load(args.expert), "judge": SyncExpert.load(args.judge)}
    except ValueError as error:
        parser.error(str(error))
    print(f"{len(clips)} clips of {len({clip.speaker for clip in clips})} people")
    judgements = []
    for name, expert in experts.items():
        findings = examine(expert, clips)
        print(f"\n## {name}: {getattr(args, name).name}, {expert.step} steps\n")
        print_speakers(findings.judgements)
        print_planted(findings.planted)
        print_cosines(findings.cosines)
        judgements.append(findings.judgements)
    print("\n## Agreement of the two\n")
    print_agreement(list(zip(*judgements, strict=True)))


if __name__ == "__main__":
    main()
