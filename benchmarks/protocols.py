"""Protocols for measuring generators on clips: their driving audio, and a row of metrics for each clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from benchmarks.speaking import Footage, Model, assign_donors, freeze_mouth, mel_inputs, silent_mels
from evaluation.metrics import image_quality
from evaluation.metrics.image_quality import HEAD, LIPS, MASK_TOP, MASKED, MOUTH, crop_box
from evaluation.metrics.motion import envelope, lagged_correlation, mean_speed, opening
from evaluation.metrics.sync import crop_region, sync
from preprocessing.dataset.clips import CLIP_FPS, Clip
from syncnet.data import WINDOW, speech_share
from syncnet.offset import cosine_distances
from syncnet.sync_expert import SyncExpert, windows_with_speech
from syncnet.training.validation import LONG
from wav2lip.generator.reference_sampling import reference_frames

RECONSTRUCTION, OWN, SWAPPED, SILENCE = "reconstruction", "own audio", "swapped audio", "silence"
REAL, UNSYNCED, COPY, STATIC = "real", "unsynced", "copy", "static"
WINDOWS = 2  # windows reconstructed per clip
SILENT_FRAMES = 2 * CLIP_FPS  # frames generated per clip in silence

Row = dict[str, str | float]  # protocol, clip, speaker and system, then metrics


@dataclass
class Bench:
    """The judge, the models, and the maximum number of frames per clip in the inference protocols."""

    judge: SyncExpert
    models: Sequence[Model]
    max_frames: int

    def measure(self, clips: Sequence[Clip]) -> list[Row]:
        """The rows of all protocols; swapped audio comes from `assign_donors`.

        Raises:
            ValueError: all clips are of one person, or a clip is damaged.
        """
        donors = assign_donors(clips, [min(clip.frames, self.max_frames) for clip in clips])
        rows: list[Row] = []
        for index, clip in enumerate(tqdm(clips, unit="clip", disable=None)):
            footage, other = Footage(clip), clips[donors[index]]
            found = [(RECONSTRUCTION, row) for row in self.reconstruct(footage, other, index)]
            if clip.frames >= LONG:
                found += self.infer(footage, other)
            known = {"clip": clip.path.stem, "speaker": clip.speaker}
            rows += [{"protocol": protocol} | known | row for protocol, row in found]
        return rows

    def reconstruct(self, footage: Footage, other: Clip, seed: int) -> list[Row]:
        """Five-frame windows from one frame of similar pose elsewhere, averaged over the clip's `WINDOWS`."""
        clip, found = footage.clip, []
        for number in range(WINDOWS):
            first, other_first = (_window_start(each, number) for each in (clip, other))
            reference, _ = reference_frames(clip, first, MASK_TOP, np.random.default_rng((7, seed, number)))
            swapped = mel_inputs(other, range(other_first, other_first + WINDOW))
            found.append(list(self._window(footage, first, reference, swapped)))
        return [_mean(rows) for rows in zip(*found, strict=True)]

    def _window(self, footage: Footage, first: int, reference: int, swapped: np.ndarray) -> Iterator[Row]:
        faces, frames = footage.faces(), np.arange(first, first + WINDOW)
        real, spoken = faces[frames], mel_inputs(footage.clip, frames)
        audio = self.judge.embed_speech(footage.clip.mel, frames[:1])

        def cosine(shown: np.ndarray) -> float:
            return float((self._embed(shown) * audio).sum())

        yield {"system": REAL, "cosine": cosine(real)}
        for name, mouth in ((COPY, faces[reference]), (STATIC, faces[0])):
            made = freeze_mouth(real, mouth)
            yield {"system": name, "cosine": cosine(made), **_distances(made, real)}
        for model in self.models:
            own, another = (model.reconstruct(footage, frames, reference, mels) for mels in (spoken, swapped))
            near, far = (_distances(made, real) for made in (own, another))
            matched, other = cosine(own), cosine(another)
            wins = {"own_nearer": float(near["l1"] < far["l1"]), "own_higher": float(matched > other)}
            yield {"system": model.name, "cosine": matched, "cosine_other": other, **near, **wins}

    def infer(self, footage: Footage, other: Clip) -> Iterator[tuple[str, Row]]:
        """Inference on a clip with its own audio, swapped audio and silence: rows with their protocols."""
        clip, count = footage.clip, min(footage.clip.frames, self.max_frames)
        shorter, real = min(count, other.frames), footage.faces()[:count]
        still, openings = freeze_mouth(real, real[0]), opening(real)
        truth = self._speech(REAL, real, clip, openings)
        spoken = {model.name: model.speak(footage, mel_inputs(clip, range(count))) for model in self.models}
        swapped = {model.name: model.speak(footage, mel_inputs(other, range(shorter))) for model in self.models}
        yield OWN, truth
        yield SWAPPED, truth
        for name, faces in {STATIC: still, **spoken}.items():
            yield OWN, self._speech(name, faces, clip, openings)
        for name, faces in {UNSYNCED: real, STATIC: still, **swapped}.items():
            yield SWAPPED, self._speech(name, faces[:shorter], other, openings[:shorter])
        start = most_spoken(clip, count)
        span = slice(start, start + SILENT_FRAMES)
        yield SILENCE, _motion(REAL, real[span])
        for model in self.models:
            yield SILENCE, _motion(f"{model.name}, {OWN}", spoken[model.name][span])
            yield SILENCE, _motion(f"{model.name}, {SILENCE}", model.speak(footage, silent_mels(SILENT_FRAMES), start))

    def _speech(self, name: str, faces: np.ndarray, driving: Clip, real: np.ndarray) -> Row:
        """Sync and motion of faces with the audio of `driving`; `real`: openings of the same frames of the real one."""
        starts = np.arange(len(faces) - WINDOW + 1)
        audio, counted = self.judge.embed_speech(driving.mel, starts), windows_with_speech(driving.speech, starts)
        score, mouth = sync(cosine_distances(self._embed(faces), audio), counted), opening(faces)
        r, lag = lagged_correlation(mouth, envelope(driving.audio, len(faces)))
        return {
            "system": name, "sound": driving.path.stem, "within_1": score.within_1, "offset": score.offset,
            "confidence": score.confidence, "cosine": score.cosine, "opening": r, "lag": lag,
            "spread": float(mouth.std()), "opening_real": lagged_correlation(mouth, real, reach=0)[0],
        }  # fmt: skip

    def _embed(self, faces: np.ndarray) -> np.ndarray:
        """The judge's embeddings of all windows, (W, D)."""
        return self.judge.embed_mouths(crop_region(faces, self.judge.region))


def _window_start(clip: Clip, number: int) -> int:
    """First frame of one of `WINDOWS` evenly spread windows; frame 0 is excluded since its audio starts before it."""
    return 1 + int((number + 0.5) / WINDOWS * (clip.frames - WINDOW))


def most_spoken(clip: Clip, frames: int) -> int:
    """Start of the `SILENT_FRAMES` frames with the most speech, among a clip's first `frames`."""
    length = SILENT_FRAMES
    return max(range(frames - length + 1), key=lambda first: speech_share(clip.speech, first, first + length))


def _distances(made: np.ndarray, real: np.ndarray) -> dict[str, float]:
    lower, mouth = ([crop_box(faces, box) for faces in (made, real)] for box in (MASKED, MOUTH))
    return {
        "l1": image_quality.l1_distance(*lower), "psnr": image_quality.psnr(*lower),
        "l1_mouth": image_quality.l1_distance(*mouth), "psnr_mouth": image_quality.psnr(*mouth),
    }  # fmt: skip


def _motion(name: str, faces: np.ndarray) -> Row:
    mouth, head = (image_quality.temporal_change(faces, box) for box in (LIPS, HEAD))
    return {"system": name, "motion": mouth, "head": head, "travel": mean_speed(opening(faces))}


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of one system's rows."""
    return {k: v if isinstance(v, str) else float(np.mean([row[k] for row in rows])) for k, v in rows[0].items()}
