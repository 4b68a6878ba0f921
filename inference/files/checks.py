"""Checks the files of a job before anything slow starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from inference.files.preview import sheet_path
from inference.options import Options
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.faces.detectors import load_detector
from preprocessing.faces.face_track import FaceTrack
from preprocessing.media.audio import stream_audio
from preprocessing.media.output_formats import OUTPUTS
from preprocessing.media.video_reader import open_media
from preprocessing.unfinished import final_path

INPUT_OPTIONS = ("load_track", "yunet", "s3fd", "sign_cert", "sign_key")


def check_files(
    face: Path, sounds: Sequence[Path], outfile: Path, options: Options, checkpoint: Path | None = None
) -> None:  # fmt: skip
    """Checks every file that a job reads or writes, except for its content; `sounds` are the files with speech.

    Raises:
        MediaError: an input is missing or not a media file, or an output cannot be written.
        UsageError: an output is also an input or another output, or its container is unsupported.
    """
    for path in (face, *sounds):
        with open_media(path):
            pass
    outputs = [outfile]
    if options.save_track:
        outputs.append(Path(options.save_track))
    if options.preview:
        outputs.append(sheet_path(outfile))
    inputs = [face, *sounds, checkpoint, *(getattr(options, name) for name in INPUT_OPTIONS)]
    for output in outputs:
        check_output(output)
        for given in inputs:
            if given is not None and _same(output, Path(given)):
                raise UsageError(f"the output {display_path(output)} is also an input: choose another name")
    if len({output.resolve() for output in outputs}) < len(outputs):
        raise UsageError(f"two outputs have the name {display_path(outputs[1])}: choose different names")
    if outfile.suffix.lower() not in OUTPUTS:
        raise UsageError(f"the output must end in {', '.join(OUTPUTS)}, not {display_path(outfile.name)}")
    for path in sounds:
        next(stream_audio(path, track=options.audio_track))
    _check_models(options)
    if options.sign or options.sign_cert:
        from inference.provenance.signing import check_credentials

        check_credentials(outfile, options.sign_cert, options.sign_key)


def _check_models(options: Options) -> None:
    """Checks that the files of the detector and of a saved track can be used, in milliseconds."""
    if options.load_track is not None:
        FaceTrack.load(options.load_track)
    elif options.box is None and options.detector in ("auto", "yunet") and options.yunet is not None:
        _check_yunet(options.yunet, options.yunet.stat().st_mtime_ns if options.yunet.is_file() else 0)
    if options.box is None and options.detector == "sfd" and options.s3fd is not None and not options.s3fd.is_file():
        raise UsageError(f"no S3FD weights at {display_path(options.s3fd)}")


@lru_cache(maxsize=8)
def _check_yunet(path: Path, _changed: int) -> None:
    """Loads the detector; a file is checked again only if it has changed."""
    load_detector("yunet", yunet=path)


def check_output(path: Path) -> None:
    """Checks that a file can be written, without writing it.

    Raises:
        MediaError: it cannot.
    """
    folder = final_path(path).parent
    if path.is_dir():
        raise MediaError(f"{display_path(path)} is a folder: the output must be a file")
    if path.exists() and not path.is_file():
        raise MediaError(f"{display_path(path)} is not a regular file and cannot be overwritten")
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise MediaError(f"{display_path(path)} cannot be written: {display_path(folder)} {problem}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"{display_path(path)} cannot be written: no write permission for its folder")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
