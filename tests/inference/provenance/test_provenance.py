"""Signed provenance: what a manifest says, that one changed byte is seen, and what signing refuses."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import pytest

pytest.importorskip("c2pa", reason="the extra provenance is not installed: pip install -r requirements-provenance.txt")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import wav2lip
from inference.provenance.certificates import load_credentials, write_credentials
from inference.provenance.command import main
from inference.provenance.reading import read_provenance
from inference.provenance.signing import make_signer
from preprocessing.errors import MediaError, UsageError, Wav2LipError
from tests.material import moving_photo, write_photo, write_speech, write_video

pytest_plugins = ["tests.inference.bench"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """face.mp4, face.png, speech.wav, out.mp4, a chain and its key, and out.mp4 signed with it: signed.mp4."""
    folder = tmp_path_factory.mktemp("provenance")
    write_photo(folder / "face.png")
    write_speech(folder / "speech.wav", 0.4)
    write_video(folder / "face.mp4", moving_photo(10))
    write_video(folder / "out.mp4", moving_photo(10), sound=folder / "speech.wav")
    write_credentials(folder)
    sign(folder, "face.mp4", "signed.mp4", folder / "chain.pem", folder / "key.pem")
    return folder


def sign(folder: Path, face: str, target: str, chain: Path | None = None, key: Path | None = None) -> Path:
    signer = make_signer(folder / target, folder / face, [folder / "speech.wav"], [folder / "face.png"], chain, key)
    signer(folder / "out.mp4", folder / target)
    return folder / target


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_a_manifest_says(files):
    found = read_provenance(files / "signed.mp4")
    assert (found.state, found.problems) == ("valid", ["signingCredential.untrusted"])
    assert found.signer == "UNTRUSTED self-made certificate, for trying only"
    assert found.software == f"Wav2Lip {wav2lip.__version__}"
    assert found.actions == ["c2pa.opened", "c2pa.edited", "c2pa.placed"]
    assert found.source_types == ["compositeWithTrainedAlgorithmicMedia"]
    assert found.inputs == [
        {"title": "face", "relationship": "parentOf", "description": f"SHA-256 {sha256(files / 'face.mp4')}"},
        {"title": "speech", "relationship": "componentOf", "description": f"SHA-256 {sha256(files / 'speech.wav')}"},
    ]
    assert found.models == [{"name": "face.png", "sha256": sha256(files / "face.png")}]


def test_a_photo_that_speaks_is_created(files):
    found = read_provenance(sign(files, "face.png", "photo.mov"))
    assert found.state == "valid"
    assert found.actions[0] == "c2pa.created"
    assert found.inputs[0]["relationship"] == "componentOf"


def test_an_input_s_own_manifest_is_kept(files):
    found = read_provenance(sign(files, "signed.mp4", "twice.mp4"))
    assert found.state == "valid"
    assert (files / "twice.mp4").read_bytes().count(sha256(files / "face.mp4").encode()) == 1, "the first one's input"


def test_trust(files):
    assert read_provenance(files / "signed.mp4", files / "chain.pem").state == "trusted"
    other = files / "other"
    write_credentials(other)
    assert read_provenance(files / "signed.mp4", other / "chain.pem").state == "valid"
    with pytest.raises(UsageError, match="cannot be read"):
        read_provenance(files / "signed.mp4", files / "nothing.pem")


def test_one_flipped_byte_makes_it_invalid(files, tmp_path):
    data = (files / "signed.mp4").read_bytes()
    parts = {b"mdat": 500, b"stts": 9, b"c2pa.edited": 3, b"AI-generated": 2}
    places = {str(part): data.index(part) + offset for part, offset in parts.items() if part in data}
    places |= {f"{part}/16": len(data) * part // 16 for part in range(1, 16)}
    changed = tmp_path / "changed.mp4"
    for place, at in places.items():
        changed.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            state = read_provenance(changed).state
        except MediaError:
            state = "unreadable"
        assert state in ("invalid", "unreadable"), place
    changed.write_bytes(data)
    assert read_provenance(changed).state == "valid"


def test_the_command(files, capsys):
    assert main([str(files / "signed.mp4")]) == 0
    assert "valid, but untrusted" in capsys.readouterr().out
    assert main([str(files / "signed.mp4"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "valid"
    assert main([str(files / "out.mp4")]) == 1
    assert "no C2PA manifest" in capsys.readouterr().out
    assert main([str(files / "speech.wav"), "--trust", "nothing"]) == 2
    assert main([]) == 2
    assert main(["nowhere.mp4"]) == 1
    assert main(["--make-chain", str(files / "made")]) == 0
    assert "--sign-cert" in capsys.readouterr().out
    assert (files / "made/key.pem").stat().st_mode & 0o077 == 0
    assert main(["--make-chain", str(files / "made")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_job_is_signed_and_stays_marked(job, files):
    report = job(sign_cert=files / "chain.pem", sign_key=files / "key.pem")
    found = read_provenance(report.outfile, files / "chain.pem")
    assert found.state == "trusted"
    assert b"AI-generated" in report.outfile.read_bytes()


def expired(files: Path, folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name, day = x509.Name([]), datetime.datetime(2020, 1, 1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + datetime.timedelta(1))
    (folder / "chain.pem").write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    return folder / "chain.pem", folder / "key.pem"


def test_certificates_that_cannot_sign(files, tmp_path):
    chain, key = files / "chain.pem", files / "key.pem"
    assert load_credentials(chain, key).algorithm == "es256"
    write_credentials(tmp_path / "other")
    cases = [
        (files / "nothing.pem", key, "cannot be read"),
        (files / "speech.wav", key, "holds no certificate"),
        (chain, files / "speech.wav", "holds no unencrypted private key"),
        (chain, tmp_path / "other/key.pem", "does not belong to the certificate"),
        (*expired(files, tmp_path), "valid from 2020-01-01 to 2020-01-02 only"),
    ]
    for certificate, secret, message in cases:
        with pytest.raises(UsageError, match=message) as error:
            load_credentials(certificate, secret)
        assert "\n" not in str(error.value)


def test_what_cannot_be_signed(files, job):
    with pytest.raises(UsageError, match=r"only .mp4 and .mov can be signed"):
        make_signer(Path("out.mkv"), files / "face.mp4", [files / "speech.wav"], [], None, None)
    with pytest.raises(UsageError, match="go together"):
        job(sign_cert=files / "chain.pem")
    with pytest.raises(Wav2LipError, match="also an input"):
        job(sign_cert=files / "chain.pem", sign_key=files / "face.mp4", outfile=files / "face.mp4")
