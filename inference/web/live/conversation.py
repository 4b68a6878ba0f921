"""One client's live session over a WebSocket: sound in, frames with their sound out.

The client sends binary messages, 16-bit little-endian mono samples at the rate in the address, and the JSON messages of
`orders`. It gets one JSON message, {"type": "ready", ...},
then a binary message for each frame: time in seconds (float64), length of the picture in bytes (uint32), a JPEG, and
the frame's 16-bit samples; little-endian. Problems are JSON messages {"type": "problem", "detail": ...}.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from typing import Any

import cv2
import numpy as np
from starlette.websockets import WebSocket

from inference.live.session import LiveFrame, LiveSession
from inference.web.live.host import LiveHost
from inference.web.live.orders import Orders
from preprocessing.errors import Wav2LipError

HEADER = struct.Struct("<dI")
JPEG_QUALITY = 85
MAX_MESSAGE = 2**20  # bytes


def packed(frame: LiveFrame) -> bytes:
    """A frame as a message."""
    picture = cv2.imencode(".jpg", frame.frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    sound = np.clip(np.rint(frame.pcm * 32767), -32768, 32767).astype("<i2").tobytes()
    return HEADER.pack(frame.timestamp, len(picture)) + picture + sound


class Conversation:
    """Serves one client until it leaves, is silent for too long, or its time is up."""

    def __init__(self, socket: WebSocket, host: LiveHost, session: LiveSession, rate: int) -> None:
        self._socket, self._host, self._session, self._rate = socket, host, session, rate
        self._orders = Orders(session, host.settings)
        self._loop = asyncio.get_running_loop()
        self._begin = time.monotonic()

    async def run(self) -> None:
        """Sends frames from a thread and reads messages."""
        width, height = self._session.avatar.size
        ready = {"type": "ready", "width": width, "height": height, "fps": float(self._session.fps), "rate": self._rate}
        await self._socket.send_json(ready)
        thread = threading.Thread(target=self._send_frames, daemon=True)
        thread.start()
        try:
            await self._read()
        finally:
            self._session.close()
            await asyncio.to_thread(thread.join, 5)

    def _send_frames(self) -> None:
        """Waits until the client has taken each frame; meanwhile the session drops what is over."""
        for frame in self._session.frames():
            sending = asyncio.run_coroutine_threadsafe(self._socket.send_bytes(packed(frame)), self._loop)
            try:
                sending.result(timeout=self._host.settings.idle)
            except Exception:  # gone, or stuck
                sending.cancel()
                self._session.close()
                return

    async def _read(self) -> None:
        settings = self._host.settings
        while True:
            left = settings.seconds - (time.monotonic() - self._begin)
            try:
                message = await asyncio.wait_for(self._socket.receive(), max(0.01, min(settings.idle, left)))
            except TimeoutError:
                await self._socket.close(1008, "the session's time is up" if left <= settings.idle else "no message")
                return
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._take(message)
            except Wav2LipError as error:
                await self._tell(str(error))

    async def _take(self, message: Any) -> None:
        sound, text = message.get("bytes"), message.get("text")
        if sound is not None:
            await self._push(sound)
        elif text is not None:
            await self._orders.obey(text)

    async def _push(self, sound: bytes) -> None:
        if len(sound) % 2 or len(sound) > MAX_MESSAGE:
            await self._tell(f"sound must be 16-bit samples, at most {MAX_MESSAGE} bytes in one message")
            return
        await asyncio.to_thread(self._orders.push, np.frombuffer(sound, "<i2").astype(np.int16), self._rate)

    async def _tell(self, problem: str) -> None:
        await self._socket.send_json({"type": "problem", "detail": " ".join(problem.split())})
