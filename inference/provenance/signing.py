"""Signs a finished video with a C2PA manifest: what was done to which inputs, by which software."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wav2lip
from inference.provenance.certificates import INSTALL, Credentials, load_credentials, self_made_credentials
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.video_reader import open_media

FORMATS = {".mp4": "video/mp4", ".mov": "video/quicktime"}
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
INPUT_TYPES = {
    "mov,mp4,m4a,3gp,3g2,mj2": "video/mp4", "wav": "audio/wav", "mp3": "audio/mpeg", "avi": "video/avi",
    "jpeg_pipe": "image/jpeg", "png_pipe": "image/png", "webp_pipe": "image/webp",
}  # fmt: skip
# Nothing is fetched: neither a manifest elsewhere nor the state of a certificate. No thumbnail of a face is stored.
SETTINGS: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True)
class Signer:
    """Signs the output of one job.

    Attributes:
        face, sounds: the inputs.
        models: the weight files that made the mouth.
        title: name of the output.
    """

    credentials: Credentials
    face: Path
    sounds: Sequence[Path]
    models: Sequence[Path]
    title: str

    def __call__(self, source: Path, target: Path) -> None:
        """Writes `source` with a signed manifest to `target`.

        Raises:
            MediaError: it cannot be signed with this certificate.
        """
        import c2pa

        kind = FORMATS[target.suffix.lower()]
        with (
            c2pa.Context.from_dict(SETTINGS) as context,
            c2pa.Builder.from_json(json.dumps(self._manifest()), context) as builder,
            c2pa.Signer.from_info(self._signer_info()) as signer,
            open(source, "rb") as before,
            open(target, "w+b") as after,
        ):
            try:
                for ingredient, path in self._ingredients():
                    _add_ingredient(builder, ingredient, path)
                builder.sign(signer, kind, before, after)
            except c2pa.C2paError as error:
                raise MediaError(f"{display_path(self.title)} cannot be signed: {error}") from error

    def _signer_info(self) -> Any:
        import c2pa

        own = self.credentials
        return c2pa.C2paSignerInfo(own.algorithm.encode(), own.chain, own.key, None)

    def _manifest(self) -> dict[str, Any]:
        agent = {"name": "Wav2Lip", "version": wav2lip.__version__}
        photo = _is_photo(self.face)
        first: dict[str, Any] = {"action": "c2pa.created" if photo else "c2pa.opened"}
        if photo:
            first["digitalSourceType"] = SOURCE_TYPE
        else:
            first["parameters"] = {"ingredientIds": ["face"]}
        edited = {
            "action": "c2pa.edited", "digitalSourceType": SOURCE_TYPE, "softwareAgent": agent,
            "description": "The lip movements were synthesized by software to match other speech.",
        }  # fmt: skip
        sounds = [label for label, _ in self._labelled_sounds()]
        placed = {"action": "c2pa.placed", "parameters": {"ingredientIds": [*sounds, *(["face"] if photo else [])]}}
        return {
            "claim_generator_info": [agent], "title": self.title,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [first, edited, placed]}, "created": True},
                {"label": "org.wav2lip.models", "data": {"models": [_named_hash(path) for path in self.models]}},
            ],
        }  # fmt: skip

    def _ingredients(self) -> list[tuple[dict[str, Any], Path]]:
        """The inputs by their hashes; their file names are nobody's business."""
        face = "componentOf" if _is_photo(self.face) else "parentOf"
        return [
            ({"title": name, "label": label, "relationship": relation, "description": f"SHA-256 {sha256(path)}"}, path)
            for name, label, relation, path in (
                ("face", "face", face, self.face),
                *(("speech", label, "componentOf", path) for label, path in self._labelled_sounds()),
            )
        ]  # fmt: skip

    def _labelled_sounds(self) -> list[tuple[str, Path]]:
        """Each file with speech once, labelled audio, audio2, …"""
        paths = dict.fromkeys(self.sounds)
        return [("audio" if number == 1 else f"audio{number}", path) for number, path in enumerate(paths, 1)]


def make_signer(
    outfile: Path,
    face: Path,
    sounds: Sequence[Path],
    models: Sequence[Path],
    certificate: Path | None,
    key: Path | None,
) -> Signer:
    """The signer of a job, with the user's certificate and key or, without them, the self-made chain.

    Raises:
        UsageError: see `check_credentials`.
    """
    return Signer(check_credentials(outfile, certificate, key), face, sounds, models, outfile.name)


def check_credentials(outfile: Path, certificate: Path | None, key: Path | None) -> Credentials:
    """What the job will be signed with.

    Raises:
        UsageError: the output cannot be signed, the packages are missing, or a file is unusable.
    """
    if outfile.suffix.lower() not in FORMATS:
        raise UsageError(f"only {' and '.join(FORMATS)} can be signed, not {display_path(outfile.name)}")
    try:
        import c2pa  # noqa: F401
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"{INSTALL} (missing: {error.name})") from error
    return load_credentials(certificate, key) if certificate and key else self_made_credentials()


def sha256(path: Path) -> str:
    """Hash of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _named_hash(path: Path) -> dict[str, str]:
    return {"name": path.name, "sha256": sha256(path)}


def _is_photo(path: Path) -> bool:
    with open_media(path) as container:
        return container.format.name.endswith("_pipe")


def _add_ingredient(builder: Any, ingredient: dict[str, Any], path: Path) -> None:
    """Adds an input. A manifest that it carries itself is kept, so that its own history stays readable."""
    with open_media(path) as container:
        kind = INPUT_TYPES.get(container.format.name, "application/octet-stream")
    with open(path, "rb") as file:
        builder.add_ingredient(ingredient | {"format": kind}, kind, file)
