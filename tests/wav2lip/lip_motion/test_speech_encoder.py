"""Speech encoders: rows do not depend on the requested range; the recognizer matches the package's."""

import sys
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch

from preprocessing.errors import UsageError
from preprocessing.media.audio import load_audio
from tests.material import SPEECH
from wav2lip.lip_motion.speech import hama
from wav2lip.lip_motion.speech.conformer import Conformer
from wav2lip.lip_motion.speech.conformer_config import ENGINE_FLOOR
from wav2lip.lip_motion.speech.speech_encoder import encode, open_encoder, row_count


def installed() -> bool:
    try:
        return distribution("hama").version == hama.VERSION
    except PackageNotFoundError:
        return False


needs_hama = pytest.mark.skipif(not installed(), reason=f"hama is not installed: {hama.INSTALL}")
EVERY = ["mel", pytest.param("hama", marks=needs_hama)]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return load_audio(SPEECH)[: 16000 * 6]


@pytest.mark.parametrize("name", EVERY)
def test_the_contract(name, speech):
    encoder = open_encoder(name)
    rows = encode(encoder, speech)
    assert rows.shape == (row_count(len(speech)), encoder.dimension)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(encoder.rows(speech, 100, 117), rows[100:117], atol=1e-3)
    assert encoder.rows(speech, 5, 5).shape == (0, encoder.dimension)
    assert encode(encoder, np.zeros(1, np.float32)).shape == (1, encoder.dimension)


@pytest.mark.parametrize("name", EVERY)
def test_16_bit_samples_sound_alike(name, speech):
    encoder = open_encoder(name)
    numbers = np.clip(np.rint(speech * 32768), -32768, 32767).astype(np.int16)
    whole = numbers.astype(np.float32) / 32768
    np.testing.assert_allclose(encode(encoder, numbers[:32000]), encode(encoder, whole[:32000]), atol=1e-3)


@needs_hama
def test_long_sound_is_encoded_alike_in_any_pieces(speech, monkeypatch):
    encoder, long = open_encoder("hama"), np.tile(speech, 6)
    whole = encode(encoder, long)
    monkeypatch.setattr(hama, "CORE", 333)
    np.testing.assert_allclose(encode(encoder, long), whole, atol=1e-3)


@needs_hama
def test_log_probabilities_are_the_engines(speech):
    import hama as package

    session = package.ASRModel().session
    conformer = hama.load_conformer()
    conformer.reach, conformer.floor = None, ENGINE_FLOOR  # every row sees all others
    for samples in (speech[:40000], np.concatenate([speech[:20000], np.zeros(8000, np.float32)])):
        feeds = {"waveform": samples[None], "waveform_lengths": np.array([len(samples)])}
        theirs = session.run(["log_probs"], feeds)[0][0]
        with torch.inference_mode():
            ours = conformer.log_probabilities(torch.from_numpy(samples)[None])[0].numpy()
        assert ours.shape == theirs.shape
        assert (ours.argmax(1) == theirs.argmax(1)).all()
        assert np.abs(ours - theirs).mean() < 1e-3


@needs_hama
def test_loading_does_not_import_the_package():
    import subprocess

    code = "from wav2lip.lip_motion.speech.hama import HamaEncoder; HamaEncoder.load(); import sys; "
    code += "print('hama' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.strip() == "False", done.stderr


def test_reach_bounds_what_a_row_depends_on():
    torch.manual_seed(0)
    network = Conformer(reach=3).eval()
    torch.nn.init.normal_(network.kernel)
    torch.nn.init.uniform_(network.mel_basis)
    samples = torch.randn(1, 320 * 200)
    changed = samples.clone()
    changed[:, : 320 * 10] = 0
    with torch.inference_mode():
        before, after = network(samples)[0], network(changed)[0]
    far = 10 + network.context
    assert torch.allclose(before[far:], after[far:], atol=1e-5)
    assert not torch.allclose(before[9], after[9], atol=1e-2)


def test_weights_that_are_not_the_packages_are_refused(tmp_path):
    path = tmp_path / "asr.hama"
    with pytest.raises(UsageError, match="cannot be read"):
        hama.read_container(path)
    path.write_bytes(hama.MAGIC + bytes(100))
    with pytest.raises(UsageError, match="SHA-256"):
        hama.read_container(path)


def test_a_missing_package_names_its_cure(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(hama, "distribution", absent)
    with pytest.raises(UsageError, match=r"pip install hama==1\.7\.0 --no-deps"):
        hama.weights_file()


def test_an_unknown_encoder_is_refused():
    with pytest.raises(UsageError, match="'hama' or 'mel', not 'whisper'"):
        open_encoder("whisper")  # type: ignore[arg-type]
