"""Who is let in: host names, other sites, the token, sizes; and the headers of every answer."""

from __future__ import annotations

import re

import pytest

from inference.web.settings import Limits, ServiceSettings
from preprocessing.errors import UsageError
from tests.inference.web.conftest import job_form, local

TOKEN = "a token of the tests"


def problem(reply, status: int) -> str:
    """Checks that a reply is a problem with this status; returns its one-line message."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert body["status"] == status
    assert body["title"]
    assert "\n" not in body["detail"]
    return body["detail"]


@pytest.mark.parametrize("path", ["/", "/app.js", "/docs", "/api/health", "/api/jobs/x", "/nowhere"])
def test_every_answer_keeps_the_page_to_itself(client, path):
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"https?:|\*|unsafe-eval", headers["content-security-policy"])
    assert "unsafe-inline" not in headers["content-security-policy"] or path == "/docs"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "", "[", "10.0.0.1"])
def test_another_host_name_is_refused(client, host):
    assert "host name" in problem(client.get("/api/health", headers={"Host": host}), 421)
    assert client.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "LOCALHOST:1"])
def test_our_names_are_served(client, host):
    assert client.get("/api/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
def test_another_sites_page_cannot_use_the_api(client, inputs, headers):
    assert "refused" in problem(client.post("/api/jobs", headers=headers, **job_form(inputs)), 403)
    assert "refused" in problem(client.get("/api/health", headers=headers), 403)


def test_preflight_is_not_answered(client):
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/api/jobs", headers=headers).status_code == 403


def test_our_own_page_may(client):
    headers = {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/health", headers=headers).status_code == 200


def test_token(tmp_path, inputs):
    client = local(tmp_path, TOKEN)
    assert client.get("/").status_code == 200, "the page asks for the token"
    for wrong in (
        {},
        {"Authorization": "Bearer no"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "wav2lip_session=x"},
    ):
        reply = client.get("/api/health", headers=wrong)
        assert "token" in problem(reply, 401)
        assert reply.headers["www-authenticate"] == "Bearer"
    assert client.post("/api/jobs", **job_form(inputs)).status_code == 401
    assert client.get("/openapi.json").status_code == 401
    assert (
        client.get("/api/health", headers={"Authorization": f"Bearer {TOKEN}", "Host": "any.name"}).status_code == 200
    )


def test_session_cookie(tmp_path):
    client = local(tmp_path, TOKEN)
    assert "not the service's token" in problem(client.post("/api/session", json={"token": "wrong"}), 401)
    assert client.post("/api/session", json={"token": "é" * 20}).status_code == 401
    assert client.post("/api/session", json={"token": "x" * 5000}).status_code == 413
    reply = client.post("/api/session", json={"token": TOKEN})
    assert reply.status_code == 204
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert client.get("/api/health").status_code == 200


def test_too_large_an_upload_is_refused_before_it_is_read(tmp_path):
    client = local(tmp_path, upload_mb=0.01)
    reply = client.post("/api/faces", files={"face": ("f.mp4", b"0" * 20_000)})
    assert problem(reply, 413) == "one request may have at most 0.01 MB"
    lying = client.post("/api/faces", content=b"", headers={"Content-Length": "-5"})
    assert lying.status_code in (400, 413)


def test_too_large_an_upload_without_a_length(tmp_path):
    client = local(tmp_path, upload_mb=0.01)
    body = b'--x\r\nContent-Disposition: form-data; name="face"; filename="a"\r\n\r\n'

    def chunks():
        yield body
        for _ in range(50):
            yield b"0" * 1000

    reply = client.post("/api/faces", content=chunks(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    problem(reply, 413)
    assert not list((tmp_path / "data/uploads").iterdir())


def test_no_disk_space(tmp_path, inputs):
    client = local(tmp_path, disk_gb=0.0001)
    assert "disk space" in problem(client.post("/api/jobs", **job_form(inputs)), 507)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_hosts_need_a_token(tmp_path, host):
    with pytest.raises(UsageError, match="--token"):
        ServiceSettings(tmp_path, host=host)
    assert ServiceSettings(tmp_path, host=host, token=TOKEN).token == TOKEN
    with pytest.raises(UsageError, match="at least 16"):
        ServiceSettings(tmp_path, host=host, token="short")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_none(tmp_path, host):
    assert ServiceSettings(tmp_path, host=host).token is None


def test_limits_are_checked():
    with pytest.raises(UsageError, match="queue must be at least 1"):
        Limits(queue=0)
    with pytest.raises(UsageError, match="seconds must be at least"):
        Limits(seconds=float("nan"))
