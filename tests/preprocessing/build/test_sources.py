"""Finding videos and their labels, by name, folder or table."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest

from preprocessing.build.sources import (
    Labels,
    VideoSource,
    assign_split,
    find_sources,
    speakers_in_multiple_splits,
    video_ids,
)


def plant(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return root


def by_video(sources: list[VideoSource]) -> dict[str, VideoSource]:
    return {source.video: source for source in sources}


def speakers(root: Path, **labels) -> dict[str, str]:
    return {source.video: source.speaker for source in find_sources(root, Labels(**labels))}


def test_videos_are_found_by_suffix_in_all_folders_but_hidden_ones_and_the_clips(tmp_path: Path):
    plant(tmp_path, "b.MP4", "a/c.mov", "a/d/e.WebM", "a/notes.txt", "mp4", ".h.mp4", ".git/f.mp4", "out/clips/g.mp4")
    found = find_sources(tmp_path, exclude=tmp_path / "out")
    assert [source.video for source in found] == ["a/c.mov", "a/d/e.WebM", "b.MP4"]
    assert all(source.path.is_absolute() and source.path == tmp_path / source.video for source in found)


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path):
    plant(tmp_path, "videos/a/one.mp4", "disk/two.mp4")
    (tmp_path / "videos" / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "videos" / "a" / "back").symlink_to(tmp_path / "videos")
    assert by_video(find_sources(tmp_path / "videos")).keys() == {"a/one.mp4", "disk/two.mp4"}


def test_ids_hold_the_name_and_the_paths_hash():
    digest = hashlib.sha256(b"some folder/My talk (1).mp4").hexdigest()
    assert video_ids(["some folder/My talk (1).mp4"]) == {"some folder/My talk (1).mp4": f"My_talk_1_-{digest[:8]}"}
    assert video_ids(["x/talk.mp4", "y/talk.mp4"])["x/talk.mp4"].startswith("talk-")
    assert len(set(video_ids(["x/talk.mp4", "y/talk.mp4", "x/talk.mov"]).values())) == 3


def test_ids_are_names_that_any_file_system_takes():
    names = ["ü" * 200 + ".mp4", "a\nb'\"c.mp4", os.fsdecode(b"caf\xe9.mp4"), "-rf.mp4", "...mp4", "日本.mp4"]
    for name in video_ids(names).values():
        assert len(name) <= 60 + 9
        assert name.isascii()
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        assert name[0] not in ".-"


def test_ids_of_which_two_would_agree_become_longer():
    first, second = colliding_names()
    ids = video_ids([first, second, "other/x.mp4"])
    assert ids[first] != ids[second]
    assert {len(ids[first]), len(ids[second]), len(ids["other/x.mp4"])} == {len("x-") + 16, len("x-") + 8}


def colliding_names() -> tuple[str, str]:
    """Two paths whose SHA-256 start with the same 8 digits; found by search (about 2**16 tries)."""
    seen: dict[str, str] = {}
    for number in range(400_000):
        name = f"{number}/x.mp4"
        other = seen.setdefault(hashlib.sha256(name.encode()).hexdigest()[:8], name)
        if other != name:
            return other, name
    raise AssertionError("no collision among 400000 names")


ODD_NAMES = ["a 'b' \"c\".mp4", "line\nbreak.mp4", os.fsdecode(b"caf\xe9 \xff.mp4"), "ünïcode.mp4"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_of_a_file_is_found(tmp_path: Path, name: str):
    plant(tmp_path, f"{name[:-4]}/{name}")
    (source,) = find_sources(tmp_path)
    assert source.path.read_bytes() == b"video"
    assert source.speaker == name[:-4]
    assert source.split in ("train", "val")


def test_a_speaker_is_a_folder_or_the_file_itself(tmp_path: Path):
    plant(tmp_path, "anna/x/1.mp4", "anna/2.mp4", "bob/3.mp4", "4.mp4")
    assert speakers(tmp_path) == {"anna/x/1.mp4": "anna", "anna/2.mp4": "anna", "bob/3.mp4": "bob", "4.mp4": "4"}
    two = speakers(tmp_path, speaker_level=2)
    assert (two["anna/x/1.mp4"], two["anna/2.mp4"], two["4.mp4"]) == ("x", "anna/2", "4")


def test_a_speaker_is_part_of_the_name_or_the_whole_file(tmp_path: Path):
    plant(tmp_path, "in/anna__1__2.mp4", "in/bob.mp4", "other/bob.mp4", "__x.mp4")
    named = speakers(tmp_path, speaker="name")
    assert named == {"__x.mp4": "__x", "in/anna__1__2.mp4": "anna", "in/bob.mp4": "bob", "other/bob.mp4": "bob"}
    assert len(set(speakers(tmp_path, speaker="file").values())) == 4


def test_the_split_by_hash_is_fixed_and_has_its_shares():
    names = [f"speaker{number}" for number in range(5000)]
    counts = Counter(assign_split(name, 0.1, 0.05) for name in names)
    assert counts["val"] == pytest.approx(500, abs=80)  # four standard deviations
    assert counts["test"] == pytest.approx(250, abs=60)
    assert {assign_split(name, 0, 0) for name in names} == {"train"}
    assert {assign_split(name, 1, 0) for name in names} == {"val"}
    assert {assign_split(name, 0, 1) for name in names} == {"test"}
    # SHA-256 of "anna" starts with 55579b55, a fraction of 0.333368; see `printf anna | sha256sum`.
    assert assign_split("anna", 0.33336, 0) == "train"
    assert assign_split("anna", 0.33337, 0) == "val"


def test_a_changed_share_moves_nobody_between_the_other_splits():
    for number in range(500):
        before, after = (assign_split(f"s{number}", 0.1, share) for share in (0.0, 0.2))
        assert after == before or (before, after) == ("train", "test")


def test_a_speakers_videos_share_their_split(tmp_path: Path):
    plant(tmp_path, *(f"s{speaker}/{number}.mp4" for speaker in range(30) for number in range(3)))
    found = find_sources(tmp_path, Labels(val_share=0.3))
    assert speakers_in_multiple_splits(found) == []
    assert {source.split for source in found} == {"train", "val"}


def test_the_split_is_a_folder(tmp_path: Path):
    plant(tmp_path, "train/anna__1.mp4", "val/bob__1.mp4", "test/carl__1.mp4", "test/anna__2.mp4")
    found = find_sources(tmp_path, Labels(speaker="name", split="folder"))
    pairs = {f"{source.speaker} {source.split}" for source in found}
    assert pairs == {"anna train", "bob val", "carl test", "anna test"}
    assert speakers_in_multiple_splits(found) == ["anna"]


@pytest.mark.parametrize("name", ["dev/anna__1.mp4", "anna__1.mp4"])
def test_a_folder_that_is_no_split_is_refused(tmp_path: Path, name: str):
    plant(tmp_path, name)
    with pytest.raises(ValueError, match=r"anna__1\.mp4 by its folder at level 1 must be train, val, test"):
        find_sources(tmp_path, Labels(speaker="name", split="folder"))


def table(root: Path, *lines: str) -> Path:
    path = root / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    return path


def test_labels_come_from_a_table(tmp_path: Path):
    odd = os.fsdecode(b"caf\xe9.mp4")
    plant(tmp_path, "a/1.mp4", "a/2.mp4", odd)
    lines = ['./a/1.mp4,"Ann, A.",de,CC BY 4.0,val', "a/2.mp4,bob,,,train", f"{odd},carl,fr,,test", "gone.mp4,x,,,val"]
    labels = Labels("table", split="table", table=table(tmp_path, "file,speaker,language,licence,split,tier", *lines))
    found = by_video(find_sources(tmp_path, labels))
    one = found["a/1.mp4"]
    assert (one.speaker, one.language, one.licence, one.split) == ("Ann, A.", "de", "CC BY 4.0", "val")
    assert (found["a/2.mp4"].speaker, found["a/2.mp4"].language, found["a/2.mp4"].split) == ("bob", "", "train")
    assert (found[odd].speaker, found[odd].split) == ("carl", "test")


def test_a_table_may_know_the_language_alone(tmp_path: Path):
    plant(tmp_path, "anna/1.mp4", "anna/2.mp4")
    found = find_sources(tmp_path, Labels(table=table(tmp_path, "file,language", "anna/1.mp4,de")))
    assert [(source.speaker, source.language) for source in found] == [("anna", "de"), ("anna", "")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,speaker,split", "1.mp4,a,train"], "lacks the column file"),
        (["file,language", "1.mp4,de"], "lacks the column speaker and split"),
        (["file,speaker,split", "1.mp4,a,dev"], r"split of 1\.mp4 in .*table\.csv must be train, val, test, not 'dev'"),
        (["file,speaker,split", "1.mp4,,train"], r"table\.csv has no speaker for 1\.mp4"),
        (["file,speaker,split", "2.mp4,a,train"], "names none of the videos"),
        ([], "lacks the column"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, lines: list[str], message: str):
    plant(tmp_path, "1.mp4")
    with pytest.raises(ValueError, match=message):
        find_sources(tmp_path, Labels("table", split="table", table=table(tmp_path, *lines)))
    with pytest.raises(ValueError, match=r"no\.csv is not a readable table"):
        find_sources(tmp_path, Labels(table=tmp_path / "no.csv"))


def test_a_list_names_videos_beside_it_or_below_a_root(tmp_path: Path):
    plant(tmp_path / "data", "anna/1 a.mp4", "bob/2.mp4", "bob/3.mp4")
    (tmp_path / "data" / "list.txt").write_text("bob/2.mp4\r\n\n  anna/1 a.mp4\nbob/2.mp4\n")
    assert [source.video for source in find_sources(tmp_path / "data" / "list.txt")] == ["anna/1 a.mp4", "bob/2.mp4"]
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text(f"data/bob/2.mp4\n{tmp_path}/data/bob/3.mp4\ndata/gone.mp4\n")
    found = by_video(find_sources(elsewhere, Labels(speaker_level=2)))
    assert {video: source.speaker for video, source in found.items()} == {
        "data/bob/2.mp4": "bob", "data/bob/3.mp4": "bob", "data/gone.mp4": "data/gone",
    }  # fmt: skip
    found = by_video(find_sources(elsewhere.rename(tmp_path / "x.txt"), Labels(root=tmp_path)))
    assert found["data/gone.mp4"].path == tmp_path / "data" / "gone.mp4"  # fails later, when processed


def test_a_list_that_leads_out_of_its_root_is_refused(tmp_path: Path):
    plant(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "a" / "list").write_text("../b/2.mp4\n")
    with pytest.raises(ValueError, match="lies outside"):
        find_sources(tmp_path / "a" / "list")
    (tmp_path / "a" / "list").write_text("b/2.mp4\n")
    assert [source.video for source in find_sources(tmp_path / "a" / "list", Labels(root=tmp_path))] == ["b/2.mp4"]


def test_lrs2(tmp_path: Path):
    """main/<folder>/<id>.mp4, and lists of <folder>/<id> followed by a score; the only speaker is the broadcast."""
    broadcast = "5535415699068794046"
    main = plant(tmp_path / "lrs2/main", f"{broadcast}/00001.mp4", f"{broadcast}/00002.mp4", "61/00001.mp4")
    whole = by_video(find_sources(tmp_path / "lrs2", Labels(speaker_level=2)))
    assert whole["main/61/00001.mp4"].speaker == "61"
    (tmp_path / "train.txt").write_text(f"{broadcast}/00001 NF 93\n61/00001\n")
    found = find_sources(tmp_path / "train.txt", Labels(root=main))
    videos = [(source.video, source.speaker) for source in found]
    assert videos == [(f"{broadcast}/00001.mp4", broadcast), ("61/00001.mp4", "61")]
    assert len({source.id for source in found}) == 2


def test_voxceleb(tmp_path: Path):
    """dev/mp4/<person>/<video>/<n>.mp4: the person is the third folder."""
    folders = [f"dev/mp4/{person}/{video}" for person in ("id00012", "id00015") for video in ("xYz_-1", "b")]
    plant(tmp_path, *(f"{folder}/{number:05d}.mp4" for folder in folders for number in (1, 2)))
    found = find_sources(tmp_path, Labels(speaker_level=3))
    assert Counter(source.speaker for source in found) == {"id00012": 4, "id00015": 4}
    assert speakers_in_multiple_splits(found) == []
    assert len({source.id for source in found}) == 8


def test_the_projects_own_folder(shared: Path):
    table = shared / "data" / "manifest.csv"
    found = find_sources(shared / "data", Labels("table", split="folder", table=table))
    assert len(found) == len(table.read_text().splitlines()) - 1
    assert all(source.licence and source.language for source in found)
    assert {source.split for source in found} == {"train", "val"}
    by_name = find_sources(shared / "data", Labels("name", split="folder"))
    assert [source.speaker for source in by_name] == [source.speaker for source in found]
    assert speakers_in_multiple_splits(found) == [
        "grid_s1"
    ]  # intended: other sentences of a training speaker, a seen-speaker check


def test_nothing_to_be_found_is_told_in_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no videos \(\.mp4"):
        find_sources(plant(tmp_path, "x.txt"))
    with pytest.raises(ValueError, match="does not exist"):
        find_sources(tmp_path / "none")
    (tmp_path / "x.mp4").write_bytes(b"\0\0\0 ftyp")
    with pytest.raises(ValueError, match="neither a folder nor a list"):
        find_sources(tmp_path / "x.mp4")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"speaker_level": 0}, "speaker_level must be 1 or more, not 0"),
        ({"split_level": -1}, "split_level must be 1 or more, not -1"),
        ({"val_share": 0.7, "test_share": 0.5}, "add up to at most 1, not 0.7 and 0.5"),
        ({"val_share": float("nan")}, "not nan and 0.0"),
        ({"speaker": "table"}, "no table is given"),
        ({"split": "folder"}, "both 1: one folder cannot name both"),
    ],
)
def test_contradictions_are_refused(labels: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Labels(**labels)
