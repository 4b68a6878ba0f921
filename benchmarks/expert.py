"""Quality of the sync expert and the judge on clips of held-out people.

    .venv/bin/python benchmarks/expert.py CLIPS [--split val] [--expert FILE] [--judge FILE]

For each of the two: a table by speaker; how many planted shifts are recovered (whole clips of 3 s or more whose audio
is shifted by -10 to 10 frames and re-encoded: within one frame of the clip's own offset plus the shift); and how the
cosine of windows with speech, at the clip's own offset, changes when frames or audio are modified. Finally, how well
the two agree on each clip's offset.
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
from preprocessing.media.mel import mel_spectrogram  # noqa: E402
from preprocessing.media.speech_activity import speech_columns  # noqa: E402
from syncnet.data import WINDOW  # noqa: E402
from syncnet.offset import REACH, cosine_distances, sync_score  # noqa: E402
from syncnet.scoring.clip_scoring import NEAREST, ClipSyncResult, score_embeddings  # noqa: E402
from syncnet.sync_expert import EXPERT, JUDGE, SyncExpert, windows_with_speech  # noqa: E402
from syncnet.training.validation import LONG, SHORT, Validation, balanced_accuracy  # noqa: E402

SAMPLES = 640  # audio samples per frame
PLANTED = [shift for shift in range(-10, 11) if shift]  # frames by which the audio is delayed
ORIGINAL, SHIFTED, ANOTHER = "original", f"audio {NEAREST} frames away", "another sentence"


@dataclass
class Findings:
    """Results of one expert: judgements; hits by planted shift; cosines by modification."""

    judgements: list[ClipSyncResult] = field(default_factory=list)
    planted: dict[int, list[bool]] = field(default_factory=lambda: defaultdict(list))
    cosines: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def soften(faces: np.ndarray) -> np.ndarray:
    """Frames (N, S, S, 3) as soft as a generator's output: downsampled to half size and back."""
    side = faces.shape[1]
    small = [cv2.resize(face, (side // 2, side // 2), interpolation=cv2.INTER_AREA) for face in faces]
    return np.stack([cv2.resize(face, (side, side), interpolation=cv2.INTER_LINEAR) for face in small])


def modifications(scale: float) -> dict[str, list[Callable[[Clip, SyncExpert], np.ndarray]]]:
    """Functions that modify the frames of a clip, by name; `scale`: input pixels per pixel of a 96-pixel crop."""

    def apply(view: ImageTransform) -> Callable[[Clip, SyncExpert], np.ndarray]:
        return lambda clip, expert: face_window(clip, expert.region, 0, clip.frames, view)

    moves = [apply(ImageTransform(shift=(pixels * scale, pixels * scale))) for pixels in (-2, 2)]
    return {
        "moved by 2 px each way": moves,
        "blur, sigma 0.8 px": [apply(ImageTransform(blur=0.8 * scale))],
        "JPEG, quality 60": [apply(ImageTransform(quality=60))],
        "half size and back": [lambda clip, expert: soften(apply(IDENTITY_IMAGE)(clip, expert))],
    }


def cosine_at(video: np.ndarray, audio: np.ndarray, shift: int, counted: np.ndarray) -> float:
    """Mean cosine of the counted video windows with the audio `shift` windows later."""
    distances = cosine_distances(video, audio, REACH + NEAREST)[counted, REACH + NEAREST + shift]
    return float(1 - np.nanmean(distances)) if (~np.isnan(distances)).any() else float("nan")


def delay(clip: Clip, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Mel and speech flags of a clip with its audio delayed (negative: advanced), keeping its length."""
    audio = clip.audio
    moved, distance = np.zeros_like(audio), abs(frames) * SAMPLES
    if frames > 0:
        moved[distance:] = audio[:-distance]
    else:
        moved[: len(audio) - distance] = audio[distance:]
    return mel_spectrogram(moved), speech_columns(moved)


def find_planted(findings: Findings, expert: SyncExpert, clip: Clip, video: np.ndarray, own: int) -> None:
    """Shift the audio of a clip whose offset is `own`, and try to recover the shift."""
    starts = np.arange(len(video))
    for shift in PLANTED:
        expected = own - shift
        if abs(expected) <= REACH:
            mel, speech = delay(clip, shift)
            distances = cosine_distances(video, expert.embed_speech(mel, starts))
            found = sync_score(distances, windows_with_speech(speech, starts)).offset
            findings.planted[shift].append(abs(found - expected) <= 1)


def measure_modified(
    findings: Findings,
    expert: SyncExpert,
    clip: Clip,
    other: Clip,
    video: np.ndarray,
    audio: np.ndarray,
    judgement: ClipSyncResult,
) -> None:
    """Record the cosine of one clip, unchanged and with modified frames and audio."""
    here, cosines = -judgement.score.offset, findings.cosines
    cosines[ORIGINAL].append(cosine_at(video, audio, here, judgement.windows_with_speech))
    for name, makers in modifications(expert.region.scale).items():
        changed = [expert.embed_mouths(make(clip, expert)) for make in makers]
        cosines[name].append(
            float(np.mean([cosine_at(each, audio, here, judgement.windows_with_speech) for each in changed]))
        )
    away = [cosine_at(video, audio, here + shift, judgement.windows_with_speech) for shift in (-NEAREST, NEAREST)]
    cosines[SHIFTED].append(float(np.mean(away)))
    starts = np.arange(min(len(video), other.frames - WINDOW + 1))
    both = judgement.windows_with_speech[starts] & windows_with_speech(other.speech, starts)
    cosines[ANOTHER].append(cosine_at(video[starts], expert.embed_speech(other.mel, starts), 0, both))


def evaluate_expert(expert: SyncExpert, clips: Sequence[Clip]) -> Findings:
    """Run all tests on one expert; a clip's other sentence is that of the next clip."""
    findings = Findings()
    for index, clip in enumerate(tqdm(clips, unit="clip", disable=None)):
        video, audio = expert.embed(clip)
        judgement = score_embeddings(clip, video, audio)
        findings.judgements.append(judgement)
        if clip.frames >= LONG:
            find_planted(findings, expert, clip, video, judgement.score.offset)
        measure_modified(findings, expert, clip, clips[(index + 1) % len(clips)], video, audio, judgement)
    return findings


def share(value: float | None) -> str:
    """A share as a percentage; a dash for None and nan."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f}"


def print_speakers(judgements: Sequence[ClipSyncResult]) -> None:
    """Print the table by speaker; accuracy is at the threshold that is best over all speakers."""
    values = Validation(judgements).values()
    print(f"Threshold {values['threshold']:.3f}; accuracy at the best threshold of windows with speech: ", end="")
    print(f"{share(values['accuracy_heard'])} %. Shares in %.\n")
    print("| speaker | clips | windows | accuracy | pairwise | offset within 1 | of 3 s or more | offsets |")
    print("|---|---|---|---|---|---|---|---|")
    people = defaultdict(list)
    for judgement in judgements:
        people[judgement.speaker].append(judgement)
    for name, group in [*sorted(people.items()), ("**all**", judgements)]:
        validation = Validation(group)
        accuracy = balanced_accuracy(*validation.cosines(), np.array([values["threshold"]]))[0]
        offsets = " ".join(f"{offset}×{n}" for offset, n in sorted(Counter(s.score.offset for s in group).items()))
        figures = [accuracy, validation.values()["pairwise"], validation.within_1(SHORT), validation.within_1(LONG)]
        windows = sum(judgement.windows for judgement in group)
        print(f"| {name} | {len(group)} | {windows} | {' | '.join(map(share, figures))} | {offsets} |")


def print_planted(planted: dict[int, list[bool]]) -> None:
    """Print the table of planted shifts."""
    print("\n| audio delay, frames | clips | recovered within 1, % |\n|---|---|---|")
    for shift, found in sorted(planted.items()):
        print(f"| {shift} | {len(found)} | {share(float(np.mean(found)))} |")
    every = [one for found in planted.values() for one in found]
    print(f"| **all** | {len(every)} | {share(float(np.mean(every)) if every else None)} |")


def print_cosines(cosines: dict[str, list[float]]) -> None:
    """Print the table of modifications: means over clips, in order of recording."""
    print("\n| modification | mean cosine | drop from original |\n|---|---|---|")
    original = np.nanmean(cosines[ORIGINAL])
    for name, values in cosines.items():
        print(f"| {name} | {np.nanmean(values):.3f} | {original - np.nanmean(values):.3f} |")


def print_agreement(pairs: Sequence[tuple[ClipSyncResult, ClipSyncResult]], most: int = 30) -> None:
    """Print how well two experts agree on offsets, and the clips that either finds out of sync."""
    offsets = np.array([(a.score.offset, b.score.offset) for a, b in pairs])
    gaps, off = np.abs(offsets[:, 0] - offsets[:, 1]), np.abs(offsets) > 1
    print(f"Of {len(pairs)} clips: the same offset in {share((gaps == 0).mean())} %,", end=" ")
    print(f"within one frame of each other in {share((gaps <= 1).mean())} %.")
    agreeing, disagreeing = (int((off.all(1) & (gaps > 1 if apart else gaps <= 1)).sum()) for apart in (False, True))
    alone = [int((off[:, one] & ~off[:, 1 - one]).sum()) for one in (0, 1)]
    print(f"Off by two frames or more: both agree {agreeing}, both disagree {disagreeing},", end=" ")
    print(f"expert only {alone[0]}, judge only {alone[1]}.\n")
    print("| clip | frames | offset | confidence | offset, judge | confidence, judge |\n|---|---|---|---|---|---|")
    for a, b in [pairs[index] for index in np.flatnonzero(off.any(1))[:most]]:
        scores = " | ".join(f"{judgement.score.offset} | {judgement.score.confidence:.2f}" for judgement in (a, b))
        print(f"| {a.clip} | {a.frames} | {scores} |")


def main() -> None:
    """Print Markdown."""
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
        findings = evaluate_expert(expert, clips)
        print(f"\n## {name}: {getattr(args, name).name}, {expert.step} steps\n")
        print_speakers(findings.judgements)
        print_planted(findings.planted)
        print_cosines(findings.cosines)
        judgements.append(findings.judgements)
    print("\n## Agreement\n")
    print_agreement(list(zip(*judgements, strict=True)))


if __name__ == "__main__":
    main()
