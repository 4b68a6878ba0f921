"""The command that prepares a person."""

from __future__ import annotations

import pytest

from inference.live.avatar_file import open_avatar
from inference.live.command import main
from inference.pipeline import LipSync


def test_it_writes_an_avatar_that_opens(engine, video, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LipSync, "load", lambda: LipSync(engine))
    target = tmp_path / "-anna ö.avatar"
    assert main(["--detector", "haar", "--end", "0.24", "--fps", "30", "--", str(video), str(target)]) == 0
    assert "7 frames of 160x160" in capsys.readouterr().out
    opened = open_avatar(target)
    assert (len(opened), opened.fps) == (7, 30)
    opened.close()


@pytest.mark.parametrize(
    ("face", "target", "code", "said"),
    [("none.mp4", "a.avatar", 1, "no file"), ("anna.mp4", "a.mp4", 2, "must end in .avatar"),
     ("a.avatar", "b.avatar", 2, "prepared already"), ("anna.mp4", "none/a.avatar", 1, "existing folder")],
)  # fmt: skip
def test_a_mistake_gets_one_line_before_anything_slow(tmp_path, monkeypatch, capsys, face, target, code, said):
    monkeypatch.setattr(LipSync, "load", lambda: pytest.fail("loaded"))
    (tmp_path / "anna.mp4").write_bytes(b"x")
    assert main([str(tmp_path / face), str(tmp_path / target)]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
