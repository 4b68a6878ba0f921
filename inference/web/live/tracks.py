"""A session's frames and sound as two tracks for WebRTC, on one clock."""

from __future__ import annotations

import asyncio
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


class PictureTrack(MediaStreamTrack):
    """The latest frame; one that comes before the last was taken replaces it."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._frames: deque[LiveFrame] = deque(maxlen=1)
        self._there = asyncio.Event()

    def feed(self, frame: LiveFrame) -> None:
        """Offers a frame; called in the loop's thread."""
        self._frames.append(frame)
        self._there.set()

    async def recv(self) -> av.VideoFrame:
        """The next frame, with even sides."""
        await self._there.wait()
        self._there.clear()
        frame = self._frames.pop()
        height, width = (side // 2 * 2 for side in frame.frame.shape[:2])
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.frame[:height, :width]), "bgr24")
        picture.pts, picture.time_base = round(frame.timestamp * VIDEO_RATE), Fraction(1, VIDEO_RATE)
        return picture


class SoundTrack(MediaStreamTrack):
    """The sound in packets of 20 ms, each given at its time: RTP tells the time of a packet by when it is sent."""

    kind = "audio"

    def __init__(self, fps: Fraction) -> None:
        super().__init__()
        self._fps, self._sound, self._next = fps, Fifo(), 0
        # The loop's time at the session's first frame, by the frame that came with the least delay.
        self._origin = np.inf
        self._there = asyncio.Event()

    def feed(self, frame: LiveFrame) -> None:
        """Appends a frame's sound, which ends with the frame; called in the loop's thread."""
        self._origin = min(self._origin, asyncio.get_running_loop().time() - frame.timestamp)
        first = round((frame.timestamp + 1 / float(self._fps)) * RATE) - len(frame.pcm)
        gap = first - self._next - len(self._sound)
        if gap > BEHIND:
            self._sound, self._next = Fifo(), first
        elif gap > 0:
            self._sound.push(np.zeros(gap, np.float32))
        self._sound.push(frame.pcm[max(0, -gap) :])
        self._there.set()

    async def recv(self) -> av.AudioFrame:
        """The next packet."""
        while len(self._sound) < PACKET:
            self._there.clear()
            await self._there.wait()
        first, samples = self._next, self._sound.take(PACKET)
        self._next += PACKET
        await asyncio.sleep(max(0.0, self._origin + first / RATE - asyncio.get_running_loop().time()))
        pcm = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
        packet = av.AudioFrame.from_ndarray(pcm[None], "s16", "mono")
        packet.sample_rate, packet.pts, packet.time_base = RATE, first, Fraction(1, RATE)
        return packet
