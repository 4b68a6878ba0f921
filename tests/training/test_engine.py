"""The engine, and the precision that is faster here."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from training import precision
from training.engine import Engine


def test_engines_by_hand():
    assert asdict(Engine(accelerator="cpu", devices=2, precision="16-mixed")) == {
        "accelerator": "cpu", "devices": 2, "strategy": "auto", "precision": "16-mixed",
    }  # fmt: skip
    with pytest.raises(ValueError, match="devices must be 1 or more, not 0"):
        Engine(devices=0)


@pytest.mark.parametrize(
    ("bf16", "full", "chosen"), [(1.0, 3.0, "bf16-mixed"), (10.0, 1.0, "32-true"), (1, 1, "32-true")]
)
def test_precision_is_what_is_faster_here(monkeypatch, bf16, full, chosen):
    monkeypatch.delenv(precision.PROBED, raising=False)
    monkeypatch.setattr(precision, "step_seconds", lambda half: bf16 if half else full)
    assert precision.choose_precision("cpu") == chosen
    monkeypatch.setattr(precision, "step_seconds", lambda half: pytest.fail("measured twice"))
    assert precision.choose_precision("cpu") == chosen  # as the processes that this one starts would
    monkeypatch.delenv(precision.PROBED)


def test_the_probe_measures_both():
    assert all(0 < precision.step_seconds(half) < 10 for half in (False, True))
