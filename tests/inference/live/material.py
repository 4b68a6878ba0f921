"""A clock that tests set, and a small person whose mouth follows any sound."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch

from inference.files.face_source import FaceSource, Framing
from inference.live.avatar import Avatar
from inference.live.session import LiveConfig, LiveFrame, LiveSession
from inference.mesh.engine import MeshEngine
from inference.options import Options
from preprocessing.faces.landmarks.predictor import load_landmarks
from preprocessing.faces.mesh import lower_face
from tests.wav2lip.lip_motion.material import opened
from wav2lip.lip_motion.checkpoint import TrainedMotion
from wav2lip.lip_motion.model import LipMotionNet
from wav2lip.lip_motion.motion import LipMotionModel
from wav2lip.lip_motion.motion_config import MotionConfig
from wav2lip.lip_motion.shape_space import ShapeSpace, gain_of
from wav2lip.lip_motion.speech.mel import MelEncoder

RATE = 16000
FRAME = RATE // 25  # samples


class FakeClock:
    """Stands still, except while someone sleeps; then the actions planned for that time happen."""

    def __init__(self) -> None:
        self.time = 0.0
        self._actions: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def at(self, moment: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._actions, (moment, next(self._order), action))

    def now(self) -> float:
        return self.time

    def sleep_until(self, moment: float) -> None:
        while self._actions and self._actions[0][0] <= moment:
            planned, _, action = heapq.heappop(self._actions)
            self.time = max(self.time, planned)
            action()
        self.time = max(self.time, moment)


def small_engine() -> MeshEngine:
    """Real landmarks; an untrained lip-motion network on a mel spectrogram, which moves the mouth with any sound."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    people = [opened(rng.uniform(0, 6, 200)) + 0.2 * rng.standard_normal((200, len(lower_face()), 3)) for _ in range(2)]
    space = ShapeSpace.fit(people, [gain_of(values) for values in people], 3)
    network = LipMotionNet(MotionConfig(features=80, width=16, blocks=2, components=3)).eval()
    network.scale.copy_(torch.from_numpy(space.deviations))
    motion = LipMotionModel.of(TrainedMotion("mel", network, space), MelEncoder())
    return MeshEngine(load_landmarks(), motion)


def prepared(engine: MeshEngine, face: Path) -> Avatar:
    return Avatar.prepare(engine, FaceSource(face, Framing()), Options(detector="haar"))


def session(
    engine: MeshEngine, avatar: Avatar, clock: FakeClock | None = None, lookahead: float = 0.2, **settings: float | str
) -> LiveSession:  # fmt: skip
    config = LiveConfig(**{"lookahead": lookahead, "sample_rate": RATE, "photo_motion": "none"} | settings)
    return LiveSession(engine, avatar, config, clock or FakeClock())


def frames(live: LiveSession, number: int) -> list[LiveFrame]:
    return list(islice(live.frames(), number))


def sound_of(shown: list[LiveFrame]) -> np.ndarray:
    return np.concatenate([frame.pcm for frame in shown])


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """(n,) float32 noise whose loudness changes like syllables."""
    rng, size = np.random.default_rng(seed), round(seconds * RATE)
    loud = 0.55 + 0.45 * np.sin(np.arange(size) / RATE * 2 * np.pi * 3)
    return (0.3 * loud * rng.standard_normal(size)).clip(-1, 1).astype(np.float32)


def pieces(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (samples[first : first + size] for first in range(0, len(samples), size))


def feed(clock: FakeClock, live: LiveSession, samples: np.ndarray, size: int, start: float = 0.0) -> dict[int, float]:
    """Plans pushes of `size` samples, each when its last sample has been spoken; the time of each by first sample."""
    pushed = {}
    for number, piece in enumerate(pieces(samples, size)):
        moment = start + (number * size + len(piece)) / RATE
        clock.at(moment, lambda piece=piece: live.push(piece, RATE, block=False))
        pushed[number * size] = moment
    return pushed
