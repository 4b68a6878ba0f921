"""Exit codes of commands, and the one line of an error."""

from __future__ import annotations

import pytest

from preprocessing.commands import run_command
from training.run import RESUMES


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (None, 0, ""),
        (ValueError("Caught in a worker\nTraceback\nValueError: the clip is damaged"), 2, "the clip is damaged"),
        (ValueError(), 2, "invalid value"),
        (FloatingPointError("l1 is nan\nat step 3"), 1, "l1 is nan at step 3"),
        (FileNotFoundError(2, "No such file", "x"), 1, "[Errno 2] No such file: 'x'"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume from the last saved state"),
    ],
)
def test_a_command_ends_with_a_code_and_one_line(error, code, message, capsys):
    def job() -> None:
        if error:
            raise error

    assert run_command("some.train", job, RESUMES) == code
    assert capsys.readouterr().err == (f"some.train: error: {message}\n" if error else "")


def test_what_is_no_users_mistake_is_not_hidden():
    def job() -> None:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        run_command("some.train", job)
