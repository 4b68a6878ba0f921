"""What a client of a live session may ask for, whatever the way it is connected."""

from __future__ import annotations

import asyncio
import json
import queue
from typing import Any

import numpy as np

from inference.live.session import LiveSession
from inference.web.live.tts import MAX_CHARACTERS, speak
from inference.web.settings import LiveSettings
from preprocessing.errors import UsageError

TTS_RATE = 16000
MAX_ORDER = 8000  # characters of one message


class Orders:
    """JSON messages: {"type": "end"}, {"type": "interrupt"}, {"type": "say", "text": ...}."""

    def __init__(self, session: LiveSession, settings: LiveSettings) -> None:
        self._session, self._settings = session, settings

    async def obey(self, text: str) -> None:
        """Does what a message says.

        Raises:
            UsageError: it is not one of the known messages.
            MediaError: the program that speaks has failed.
        """
        order = _parsed(text)
        kind = order.get("type")
        if kind == "end":
            self._session.end()
        elif kind == "interrupt":
            self._session.interrupt()
        elif kind == "say" and self._settings.tts:
            await self._say(order.get("text"))
        else:
            raise UsageError("unknown message")

    async def _say(self, text: object) -> None:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_CHARACTERS:
            raise UsageError(f"a text must have 1 to {MAX_CHARACTERS} characters")
        samples = await asyncio.to_thread(speak, self._settings.tts, text)
        self._session.end()
        for first in range(0, len(samples), TTS_RATE):
            await asyncio.to_thread(self.push, samples[first : first + TTS_RATE], TTS_RATE)
        self._session.end()

    def push(self, samples: np.ndarray, rate: int) -> None:
        """Pushes sound; while there is no room it waits, and after a long time what waits is dropped."""
        try:
            self._session.push(samples, rate, timeout=self._settings.idle)
        except queue.Full:
            self._session.interrupt()


def _parsed(text: str) -> dict[str, Any]:
    try:
        order = json.loads(text) if len(text) < MAX_ORDER else {}
    except (ValueError, RecursionError):
        return {}
    return order if isinstance(order, dict) else {}
