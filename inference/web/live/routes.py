"""The routes under /api/live."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket
from pydantic import BaseModel, Field

from inference.web.live.conversation import Conversation
from inference.web.live.host import LiveHost, NoRoomError
from preprocessing.errors import Wav2LipError

TRY_LATER, REFUSED = 1013, 1008

router = APIRouter(prefix="/api/live")


class Live(BaseModel):
    """What live sessions the service offers."""

    avatars: list[str] = Field(description="the people to choose from; none: live sessions are off")
    tts: bool = Field(description="whether a text can be spoken")
    sessions: int = Field(description="sessions at a time")
    free: int = Field(description="sessions that may be opened now")


@router.get("")
def offers(request: Request) -> Live:
    """The people to choose from, and whether there is room."""
    host: LiveHost = request.app.state.live
    settings = host.settings
    return Live(avatars=host.names(), tts=bool(settings.tts), sessions=settings.sessions, free=host.free)


@router.websocket("/{avatar}")
async def converse(socket: WebSocket, avatar: str, rate: Annotated[int, Query(ge=8000, le=48000)] = 16000) -> None:
    """A live session, see `inference.web.live.conversation`."""
    host: LiveHost = socket.app.state.live
    await socket.accept()
    if avatar not in host.names():
        await socket.close(REFUSED, "no such avatar")
        return
    opening = host.session(avatar, rate)
    try:
        session = await asyncio.to_thread(opening.__enter__)
    except NoRoomError:
        await socket.close(TRY_LATER, "all sessions are in use: try again later")
        return
    except Wav2LipError as error:
        await socket.close(REFUSED, str(error)[:120])
        return
    try:
        await Conversation(socket, host, session, rate).run()
        with suppress(RuntimeError):  # closed already
            await socket.close()
    finally:
        await asyncio.to_thread(opening.__exit__, None, None, None)
