"""Reads and checks the C2PA manifest of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inference.provenance.certificates import INSTALL
from inference.provenance.signing import SETTINGS
from preprocessing.errors import MediaError, UsageError, display_path
from preprocessing.media.video_reader import open_media

TYPES = {
    "mov,mp4,m4a,3gp,3g2,mj2": "video/mp4", "jpeg_pipe": "image/jpeg", "png_pipe": "image/png",
    "webp_pipe": "image/webp", "wav": "audio/wav", "mp3": "audio/mpeg", "avi": "video/avi",
}  # fmt: skip
VALID, TRUSTED, INVALID, NONE = "valid", "trusted", "invalid", "none"


@dataclass(frozen=True)
class Provenance:
    """What the manifest of a file says, and whether it can be believed.

    Attributes:
        state: "trusted": unchanged since it was signed, by someone on the given list of trust; "valid": unchanged, but
            anyone may have signed it; "invalid": changed since, or signed wrongly; "none": there is no manifest.
        problems: codes of the checks that failed, such as assertion.bmffHash.mismatch.
        signer: name of the signer's organization, as its certificate says.
        software: who made the claim, with the version.
        actions: what was done.
        source_types: the kinds of source, such as compositeWithTrainedAlgorithmicMedia.
        inputs: title, relationship and hash of every ingredient.
    """

    state: str
    problems: list[str] = field(default_factory=list)
    signer: str | None = None
    software: str | None = None
    actions: list[str] = field(default_factory=list)
    source_types: list[str] = field(default_factory=list)
    inputs: list[dict[str, str]] = field(default_factory=list)
    models: list[dict[str, str]] = field(default_factory=list)


def read_provenance(path: Path, trust: Path | None = None) -> Provenance:
    """Reads and checks a file's manifest, without any network.

    Args:
        trust: certificates (PEM) of those who are trusted; None: nobody is.

    Raises:
        MediaError: the file cannot be read.
        UsageError: the packages are missing, or `trust` cannot be read.
    """
    try:
        import c2pa
    except ModuleNotFoundError as error:
        raise UsageError(f"{INSTALL} (missing: {error.name})") from error
    kind = _type(path)
    with c2pa.Context.from_dict(SETTINGS | _trust(trust)) as context, open(path, "rb") as file:
        try:
            reader = c2pa.Reader.try_create(kind, file, context=context)
        except c2pa.C2paError as error:
            return Provenance(INVALID, [" ".join(str(error).split())])
        if reader is None:
            return Provenance(NONE)
        with reader:
            state = (reader.get_validation_state() or INVALID).lower()
            problems = list(_failures(reader.get_validation_results() or {}))
            return _told(state, problems, reader.get_active_manifest() or {})


def _type(path: Path) -> str:
    with open_media(path) as container:
        name = container.format.name
    if name not in TYPES:
        raise MediaError(f"{display_path(path)} is of a kind that holds no C2PA manifest: {name}")
    return TYPES[name]


def _trust(anchors: Path | None) -> dict[str, Any]:
    if anchors is None:
        return {}
    try:
        return {"trust": {"user_anchors": anchors.read_text("ascii")}}
    except (OSError, ValueError) as error:
        raise UsageError(f"the certificates {display_path(anchors)} cannot be read") from error


def _failures(results: dict[str, Any]) -> Iterator[str]:
    yield from dict.fromkeys(item["code"] for item in (results.get("activeManifest") or {}).get("failure", []))


def _told(state: str, problems: list[str], manifest: dict[str, Any]) -> Provenance:
    data = {item["label"]: item["data"] for item in manifest.get("assertions", [])}
    actions = [action for label in data if label.startswith("c2pa.actions") for action in data[label]["actions"]]
    agents = manifest.get("claim_generator_info") or [{}]
    kinds = [str(action["digitalSourceType"]).rsplit("/", 1)[-1] for action in actions if "digitalSourceType" in action]
    return Provenance(
        state, problems, (manifest.get("signature_info") or {}).get("issuer"),
        " ".join(filter(None, (agents[0].get("name"), agents[0].get("version")))) or None,
        [str(action["action"]) for action in actions], list(dict.fromkeys(kinds)),
        [
            {name: str(item[name]) for name in ("title", "relationship", "description") if name in item}
            for item in manifest.get("ingredients", [])
        ],
        data.get("org.wav2lip.models", {}).get("models", []),
    )  # fmt: skip
