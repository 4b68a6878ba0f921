"""The tracks of a WebRTC session: each picture and packet at its time, and reports that tell when it was captured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from inference.live.session import LiveFrame

pytest.importorskip("aiortc", reason="the extra web is not installed: pip install -r requirements-web.txt")

from aiortc.rtp import RtcpByePacket, RtcpSenderInfo, RtcpSrPacket

from inference.web.live.sender_reports import UNIX, tell_capture_times
from inference.web.live.tracks import HELD, OPUS, PACKET, RATE, VIDEO_RATE, PictureTrack, SoundTrack

FPS = 25
START = 1000.0  # the loop's time at the session's first frame


class Loop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = START

    def time(self) -> float:
        return self.moment

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.moment = max(self.moment, self._scheduled[0].when())
        super()._run_once()


def run(job: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(job)


def frame(number: int, level: float = 0.0) -> LiveFrame:
    picture = np.full((5, 6, 3), 10 * number, np.uint8)
    return LiveFrame(picture, np.full(RATE // FPS, level, np.float32), number / FPS)


async def given(track: PictureTrack | SoundTrack, arrivals: dict[int, float], count: int) -> list[tuple[int, float]]:
    """Feeds frames at these times after the start; the numbers in picture or packet ticks, and when each was given."""
    loop = asyncio.get_running_loop()
    for moment in set(arrivals.values()):
        together = [number for number, arrival in arrivals.items() if arrival == moment]
        loop.call_at(START + moment, lambda together=together: [track.feed(frame(number)) for number in together])
    taken = []
    for _ in range(count):
        pts = (await track.recv()).pts
        taken.append((pts, loop.time() - START))
    return taken


def test_pictures_are_given_a_little_after_their_sound_however_they_arrive():
    arrivals = {0: 0.0, 1: 0.05, 2: 0.081, 3: 0.13}
    taken = run(given(PictureTrack(), arrivals, 4))
    assert [pts for pts, _ in taken] == [number * VIDEO_RATE // FPS for number in range(4)]
    np.testing.assert_allclose([moment for _, moment in taken], [number / FPS + HELD for number in range(4)])
    packets = run(given(SoundTrack(Fraction(FPS)), arrivals, 8))
    assert [pts for pts, _ in packets] == [number * PACKET for number in range(8)]
    expected = [0, 0.02, 0.05, 0.06, 0.081, 0.1, 0.13, 0.14]  # at its time, or when it has arrived
    np.testing.assert_allclose([moment for _, moment in packets], expected)


def test_of_late_pictures_only_the_last_is_given():
    taken = run(given(PictureTrack(), {0: 0.0, 1: 0.3, 2: 0.3, 3: 0.3, 8: 0.32}, 3))
    assert [pts * FPS // VIDEO_RATE for pts, _ in taken] == [0, 3, 8]
    np.testing.assert_allclose([moment for _, moment in taken], [HELD, 0.3, 8 / FPS + HELD])


def test_a_picture_has_even_sides():
    async def first() -> Any:
        track = PictureTrack()
        track.feed(frame(3))
        return await track.recv()

    picture = run(first())
    assert (picture.width, picture.height) == (6, 4)


class Sender:
    """Stands in for aiortc's: keeps what it sends."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def _send_rtcp(self, packets: list[Any]) -> None:
        self.sent += packets


def report(moment: float) -> RtcpSrPacket:
    ntp = round((moment + UNIX) * 2**32)
    return RtcpSrPacket(1, RtcpSenderInfo(ntp_timestamp=ntp, rtp_timestamp=7, packet_count=3, octet_count=4))


def test_reports_of_sound_and_pictures_refer_to_one_clock(monkeypatch):
    """What is reported is the time of capture of what was sent last, not of what is being encoded."""

    async def reported() -> list[float]:
        loop, found = asyncio.get_running_loop(), []
        monkeypatch.setattr(time, "time", lambda: 5e8 + loop.time())
        for track, encoding in ((SoundTrack(Fraction(FPS)), 0.002), (PictureTrack(), 0.025)):
            start, sender = loop.time(), Sender()
            tell_capture_times(sender, track)  # type: ignore[arg-type]
            await sender._send_rtcp([report(time.time())])  # nothing was sent yet
            assert sender.sent[0].sender_info.ntp_timestamp == report(time.time()).sender_info.ntp_timestamp
            for number in range(3):
                loop.call_at(start + number / FPS, track.feed, frame(number))
            await track.recv()
            await asyncio.sleep(encoding)
            sent = time.time()
            pts = (await track.recv()).pts
            await sender._send_rtcp([report(sent), RtcpByePacket([1])])
            found += [(sender.sent[1].sender_info.ntp_timestamp / 2**32 - UNIX - 5e8 - start), pts]
            assert isinstance(sender.sent[2], RtcpByePacket)
        return found

    sound, packet, picture, next_picture = run(reported())
    assert (packet, next_picture) == (PACKET, VIDEO_RATE // FPS)
    assert sound == pytest.approx(-OPUS, abs=1e-5)
    assert picture == pytest.approx(0, abs=1e-5)


def test_a_track_knows_nothing_of_what_was_sent_before_it_gave_anything():
    async def asked() -> float | None:
        track = PictureTrack()
        track.feed(frame(0))
        before = time.time()
        await track.recv()
        return track.captured(before - 1)

    assert run(asked()) is None


def test_the_stand_in_for_a_sender_is_like_the_real_one():
    from aiortc import RTCRtpSender

    assert asyncio.iscoroutinefunction(RTCRtpSender._send_rtcp)
