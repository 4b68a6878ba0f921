"""The original checkpoints load; any other `.pth` file is identified, and none is executed."""

import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from wav2lip.generator.original_checkpoint import NETWORKS, read_released


def state_dict(kind):
    """Weights of the released shape, key n filled with n: expanded scalars, so that the files stay small."""
    with torch.device("meta"):
        shapes = {key: weight.shape for key, weight in NETWORKS[kind]().state_dict().items()}
    fills = {key: torch.tensor(n if "num_batches" in key else float(n)) for n, key in enumerate(shapes)}
    return {key: fills[key].expand(shape) for key, shape in shapes.items()}


def prefixed(weights, prefix="module."):
    return {prefix + key: weight for key, weight in weights.items()}


def write(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def refusal(path, kind=None):
    """The one-line error message for a file."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        read_released(path, kind)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


class Touch:
    """Unpickling this runs a command that creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_authors_files_open(tmp_path, kind, legacy):
    weights = state_dict(kind)
    content = {"state_dict": prefixed(weights), "optimizer": {"state": {}}, "global_step": 255_000, "global_epoch": 9}
    checkpoint = read_released(write(tmp_path / "a.pth", content, legacy), kind)
    assert (checkpoint.kind, checkpoint.step) == (kind, 255_000)
    assert checkpoint.weights.keys() == weights.keys()
    assert all(torch.equal(checkpoint.weights[key], weights[key]) for key in weights)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_bare_state_dict_opens(tmp_path, legacy):
    checkpoint = read_released(write(tmp_path / "a.pth", state_dict("syncnet"), legacy))
    assert (checkpoint.kind, checkpoint.step) == ("syncnet", 0)


def test_half_weights_come_as_float32_and_counters_as_integers(tmp_path):
    weights = state_dict("syncnet")
    weights = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    loaded = read_released(write(tmp_path / "a.pth", weights)).weights
    assert {str(value.dtype) for value in loaded.values()} == {"torch.float32", "torch.int64"}


def test_only_leading_prefixes_are_stripped(tmp_path):
    twice = prefixed(state_dict("critic"), "module.module.")
    assert read_released(write(tmp_path / "a.pth", twice)).kind == "critic"
    inside = state_dict("critic")
    inside["face_encoder_blocks.module.0.weight"] = torch.zeros(1)
    assert "1 unexpected (face_encoder_blocks.module.0.weight)" in refusal(write(tmp_path / "b.pth", inside))


def test_a_weight_with_and_without_prefix_is_refused(tmp_path):
    weights = state_dict("critic")
    assert "some weights twice" in refusal(write(tmp_path / "a.pth", weights | prefixed(weights)))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    weights = state_dict("critic")
    name = next(iter(weights))
    weights[name] = weights[name].clone()
    weights[name].view(-1)[-1] = value
    assert f"{name} holds NaN or infinite weights" in refusal(write(tmp_path / "a.pth", weights))


def test_another_network_is_named(tmp_path):
    path = write(tmp_path / "lipsync_expert.pth", {"state_dict": state_dict("syncnet")})
    assert refusal(path, "generator") == f"{path} holds a SyncNet expert, not a generator"
    path = write(tmp_path / "wav2lip.pth", {"state_dict": state_dict("generator")})
    assert refusal(path, "critic") == f"{path} holds a generator, not a visual-quality discriminator"


@pytest.mark.parametrize(
    ("listing", "name"),
    [
        ("s3fd", "the S3FD face detector, not a generator"),
        ("syncnet_python_S", "syncnet_python's network for LSE scores, not a generator"),
    ],
)
@pytest.mark.parametrize("kind", ["generator", None])
def test_neighbouring_projects_files_are_named(tmp_path, shared, listing, name, kind):
    shapes = json.loads((shared / f"reference/state_dicts/{listing}_state_dict.json").read_text())
    weights = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    assert f"holds {name}" in refusal(write(tmp_path / "a.pth", weights), kind)


def test_an_unknown_network_is_described_by_its_keys(tmp_path):
    message = refusal(write(tmp_path / "a.pth", torch.nn.Linear(2, 2).state_dict()))
    assert message.endswith("holds an unknown network, with keys such as weight, bias")


def test_differences_are_summed_up(tmp_path):
    weights = state_dict("generator")
    for n in range(5):
        del weights[f"face_encoder_blocks.2.{n % 4}.conv_block.{n // 4}.bias"]
    weights["output_block.1.bias"] = torch.zeros(6)
    weights["extra"] = torch.zeros(1)
    message = refusal(write(tmp_path / "a.pth", {"state_dict": weights}))
    assert (
        "holds a generator, but not the released architecture: 5 missing (face_encoder_blocks.2.0.conv_block.0"
        in message
    )
    assert ", ...); 1 unexpected (extra); 1 of the wrong shape (output_block.1.bias is (6,), not (3,))" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "is HTML: the download went wrong"),
        (b"\xef\xbb\xbf\n  <html></html>", "is HTML: the download went wrong"),
        (b"<\0\0\0\0\0\0\0{" + b" " * 59, "is a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(200), "is truncated or damaged"),
        (b"just some text", "is not a PyTorch file"),
        (b"\x00\x00\x00\x20ftypisom" + bytes(99), "is not a PyTorch file"),
        (b"\x80\x02" + bytes(99), "damaged"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    assert message in refusal(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_other_archives_are_named(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pth")
    assert "is a TorchScript archive" in refusal(tmp_path / "script.pth")
    save_file({"a": torch.ones(4)}, tmp_path / "tensors.pth")
    assert "is a safetensors file" in refusal(tmp_path / "tensors.pth")
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("wav2lip/readme.txt", "hello")
    assert "is a zip archive without PyTorch weights" in refusal(tmp_path / "zip.pth")


def test_missing_files_and_folders_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing.pth")
    assert "is not a file" in refusal(tmp_path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncation_is_refused_wherever_it_cuts(tmp_path, legacy):
    whole = write(tmp_path / "a.pth", state_dict("critic"), legacy).read_bytes()
    for length in (2, 40, len(whole) // 4, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        (tmp_path / "b.pth").write_bytes(whole[:length])
        assert "truncated" in (message := refusal(tmp_path / "b.pth")) or "damaged" in message


@pytest.mark.parametrize(
    "content", [[1, 2], torch.ones(3), {}, {"state_dict": {}}, {"state_dict": [1]}, {1: torch.ones(1)}, {"a": "b"}]
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    assert "holds" in refusal(write(tmp_path / "a.pth", content))


def test_a_whole_pickled_module_is_refused_by_name(tmp_path):
    message = refusal(write(tmp_path / "a.pth", torch.nn.Linear(2, 2)))
    assert "rejected: its pickle references torch.nn.modules.linear.Linear" in message


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["state_dict", "optimizer", "global_step"])
def test_a_checkpoint_that_runs_code_is_refused_and_does_not_run(tmp_path, place, legacy):
    marker = tmp_path / "ran"
    content = {"state_dict": state_dict("critic"), "optimizer": None, "global_step": 1} | {place: Touch(marker)}
    message = refusal(write(tmp_path / "a.pth", content, legacy))
    assert f"rejected: its pickle references {os.system.__module__}.system" in message
    assert not marker.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)  # the payload does run when unpickled
    assert marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Touch(marker), protocol))
    message = "is not a PyTorch file" if protocol < 2 else "rejected: its pickle"
    assert message in refusal(tmp_path / "a.pth")
    assert not marker.exists()
    pickle.loads((tmp_path / "a.pth").read_bytes())
    assert marker.exists()


def test_hostile_keys_stay_on_one_line(tmp_path):
    message = refusal(write(tmp_path / "a.pth", {"x\n\x1b[31mError: all is well" + "!" * 9999: torch.ones(1)}))
    assert "\x1b" not in message
    assert len(message) < 500


def test_an_unknown_kind_is_our_callers_mistake(tmp_path):
    with pytest.raises(ValueError, match="generator, syncnet, critic, not 'vocoder'"):
        read_released(tmp_path / "a.pth", "vocoder")
