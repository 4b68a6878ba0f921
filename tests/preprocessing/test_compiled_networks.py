"""Compiled networks: the outputs of torch, from a cache that is used, renewed and may be damaged."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from preprocessing import compiled_networks
from preprocessing.compiled_networks import Network, load_network, release_memory
from preprocessing.errors import MediaError
from tests.conftest import REPOSITORY


class Maker:
    """Makes a small network of fixed weights, counting how often."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).eval()
        self.made = 0

    def __call__(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        self.made += 1
        return self.network, (torch.zeros(2, 5),)

    def expected(self, rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.network(torch.from_numpy(rows)).numpy()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "wav2lip" / "networks"


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"first")
    return path


ROWS = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


def load(maker: Maker, weights: Path) -> Network:
    return load_network("small", [weights], maker, [(-1, 5)])


def test_outputs_are_those_of_torch_for_any_length(cache, weights):
    maker = Maker()
    network = load(maker, weights)
    for rows in (ROWS, ROWS[:1]):
        np.testing.assert_allclose(network(rows)[0], maker.expected(rows), atol=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_values_that_are_no_numbers_end_the_job(cache, weights, monkeypatch, engine):
    """As of weights that are finite but too large."""
    if engine == "torch":
        monkeypatch.setattr(compiled_networks, "openvino_module", lambda: None)
    maker = Maker()
    with torch.no_grad():
        maker.network[2].weight.fill_(3e38)
    network = load(maker, weights)
    with pytest.raises(MediaError, match="the network small gave values that are not numbers"):
        network(1e4 * np.ones((2, 5), np.float32))


def test_a_second_load_makes_nothing_and_gives_the_same(cache, weights):
    maker = Maker()
    first, second = load(maker, weights)(ROWS)[0], load(maker, weights)(ROWS)[0]
    assert maker.made == 1
    np.testing.assert_array_equal(first, second)


def test_other_weights_are_compiled_anew(cache, weights):
    maker = Maker()
    load(maker, weights)
    weights.write_bytes(b"second")
    load(maker, weights)
    assert maker.made == 2


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[:50] + b"!!" + data[52:], lambda data: b""]
)
def test_a_damaged_file_is_replaced(cache, weights, damage):
    maker = Maker()
    load(maker, weights)
    (file,) = cache.glob("small-*")
    file.write_bytes(damage(file.read_bytes()))
    np.testing.assert_allclose(load(maker, weights)(ROWS)[0], maker.expected(ROWS), atol=1e-5)
    assert maker.made == 2
    load(maker, weights)
    assert maker.made == 2


def test_without_a_usable_cache_or_openvino_it_works_the_same(tmp_path, weights, monkeypatch):
    maker = Maker()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    np.testing.assert_allclose(load(maker, weights)(ROWS)[0], maker.expected(ROWS), atol=1e-5)
    monkeypatch.setattr(compiled_networks, "openvino_module", lambda: None)
    np.testing.assert_allclose(load(maker, weights)(ROWS)[0], maker.expected(ROWS), atol=1e-6)


def test_only_the_latest_files_are_kept(cache, weights, monkeypatch):
    monkeypatch.setattr(compiled_networks, "KEPT", 2)
    maker = Maker()
    for text in (b"1", b"2", b"3"):
        weights.write_bytes(text)
        load(maker, weights)
    assert len(list(cache.iterdir())) == 2
    load(maker, weights)
    assert maker.made == 3


def test_threads_do_not_disturb_each_other(cache, weights):
    maker = Maker()
    network = load(maker, weights)
    rows = [ROWS * scale for scale in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for mine, found in zip(rows, pool.map(network, rows), strict=True):
            np.testing.assert_allclose(found[0], maker.expected(mine), atol=1e-4)


def resident() -> int:
    """Bytes of memory in use by the process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc only")
def test_released_memory_goes_back_to_the_system_and_the_network_still_runs(cache, weights):
    maker = Maker()
    network = load(maker, weights)
    network(np.zeros((2_000_000, 5), np.float32))  # 56 MB between the two layers
    held = resident()
    release_memory(network)
    assert held - resident() > 50e6
    np.testing.assert_allclose(network(ROWS)[0], maker.expected(ROWS), atol=1e-5)


def test_memory_is_released_while_others_use_the_network(cache, weights):
    maker = Maker()
    network = load(maker, weights)

    def run(scale: int) -> np.ndarray:
        if scale % 3 == 0:
            release_memory(network)
        return network(ROWS * scale)[0]

    with ThreadPoolExecutor(4) as pool:
        for scale, found in enumerate(pool.map(run, range(200))):
            np.testing.assert_allclose(found, maker.expected(ROWS * scale), atol=1e-3)


def test_landmarks_load_without_torch_once_cached(cache):
    code = "import sys; from preprocessing.faces.landmarks.predictor import load_landmarks; load_landmarks(); "
    for check in ("print('made')", "assert 'torch' not in sys.modules"):
        subprocess.run([sys.executable, "-c", code + check], cwd=REPOSITORY, check=True, timeout=120)
