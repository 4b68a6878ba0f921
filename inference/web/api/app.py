"""Puts the service together: routes, page, gate, and the supervisor of the workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files as resources
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

import wav2lip
from inference.web.api.gate import DiskBudget, Gate
from inference.web.api.problems import handle_problems
from inference.web.api.routes import Service, router
from inference.web.jobs.supervisor import Supervisor
from inference.web.jobs.worker import LipSyncer, WorkerTask, load_engine
from inference.web.live.host import LiveHost
from inference.web.live.routes import router as live_router
from inference.web.settings import EngineSettings, ServiceSettings, media_address

PAGE = Path(__file__).parents[1] / "page"


def make_app(
    settings: ServiceSettings, load: Callable[[EngineSettings, str], LipSyncer] | None = load_engine
) -> ASGIApp:  # fmt: skip
    """The service as an ASGI app.

    Args:
        load: what makes the workers' renderer; None: no worker is started.
    """
    service = Service(settings)
    app = FastAPI(
        title="Wav2Lip", version=wav2lip.__version__, docs_url=None, redoc_url=None, lifespan=_lifespan(service, load),
        description="Makes the face in a video or photo speak a recording. Only with the consent of the person shown.",
        max_body_size=settings.limits.upload_bytes, telemetry={"tracing": False, "metrics": False, "logs": False},
    )  # fmt: skip
    app.state.service = service
    handle_problems(app)
    app.include_router(router)
    app.state.live = LiveHost(settings.live, _face_options(settings), media_address(settings.host))
    app.include_router(live_router)
    _add_pages(app)
    return Gate(app, settings, DiskBudget(service.files, settings.limits.disk_bytes))


def _face_options(settings: ServiceSettings) -> dict[str, object]:
    names = ("detector", "yunet", "s3fd")
    return {name: value for name, value in settings.engine.options.items() if name in names}


def _lifespan(service: Service, load: Callable[[EngineSettings, str], LipSyncer] | None) -> Callable:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        supervisor = None if load is None else _supervisor(service, load)
        if supervisor is not None:
            supervisor.start()
        try:
            yield
        finally:
            if supervisor is not None:
                supervisor.stop()
            await app.state.live.end_sessions()
            app.state.live.close()

    return lifespan


def _supervisor(service: Service, load: Callable[[EngineSettings, str], LipSyncer]) -> Supervisor:
    settings = service.settings
    tasks = [
        WorkerTask(f"{number}-{device}", settings.data, settings.engine, device, load)
        for number, device in enumerate(settings.engine.devices())
    ]
    return Supervisor(tasks, service.queue, service.files, settings.limits.keep_hours)


def _add_pages(app: FastAPI) -> None:
    """The pages, and the API's description with Swagger UI from a package: nothing comes from another host."""
    for name in ("index", "live"):
        _add_page(app, name)

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    swagger = Path(str(resources("fastapi_swagger"))) / "resources"
    app.mount("/docs", StaticFiles(directory=swagger), name="swagger")
    app.mount("/", StaticFiles(directory=PAGE), name="page")


def _add_page(app: FastAPI, name: str) -> None:
    """A page whose comments `<!-- head -->` and `<!-- login -->` stand for what the pages share."""

    def page() -> HTMLResponse:
        text = (PAGE / f"{name}.html").read_text(encoding="utf-8")
        for part in ("head", "login"):
            text = text.replace(f"<!-- {part} -->\n", (PAGE / "parts" / f"{part}.html").read_text(encoding="utf-8"))
        return HTMLResponse(text)

    for path in ("/" if name == "index" else f"/{name}", f"/{name}.html"):
        app.add_api_route(path, page, include_in_schema=False)
