"""A live session: speech goes in as it is spoken, frames and sound come out at the pace of a clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import NamedTuple, Self

import numpy as np

from inference.live.avatar import Avatar
from inference.live.clock import Clock, SystemClock
from inference.live.frames import bounced
from inference.live.motion import motion_source
from inference.live.mouths import LiveMouths
from inference.live.sound import SPEECH_RATE, SpeechQueue, checked_rate
from inference.live.speaker import Said, Speaker, Speaking
from inference.mesh.engine import MeshEngine
from inference.mesh.person import FramePlan, MeshPerson, Spoken, Unplanned
from inference.photo.motions import PHOTO_MOTIONS
from inference.photo.photo_motion import PhotoMotion
from preprocessing.errors import UsageError
from preprocessing.media.audio import frame_count
from wav2lip.lip_motion.streaming import GUESSED, MAX_LOOKAHEAD, MotionStream
from wav2lip.renderer.inner_mouth import InnerMouth

LATE = 0.04  # seconds after its time from which a frame counts as late


@dataclass(frozen=True)
class LiveConfig:
    """Settings of a session.

    Attributes:
        lookahead: seconds of sound that are known before it is spoken, 0 to 2; infinite to wait for the end of each
            utterance, which then looks as it does from a file.
        sample_rate: of the sound that comes out.
        strength: scale of the lip motion, 0 to 1.5.
        queue_seconds: sound that may wait to be spoken.
        photo_motion: what a photo does, see `Options`; no effect on a video.
    """

    lookahead: float = 0.2
    sample_rate: int = 48000
    strength: float = 1.0
    queue_seconds: float = 60.0
    photo_motion: str = "full"

    def __post_init__(self) -> None:
        if not (0 <= self.lookahead <= MAX_LOOKAHEAD or self.lookahead == np.inf):
            raise UsageError(f"lookahead must be from 0 to {MAX_LOOKAHEAD:g} s, or inf, not {self.lookahead}")
        checked_rate(self.sample_rate)
        if not 0 <= self.strength <= 1.5:
            raise UsageError(f"strength must be between 0 and 1.5, not {self.strength}")
        if self.photo_motion not in PHOTO_MOTIONS:
            raise UsageError(f"photo_motion must be one of {', '.join(PHOTO_MOTIONS)}, not {self.photo_motion!r}")
        if not 1 <= self.queue_seconds <= 3600:
            raise UsageError(f"queue_seconds must be between 1 and 3600, not {self.queue_seconds}")
        if np.isfinite(self.lookahead) and self.queue_seconds < 2 * self.lookahead + 1:
            raise UsageError(
                f"queue_seconds {self.queue_seconds:g} is too short for a lookahead of {self.lookahead:g} s: "
                f"it must be at least {2 * self.lookahead + 1:g}"
            )


class LiveFrame(NamedTuple):
    """A frame and its sound.

    Attributes:
        frame: (H, W, 3) uint8 BGR.
        pcm: (n,) float32, -1 to 1, at the session's `sample_rate`; it ends with the frame. After dropped frames it
            holds their sound too, unless that is more than half a second.
        timestamp: seconds from the first frame.
    """

    frame: np.ndarray
    pcm: np.ndarray
    timestamp: float


@dataclass
class LiveReport:
    """What a session has done so far.

    Attributes:
        frames: frames given.
        late: of these, given more than `LATE` after their time.
        dropped: frames skipped because the consumer, or the computer, was too slow.
        heard: seconds of pushed sound before that of the last frame; None if it shows no speech.
    """

    frames: int = 0
    late: int = 0
    dropped: int = 0
    heard: float | None = None


class LiveSession:
    """One person who speaks what is pushed, and rests in between.

    `push`, `end`, `interrupt` and `close` may be called from any thread; `frames` belongs to one. Sessions share the
    engine's networks and may share an avatar.
    """

    def __init__(
        self, engine: MeshEngine, avatar: Avatar, config: LiveConfig | None = None, clock: Clock | None = None,
        *, owns_avatar: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            owns_avatar: close the avatar with the session.
        """
        self.avatar, self.config, self.report = avatar, config or LiveConfig(), LiveReport()
        self._clock, self._owns_avatar, self._closed = clock or SystemClock(), owns_avatar, False
        self._queue = SpeechQueue(self.config.sample_rate, self.config.queue_seconds)
        shapes = avatar.landmarks.shapes()
        rest = engine.rest(shapes)
        span = engine.motion_range(shapes, rest)
        renderer = avatar.renderer()
        self._person = MeshPerson(
            (), avatar.landmarks, renderer, rest, strength=self.config.strength, occlusion=engine.occlusion,
            looks=avatar.looks,
        )  # fmt: skip
        self._space = engine.motion.space
        self._scale = self._space.gain if span.gain is None else span.gain
        motions = motion_source(engine.motion, span, self.config.lookahead, self._queue)
        self._engine, self._span = engine, span
        self._speaker = Speaker(self._queue, motions, self._space.components, avatar.fps, self.config.lookahead)
        self._mouths = LiveMouths(renderer.mouths())
        self._start: float | None = None
        self._last = -1  # number of the last frame rendered
        self._whole: tuple[Speaking, Iterator[tuple[FramePlan, InnerMouth | None] | None]] | None = None
        self._still: tuple[bytes, np.ndarray] | None = None  # the last picture of a photo, before it is moved
        self._motion = self._photo_motion()

    def _photo_motion(self) -> PhotoMotion | None:
        """What the person does, if this is a photo."""
        found, kind = self.avatar.landmarks.landmarks(0), self.config.photo_motion
        if len(self.avatar) > 1 or found is None or kind == "none":
            return None
        return PhotoMotion(self.avatar.frames[0], found.points, kind)

    def warm_up(self) -> Self:
        """Loads what is loaded at first use, and makes a frame for nobody: the first ones shown are not late."""
        if np.isfinite(self.config.lookahead):
            motion = MotionStream(self._engine.motion, self._span, self.config.lookahead)
            motion.push(np.zeros(2 * SPEECH_RATE, np.float32))
            motion.coefficients(Fraction(1))
        number = next(
            number for number in range(len(self.avatar)) if self.avatar.landmarks.landmarks(number) is not None
        )
        plan = self._plans(number, [np.zeros((1, self._space.components), np.float32)])[0]
        if plan is not None:
            renderer = self.avatar.renderer()
            occlusion = self._engine.occlusion
            someone = MeshPerson((), self.avatar.landmarks, renderer, self._person.rest, occlusion=occlusion)
            mouth = LiveMouths(renderer.mouths()).choose([plan.mouth])
            someone.render(self.avatar.frames[number], self.avatar.frames[number], plan, mouth)
        return self

    @property
    def fps(self) -> Fraction:
        """Frame rate."""
        return self.avatar.fps

    def push(self, pcm: np.ndarray, sample_rate: int, *, block: bool = True, timeout: float | None = None) -> None:
        """Appends sound to the utterance, or begins one.

        Args:
            pcm: (n,) or (n, channels) int16 or float samples, -1 to 1; non-finite ones become 0.
            block: wait for room if `queue_seconds` of sound are waiting, at most `timeout` seconds.

        Raises:
            queue.Full: no room.
            UsageError: the samples are of another type, the piece is longer than the queue, or the session is closed.
        """
        self._queue.push(pcm, sample_rate, self._clock.now(), block=block, timeout=timeout)

    def end(self) -> None:
        """Tells that the utterance is complete: its end need not wait for more sound."""
        self._queue.end()

    def interrupt(self) -> None:
        """Drops all waiting sound and closes the mouth."""
        self._queue.clear()

    def waiting(self) -> float:
        """Seconds of sound that wait to be spoken."""
        return self._queue.waiting()

    def close(self) -> None:
        """Ends `frames` and refuses more sound; a second call does nothing."""
        self._closed = True
        self._queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.release()

    def release(self) -> None:
        """Removes the temporary files of an avatar of its own; the session must be closed and `frames` over."""
        if self._owns_avatar:
            self.avatar.close()

    def frames(self) -> Iterator[LiveFrame]:
        """Yields each frame at its time, without end; frames whose time has passed are dropped."""
        if self._start is None:
            self._start = self._clock.now()
        while not self._closed:
            number = self._due()
            skipped = number - self._last - 1
            said = self._speaker.frame(number, skipped, self._clock.now())
            frame = self._picture(number, said)
            if self._motion is not None:
                frame = self._motion.at(frame, float(number / self.fps))
            self._last = number
            moment = self._start + float(number / self.fps)
            self._clock.sleep_until(moment)
            if self._closed:
                return
            self._count(skipped, self._clock.now() - moment, said)
            yield LiveFrame(frame, said.pcm, float(number / self.fps))

    def _due(self) -> int:
        """The number of the next frame: the next one, or the present one if that is more than a frame late."""
        assert self._start is not None
        present = int((self._clock.now() - self._start) * self.fps + 1e-6)
        return max(self._last + 1, present if present > self._last + 1 else 0)

    def _count(self, skipped: int, delay: float, said: Said) -> None:
        report = self.report
        report.frames, report.dropped, report.heard = report.frames + 1, report.dropped + skipped, said.heard
        report.late += delay > LATE

    def _picture(self, number: int, said: Said) -> np.ndarray:
        """Renders a frame."""
        plan, mouth = self._whole_plan(number, said.speaking) or self._live_plan(number, said)
        if plan is None:
            return self.avatar.frames[bounced(number, len(self.avatar))]
        key = plan.target.tobytes() if len(self.avatar) == 1 else b""
        if key and self._still is not None and self._still[0] == key:
            return self._still[1].copy()
        shown = self.avatar.frames[plan.number]
        picture = shown.copy()
        self._person.render(picture, shown, plan, mouth)
        self._still = (key, picture.copy()) if key else None
        return picture

    def _live_plan(self, number: int, said: Said) -> tuple[FramePlan | None, InnerMouth | None]:
        """The plan of a frame from the motion known so far."""
        guesses = self._speaker.guesses(number, GUESSED) if self._person.renderer.mouths() else []
        plans = self._plans(number, [said.coefficients, *guesses])
        if plans[0] is None:
            return None, None
        return plans[0], self._mouths.choose([one.mouth for one in plans if one is not None])

    def _plans(self, number: int, coefficients: Sequence[np.ndarray]) -> list[FramePlan | None]:
        """The plans of frame `number` and those after it, from (1, K) coefficients each; None without a mouth."""
        sources = [bounced(number + k, len(self.avatar)) for k in range(len(coefficients))]
        landmarks, rest = self.avatar.landmarks, self._person.rest
        displacements = self._space.displacement(np.concatenate(coefficients), self._scale)
        unplanned = [
            Unplanned(source, found, moved, amount)
            if rest is not None and (found := landmarks.landmarks(source)) and (amount := landmarks.amount(source)) > 0
            else None
            for source, moved in zip(sources, displacements, strict=True)
        ]
        known = [one for one in unplanned if one is not None]
        plans = iter(FramePlan.several(known, rest, self._person.strength) if rest is not None else ())
        return [None if one is None else next(plans) for one in unplanned]

    def _whole_plan(
        self, number: int, speaking: Speaking | None
    ) -> tuple[FramePlan | None, InnerMouth | None] | None:  # fmt: skip
        """The plan of a frame of an utterance known to its end, made as for a file; None if there is no such one."""
        if speaking is None or speaking.motion.whole is None:
            return None
        if self._whole is None or self._whole[0] is not speaking:
            motion, samples = speaking.motion.whole
            total = frame_count(samples, self.fps)
            self._person.spoken[:] = [Spoken(0, total, motion)]
            order = (bounced(speaking.first + k, len(self.avatar)) for k in range(total))
            self._whole, self._planned = (speaking, self._person.plans(order, total, self.fps)), 0
        position = number - speaking.first
        plan = next(islice(self._whole[1], position - self._planned, None), None)
        self._planned = position + 1
        return plan or (None, None)
