"""The blind comparison: its pairs, its page, and the counting of votes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from evaluation.blind import CHOICES, FORMAT, BlindScore, code_is_odd, draw, find_pairs, main
from preprocessing.errors import UsageError
from tests.material import photo, write_video

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAMES = ("one", "sub dir/two", "thrée's", "<b>four", "five")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with videos of equal names, whose content says whose they are."""
    made = []
    for folder in ("first half", "-second"):
        made.append(tmp_path / folder)
        for name in NAMES:
            path = made[-1] / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{folder}: {name}")
    (made[0] / "alone.mp4").touch()
    (made[1] / "one.txt").touch()
    return made[0], made[1]


def content_of(page: Path) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    return json.loads(data)


def make(folders: tuple[Path, Path], out: Path, *flags: str) -> dict:
    assert main(["--out", str(out), *flags, "--", *map(str, folders)]) == 0
    return content_of(out)


def test_pairs_are_videos_of_equal_names(folders):
    pairs = find_pairs(*folders)
    assert [name for name, _, _ in pairs] == sorted(NAMES)
    assert all(a.is_relative_to(folders[0]) and b.is_relative_to(folders[1]) for _, a, b in pairs)


def test_order_and_sides_are_the_seeds_and_even():
    pairs = [(str(k), Path(f"a{k}"), Path(f"b{k}")) for k in range(40)]
    drawn = draw(pairs, 3)
    assert drawn == draw(pairs, 3)
    assert [pair.name for pair in drawn] != [pair.name for pair in draw(pairs, 4)]
    assert sorted(pair.name for pair in drawn) == sorted(name for name, _, _ in pairs)
    assert sum(pair.a_left for pair in drawn) == 20
    assert all(code_is_odd(pair.code) == pair.a_left for pair in drawn)
    assert len({pair.code for pair in drawn}) == 40
    assert [pair.name for pair in draw(pairs, 3, 5)] == [pair.name for pair in drawn[:5]]


def test_the_page_shows_the_drawn_sides_and_does_not_say_which_is_which(folders, tmp_path):
    page = tmp_path / "a page.html"
    content = make(folders, page, "--seed", "2")
    expected = {pair.code: pair for pair in draw(find_pairs(*folders), 2)}
    assert [pair["code"] for pair in content["pairs"]] == list(expected)
    for shown in content["pairs"]:
        pair = expected[shown["code"]]
        left, right = ((page.parent / shown[side].replace("%20", " ")).read_text() for side in ("left", "right"))
        assert (left, right) == tuple(f"{folder}: {pair.name}" for folder in _sides(pair.a_left))
        assert re.fullmatch(r"a%20page-videos/[0-9a-f]{16}\.mp4", shown["left"])
    text = page.read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert "default-src 'none'" in text
    assert "<b>four" not in text  # a name cannot become part of the page
    assert not list(tmp_path.glob(".unfinished*"))


def _sides(a_left: bool) -> tuple[str, str]:
    return ("first half", "-second") if a_left else ("-second", "first half")


def votes(tmp_path: Path, content: dict, preferred: dict[str, str], name: str = "votes.json") -> Path:
    """The file that the page saves if, by pair, a, b or same is preferred."""
    chosen = {}
    for pair in content["pairs"]:
        if wish := preferred.get(pair["name"]):
            a_left = code_is_odd(pair["code"])
            chosen[pair["code"]] = "same" if wish == "same" else "left" if (wish == "a") == a_left else "right"
    path = tmp_path / name
    path.write_text(json.dumps({key: content[key] for key in ("format", "id", "labels")} | {"votes": chosen}))
    return path


def test_votes_are_counted_for_the_folder_they_are_for(folders, tmp_path, capsys):
    content = make(folders, tmp_path / "page.html")
    file = votes(tmp_path, content, {"one": "b", "five": "b", "thrée's": "a", "<b>four": "same"})
    again = votes(tmp_path, content, {"one": "b"}, "second viewer.json")
    assert BlindScore.read([file]) == BlindScore((str(folders[0]), str(folders[1])), a=1, b=2, same=1, pairs=4)
    assert BlindScore.read([file, again]).b == 3
    capsys.readouterr()
    assert main(["--score", str(file)]) == 0
    said = capsys.readouterr().out
    assert "4 votes on 4 pairs: A 1, B 2, no difference 1" in said
    assert f"B: {folders[1]}" in said
    assert "B is preferred in 0.67 [0.09, 0.99] of the decided votes" in said


def test_the_interval_is_clopper_and_pearsons():
    """15 of 20: [0.509, 0.913]; two-sided p 0.0414 (tables of the binomial distribution)."""
    (*_, line) = BlindScore(("x", "y"), a=5, b=15, same=0, pairs=20).lines()
    assert "0.75 [0.51, 0.91]" in line
    assert "p = 0.0414" in line
    assert list(BlindScore(("x", "y"), 0, 0, 3, 3).lines())[-1] == "no vote is decided"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "either the folders A and B, or --score"),
        (["a"], "two folders are needed"),
        (["a", "none"], "none is not a folder"),
        (["a", "a"], "the same folder"),
        (["a", "b"], "no video has the same name"),
        (["a", "b", "--out", "page.txt"], "must end in .html"),
        (["a", "b", "--out", "none/page.html"], "none does not exist"),
        (["a", "b", "--pairs", "0"], "--pairs 1 or more"),
        (["--score", "none.json"], "none.json"),
        (["--score", "other.json"], "does not hold votes"),
        (["--score", "list.json"], "does not hold votes"),
        (["--score", "wrong.json"], "an unknown vote"),
        (["a", "b", "--score", "other.json"], "either the folders A and B, or --score"),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, f"{folder}.mp4").touch()
    Path("other.json").write_text("{}")
    Path("list.json").write_text("[1]")
    content = {"format": FORMAT, "id": "1", "labels": ["a", "b"], "votes": {"ff" * 16: "both"}}
    Path("wrong.json").write_text(json.dumps(content))
    before = set(tmp_path.rglob("*"))
    assert main(argv) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert set(tmp_path.rglob("*")) == before


def test_nothing_is_overwritten_and_pages_are_not_mixed(folders, tmp_path, capsys):
    first = make(folders, tmp_path / "page.html")
    assert main([*map(str, (folders[0], folders[1])), "--out", str(tmp_path / "page.html")]) == 2
    assert "exists: remove it" in capsys.readouterr().err
    second = make(folders, tmp_path / "other.html", "--seed", "1")
    files = [votes(tmp_path, each, {"one": "a"}, f"{k}.json") for k, each in enumerate((first, second))]
    with pytest.raises(UsageError, match="different pages"):
        BlindScore.read(files)


def test_every_choice_of_the_page_is_known():
    page = Path(__file__).parents[2] / "evaluation" / "blind_page.html"
    assert set(re.findall(r'data-choice="(\w+)"', page.read_text())) == set(CHOICES)


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_browser_shows_the_videos_and_saves_the_votes(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("one", "two"):
            write_video(tmp_path / folder / f"{name}.mp4", [photo()] * 5)
    content = make((tmp_path / "a", tmp_path / "b"), tmp_path / "page.html")
    requests, complaints = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_context(accept_downloads=True).new_page()
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_function("[...document.querySelectorAll('video')].every(video => video.readyState > 1)")
        tab.keyboard.press("3")
        tab.reload()
        assert "Pair 2 of 2" in tab.inner_text("#state")
        assert "1 voted on" in tab.inner_text("#state")
        tab.click("text=No difference")
        with tab.expect_download() as download:
            tab.click("#save")
        download.value.save_as(tmp_path / "votes.json")
        browser.close()
    first, second = (pair["code"] for pair in content["pairs"])
    assert json.loads((tmp_path / "votes.json").read_text())["votes"] == {first: "right", second: "same"}
    assert BlindScore.read([tmp_path / "votes.json"]).pairs == 2
    assert all(url.startswith(("file:", "blob:")) for url in requests)
    assert not complaints
