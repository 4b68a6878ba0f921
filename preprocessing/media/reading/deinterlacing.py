"""Deinterlacing: interlaced frames become progressive ones, at the same rate."""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av

Timed = tuple[av.VideoFrame, Fraction]


def deinterlaced(frames: Iterator[Timed]) -> Iterator[Timed]:
    """Passes (frame, seconds) on; frames from the first one marked as interlaced go through ffmpeg's bwdif filter,

    which leaves those alone that are marked as progressive.
    """
    filter_: _Deinterlacer | None = None
    for frame, time in frames:
        if filter_ is not None and not filter_.accepts(frame):  # the size changes
            yield from filter_.flush()
            filter_ = None
        if filter_ is None and frame.interlaced_frame:
            filter_ = _Deinterlacer(frame)
        if filter_ is None:
            yield frame, time
        else:
            yield from filter_.push(frame, time)
    if filter_ is not None:
        yield from filter_.flush()


class _Deinterlacer:
    """The filter, which sees one frame ahead; times are kept beside it, because it may change time stamps."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._format = self._key(frame)
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
        )
        bwdif = self._graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()
        self._times: deque[Fraction] = deque()
        self._count = 0

    @staticmethod
    def _key(frame: av.VideoFrame) -> tuple[int, int, str]:
        return frame.width, frame.height, frame.format.name

    def accepts(self, frame: av.VideoFrame) -> bool:
        return self._key(frame) == self._format

    def push(self, frame: av.VideoFrame, time: Fraction) -> Iterator[Timed]:
        self._times.append(time)
        frame.pts, frame.time_base = self._count, Fraction(1, 25)
        self._count += 1
        self._graph.push(frame)
        yield from self._pull()

    def flush(self) -> Iterator[Timed]:
        self._graph.push(None)
        yield from self._pull()

    def _pull(self) -> Iterator[Timed]:
        with suppress(av.FFmpegError, EOFError):  # it needs more frames, or is at its end
            while True:
                frame = self._graph.pull()
                yield frame, self._times.popleft()
