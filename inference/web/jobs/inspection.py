"""Looks into uploaded files in a process of its own, with limits on its memory and time: a hostile file can bring down
that process at most, never the service.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.web.jobs.files import AUDIO, FACE, PEOPLE_FILE
from preprocessing.errors import MediaError, UsageError, Wav2LipError

if TYPE_CHECKING:
    from inference.files.face_source import FaceSource

MEMORY_BYTES = 6 * 2**30  # of address space
CPU_SECONDS, WALL_SECONDS = 300, 400
_TOO_MUCH = "the file cannot be opened within the service's limits of memory and time: it is damaged or too large"
TYPES = {
    "mov,mp4,m4a,3gp,3g2,mj2": "video/mp4", "matroska,webm": "video/webm", "jpeg_pipe": "image/jpeg",
    "png_pipe": "image/png", "webp_pipe": "image/webp", "ogg": "video/ogg",
}  # fmt: skip


async def inspect(folder: Path, task: str, **arguments: Any) -> dict[str, Any]:
    """Runs a task ("job" or "faces") on the files in `folder`; returns its result.

    Raises:
        MediaError, UsageError: the task's own, with its one-line message, or the limits were reached.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL, cwd=folder, env=_environment(),
    )  # fmt: skip
    try:
        request = json.dumps({"task": task} | arguments).encode()
        output, _ = await asyncio.wait_for(process.communicate(request), WALL_SECONDS)
    except TimeoutError as error:
        raise MediaError(_TOO_MUCH) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _answer(output)


def _answer(output: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(output)
    except ValueError as error:  # it was killed, or crashed in native code
        raise MediaError(_TOO_MUCH) from error
    if "usage" in answer:
        raise UsageError(answer["usage"])
    if "media" in answer:
        raise MediaError(answer["media"])
    return dict(answer)


def _environment() -> dict[str, str]:
    """This process's environment, in which modules are found from any folder."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}


def look_at_job(options: dict[str, Any], max_seconds: float) -> dict[str, Any]:
    """Checks the files `face` and `audio` in the working directory, and their lengths.

    Returns:
        What `look_at_face` returns, and whether the file of `look_at_people` beside it holds for these options.

    Raises:
        MediaError: a file cannot be read, or is too long.
        UsageError: an option contradicts the files.
    """
    from inference.files.checks import check_files
    from inference.options import Options
    from inference.people_file import found_with

    parsed = Options.of(options)
    check_files(Path(FACE), [Path(AUDIO)], Path("result.mp4"), parsed)
    length = audio_seconds(Path(AUDIO), max_seconds)
    if length > max_seconds:
        raise MediaError(f"the audio is longer than this service takes: {max_seconds:g} s")
    return {**look_at_face(options, max_seconds), "people_known": found_with(Path(PEOPLE_FILE), parsed)}


def look_at_face(options: dict[str, Any], max_seconds: float) -> dict[str, Any]:
    """Width, height (after framing), seconds, type, and whether it is a photo, of the file `face`.

    Raises:
        MediaError: the file cannot be read, or is too long.
        UsageError: an option contradicts it.
    """
    return _facts(_open_face(options, max_seconds))


def look_at_people(options: dict[str, Any], max_seconds: float) -> dict[str, Any]:
    """The facts of `look_at_face` under "original", and the people; see `faces.list_people`.

    Writes the file `PEOPLE_FILE` for a job, if the whole video was searched.

    Raises:
        MediaError: the file cannot be read, is too long, or shows no face.
    """
    from inference.casting import Census
    from inference.options import Options
    from inference.people_file import save_people
    from inference.web.jobs.faces import SECONDS, list_people

    parsed = Options.of(options)
    whole = _open_face(options, max_seconds)
    end = min(parsed.start + SECONDS, parsed.end or math.inf)
    source = _open_face(options | {"end": end}, max_seconds)
    census = Census(source, parsed)
    people = list_people(census)
    if source.still or source.count == whole.count:
        save_people(Path(PEOPLE_FILE), census)
    return {"original": _facts(source), "people": people}


def _open_face(options: dict[str, Any], max_seconds: float) -> FaceSource:
    from inference.files.face_source import FaceSource, Framing
    from inference.options import Options
    from preprocessing.media.color_conversion import parse_color

    parsed = Options.of(options)
    framing = Framing(parsed.resize_factor, parsed.rotate, parsed.crop)
    background = parse_color(parsed.background)
    source = FaceSource(
        Path(FACE), framing, fps=parsed.fps, static=parsed.static, start=parsed.start, end=parsed.end,
        background=background,
    )  # fmt: skip
    if source.info.duration > max_seconds:
        length = f"{source.info.duration:.0f} s long"
        raise MediaError(f"the face video is {length}: this service takes at most {max_seconds:g} s")
    return source


def _facts(source: FaceSource) -> dict[str, Any]:
    seconds = None if source.info.is_image else round(source.info.duration, 3)
    return {
        "width": source.size[0], "height": source.size[1], "photo": source.info.is_image, "seconds": seconds,
        "type": _type(source.path),
    }  # fmt: skip


def audio_seconds(path: Path, enough: float) -> float:
    """Length of the main audio stream by its packets, not by its header; counting stops beyond `enough` seconds.

    Raises:
        MediaError: there is no audio.
    """
    from preprocessing.media.video_reader import open_media

    with open_media(path) as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise MediaError(f"{path} has no audio: send a recording, or a video with sound")
        total = first = last = 0.0
        for number, packet in enumerate(container.demux(stream)):
            total += float((packet.duration or 0) * packet.time_base)
            if packet.pts is not None:
                time = float(packet.pts * packet.time_base)
                first, last = (time if number == 0 else first), max(last, time)
            if max(total, last - first) > enough:
                break
    return max(total, last - first)


def _type(path: Path) -> str:
    """MIME type for a browser, of the few that it may show; anything else is a download."""
    from preprocessing.media.video_reader import open_media

    with open_media(path) as container:
        return TYPES.get(container.format.name, "application/octet-stream")


def _limit() -> None:
    """Limits memory and CPU time of this process, where the system can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def main() -> int:
    """Reads a request from standard input and prints the answer as JSON."""
    _limit()
    request = json.load(sys.stdin)
    task = {"job": look_at_job, "faces": look_at_people}[request.pop("task")]
    try:
        answer = task(**request)
    except UsageError as error:
        answer = {"usage": str(error)}
    except (Wav2LipError, OSError) as error:
        answer = {"media": str(error)}
    except MemoryError:
        answer = {"media": _TOO_MUCH}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
