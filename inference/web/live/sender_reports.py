"""RTCP sender reports that tell when a track's pictures and sound were captured (RFC 3550, 6.4.1).

A receiver aligns sound and picture by them. aiortc's reports give the time at which a packet was sent, which for
pictures is later by what encoding takes, and here by how long they are held.
"""

from __future__ import annotations

from typing import Any

from aiortc import RTCRtpSender
from aiortc.rtp import RtcpSrPacket

from inference.web.live.tracks import SessionTrack

UNIX = 2208988800  # seconds from NTP's epoch, 1900, to 1970


def tell_capture_times(sender: RTCRtpSender, track: SessionTrack) -> None:
    """Makes a sender's reports refer to the session's clock; aiortc has no setting for it."""
    send = sender._send_rtcp

    async def send_rtcp(packets: list[Any]) -> None:
        for packet in packets:
            if isinstance(packet, RtcpSrPacket):
                info = packet.sender_info
                captured = track.captured(info.ntp_timestamp / 2**32 - UNIX)
                if captured is not None:
                    info.ntp_timestamp = round((captured + UNIX) * 2**32)
        await send(packets)

    sender._send_rtcp = send_rtcp  # type: ignore[method-assign]
