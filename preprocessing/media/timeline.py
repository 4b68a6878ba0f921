"""Time stamps that run on from a file's start to its end, where its clock starts anew and where it has none.

Joined captures (`cat one.ts two.ts`), the titles of a DVD and chained streams each start their clock again. Like the
ffmpeg program, we shift what follows a joint so that it runs on; picture and sound are shifted together.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

import av

from preprocessing.media.containers import clock_start, decode_packets

RESTARTING = {"mpegts", "mpeg", "ogg"}  # formats whose clock may start anew
# Elementary streams: their demuxers invent time stamps, wrongly where frames are reordered.
CLOCKLESS = {
    "mpegvideo", "h261", "h263", "h264", "hevc", "vvc", "m4v", "mjpeg", "jpeg_pipe", "obu", "dnxhd", "dirac", "vc1"
}  # fmt: skip
BACKWARD = Fraction(1, 10)  # seconds; packets of one stream are stored in order
FORWARD = 10  # seconds; the ffmpeg program's threshold


@dataclass
class _Segment:
    """A stretch with one clock: what is added to its time stamps, and the latest of them, in seconds."""

    offset: Fraction
    latest: Fraction


class RunningClock:
    """Shifts packets so that the time stamps of all streams run on across joints."""

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._current: dict[int, int] = {}  # by stream: the segment it has reached
        self._next: dict[int, Fraction] = {}  # by stream: where its next packet is expected, unshifted seconds

    @property
    def joints(self) -> int:
        """How often the clock started anew."""
        return max(0, len(self._segments) - 1)

    def shift(self, packet: av.Packet) -> None:
        """Shifts one packet; all packets of all streams must be passed in the order in which they are stored."""
        if packet.dts is None and packet.pts is None:
            return
        stream, base = packet.stream.index, packet.time_base
        shown = (packet.dts if packet.pts is None else packet.pts) * base
        stored = shown if packet.dts is None else packet.dts * base
        if abs(shown - stored) > FORWARD:  # across a joint, the demuxer guesses this one
            stored = shown
        segment = self._segment(stream, stored, shown)
        length = (packet.duration or 0) * base
        self._next[stream] = stored + length
        segment.latest = max(segment.latest, shown + length)
        ticks = round(segment.offset / base)
        if ticks:
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks

    def _segment(self, stream: int, stored: Fraction, shown: Fraction) -> _Segment:
        """A stream moves on at its own joint: its last packets may follow the first ones of another stream."""
        if not self._segments:
            self._segments.append(_Segment(Fraction(0), shown))
        number = self._current.get(stream)
        if number is None:
            number = len(self._segments) - 1
        elif self._jumps(stream, stored, self._segments[number]):
            number += 1
            if number == len(self._segments):
                before = self._segments[-1]
                self._segments.append(_Segment(before.offset + before.latest - shown, shown))
        self._current[stream] = number
        return self._segments[number]

    def _jumps(self, stream: int, stored: Fraction, segment: _Segment) -> bool:
        """Whether the clock starts anew; a forward jump of one stream alone is a gap in it."""
        return stored < self._next[stream] - BACKWARD or stored > segment.latest + FORWARD


def timed_packets(
    container: av.container.InputContainer, stream: av.stream.Stream, clock: RunningClock | None = None
) -> Iterator[av.Packet]:
    """The stream's packets, with time stamps that run on; a last, empty one flushes the decoder."""
    if container.format.name not in RESTARTING:
        yield from container.demux(stream)
        return
    clock = clock or RunningClock()
    for packet in container.demux([other for other in container.streams if other.type in ("video", "audio")]):
        if packet.size:
            clock.shift(packet)
        if packet.stream.index == stream.index:
            yield packet


def decode(container: av.container.InputContainer, stream: av.VideoStream | av.AudioStream) -> Iterator:
    """Yields every decodable frame, with time stamps that run on; damaged packets are skipped."""
    return decode_packets(timed_packets(container, stream), stream)


def has_clock(container: av.container.InputContainer) -> bool:
    """Whether the time stamps are the file's own."""
    return container.format.name not in CLOCKLESS


@dataclass(frozen=True)
class Scan:
    """What the packets of a stream say.

    Attributes:
        count: number of packets.
        times: when they are shown, in seconds on the file's clock; empty if the file has no clock.
        joints: how often the clock starts anew.
    """

    count: int
    times: array[float]
    joints: int

    @classmethod
    def of(cls, container: av.container.InputContainer, stream: av.stream.Stream) -> Self:
        """Reads all packets, without decoding them."""
        origin, clock, count, times = clock_start(container), RunningClock(), 0, array("d")
        with suppress(av.FFmpegError):  # a damaged container ends here
            for packet in timed_packets(container, stream, clock):
                count += packet.size > 0
                if packet.size and packet.pts is not None and has_clock(container):
                    times.append(float(packet.pts * packet.time_base - origin))
        return cls(count, times, clock.joints)
