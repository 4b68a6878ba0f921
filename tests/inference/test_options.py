"""Options from text, from JSON and from Python."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from inference.options import PATH_OPTIONS, Options, Report
from preprocessing.errors import UsageError


def test_cells_of_a_table_and_json_values_give_the_same_options():
    cells = {"fps": "30000/1001", "static": "true", "box": "1 2 3 4", "keep-audio": " 0.2", "face_id": "1",
             "yunet": "y"}  # fmt: skip
    values = {"fps": Fraction(30000, 1001), "static": True, "box": [1, 2, 3, 4], "keep_audio": 0.2, "face_id": 1,
              "yunet": Path("y")}  # fmt: skip
    assert Options.of(cells) == Options.of(values) == Options(**values | {"box": (1, 2, 3, 4)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep-audo": 1}, "unknown option 'keep_audo'; known: "),
        ({"static": "perhaps"}, "static must be true or false, not 'perhaps'"),
        ({"crf": "many"}, "crf must be a number, not 'many'"),
        ({"box": "1 2 three 4"}, "box must be four integers"),
        ({"box": "1 2 3"}, "box must be four integers"),
        ({"fps": "1/0"}, "fps must be a number, not '1/0'"),
        ({"crf": "99"}, "crf must be between 0 and 51"),
        ({"select": 3}, "select must be a string, not 3"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(UsageError) as error:
        Options.of(values)
    assert message in str(error.value)


def test_the_options_that_name_files():
    assert {"yunet", "s3fd", "save_track", "load_track"} <= PATH_OPTIONS
    assert not PATH_OPTIONS & {"select", "detector"}


def test_a_report_as_json_values():
    values = Report(Path("a.mp4"), 50, 40, Fraction(25), {"total": 1.23456}).values()
    assert values["duration"] == 2.0
    assert values["seconds"] == {"total": 1.235}
    assert values["preview"] is None
