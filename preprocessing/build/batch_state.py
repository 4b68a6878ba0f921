"""The state of a build: its videos, their records, the remaining work, and the output tables."""

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
    """The videos of a build. `todo`: the videos still to process; `records`: the records of the others by id."""

    def __init__(self, sources: Sequence[VideoSource], clips: Path, recipe: ClipRecipe) -> None:
        self.sources, self.clips, self.recipe = sources, clips, recipe
        digest = recipe.digest()
        manifest = clips / "manifest.csv"
        self._filtered = [row for row in read_manifest(manifest) if row.sync_filter] if manifest.exists() else []
        self._current = {source.id: VideoRecord.begin(source, digest) for source in sources}
        self._previous = load_all(clips)
        remove_leftovers(clips, self._previous.values())
        known = ((name, self._previous[name]) for name in self._current.keys() & self._previous.keys())
        self.records = {name: old for name, old in known if old.is_current(self._current[name], clips)}
        self.todo = [source for source in sources if source.id not in self.records]

    def record(self, source: VideoSource, outcome: VideoOutcome) -> None:
        """Records the outcome of a video, in memory and on disk."""
        record = self._current[source.id]
        # Drop the path, which is reported separately, so that equal reasons have equal text for all videos.
        outcome.reason = outcome.reason.removeprefix(display_path(source.path)).lstrip(": ")
        record.finish(outcome, self.clips)
        save(self.clips, source.id, record)
        remove_replaced(self.clips, self._previous.get(source.id), record)
        self.records[source.id] = record

    def tables(self) -> tuple[list[ClipRow], list[VideoRow]]:
        """The rows of all clips and of all processed videos, in the order of the videos."""
        done = [(source, self.records[source.id].outcome) for source in self.sources if source.id in self.records]
        # The split is not stored in the clip, so it can change without rebuilding the clip.
        rows = [replace(row, split=source.split) for source, outcome in done for row in outcome.rows]
        mark_duplicates(rows)
        carry_sync_filter(rows, self._filtered)
        by_video: dict[str, list[ClipRow]] = {}
        for row in rows:
            by_video.setdefault(row.video, []).append(row)
        return rows, [_video_row(source, outcome, by_video.get(source.video, [])) for source, outcome in done]

    def write_tables(self) -> tuple[list[ClipRow], list[VideoRow]]:
        """Writes manifest.csv and videos.csv and returns their rows."""
        rows, videos = self.tables()
        if videos:
            write_rows(self.clips / "videos.csv", videos)
        write_rows(self.clips / "manifest.csv", rows)
        return rows, videos

    def stages(self) -> dict[str, float]:
        """Processing seconds by stage, summed over all videos."""
        total: Counter[str] = Counter()
        for record in self.records.values():
            total.update(record.outcome.stages)
        return dict(total)


def mark_duplicates(rows: Sequence[ClipRow]) -> None:
    """Rejects clips with the same audio as a clip of an earlier video; two people in one video may share audio."""
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
