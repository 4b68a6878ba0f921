"""The routes under /api/live."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request, WebSocket
from pydantic import BaseModel, Field

from inference.live.session import LiveSession
from inference.web.api.problems import RESPONSES
from inference.web.live.conversation import Conversation
from inference.web.live.host import LiveHost, NoRoomError
from preprocessing.errors import Wav2LipError

if TYPE_CHECKING:
    from inference.web.live.peer import Peer

TRY_LATER, REFUSED = 1013, 1008
RTC_RATE = 48000  # samples per second of sound over WebRTC
MAX_SDP = 100_000  # characters

router = APIRouter(prefix="/api/live", responses=RESPONSES, tags=["Live"])


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


class Offer(BaseModel):
    """A client's WebRTC offer, complete with its candidates."""

    avatar: str = Field(max_length=300, description="one of the people of GET /api/live")
    sdp: str = Field(max_length=MAX_SDP, description="the offer: one audio track both ways, one video track to receive")


class Answer(BaseModel):
    """The service's WebRTC answer."""

    type: Literal["answer"] = "answer"
    sdp: str


@router.post("/offer", status_code=201, max_body_size=2 * MAX_SDP)
async def connect(request: Request, offer: Offer) -> Answer:
    """Opens a live session over WebRTC, see `inference.web.live.peer`."""
    try:
        from inference.web.live.peer import Peer
    except ImportError as error:
        raise HTTPException(501, "WebRTC needs aiortc: pip install -r requirements-web.txt") from error
    host: LiveHost = request.app.state.live
    if offer.avatar not in host.names():
        raise HTTPException(404, "no such avatar")
    opening = host.session(offer.avatar, RTC_RATE)
    try:
        session = await asyncio.to_thread(opening.__enter__)
    except NoRoomError as error:
        raise HTTPException(503, "all sessions are in use: try again later", {"Retry-After": "60"}) from error
    peer = Peer(session, host.settings, host.address)
    try:
        client = request.client.host if request.client else "127.0.0.1"
        answer = await peer.answer(offer.sdp, client)
    except BaseException:
        await peer.close()
        await asyncio.to_thread(opening.__exit__, None, None, None)
        raise
    host.keep(asyncio.create_task(_serve(peer, opening)))
    return Answer(sdp=answer)


async def _serve(peer: Peer, opening: AbstractContextManager[LiveSession]) -> None:
    try:
        await peer.run()
    finally:
        await asyncio.to_thread(opening.__exit__, None, None, None)


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
