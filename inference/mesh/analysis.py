"""What the first pass found out about a face, kept so that another sound for it need not look at it again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import asdict, dataclass

from inference.engine import JobInput
from inference.mesh.landmark_store import LandmarkStore
from preprocessing.errors import UsageError
from wav2lip.renderer.inner_mouth import InnerMouthBank

# Options that do not change what the first pass sees.
LATER = (
    "sync_mode", "tail", "blend", "audio_track", "keep_audio", "rest", "strength", "paint", "photo_motion", "crf",
    "preset", "preview", "sign", "sign_cert", "sign_key", "profile", "pads", "batch_size", "face_det_batch_size",
    "save_track",
)  # fmt: skip


@dataclass(frozen=True)
class Analysis:
    """Landmarks of all frames, and the inner mouths seen in them."""

    store: LandmarkStore
    bank: InnerMouthBank


class AnalysisCache:
    """The analyses of the last few faces; for one job at a time.

    Args:
        size: how many; one may hold 25 MB of inner mouths, and has a file with the landmarks.
    """

    def __init__(self, size: int = 2) -> None:
        if size < 1:
            raise UsageError(f"a cache needs room for one analysis at least, not {size}")
        self._size, self._known = size, OrderedDict[Hashable, Analysis]()

    def find(self, key: Hashable) -> Analysis | None:
        """The analysis with this key, if it is still there."""
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def keep(self, key: Hashable, analysis: Analysis) -> None:
        """Keeps an analysis, whose file is closed when others have taken its place."""
        self._known[key] = analysis
        if len(self._known) > self._size:
            self._known.popitem(last=False)[1].store.close()


def analysis_key(job: JobInput, count: int) -> Hashable | None:
    """What the first pass over `count` frames depends on; None if the face is given in another way than by options."""
    if job.options.load_track is not None or any(role.person is not None for role in job.roles) or len(job.roles) > 1:
        return None
    state = job.source.path.stat()
    options = {name: value for name, value in asdict(job.options).items() if name not in LATER}
    return (job.source.path.resolve(), state.st_ino, state.st_size, state.st_mtime_ns, count, *sorted(options.items()))
