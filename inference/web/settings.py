"""Settings of the web service."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.errors import UsageError, display_path

MIN_TOKEN = 16  # characters
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def default_data_folder() -> Path:
    """`wav2lip` in the user's data folder (XDG_DATA_HOME, else ~/.local/share)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "wav2lip"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def media_address(host: str) -> str | None:
    """The only IP address for live media of a service that listens on `host`; None: any of this machine's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1" if host == "localhost" else None
    return None if address.is_unspecified else str(address)


@dataclass(frozen=True)
class EngineSettings:
    """How jobs are rendered: chosen by whoever runs the service, never by a client.

    Attributes:
        checkpoint_path: a generator instead of the default engine.
        device: auto, cpu, mps, cuda, or several of one kind ("cuda:0,cuda:1"); there is one worker for each.
        backend: auto, torch or openvino.
        options: values of fields of `inference.options.Options` that every job gets.
    """

    checkpoint_path: Path | None = None
    device: str = "auto"
    backend: str = "auto"
    options: dict[str, object] = field(default_factory=dict)

    def devices(self) -> list[str]:
        """One entry for each worker process."""
        names = [name.strip() for name in self.device.split(",")]
        wrong = [name for name in names if name.partition(":")[0] not in ("auto", "cpu", "cuda", "mps")]
        if wrong:
            raise UsageError(f"device must be auto, cpu, mps, cuda or a list like cuda:0,cuda:1, not {wrong[0]!r}")
        return names


@dataclass(frozen=True)
class Limits:
    """What clients may use. A request beyond a limit is refused with a message that names it.

    Attributes:
        upload_mb: megabytes of one request.
        seconds: length of the speech, and of the face video.
        queue: jobs that wait.
        disk_gb: gigabytes of all files in the data folder.
        keep_hours: hours after which a finished job and its files are deleted.
    """

    upload_mb: float = 500
    seconds: float = 600
    queue: int = 50
    disk_gb: float = 20
    keep_hours: float = 24

    def __post_init__(self) -> None:
        for name, least in (("upload_mb", 0.001), ("seconds", 0.1), ("queue", 1), ("disk_gb", 0), ("keep_hours", 0)):
            value = getattr(self, name)
            if not least <= value <= 1e7:
                raise UsageError(f"{name} must be at least {least:g}, not {value:g}")

    @property
    def upload_bytes(self) -> int:
        return int(self.upload_mb * 1e6)

    @property
    def disk_bytes(self) -> int:
        return int(self.disk_gb * 1e9)


@dataclass(frozen=True)
class LiveSettings:
    """Live sessions.

    Attributes:
        avatars: folder with the people to choose from (.avatar files, videos, photos); None: no live sessions.
        sessions: sessions at a time; by default one for every two cores, which is what keeps up with the clock.
        seconds: length of a session.
        idle: seconds without a message after which it ends.
        lookahead: seconds, see `inference.live.session.LiveConfig`.
        tts: program and arguments that read a text and write a WAV file.
    """

    avatars: Path | None = None
    sessions: int = field(default_factory=lambda: max(1, (os.cpu_count() or 2) // 2))
    seconds: float = 600
    idle: float = 60
    lookahead: float = 0.2
    tts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.avatars is not None and not self.avatars.is_dir():
            raise UsageError(f"--avatars: there is no folder {display_path(self.avatars)}")
        for name, least in (("sessions", 1), ("seconds", 1), ("idle", 1)):
            if not least <= getattr(self, name) <= 1e6:
                raise UsageError(f"{name} of live sessions must be at least {least}, not {getattr(self, name):g}")
        if self.tts and self.avatars is None:
            raise UsageError("--tts-command speaks in live sessions only: add --avatars")


@dataclass(frozen=True)
class ServiceSettings:
    """All settings of the service.

    Attributes:
        data: folder of the queue and of all files.
        host, port: where to listen; port 0 takes a free one.
        token: what clients must send; required unless `host` is a loopback address.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    limits: Limits = Limits()
    engine: EngineSettings = EngineSettings()
    live: LiveSettings = LiveSettings()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port must be between 0 and 65535, not {self.port}")
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                f"host {self.host} can be reached from other machines: set a --token or WAV2LIP_TOKEN, "
                "or listen on 127.0.0.1"
            )
        if self.token is not None and (len(self.token) < MIN_TOKEN or not self.token.isascii()):
            raise UsageError(f"the token must have at least {MIN_TOKEN} characters, all of them ASCII")
        self.engine.devices()
