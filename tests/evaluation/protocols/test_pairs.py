"""Pair lists, and the trials made of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from evaluation.protocols.pairs import MISSING, Pair, digest, fingerprint, read_list, read_pairs, safe_name, speaker_of
from evaluation.protocols.trials import make_trials
from evaluation.report.results import MATCHED, PROTOCOLS, SILENT, STILLS, SWAPPED
from tests.material import photo, write_sound, write_speech, write_video


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def listed(*names: str) -> list[Pair]:
    """Faces with their own audio; the files do not exist."""
    return [Pair(name, Path(f"/none/{name}.mp4"), Path(f"/none/{name}.mp4"), speaker_of(Path(name))) for name in names]


# Lists ---------------------------------------------------------------------------------------------------------------


def test_a_text_with_quotes_comments_and_blank_lines(tmp_path):
    lines = [
        "\ufeff# faces first",
        "",
        "ann__1.mp4 bob.wav",
        "'my face.mp4' /far/a\\ b.wav  # isn't it",
        "t#2.mp4 t#2.mp4",
    ]
    pairs = read_pairs(write(tmp_path / "list.txt", "\r\n".join(lines)))
    assert [(pair.face, pair.audio) for pair in pairs] == [
        (tmp_path / "ann__1.mp4", tmp_path / "bob.wav"),
        (tmp_path / "my face.mp4", Path("/far/a b.wav")),
        (tmp_path / "t#2.mp4", tmp_path / "t#2.mp4"),
    ]
    assert [pair.name for pair in pairs] == ["ann__1+bob", "my_face+a_b", "t_2"]
    assert [pair.speaker for pair in pairs] == ["ann", "my face", "t#2"]
    assert read_pairs(tmp_path / "list.txt", Path("/data"))[0].face == Path("/data/ann__1.mp4")


def test_a_table_with_names_and_speakers(tmp_path):
    text = 'audio,note,face,speaker,name\n"x, y.wav",?,"a ""b"".mp4",Ann,first\nq.wav,,a.mp4,,\n'
    one, other = read_pairs(write(tmp_path / "LIST.CSV", text))
    assert one == Pair("first", tmp_path / 'a "b".mp4', tmp_path / "x, y.wav", "Ann")
    assert other == Pair("a+q", tmp_path / "a.mp4", tmp_path / "q.wav", "a")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "a.mp4 b.wav\na.mp4\n", "l.txt:2: expected a face and an audio path, got 1 words"),
        ("l.txt", "# only\n\na.mp4 b c.wav", "l.txt:3: expected a face and an audio path, got 3 words"),
        ("l.txt", "a.mp4 ''", "l.txt:1: expected a face and an audio path"),
        ("l.txt", "a.mp4 'b.wav", "l.txt:1: no closing quotation"),
        ("l.txt", "a.mp4 b\0.wav", "l.txt is not a list of pairs: it contains a null byte"),
        ("l.txt", "\n # nothing\n", "l.txt contains no pairs"),
        ("l.csv", "", "l.csv:1: missing column face and audio"),
        ("l.csv", "face,sound\na,b\n", "l.csv:1: missing column audio"),
        ("l.csv", "face,audio\n", "l.csv contains no pairs"),
        ("l.csv", "face,audio\na.mp4,b.wav\na.mp4, \n", "l.csv:3: audio is empty"),
        ("l.csv", "face,audio\na.mp4\n", "l.csv:2: audio is empty"),
        ("l.csv", 'face,audio\n"a"b,c\n', "l.csv:2: "),
        ("l.csv", "face,audio,name\na,b,../x\n", "l.csv:2: '../x' is not a safe file name"),
        ("l.csv", "face,audio,name\na,b,One\na,c,one\n", "l.csv:3: duplicate name 'one'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_list_is_said_with_its_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=r"l[.]") as error:
        read_pairs(write(tmp_path / name, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"\x00\xff\xfe\x80")
    for name, message in (("video.mp4", "not UTF-8 text"), ("absent.txt", "No such file"), ("", "Is a directory")):
        with pytest.raises(ValueError, match=message):
            read_pairs(tmp_path / name)


def test_the_original_lists_name_the_sound_first_but_for_resynced(tmp_path):
    root = tmp_path / "data"
    text = write(tmp_path / "l.txt", "63301/00011 63302/00018\n\n63301/00011 63301/00011\n")
    one, own = read_list(text, root, "lrs2")
    assert (one.face, one.audio) == (root / "63302/00018.mp4", root / "63301/00011.mp4")
    assert (one.name, one.speaker) == ("63302_00018+63301_00011", "63302")
    assert (own.name, own.speaker) == ("63301_00011", "63301")
    video, _ = read_list(text, root, "resynced")
    assert (video.face, video.audio) == (root / "63301/00011.mp4", root / "63302/00018.mp4")
    mixed = read_list(write(tmp_path / "r.txt", "adam_1.mp4 talk.wav"), root, "resynced")[0]
    assert (mixed.face, mixed.audio, mixed.speaker) == (root / "adam_1.mp4", root / "talk.wav", "adam_1")


def test_lrw_ids_are_found_where_the_data_set_keeps_them(tmp_path):
    kept = tmp_path / "ABOUT" / "test" / "ABOUT_00018.mp4"
    kept.parent.mkdir(parents=True)
    kept.touch()
    pair = read_list(write(tmp_path / "l.txt", "ABOUT_00018 WORLD_00039"), tmp_path, "lrw")[0]
    assert (pair.audio, pair.face) == (kept, tmp_path / "WORLD_00039.mp4")
    (tmp_path / "ABOUT_00018.mp4").touch()
    assert read_list(tmp_path / "l.txt", tmp_path, "lrw")[0].audio == tmp_path / "ABOUT_00018.mp4"


def test_what_is_wrong_with_an_original_list(tmp_path):
    text = write(tmp_path / "l.txt", "a b\na b c\n")
    with pytest.raises(ValueError, match=r"l[.]txt:2: expected two ids, got 3"):
        read_list(text, tmp_path, "lrs3")
    with pytest.raises(ValueError, match="lrs2, lrs3, lrw, resynced, not 'voxceleb'"):
        read_list(text, tmp_path, "voxceleb")


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a b/c\\d:e", "a_b_c_d_e"), ("-rf", "rf"), ("..", "_"), ("", "_"), ("end. .", "end._"), ("con", "_con"),
        ("COM1.x", "_COM1.x"), ("<b>'\"&", "_b_"), ("né", "né"), ("e\u0301", "\u00e9"), ("演讲", "演讲"),
        ("x" * 300, "x" * 48), ("a+b-2.c", "a+b-2.c"),
    ],
)  # fmt: skip
def test_safe_names(text, name):
    assert safe_name(text) == name
    assert safe_name(name) == name
    assert 0 < len(name.encode()) <= 200


def test_names_are_unique_on_systems_that_do_not_see_capitals(tmp_path):
    lines = "face,audio,name\nx/a.mp4,x/a.mp4,\ny/A.mp4,y/A.mp4,\nz/a.mp4,z/a.mp4,\nq.mp4,q.mp4,a-2\n"
    assert [pair.name for pair in read_pairs(write(tmp_path / "l.csv", lines))] == ["a", "A-3", "a-4", "a-2"]


# Trials --------------------------------------------------------------------------------------------------------------


def test_each_face_once_with_its_own_sound_none_and_its_own():
    found = make_trials([*listed("a__1", "b__1"), *listed("a__1")], (MATCHED, SILENT, STILLS))
    assert [(trial.pair, trial.protocol) for trial in found] == [
        (name, protocol) for name in ("a__1", "b__1") for protocol in (MATCHED, SILENT, STILLS)
    ]
    assert [trial.audio for trial in found[:3]] == [Path("/none/a__1.mp4"), None, Path("/none/a__1.mp4")]
    assert [trial.audio_speaker for trial in found[:3]] == ["a", "", "a"]
    assert [trial.listed for trial in found[:3]] == [True, False, False]
    assert {trial.other for trial in found[:3]} == {Path("/none/b__1.mp4")}


def test_listed_sounds_of_others_are_swapped_and_a_lone_face_is_given_one(tmp_path):
    face, lone = tmp_path / "a__1.mp4", tmp_path / "b__1.mp4"
    pairs = [
        Pair("a+x", face, tmp_path / "x.wav"), Pair("a", face, tmp_path / "a__1.wav"), Pair("b", lone, lone),
        Pair("a+b", tmp_path / "." / "a__1.mp4", lone),
    ]  # fmt: skip
    found = make_trials(pairs, (SWAPPED, MATCHED))
    assert [(trial.pair, trial.protocol, trial.audio.name, trial.audio_speaker, trial.listed) for trial in found] == [
        ("a+x", SWAPPED, "x.wav", "x", True), ("a+b", SWAPPED, "b__1.mp4", "b", True),
        ("a", MATCHED, "a__1.wav", "a", True),
        ("b", SWAPPED, "a__1.wav", "a", False), ("b", MATCHED, "b__1.mp4", "b", True),
    ]  # fmt: skip
    assert [trial.other and trial.other.name for trial in found] == [
        "x.wav",
        "b__1.mp4",
        "x.wav",
        "a__1.wav",
        "a__1.wav",
    ]
    assert {trial.own.name for trial in found} == {"a__1.wav", "b__1.mp4"}


def test_a_face_without_its_own_line_is_matched_under_its_first_name():
    pair = Pair("a+x", Path("/none/a.mp4"), Path("/none/x.wav"), "a")
    matched, swapped = make_trials([pair], (MATCHED, SWAPPED))
    assert (matched.pair, matched.audio, matched.listed) == ("a+x", Path("/none/a.mp4"), False)
    assert (swapped.pair, swapped.listed) == ("a+x", True)


@pytest.mark.parametrize("sizes", [(8, 2, 2), (2, 8, 2), (1, 1), (5, 3, 3, 1), (6, 1)])
def test_given_sounds_are_anothers_and_evenly_taken(sizes):
    pairs = listed(*(f"{speaker}__{n}" for speaker, size in zip("abcd", sizes, strict=False) for n in range(size)))
    found = make_trials(pairs, (SWAPPED,))
    assert found == make_trials(pairs, (SWAPPED,))
    assert len(found) == len(pairs)
    assert all(trial.audio_speaker != trial.speaker for trial in found)
    taken = Counter(trial.audio for trial in found)
    largest, rest = max(sizes), sum(sizes) - max(sizes)
    # Only the others can be donors for the largest group, so each is used at least this often; else once.
    assert max(taken.values()) == max(1, -(-largest // rest))


def test_a_lone_person_cannot_be_swapped_but_everything_else_can():
    pairs = listed("a__1", "a__2")
    with pytest.raises(ValueError, match="all faces in the list belong to"):
        make_trials(pairs, PROTOCOLS)
    assert {trial.other for trial in make_trials(pairs, (MATCHED, SILENT))} == {None}
    with pytest.raises(ValueError, match="matched, swapped, silent, stills, not 'dubbed'"):
        make_trials(pairs, ("dubbed",))


def test_a_file_without_sound_is_given_to_nobody_while_there_is_another(tmp_path):
    mute = write_video(tmp_path / "mute.mp4", [photo()] * 3)
    sound = write_sound(tmp_path / "spoken.wav", np.zeros(1600))
    pairs = [
        Pair("a", tmp_path / "a.mp4", tmp_path / "a.mp4", "a"), Pair("mute", mute, mute, "mute"),
        Pair("spoken", tmp_path / "spoken.mp4", sound, "spoken"),
    ]  # fmt: skip
    assert [trial.audio for trial in make_trials(pairs, (SWAPPED,))][:2] == [sound, sound]
    assert make_trials(pairs[:2], (SWAPPED,))[0].audio == mute


def test_a_sound_that_begins_with_silence_is_given_to_nobody_while_another_speaks(tmp_path):
    speech = np.frombuffer(write_speech(tmp_path / "speech.wav", 3).read_bytes()[44:], "<i2") / 32768
    late = write_sound(tmp_path / "late.wav", np.concatenate([np.zeros(32000), speech[:48000]]))
    soon = write_sound(tmp_path / "soon.wav", speech[:48000])
    pairs = [Pair(name, tmp_path / f"{name}.mp4", tmp_path / f"{name}.wav", name) for name in ("late", "a", "soon")]
    (tmp_path / "a.wav").write_bytes(soon.read_bytes())
    given = {trial.pair: trial.audio for trial in make_trials(pairs, (SWAPPED,), seconds=2.5)}
    assert given == {"late": tmp_path / "a.wav", "a": soon, "soon": tmp_path / "a.wav"}
    assert late in {trial.audio for trial in make_trials(pairs, (SWAPPED,), seconds=5)}


# Hashes --------------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_names_and_bytes(tmp_path):
    face, audio = tmp_path / "a.mp4", tmp_path / "absent.wav"
    face.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4's example
    assert fingerprint(face) == known
    assert (fingerprint(audio), fingerprint(tmp_path)) == (MISSING, MISSING)
    line = json.dumps(["a", "me", known, "missing"]) + "\n"
    assert digest([Pair("a", face, audio, "me")]) == hashlib.sha256(line.encode()).hexdigest()


def test_the_digest_changes_with_what_counts_and_with_nothing_else(tmp_path):
    one, moved = tmp_path / "a.mp4", tmp_path / "elsewhere.mp4"
    one.write_bytes(b"abc")
    moved.write_bytes(b"abc")
    first = digest([Pair("a", one, one)])
    assert digest([Pair("a", moved, moved)]) == first
    others = {
        digest([Pair("b", one, one)]),
        digest([Pair("a", one, tmp_path / "none")]),
        digest([Pair("a", one, one)] * 2),
    }
    one.write_bytes(b"abd")
    assert len({first, *others, digest([Pair("a", one, one)])}) == 5
