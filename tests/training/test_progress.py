"""Progress of a training."""

from __future__ import annotations

from training.progress import training_steps


def test_progress_is_reported_from_the_first_step(capsys):
    assert list(training_steps(range(5, 12), 5, 12)) == list(range(5, 12))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"step {step} of 12" for step in (6, 7, 8, 12)]
    assert list(training_steps(range(3), 0, 3, shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
