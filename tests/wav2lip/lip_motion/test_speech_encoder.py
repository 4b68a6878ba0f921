"""Speech encoders: rows do not depend on the requested range; Whisper's are the original's."""

import struct

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from preprocessing.errors import UsageError
from preprocessing.media.audio import load_audio
from tests.material import SPEECH
from wav2lip.lip_motion.speech import whisper
from wav2lip.lip_motion.speech.import_whisper import FORMAT, KIND, encoder_weights, main, read_model
from wav2lip.lip_motion.speech.speech_encoder import encode, open_encoder, row_count
from wav2lip.lip_motion.speech.whisper_config import CONTEXT, PERIOD
from wav2lip.lip_motion.speech.whisper_network import WhisperEncoder

EVERY = ["mel", "whisper"]
# Values of the encoder's output for assets/speech.wav, followed by silence up to 30 s, from CTranslate2 4 in 32 bits.
ROWS, COLUMNS = [0, 50, 135, 200, 265], [0, 100, 250, 383]
ORIGINAL = [
    [-1.1430, -0.3116, 2.2063, -0.4243],
    [-0.2764, -0.7048, -8.1099, 1.4057],
    [0.7726, 0.6284, -2.3003, -0.8848],
    [-0.1198, 0.0181, 7.1956, -0.3404],
    [0.7060, -0.6192, -3.9416, -0.1627],
]


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


def test_long_sound_is_encoded_alike_in_any_pieces(speech, monkeypatch):
    encoder, long = open_encoder("whisper"), np.tile(speech, 5)
    whole = encode(encoder, long)
    assert len(whole) > PERIOD
    monkeypatch.setattr(whisper, "CORE", 333)
    np.testing.assert_allclose(encode(encoder, long), whole, atol=1e-2)


def test_with_unlimited_attention_the_output_is_the_originals(speech):
    encoder = whisper.load_whisper()
    encoder.reach, encoder.floor, encoder.period = None, None, 1500
    samples = torch.from_numpy(np.pad(speech, (0, 30 * 16000 - len(speech))))[None]
    mel = encoder.log_mel(samples)[..., :-1]  # the original leaves out the last column
    encoder.log_mel = lambda _: mel  # type: ignore[method-assign]
    with torch.inference_mode():
        ours = encoder.outputs(samples, torch.arange(1500).float())[-1].numpy()
    np.testing.assert_allclose(ours[np.ix_(ROWS, COLUMNS)], ORIGINAL, atol=0.01)


def test_a_row_depends_on_a_bounded_range_of_sound():
    torch.manual_seed(0)
    network = WhisperEncoder(reach=3).eval()
    torch.nn.init.uniform_(network.mel_basis)
    samples, numbers = torch.randn(1, 320 * 200), torch.arange(201).float()
    changed = samples.clone()
    changed[:, : 320 * 10] = 0
    with torch.inference_mode():
        before, after = network(samples, numbers)[0], network(changed, numbers)[0]
    far = 10 + 4 * 3 + 4
    assert far < CONTEXT
    assert torch.allclose(before[far:], after[far:], atol=1e-5)
    assert not torch.allclose(before[9], after[9], atol=1e-2)


def test_positions_repeat():
    torch.manual_seed(0)
    network = WhisperEncoder(reach=3, period=40).eval()
    torch.nn.init.uniform_(network.mel_basis)
    samples, numbers = torch.randn(1, 320 * 30, generator=torch.Generator().manual_seed(0)), torch.arange(31).float()
    with torch.inference_mode():
        first, later, other = (network(samples, numbers + start) for start in (0, 80, 20))
    assert torch.allclose(first, later, atol=1e-5)
    assert not torch.allclose(first, other, atol=1e-2)


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "speech_encoder.safetensors"
    monkeypatch.setattr(whisper, "WEIGHTS", path)
    for content in (None, bytes(100)):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=r"speech_encoder\.safetensors is not the speech encoder"):
            whisper.load_whisper()


def ct2_file(arrays: dict[str, np.ndarray], kind: str = KIND) -> bytes:
    """A model.bin of CTranslate2 with 16-bit arrays."""

    def word(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", FORMAT), word(kind), struct.pack("<II", 3, len(arrays))]
    for name, values in arrays.items():
        data = values.astype("<f2").tobytes()
        sides = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        parts += [word(name), sides, struct.pack("<BI", 4, len(data)), data]
    return b"".join(parts)


def originals_names(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our weights by CTranslate2's names."""
    attention = "self_attention/"
    layers = {"attention_norm": attention + "layer_norm", "attention_in": attention + "linear_0",
              "attention_out": attention + "linear_1", "norm": "ffn/layer_norm", "fc1": "ffn/linear_0",
              "fc2": "ffn/linear_1"}  # fmt: skip
    named = {}
    for name, values in weights.items():
        *path, layer, kind = name.split(".")
        if path:
            layer = f"layer_{path[1]}/{layers[layer]}"
        if "norm" in name:
            layer, kind = layer if path else "layer_norm", {"weight": "gamma", "bias": "beta"}[kind]
        named[f"encoder/{layer}/{kind}"] = values
    return named


def test_a_converted_model_is_the_bundled_one(tmp_path, capsys):
    bundled = load_file(whisper.WEIGHTS)
    source, out = tmp_path / "model.bin", tmp_path / "encoder.safetensors"
    source.write_bytes(ct2_file(originals_names({name: values for name, values in bundled.items() if "." in name})))
    assert main([str(source), str(out)]) == 0
    converted = load_file(out)
    assert converted.keys() == bundled.keys()
    for name, values in converted.items():
        np.testing.assert_array_equal(values, bundled[name], err_msg=name)
    source.write_bytes(ct2_file({}, kind="TransformerSpec"))
    assert main([str(source), str(out)]) == 2
    assert "is not a Whisper model" in capsys.readouterr().err


def test_a_model_without_a_layer_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(ct2_file({"encoder/conv1/bias": np.zeros(3)}))
    with pytest.raises(UsageError, match="the model has no encoder/"):
        encoder_weights(read_model(path))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UsageError, match="is not a Whisper model"):
        read_model(path)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(UsageError, match="'whisper' or 'mel', not 'hama'"):
        open_encoder("hama")  # type: ignore[arg-type]
