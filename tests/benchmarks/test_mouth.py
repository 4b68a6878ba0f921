"""Pairs, medians and tables of the benchmark of mouths."""

import pytest

from benchmarks.mouth import Row, medians, swapped_pairs, table


def folder_of(folder, *names):
    for name in names:
        (folder / f"{name}.mp4").touch()
    return folder


def names(pairs):
    return [(face.stem, sound.stem) for face, sound in pairs]


def test_every_face_gets_the_next_other_persons_sound(tmp_path):
    folder = folder_of(tmp_path, "a__1", "a__2", "b__1", "c__1")
    assert names(swapped_pairs(folder, 9, [])) == [
        ("a__1", "b__1"), ("a__2", "b__1"), ("b__1", "c__1"), ("c__1", "a__1"),
    ]  # fmt: skip
    assert names(swapped_pairs(folder, 2, [])) == [("a__1", "b__1"), ("b__1", "c__1")]
    assert names(swapped_pairs(folder, 1, ["a"])) == [("b__1", "c__1")]


def test_one_person_is_too_few(tmp_path):
    with pytest.raises(ValueError, match=r"no \.mp4"):
        swapped_pairs(tmp_path, 3, [])
    with pytest.raises(ValueError, match="one person"):
        swapped_pairs(folder_of(tmp_path, "a__1", "a__2"), 3, [])


def test_medians_are_over_the_rows_that_have_the_figure():
    rows = [Row("f", "s", "ours", {"amplitude": value}) for value in (1.0, 5.0, 2.0)]
    rows += [Row("f", "s", "ours", {"closures_kept": 0.5}), Row("f", "s", "ours", reason="no face")]
    assert medians(rows) == {"closures_kept": 0.5, "amplitude": 2.0}
    assert medians([]) == {}


def test_a_table_shows_what_any_line_has():
    drawn = table(["system"], [(["ours"], {"amplitude": 1.234}), (["own mouth"], {})])
    assert drawn.splitlines() == [
        "| system | amplitude |", "| --- | --- |", "| ours | 1.23 |", "| own mouth | – |",
    ]  # fmt: skip
