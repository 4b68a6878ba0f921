"""Command line of the service: `python -m inference.web`."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from inference.web.settings import EngineSettings, Limits, LiveSettings, ServiceSettings, default_data_folder
from preprocessing.commands import Parser, run_command
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.folder_lock import lock_folder

INSTALL = "the web service needs packages that are not installed: pip install -r requirements-web.txt"
EPILOG = """\
examples:
  python -m inference.web                                  # then open http://127.0.0.1:7860
  WAV2LIP_TOKEN=$(openssl rand -hex 24) python -m inference.web --host 0.0.0.0

Every result is marked as AI-generated in its metadata. Run it only for people who have the consent of those shown.
"""


def program() -> str:
    """The command's name: `wav2lip-serve` if installed."""
    return "wav2lip-serve" if Path(sys.argv[0]).stem == "wav2lip-serve" else "inference.web"


def parser() -> Parser:
    """Builds the argument parser."""
    name = program()
    prog = {"prog": name} if name == "wav2lip-serve" else {}
    p = Parser(name, "Serves a web page and a REST API for lip-sync jobs.", EPILOG, **prog)
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s: this machine only)")
    p.add_argument("--port", type=int, default=7860, help="port, 0 for a free one (default: %(default)s)")
    p.add_argument(
        "--token", default=os.environ.get("WAV2LIP_TOKEN"),
        help="secret that clients must send; required with any other --host; other users of this machine can read "
        "flags, so better set WAV2LIP_TOKEN",
    )  # fmt: skip
    p.add_argument("--data", type=Path, metavar="DIR", help="folder of the queue and all files (default: per user)")
    _add_limits(p)
    _add_engine(p)
    _add_live(p)
    return p


def _add_limits(p: Parser) -> None:
    g, defaults = p.add_argument_group("limits"), Limits()
    for flag, name, unit, text in (
        ("--max-upload", "upload_mb", "MB", "megabytes of one request"),
        ("--max-seconds", "seconds", "S", "length of the speech, and of the face video"),
        ("--max-queue", "queue", "N", "jobs that wait"),
        ("--max-disk", "disk_gb", "GB", "gigabytes of all files"),
        ("--keep-hours", "keep_hours", "H", "hours until a finished job is deleted"),
    ):
        default = getattr(defaults, name)
        g.add_argument(
            flag, dest=name, type=type(default) if name == "queue" else float, default=default, metavar=unit,
            help=f"{text} (default: {default})",
        )  # fmt: skip


def _add_engine(p: Parser) -> None:
    g = p.add_argument_group("engine", "for all jobs; no client can change it")
    g.add_argument("--checkpoint-path", type=Path, metavar="FILE", help="generator instead of the default engine")
    g.add_argument(
        "--device", default="auto", metavar="DEVICE",
        help="auto, cpu, cuda, mps, or several with a worker each, as cuda:0,cuda:1 (default: auto)",
    )  # fmt: skip
    g.add_argument("--backend", choices=("auto", "torch", "openvino"), default="auto", help="inference backend")
    g.add_argument("--detector", choices=("auto", "center", "yunet", "sfd", "haar"), default="auto",
                   help="face detector; "
                   "the service downloads nothing: auto takes YuNet if it is cached, else center, our own")  # fmt: skip
    g.add_argument("--yunet", type=Path, metavar="FILE", help="YuNet's model file (.onnx)")
    g.add_argument("--sign-cert", type=Path, metavar="FILE", help="sign all results (C2PA) with this certificate chain")
    g.add_argument("--sign-key", type=Path, metavar="FILE", help="private key of --sign-cert (PEM)")
    g.add_argument("--sign", action="store_true", help="sign for trying, with a self-made chain that nobody trusts")
    g.add_argument("--s3fd", type=Path, metavar="FILE", help="face-alignment's S3FD weights (.pth)")


def _add_live(p: Parser) -> None:
    g, defaults = p.add_argument_group("live sessions"), LiveSettings()
    g.add_argument("--avatars", type=Path, metavar="DIR", help="folder with the people to choose from: .avatar files, "
                   "videos, photos (default: no live sessions)")  # fmt: skip
    g.add_argument("--max-live", type=int, default=defaults.sessions, metavar="N",
                   help="sessions at a time (default: %(default)s)")  # fmt: skip
    g.add_argument("--max-live-seconds", type=float, default=defaults.seconds, metavar="S",
                   help="length of a session (default: %(default)g)")  # fmt: skip
    g.add_argument("--tts-command", default="", metavar="COMMAND", help="program that reads a text and writes a WAV "
                   "file, as 'espeak-ng --stdout'; run without a shell")  # fmt: skip


def _live_settings(flags: dict[str, Any]) -> LiveSettings:
    folder = None if flags["avatars"] is None else flags["avatars"].absolute()
    try:
        tts = tuple(shlex.split(flags["tts_command"]))
    except ValueError as error:
        raise UsageError(f"--tts-command: {error}") from error
    if tts and shutil.which(tts[0]) is None:
        raise UsageError(f"--tts-command: there is no program {tts[0]!r}")
    return LiveSettings(folder, flags["max_live"], flags["max_live_seconds"], tts=tts)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is interrupted; returns the exit code."""
    flags = vars(parser().parse_args(argv))
    return run_command(program(), lambda: serve(settings_of(flags)))


def settings_of(flags: dict[str, Any]) -> ServiceSettings:
    """The settings that the flags ask for, with absolute paths.

    Raises:
        UsageError: they contradict each other, or a file is missing.
    """
    limits = Limits(**{name: flags[name] for name in ("upload_mb", "seconds", "queue", "disk_gb", "keep_hours")})
    engine = EngineSettings(_file(flags, "checkpoint_path"), flags["device"], flags["backend"], _engine_options(flags))
    data = (flags["data"] or default_data_folder()).absolute()
    return ServiceSettings(data, flags["host"], flags["port"], flags["token"], limits, engine, _live_settings(flags))


def _engine_options(flags: dict[str, Any]) -> dict[str, object]:
    """Options of every job. The detector is decided here, so that no job ever downloads one."""
    from preprocessing.faces.detectors.yunet import cached_yunet

    options: dict[str, object] = {
        name: path for name in ("yunet", "s3fd") if (path := _file(flags, name)) is not None
    }  # fmt: skip
    options |= _signing(flags)
    detector = flags["detector"]
    if detector in ("auto", "yunet") and "yunet" not in options:
        if (cached := cached_yunet()) is not None:
            options["yunet"] = cached
        elif detector == "yunet":
            raise UsageError("YuNet's model is not cached, and the service downloads nothing: pass it with --yunet")
    if detector == "sfd" and "s3fd" not in options:
        raise UsageError("--detector sfd needs its weights: pass them with --s3fd")
    return options | {"detector": detector if detector != "auto" else "yunet" if "yunet" in options else "center"}


def _signing(flags: dict[str, Any]) -> dict[str, object]:
    """Options that sign every result, checked now."""
    own = {name: path for name in ("sign_cert", "sign_key") if (path := _file(flags, name)) is not None}
    if not own and not flags["sign"]:
        return {}
    from inference.options import Options
    from inference.provenance.signing import check_credentials

    options = Options(sign=True, sign_cert=own.get("sign_cert"), sign_key=own.get("sign_key"))
    check_credentials(Path("result.mp4"), options.sign_cert, options.sign_key)
    return {"sign": True, **own}


def _file(flags: dict[str, Any], name: str) -> Path | None:
    path: Path | None = flags[name]
    if path is None:
        return None
    if not path.is_file():
        raise UsageError(f"--{name.replace('_', '-')}: there is no file {display_path(path)}")
    return path.absolute()


def serve(settings: ServiceSettings, load: Callable[..., Any] | None = None) -> int:
    """Serves until SIGINT or SIGTERM.

    Args:
        load: makes a worker's renderer, see `inference.web.jobs.worker.WorkerTask`; None: the networks.

    Raises:
        UsageError: the packages of the extra `web` are missing.
        MediaError: the address or the data folder cannot be used.
    """
    try:
        import uvicorn

        from inference.web.api.app import make_app
        from inference.web.jobs.worker import load_engine
    except ModuleNotFoundError as error:
        raise UsageError(f"{INSTALL} (missing: {error.name})") from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with _locked(settings.data):
        app = make_app(settings, load or load_engine)
        tempfile.tempdir = str(settings.data / "tmp")  # large uploads must not fill /tmp, which may be in memory
        config = uvicorn.Config(
            app, settings.host, settings.port, access_log=False, log_level="warning", server_header=False,
            timeout_graceful_shutdown=3, limit_concurrency=200, h11_max_incomplete_event_size=64 * 1024,
            ws_max_size=2**20,
        )  # fmt: skip
        server = uvicorn.Server(config)
        sockets = [_bind(config, settings)]
        print(f"Serving on {_address(settings, sockets[0].getsockname()[1])} (Ctrl-C stops it)", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn passes the signal on that ended it
            server.run(sockets)
    return 0


def _bind(config: Any, settings: ServiceSettings) -> Any:
    """The listening socket."""
    import socket

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(128)  # from now on clients wait instead of being refused
    except OSError as error:
        listener.close()
        raise MediaError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; choose another --port"
        ) from error
    return listener


def _address(settings: ServiceSettings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Keeps a second service out of the data folder."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = lock_folder(data)
    except BlockingIOError as error:
        raise MediaError(f"another service uses {display_path(data)}: stop it, or choose another --data") from error
    except OSError as error:
        raise MediaError(f"the data folder {display_path(data)} cannot be used: {error.strerror}") from error
    with lock:
        yield
