"""Opens live sessions for clients: few at a time, with people from one folder; networks and people are shared."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.live.avatar import Avatar
from inference.live.session import LiveSession
from inference.pipeline import LipSync
from inference.web.settings import LiveSettings

FACES = (".avatar", ".mp4", ".mov", ".mkv", ".webm", ".jpg", ".jpeg", ".png", ".webp")


class NoRoomError(Exception):
    """As many sessions as allowed are open."""


class LiveHost:
    """Loads the networks and each person when they are first needed."""

    def __init__(self, settings: LiveSettings, options: dict[str, object], address: str | None = "127.0.0.1") -> None:
        """
        Args:
            options: how faces are found in videos and photos, see `inference.options.Options`.
            address: the only IP address at which media are received; None: all of this machine's.
        """
        self.settings, self.address, self._options = settings, address, options
        self._tasks: set[asyncio.Task] = set()
        self._lock = threading.Lock()
        self._lipsync: LipSync | None = None
        self._avatars: dict[str, Avatar] = {}
        self._open = 0

    def names(self) -> list[str]:
        """The people to choose from: file names in the folder."""
        folder = self.settings.avatars
        files = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
        return [file.name for file in files if file.suffix.lower() in FACES and file.is_file()]

    @property
    def free(self) -> int:
        """Sessions that may still be opened."""
        return self.settings.sessions - self._open

    @contextmanager
    def session(self, name: str, rate: int) -> Iterator[LiveSession]:
        """A session with the person `name`, one of `names()`; sound comes out at `rate`.

        Raises:
            NoRoomError: too many sessions.
            MediaError, UsageError: the person's file cannot be used.
        """
        with self._lock:
            if self._open >= self.settings.sessions:
                raise NoRoomError
            self._open += 1
        try:
            lipsync, avatar = self._prepared(name)
            with lipsync.live(avatar, lookahead=self.settings.lookahead, sample_rate=rate) as session:
                yield session
        finally:
            with self._lock:
                self._open -= 1

    def _prepared(self, name: str) -> tuple[LipSync, Avatar]:
        assert self.settings.avatars is not None
        with self._lock:
            self._lipsync = self._lipsync or LipSync.load()
            if name not in self._avatars:
                path = Path(self.settings.avatars, name)
                options = {} if path.suffix.lower() == ".avatar" else self._options
                self._avatars[name] = self._lipsync.avatar(path, **options)  # type: ignore[arg-type]
            return self._lipsync, self._avatars[name]

    def keep(self, task: asyncio.Task) -> None:
        """Keeps a session's task from being collected, and ends it with the service."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end_sessions(self) -> None:
        """Ends what is still connected."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Removes the people's temporary files."""
        with self._lock:
            for avatar in self._avatars.values():
                avatar.close()
            self._avatars.clear()
