"""A session's frames and sound as two tracks for WebRTC, on one clock."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from fractions import Fraction

import av
import numpy as np
from aiortc.mediastreams import MediaStreamTrack

from inference.live.session import LiveFrame
from inference.live.sound import Fifo

VIDEO_RATE = 90000  # ticks per second of RTP's video clock
RATE = 48000  # samples per second of Opus
PACKET = RATE // 50  # samples of one packet
BEHIND = RATE // 4  # samples by which a sound may follow the last one; a longer gap is skipped
OPUS = 312 / RATE  # seconds by which the encoder delays the sound: a packet's first samples are older than it says
# Seconds by which a picture is given after its sound. Receivers keep sound longer than pictures, since it comes in
# packets of 20 ms and goes out in blocks; they align the two some seconds after the start, and Chromium only if it
# takes them to be 30 ms apart.
HELD = 0.03
WAITING = 4  # frames that may be held


class SessionTrack(MediaStreamTrack):
    """A track that knows when, by the session's clock, what it has given was captured."""

    def __init__(self) -> None:
        super().__init__()
        # The loop's time at the session's first frame, by the frame that came with the least delay.
        self._origin = np.inf
        self._given: deque[tuple[float, float]] = deque(maxlen=4)  # seconds of the session, and time.time() when given
        self._there = asyncio.Event()

    def _arrived(self, frame: LiveFrame) -> None:
        self._origin = min(self._origin, asyncio.get_running_loop().time() - frame.timestamp)
        self._there.set()

    async def _wait(self, seconds: float) -> None:
        """Waits until so many seconds of the session are over."""
        await asyncio.sleep(max(0.0, self._origin + seconds - asyncio.get_running_loop().time()))

    def _give(self, seconds: float) -> None:
        self._given.append((seconds, time.time()))

    def captured(self, sent: float) -> float | None:
        """When what was sent last was captured, by `time.time()`; None before the first.

        Args:
            sent: when it was sent; what is being encoded meanwhile was given later.
        """
        given = next((seconds for seconds, moment in reversed(self._given) if moment <= sent), None)
        if given is None:
            return None
        return time.time() - asyncio.get_running_loop().time() + float(self._origin) + given


class PictureTrack(SessionTrack):
    """The frames, each given `HELD` after its time; of those that are late, only the last."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._frames: deque[LiveFrame] = deque(maxlen=WAITING)

    def feed(self, frame: LiveFrame) -> None:
        """Offers a frame; called in the loop's thread."""
        self._frames.append(frame)
        self._arrived(frame)

    async def recv(self) -> av.VideoFrame:
        """The next frame, with even sides."""
        while not self._frames:
            self._there.clear()
            await self._there.wait()
        await self._wait(self._frames[0].timestamp + HELD)
        due = asyncio.get_running_loop().time() - self._origin - HELD
        frame = self._frames.popleft()
        while self._frames and self._frames[0].timestamp <= due:
            frame = self._frames.popleft()
        height, width = (side // 2 * 2 for side in frame.frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.frame[:height, :width]), "bgr24")
        picture.pts, picture.time_base = round(frame.timestamp * VIDEO_RATE), Fraction(1, VIDEO_RATE)
        self._give(frame.timestamp)
        return picture


class SoundTrack(SessionTrack):
    """The sound in packets of 20 ms, each given at its time: RTP tells the time of a packet by when it is sent."""

    kind = "audio"

    def __init__(self, fps: Fraction) -> None:
        super().__init__()
        self._fps, self._sound, self._next = fps, Fifo(), 0

    def feed(self, frame: LiveFrame) -> None:
        """Appends a frame's sound, which ends with the frame; called in the loop's thread."""
        first = round((frame.timestamp + 1 / float(self._fps)) * RATE) - len(frame.pcm)
        gap = first - self._next - len(self._sound)
        if gap > BEHIND:
            self._sound, self._next = Fifo(), first
        elif gap > 0:
            self._sound.push(np.zeros(gap, np.float32))
        self._sound.push(frame.pcm[max(0, -gap) :])
        self._arrived(frame)

    async def recv(self) -> av.AudioFrame:
        """The next packet."""
        while len(self._sound) < PACKET:
            self._there.clear()
            await self._there.wait()
        first, samples = self._next, self._sound.take(PACKET)
        self._next += PACKET
        await self._wait(first / RATE)
        pcm = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
        packet = av.AudioFrame.from_ndarray(pcm[None], "s16", "mono")
        packet.sample_rate, packet.pts, packet.time_base = RATE, first, Fraction(1, RATE)
        self._give(first / RATE - OPUS)
        return packet
