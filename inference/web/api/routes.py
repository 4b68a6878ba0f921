"""The routes under /api."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

import wav2lip
from inference.options import Options
from inference.web.api.gate import COOKIE, session_value
from inference.web.api.problems import RESPONSES
from inference.web.api.schemas import Faces, Health, JobState, Session
from inference.web.jobs.files import AUDIO, FACE, PEOPLE_FILE, RESULT, JobFiles, is_id, share, store
from inference.web.jobs.inspection import inspect
from inference.web.jobs.options import client_options, parse_options
from inference.web.jobs.queue import FINISHED, Job, JobQueue
from inference.web.settings import ServiceSettings

LOOK_EVERY = 0.25  # seconds between two looks at the queue for an event stream
INSPECTIONS = 2  # at the same time
SMALL_FORM: Any = {"max_fields": 4, "max_files": 2, "max_part_size": 20_000}

SMALL_BODY = 4096  # bytes

router = APIRouter(prefix="/api", responses=RESPONSES, tags=["Service"])


class Service:
    """What the routes need: settings, queue and files."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.files = JobFiles(settings.data)
        self.files.create()
        self.queue = JobQueue(self.files.database)
        self._inspections = asyncio.Semaphore(INSPECTIONS)

    async def inspect(self, folder: Path, task: str, **arguments: Any) -> dict[str, Any]:
        """`inspection.inspect`, for a few requests at a time."""
        async with self._inspections:
            return await inspect(folder, task, max_seconds=self.settings.limits.seconds, **arguments)

    def state(self, job: Job) -> JobState:
        """What a client is told of a job."""
        return JobState.of(job, self.queue.position(job) if job.state == "queued" else None)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _job(job_id: str, service: Annotated[Service, Depends(_service)]) -> Job:
    job = service.queue.get(job_id) if is_id(job_id) else None
    if job is None:
        raise HTTPException(404, "no such job: it never existed, or was deleted")
    return job


ThisService = Annotated[Service, Depends(_service)]
ThisJob = Annotated[Job, Depends(_job)]


@router.get("/health")
def health(service: ThisService) -> Health:
    """State, limits and the options that a job may set."""
    workers = service.queue.workers()
    failed = [worker["message"] for worker in workers if worker["state"] == "failed"]
    ready = any(worker["state"] == "ready" for worker in workers)
    counts = service.queue.counts()
    options = {name: getattr(Options, name) for name in client_options()}
    return Health(
        status="ok" if ready else "failed" if failed else "starting", detail=None if ready or not failed else failed[0],
        version=wav2lip.__version__, queued=counts["queued"], running=counts["running"],
        limits=asdict(service.settings.limits), options=options, live=service.settings.live.avatars is not None,
        signed=bool(service.settings.engine.options.keys() & {"sign", "sign_cert"}),
    )  # fmt: skip


@router.post("/session", status_code=204, max_body_size=SMALL_BODY)  # anyone may call it
def open_session(session: Session, request: Request, service: ThisService) -> Response:
    """Exchanges the token for a cookie, which the page's downloads and event streams need."""
    token = service.settings.token
    if token is None or not hmac.compare_digest(session.token.encode(), token.encode()):
        raise HTTPException(401, "this is not the service's token")
    response = Response(status_code=204)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, session_value(token), httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/faces", form_limits=SMALL_FORM)
async def list_faces(
    service: ThisService,
    face: Annotated[UploadFile | None, File(description="the video or photo of the face")] = None,
    upload: Annotated[str | None, Form(description="instead of `face`: an earlier answer's `upload`")] = None,
    options: Annotated[str, Form(description="those of the job, which may use a part of the video only")] = "{}",
) -> Faces:
    """Lists the people in a video or photo, and keeps the file for an hour, for a job."""
    values = parse_options(options)
    folder = service.files.new(service.files.uploads)
    try:
        await asyncio.to_thread(_store_face, service, folder, face, upload)
        found = await service.inspect(folder, "faces", options=values | _detector(service))
    except BaseException:
        service.files.remove(folder)
        raise
    return Faces(upload=folder.name, **found)


def _detector(service: Service) -> dict[str, Any]:
    names = ("detector", "yunet", "s3fd")
    return {name: str(value) for name, value in service.settings.engine.options.items() if name in names}


@router.post("/jobs", status_code=201, form_limits=SMALL_FORM)
async def create_job(
    service: ThisService,
    response: Response,
    audio: Annotated[UploadFile, File(description="the speech: a sound or video file")],
    face: Annotated[UploadFile | None, File(description="the video or photo of the face")] = None,
    upload: Annotated[str | None, Form(description="instead of `face`: `upload` of POST /api/faces")] = None,
    options: Annotated[str, Form(description='a JSON object, such as {"strength": 0.8}')] = "{}",
) -> JobState:
    """Puts a job in the queue, after all checks that need no network."""
    values = parse_options(options)
    folder = service.files.new(service.files.jobs)
    try:
        await asyncio.to_thread(store, audio.file, folder / AUDIO)
        await asyncio.to_thread(_store_face, service, folder, face, upload)
        media = await service.inspect(folder, "job", options=values | _detector(service))
        service.queue.add(folder.name, values, media, service.settings.limits.queue)
    except BaseException:
        service.files.remove(folder)
        raise
    job = service.queue.get(folder.name)
    assert job is not None, "this job was just added"
    response.headers["Location"] = f"/api/jobs/{job.id}"
    return service.state(job)


def _store_face(service: Service, folder: Path, face: UploadFile | None, upload: str | None) -> None:
    """Puts the face into a folder: what was sent now, or an earlier upload."""
    if (face is None) == (upload is None):
        raise HTTPException(400, "send either a face file or the upload that POST /api/faces returned")
    if face is not None:
        store(face.file, folder / FACE)
        return
    assert upload is not None
    source = service.files.upload(upload) / FACE if is_id(upload) else None
    if source is None or not source.is_file():
        raise HTTPException(404, "no such upload: it never existed, or was deleted after an hour")
    share(source, folder / FACE)
    if (people := source.with_name(PEOPLE_FILE)).is_file():
        share(people, folder / PEOPLE_FILE)


@router.get("/jobs/{job_id}")
def get_job(job: ThisJob, service: ThisService) -> JobState:
    """State and progress of a job."""
    return service.state(job)


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
async def job_events(job: ThisJob, service: ThisService) -> AsyncIterator[ServerSentEvent]:
    """State and progress as server-sent events `state`, each a job as JSON; the stream ends with the job."""
    last: dict[str, Any] | None = None
    current: Job | None = job
    while current is not None:
        state = (await asyncio.to_thread(service.state, current)).model_dump()
        if state != last:
            yield ServerSentEvent(event="state", data=state, retry=1000)
            last = state
        if current.state in FINISHED:
            return
        await asyncio.sleep(LOOK_EVERY)
        current = await asyncio.to_thread(service.queue.get, job.id)


@router.delete("/jobs/{job_id}")
def delete_job(job: ThisJob, service: ThisService) -> JobState | None:
    """Cancels a job that waits or runs; deletes a finished one, and all its files. Returns what is left of it."""
    if job.state in FINISHED:
        service.files.remove(service.files.job(job.id))
        service.queue.forget(job.id)
        return None
    service.queue.cancel(job.id)
    left = service.queue.get(job.id)
    if left is not None and left.state == "cancelled":
        service.files.remove(service.files.job(job.id))
    return None if left is None else service.state(left)


@router.get("/jobs/{job_id}/result", response_class=FileResponse)
def get_result(job: ThisJob, service: ThisService) -> FileResponse:
    """The video of a job that is done; ranges are supported."""
    return _file(service, job, RESULT, "video/mp4", f"wav2lip-{job.id[:8]}.mp4")


@router.get("/jobs/{job_id}/original", response_class=FileResponse)
def get_original(job: ThisJob, service: ThisService) -> FileResponse:
    """The face file of a job that is done, to compare; ranges are supported."""
    return _file(service, job, FACE, job.media["type"], f"original-{job.id[:8]}")


def _file(service: Service, job: Job, name: str, kind: str, download: str) -> FileResponse:
    path = service.files.job(job.id) / name
    if job.state != "done" or not path.is_file():
        raise HTTPException(409, f"this job has no result: it is {job.state}")
    return FileResponse(path, media_type=kind, filename=download, content_disposition_type="inline")
