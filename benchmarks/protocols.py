"""The protocols by which generators are measured: what they are given to speak, and a row of figures for each clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from benchmarks.speaking import Footage, Model, held, silence, sounds, swaps
from evaluation.metrics import picture
from evaluation.metrics.motion import envelope, lagged_correlation, opening, travel
from evaluation.metrics.picture import HEAD, LIPS, MASK, MASKED, MOUTH, part
from evaluation.metrics.sync import look, sync
from preprocessing.dataset.clips import CLIP_FPS, Clip
from syncnet.data import WINDOW, speech_share
from syncnet.offset import cosine_distances
from syncnet.sync_expert import SyncExpert, windows_with_speech
from syncnet.validation import LONG
from wav2lip.generator.reference_sampling import reference_frames

RECONSTRUCTION, OWN, SWAPPED, SILENCE = "reconstruction", "own sound", "another's sound", "silence"
REAL, UNSYNCED, COPY, STATIC = "real", "unsynced", "copy", "static"
WINDOWS = 2  # reconstructed of each clip
QUIET = 2 * CLIP_FPS  # frames of a clip that are made in silence

Row = dict[str, str | float]  # protocol, clip, speaker and system, then figures


@dataclass
class Bench:
    """What measuring needs: the judge, the models, and the most frames of a clip in use."""

    judge: SyncExpert
    models: Sequence[Model]
    most: int

    def measure(self, clips: Sequence[Clip]) -> list[Row]:
        """All rows of all protocols; a sound of somebody else is that of `swaps`.

        Raises:
            ValueError: the clips are all of one person, or one is damaged.
        """
        donors = swaps(clips, [min(clip.frames, self.most) for clip in clips])
        rows: list[Row] = []
        for index, clip in enumerate(tqdm(clips, unit="clip", disable=None)):
            footage, other = Footage(clip), clips[donors[index]]
            found = [(RECONSTRUCTION, row) for row in self.reconstruct(footage, other, index)]
            if clip.frames >= LONG:
                found += self.use(footage, other)
            known = {"clip": clip.path.stem, "speaker": clip.speaker}
            rows += [{"protocol": protocol} | known | row for protocol, row in found]
        return rows

    def reconstruct(self, footage: Footage, other: Clip, seed: int) -> list[Row]:
        """Windows of five frames made of one frame of like pose elsewhere, as means over the clip's `WINDOWS`."""
        clip, found = footage.clip, []
        for place in range(WINDOWS):
            first, theirs = (_first(each, place) for each in (clip, other))
            reference, _ = reference_frames(clip, first, MASK, np.random.default_rng((7, seed, place)))
            swapped = sounds(other, range(theirs, theirs + WINDOW))
            found.append(list(self._window(footage, first, reference, swapped)))
        return [_mean(rows) for rows in zip(*found, strict=True)]

    def _window(self, footage: Footage, first: int, reference: int, swapped: np.ndarray) -> Iterator[Row]:
        faces, frames = footage.faces(), np.arange(first, first + WINDOW)
        real, spoken = faces[frames], sounds(footage.clip, frames)
        audio = self.judge.embed_speech(footage.clip.mel, frames[:1])

        def cosine(pictures: np.ndarray) -> float:
            return float((self._see(pictures) * audio).sum())

        yield {"system": REAL, "cosine": cosine(real)}
        for name, mouth in ((COPY, faces[reference]), (STATIC, faces[0])):
            made = held(real, mouth)
            yield {"system": name, "cosine": cosine(made), **_nearness(made, real)}
        for model in self.models:
            own, another = (model.reconstruct(footage, frames, reference, mels) for mels in (spoken, swapped))
            near, far = (_nearness(made, real) for made in (own, another))
            said, other = cosine(own), cosine(another)
            won = {"own_nearer": float(near["l1"] < far["l1"]), "own_higher": float(said > other)}
            yield {"system": model.name, "cosine": said, "cosine_other": other, **near, **won}

    def use(self, footage: Footage, other: Clip) -> Iterator[tuple[str, Row]]:
        """A clip as inference speaks it with its own sound, another's and none: rows with their protocols."""
        clip, most = footage.clip, min(footage.clip.frames, self.most)
        shorter, real = min(most, other.frames), footage.faces()[:most]
        still, openings = held(real, real[0]), opening(real)
        truth = self._speech(REAL, real, clip, openings)
        spoken = {model.name: model.speak(footage, sounds(clip, range(most))) for model in self.models}
        swapped = {model.name: model.speak(footage, sounds(other, range(shorter))) for model in self.models}
        yield OWN, truth
        yield SWAPPED, truth
        for name, pictures in {STATIC: still, **spoken}.items():
            yield OWN, self._speech(name, pictures, clip, openings)
        for name, pictures in {UNSYNCED: real, STATIC: still, **swapped}.items():
            yield SWAPPED, self._speech(name, pictures[:shorter], other, openings[:shorter])
        start = most_spoken(clip, most)
        some = slice(start, start + QUIET)
        yield SILENCE, _motion(REAL, real[some])
        for model in self.models:
            yield SILENCE, _motion(f"{model.name}, {OWN}", spoken[model.name][some])
            yield SILENCE, _motion(f"{model.name}, {SILENCE}", model.speak(footage, silence(QUIET), start))

    def _speech(self, name: str, pictures: np.ndarray, sound: Clip, real: np.ndarray) -> Row:
        """How pictures fit a sound; `real`: the openings of the same frames of the real video."""
        starts = np.arange(len(pictures) - WINDOW + 1)
        audio, counted = self.judge.embed_speech(sound.mel, starts), windows_with_speech(sound.speech, starts)
        said, mouth = sync(cosine_distances(self._see(pictures), audio), counted), opening(pictures)
        r, lag = lagged_correlation(mouth, envelope(sound.audio, len(pictures)))
        return {
            "system": name, "sound": sound.path.stem, "within_1": float(abs(said.offset) <= 1), "offset": said.offset,
            "confidence": said.confidence, "cosine": said.cosine, "opening": r, "lag": lag,
            "spread": float(mouth.std()), "opening_real": lagged_correlation(mouth, real, reach=0)[0],
        }  # fmt: skip

    def _see(self, pictures: np.ndarray) -> np.ndarray:
        """The judge's embeddings of all windows, (W, D)."""
        return self.judge.embed_mouths(look(pictures, self.judge.region))


def _first(clip: Clip, place: int) -> int:
    """First frame of one of `WINDOWS` windows, spread over the clip; the sound of frame 0 begins before it."""
    return 1 + int((place + 0.5) / WINDOWS * (clip.frames - WINDOW))


def most_spoken(clip: Clip, most: int) -> int:
    """First of the `QUIET` frames with the most speech, among a clip's first `most`."""
    return max(range(most - QUIET + 1), key=lambda first: speech_share(clip.speech, first, first + QUIET))


def _nearness(made: np.ndarray, real: np.ndarray) -> dict[str, float]:
    lower, mouth = ([part(pictures, box) for pictures in (made, real)] for box in (MASKED, MOUTH))
    return {
        "l1": picture.difference(*lower), "psnr": picture.psnr(*lower),
        "l1_mouth": picture.difference(*mouth), "psnr_mouth": picture.psnr(*mouth),
    }  # fmt: skip


def _motion(name: str, pictures: np.ndarray) -> Row:
    mouth, head = (picture.change(pictures, box) for box in (LIPS, HEAD))
    return {"system": name, "motion": mouth, "head": head, "travel": travel(opening(pictures))}


def _mean(rows: Sequence[Row]) -> Row:
    """One system's rows as one."""
    return {k: v if isinstance(v, str) else float(np.mean([row[k] for row in rows])) for k, v in rows[0].items()}
