"""What the API answers."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, Field

from inference.parts import ALL, SPEAKING
from inference.web.jobs.queue import Job
from inference.web.jobs.worker import ANALYSIS, PEOPLE, RENDER, SPEAKERS

# Where a stage begins in a job's time, and its share, as measured. Some jobs look for people first.
SHARES = {ANALYSIS: (0.0, 0.5), RENDER: (0.5, 0.5)}
SHARES_WITH_PEOPLE = {PEOPLE: (0.0, 0.35), SPEAKERS: (0.35, 0.05), ANALYSIS: (0.4, 0.3), RENDER: (0.7, 0.3)}
MIN_PROGRESS = 0.02  # before this nothing is said of the remaining time


class JobError(BaseModel):
    """Why a job failed."""

    detail: str = Field(description="one line that says what is wrong and what would be right")


class JobReport(BaseModel):
    """What a finished job made."""

    frames: int
    faces: int = Field(description="frames that got a generated mouth; the others are unchanged")
    fps: str = Field(description="frame rate, a fraction such as 30000/1001")
    duration: float = Field(description="seconds")
    seconds: dict[str, float] = Field(description="time of each stage; stages overlap")
    notes: list[str] = Field(description="remarks on how the files were read")


class JobState(BaseModel):
    """A job."""

    id: str = Field(description="a random name; who knows it may see and delete the job")
    state: Literal["queued", "running", "cancelling", "done", "failed", "cancelled"]
    position: int | None = Field(description="jobs that start before this one, if it waits")
    stage: Literal["people", "speakers", "analysis", "render"] | None = Field(description="what a running job does")
    done: int = Field(description="frames of this stage that are done")
    total: int = Field(description="frames of this stage")
    progress: float = Field(description="of the whole job, 0 to 1")
    eta: float | None = Field(description="estimated seconds until it is done; null: not known yet")
    created: float = Field(description="seconds since 1970")
    finished: float | None
    error: JobError | None
    report: JobReport | None
    options: dict[str, Any] = Field(description="the options it was sent with")
    original: dict[str, Any] = Field(
        description="the face file: width, height, seconds, photo, type; people_known: by POST /api/faces"
    )

    @classmethod
    def of(cls, job: Job, position: int | None) -> JobState:
        """The public part of a job."""
        progress = job_progress(job)
        running = job.state == "running"
        return cls(
            id=job.id, state="cancelling" if running and job.cancelled else job.state,  # type: ignore[arg-type]
            position=position, stage=job.stage if running else None, done=job.done, total=job.total,  # type: ignore[arg-type]
            progress=round(progress, 4), eta=_eta(job, progress) if running else None, created=job.created,
            finished=job.finished, error=JobError(detail=job.error) if job.error else None,
            report=JobReport(**job.report) if job.report else None, options=job.options, original=job.media,
        )  # fmt: skip


def job_progress(job: Job) -> float:
    """Done share of a job, 0 to 1."""
    if job.state == "done":
        return 1.0
    finds_people = job.options.get("face_id") is not None or job.options.get("select") in (SPEAKING, ALL)
    finds_people = finds_people and not job.media.get("people_known")
    begin, share = (SHARES_WITH_PEOPLE if finds_people else SHARES).get(job.stage or "", (0.0, 0.0))
    return begin + share * min(1.0, job.done / max(job.total, 1))


def _eta(job: Job, progress: float) -> float | None:
    """Remaining seconds, if the rest goes as fast as what is done."""
    if progress < MIN_PROGRESS or job.started is None:
        return None
    return round((time.time() - job.started) * (1 - progress) / progress, 1)


class Person(BaseModel):
    """Somebody in the face video."""

    id: int = Field(description="value for the option face_id")
    start: float = Field(description="seconds, when the person is first seen")
    end: float = Field(description="seconds, when the person is last seen")
    share: float = Field(description="of the frames, 0 to 1")
    speaking: bool | None = Field(description="whether the person speaks the video's own sound; null: not known")
    thumbnail: str = Field(description="a JPEG picture as a data: URL")


class Faces(BaseModel):
    """The people in an uploaded face file."""

    upload: str = Field(description="name of the stored file, for POST /api/jobs within the hour")
    original: dict[str, Any] = Field(description="the face file: width, height, seconds, photo, type")
    people: list[Person]


class Health(BaseModel):
    """State of the service."""

    status: Literal["ok", "starting", "failed"]
    detail: str | None = Field(description="why the service cannot work")
    version: str
    queued: int
    running: int
    limits: dict[str, float]
    options: dict[str, Any] = Field(description="options that a job may set, with their defaults")
    live: bool = Field(description="whether there are live sessions, see /api/live")
    signed: bool = Field(description="whether results carry a signed C2PA manifest besides the metadata mark")


class Session(BaseModel):
    """The token, as the page's form sends it."""

    token: str = Field(max_length=1000)
