"""One client's live session over WebRTC: its microphone in, frames and sound on one clock out.

The client offers an audio track both ways, a video track to receive, and a data channel for the JSON messages of
`orders`; problems come back over it as {"type": "problem", "detail": ...}. Candidates are of our own addresses only:
no STUN or TURN server is ever asked, and no name is resolved.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import threading
import time
from typing import Any

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from inference.live.session import LiveSession
from inference.web.live.orders import Orders
from inference.web.live.sender_reports import tell_capture_times
from inference.web.live.tracks import PictureTrack, SoundTrack
from inference.web.settings import LiveSettings
from preprocessing.errors import UsageError, Wav2LipError

CONNECT = 20.0  # seconds until a client must be connected
GONE = 5.0  # seconds without any packet of the microphone's track after which a client is gone
SILENT = 32  # of 32768: sound below this is silence
PAUSE = 0.5  # seconds of silence that end an utterance
MAX_ORDERS = 32  # messages that may wait
_CANDIDATE = re.compile(r"^(a=candidate:\S+ \d+ \S+ \d+) (\S+) (\d+ typ host\b.*)$")


def without_names(sdp: str, client: str) -> str:
    """An offer whose candidates are addresses: browsers hide theirs behind .local names, which only a network knows.

    Args:
        client: the client's address as this service sees it, which replaces such names.
    """
    lines = [_with_address(line, client) for line in sdp.splitlines()]
    if not any(line.startswith("a=candidate:") for line in lines):  # without a network; its checks tell its address
        lines.append(f"a=candidate:1 1 udp 1 {client} 9 typ host")
    return "\r\n".join(lines) + "\r\n"


def _with_address(line: str, client: str) -> str:
    found = _CANDIDATE.match(line)
    if found is None:
        return line
    try:
        ipaddress.ip_address(found[2])
    except ValueError:
        return f"{found[1]} {client} {found[3]}"
    return line


class Peer:
    """Serves one client until it leaves, is silent for too long, or its time is up."""

    def __init__(self, session: LiveSession, settings: LiveSettings, address: str | None) -> None:
        """
        Args:
            address: the only address to be reached at; None: all of this machine's.
        """
        self._session, self._settings, self._address = session, settings, address
        self._orders = Orders(session, settings)
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._picture, self._sound = PictureTrack(), SoundTrack(session.fps)
        self._microphone: MediaStreamTrack | None = None
        self._channel: Any = None
        self._messages: asyncio.Queue[str] = asyncio.Queue(MAX_ORDERS)
        self._connected, self._left = asyncio.Event(), asyncio.Event()
        self._begin = self._active = time.monotonic()
        self._quiet = PAUSE  # seconds of silence so far

    async def answer(self, sdp: str, client: str) -> str:
        """Our answer to a client's offer.

        Raises:
            UsageError: it is not an offer, or lacks a track or a channel.
        """
        connection = self._connection
        connection.on("track", self._take_track)
        connection.on("datachannel", self._take_channel)
        connection.on("connectionstatechange", self._note_state)
        try:
            await connection.setRemoteDescription(RTCSessionDescription(without_names(sdp, client), "offer"))
            for track in (self._sound, self._picture):
                tell_capture_times(connection.addTrack(track), track)
            self._keep_to_address()
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # of a parser of a stranger's text
            raise UsageError("the WebRTC offer cannot be used") from error
        kinds = sorted(one.kind for one in connection.getTransceivers())
        if self._microphone is None or kinds != ["audio", "video"]:
            raise UsageError("the WebRTC offer must have one audio track, sent and received, and one video track")
        return str(connection.localDescription.sdp)

    async def close(self) -> None:
        """Ends the connection and the session."""
        self._session.close()
        await self._connection.close()

    def _keep_to_address(self) -> None:
        """Candidates of our own address only; aioice has no setting for it, and leaves the loopback address out."""
        if self._address is None:
            return
        transports = [one.sender.transport for one in self._connection.getTransceivers()]
        if self._connection.sctp is not None:
            transports.append(self._connection.sctp.transport)
        for ice in {id(one): one.transport.iceGatherer._connection for one in transports}.values():
            gather = ice.get_component_candidates
            ice.get_component_candidates = lambda component, addresses, gather=gather, **more: gather(  # type: ignore[method-assign]
                component=component, addresses=[self._address], **more
            )

    def _take_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._microphone = track

    def _take_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", self._take_message)

    def _take_message(self, message: object) -> None:
        if isinstance(message, str) and not self._messages.full():
            self._active = time.monotonic()
            self._messages.put_nowait(message)

    def _note_state(self) -> None:
        state = self._connection.connectionState
        if state == "connected":
            self._connected.set()
        elif state in ("closed", "failed"):
            self._left.set()

    async def run(self) -> None:
        """Serves until the end."""
        thread = threading.Thread(target=self._show, args=(asyncio.get_running_loop(),), daemon=True)
        tasks: list[asyncio.Task] = []
        try:
            await asyncio.wait_for(self._connected.wait(), CONNECT)
            thread.start()
            jobs = (self._listen(), self._follow(), self._watch(), self._left.wait())
            tasks = [asyncio.create_task(job) for job in jobs]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()
            if thread.is_alive():
                await asyncio.to_thread(thread.join, 5)

    def _show(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hands frames over to the tracks, in a thread of its own."""
        for frame in self._session.frames():
            try:
                loop.call_soon_threadsafe(self._picture.feed, frame)
                loop.call_soon_threadsafe(self._sound.feed, frame)
            except RuntimeError:  # the service stops
                return

    async def _listen(self) -> None:
        """Pushes what the microphone hears; a pause ends an utterance."""
        assert self._microphone is not None
        while True:
            try:
                heard = await asyncio.wait_for(self._microphone.recv(), GONE)
            except (TimeoutError, MediaStreamError):
                return
            assert isinstance(heard, av.AudioFrame)
            samples = heard.to_ndarray().reshape(-1, len(heard.layout.channels))
            seconds = len(samples) / heard.sample_rate
            silent = int(np.abs(samples.astype(np.int32)).max(initial=0)) < SILENT
            before, self._quiet = self._quiet, self._quiet + seconds if silent else 0.0
            if not silent:
                self._active = time.monotonic()
            if self._quiet < PAUSE:
                await asyncio.to_thread(self._orders.push, samples, heard.sample_rate)
            elif before < PAUSE:
                self._session.end()

    async def _follow(self) -> None:
        """Obeys the client's messages."""
        while True:
            message = await self._messages.get()
            try:
                await self._orders.obey(message)
            except Wav2LipError as error:
                self._tell("problem", str(error))

    async def _watch(self) -> None:
        """Returns when the session's time is up, or nothing was said for long."""
        settings = self._settings
        while True:
            now = time.monotonic()
            if now - self._begin > settings.seconds:
                return self._tell("closed", "the session's time is up")
            if now - self._active > settings.idle:
                return self._tell("closed", "nothing was said")
            await asyncio.sleep(0.25)

    def _tell(self, kind: str, detail: str) -> None:
        if self._channel is not None and self._channel.readyState == "open":
            self._channel.send(json.dumps({"type": kind, "detail": " ".join(detail.split())}))
