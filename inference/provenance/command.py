"""Command line: shows and checks the provenance of a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from inference.provenance.certificates import write_credentials
from inference.provenance.reading import INVALID, NONE, TRUSTED, VALID, Provenance, read_provenance
from preprocessing.commands import Parser, run_command
from preprocessing.errors import UsageError, display_path

PROGRAM = "inference.provenance"
EPILOG = """\
exit codes: 0 unchanged since it was signed; 1 changed, without a manifest, or unreadable; 2 usage error
"""
_STATES = {
    TRUSTED: "trusted: unchanged since it was signed, by someone you trust",
    VALID: "valid, but untrusted: unchanged since it was signed, but anyone may have signed it",
    INVALID: "INVALID: changed since it was signed, or signed wrongly",
    NONE: "no C2PA manifest",
}


def parser() -> Parser:
    """Builds the argument parser."""
    p = Parser(PROGRAM, "Shows and checks the C2PA manifest of a video.", EPILOG)
    p.add_argument("file", type=Path, nargs="?", metavar="FILE", help="video to check")
    p.add_argument("--trust", type=Path, metavar="PEM", help="certificates of those whom you trust (default: nobody)")
    p.add_argument("--json", action="store_true", help="machine-readable")
    p.add_argument(
        "--make-chain", type=Path, metavar="DIR",
        help="write a self-made, untrusted certificate chain and key for trying: chain.pem and key.pem",
    )  # fmt: skip
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    flags = parser().parse_args(argv)
    return run_command(PROGRAM, lambda: _run(flags.file, flags.trust, flags.json, flags.make_chain))


def _run(file: Path | None, trust: Path | None, as_json: bool, make_chain: Path | None) -> int:
    if (file is None) == (make_chain is None):
        raise UsageError("give either a FILE to check or --make-chain DIR")
    if make_chain is not None:
        chain, key = write_credentials(make_chain)
        print(f"--sign-cert {display_path(chain)} --sign-key {display_path(key)}")
        return 0
    assert file is not None
    found = read_provenance(file, trust)
    print(json.dumps(asdict(found), indent=2) if as_json else describe(file, found))
    return 0 if found.state in (VALID, TRUSTED) else 1


def describe(file: Path, found: Provenance) -> str:
    """A manifest in a few lines."""
    lines = [f"{display_path(file)}: {_STATES.get(found.state, found.state)}"]
    problems = found.problems if found.state == INVALID else []
    rows = {
        "problems": ", ".join(problems), "signed by": found.signer, "software": found.software,
        "actions": ", ".join(found.actions), "kind": ", ".join(found.source_types),
        "inputs": "; ".join(" ".join(item.values()) for item in found.inputs),
        "models": "; ".join(f"{item['name']} SHA-256 {item['sha256']}" for item in found.models),
    }  # fmt: skip
    return "\n".join(lines + [f"  {name}: {display_path(text)}" for name, text in rows.items() if text])
