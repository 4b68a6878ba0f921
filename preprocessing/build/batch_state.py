"""The videos of one run: what is known of them, what is left to do, and the tables that tell of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from preprocessing.build.build_state import VideoRecord, load_all, remove_leftovers, remove_replaced, save
from preprocessing.build.sources import VideoSource
from preprocessing.build.video_pipeline import ClipRecipe, VideoOutcome
from preprocessing.dataset.manifest import ClipRow, VideoRow, carry_sync_filter, read_manifest, write_rows
from preprocessing.errors import display_path


class BatchState:
    """The videos of one run and what is known of them: `todo` still to be done, `records` the others' by id."""

    def __init__(self, sources: Sequence[VideoSource], clips: Path, recipe: ClipRecipe) -> None:
        self.sources, self.clips, self.recipe = sources, clips, recipe
        digest = recipe.digest()
        manifest = clips / "manifest.csv"
        self._filtered = [row for row in read_manifest(manifest) if row.sync_filter] if manifest.exists() else []
        self._now = {source.id: VideoRecord.begin(source, digest) for source in sources}
        self._old = load_all(clips)
        remove_leftovers(clips, self._old.values())
        held = ((name, self._old[name]) for name in self._now.keys() & self._old.keys())
        self.records = {name: old for name, old in held if old.is_current(self._now[name], clips)}
        self.todo = [source for source in sources if source.id not in self.records]

    def keep(self, source: VideoSource, outcome: VideoOutcome) -> None:
        """Takes note of what became of a video, on disk too."""
        record = self._now[source.id]
        # Without the path, which is told beside it: the same reason is then the same text for all videos.
        outcome.reason = outcome.reason.removeprefix(display_path(source.path)).lstrip(": ")
        record.finish(outcome, self.clips)
        save(self.clips, source.id, record)
        remove_replaced(self.clips, self._old.get(source.id), record)
        self.records[source.id] = record

    def tables(self) -> tuple[list[ClipRow], list[VideoRow]]:
        """The rows of all clips and all videos that are done, in the order of the videos."""
        done = [(source, self.records[source.id].outcome) for source in self.sources if source.id in self.records]
        # The split is no part of a clip, so that it may change without the clip being made again.
        rows = [replace(row, split=source.split) for source, outcome in done for row in outcome.rows]
        mark_duplicates(rows)
        carry_sync_filter(rows, self._filtered)
        by_video: dict[str, list[ClipRow]] = {}
        for row in rows:
            by_video.setdefault(row.video, []).append(row)
        return rows, [_video_row(source, outcome, by_video.get(source.video, [])) for source, outcome in done]

    def write_tables(self) -> tuple[list[ClipRow], list[VideoRow]]:
        """Writes manifest.csv and videos.csv, and returns their rows."""
        rows, videos = self.tables()
        if videos:
            write_rows(self.clips / "videos.csv", videos)
        write_rows(self.clips / "manifest.csv", rows)
        return rows, videos

    def stages(self) -> dict[str, float]:
        """Seconds of work by stage, over all videos."""
        total: Counter[str] = Counter()
        for record in self.records.values():
            total.update(record.outcome.stages)
        return dict(total)


def mark_duplicates(rows: Sequence[ClipRow]) -> None:
    """Sets the reason of clips whose sound an earlier video's clip has too; two people of one video may share it."""
    first: dict[str, str] = {}
    for row in rows:
        if not row.reason and row.audio_sha256 and first.setdefault(row.audio_sha256, row.video) != row.video:
            row.reason = "duplicate"


def _video_row(source: VideoSource, outcome: VideoOutcome, rows: Sequence[ClipRow]) -> VideoRow:
    fate, reason = outcome.fate, outcome.reason
    if fate == "made" and all(row.reason for row in rows):
        fate, reason = "rejected", "duplicate"
    good = [row for row in rows if row.passes]
    length, work = sum(row.seconds for row in good), sum(outcome.stages.values())
    return VideoRow(
        source.video, source.speaker, source.split, fate, reason, outcome.seconds, len(good), length, work
    )  # fmt: skip
