"""Files that clients use belong to whom everything runs as, whose rights are all there are."""

from __future__ import annotations

import io
import os
import zipfile

import pytest

from kernelagent.isolation.confinement import UNUSED_ID
from tests.isolation.conftest import ORDINARY
from tests.jobs.jobs import post
from tests.runs import client_of
from tests.servers import Server


def runner_of(kind: str) -> int:
    """Whom everything runs as."""
    if kind.startswith("another user"):
        return UNUSED_ID
    return 0 if kind.startswith("root") or os.getuid() != 0 else ORDINARY


async def test_what_clients_write_belongs_to_what_runs(guarded: Server, kind: str) -> None:
    runner = runner_of(kind)
    async with client_of(guarded) as client:
        wanted = {"path": "mine/a.txt", "content": "from a client"}
        assert (await client.post("/files/write", json=wanted)).is_success
        response = await client.post(
            "/files/upload", data={"path": "mine/b.txt"}, files={"file": ("b.txt", b"uploaded")}
        )
        assert response.is_success, response.text

    line = "cd mine; stat -c %u . a.txt b.txt; echo more >> a.txt; cat a.txt b.txt; rm b.txt"
    answer = await post(guarded, "/commands/run", command=line)

    assert answer["stdout"] == f"{runner}\n{runner}\n{runner}\nfrom a clientmore\nuploaded"
    assert answer["success"]
    # Beneath a directory that clients may use too, what is above the workspace is not theirs.
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("packed.txt", "packed")
    async with client_of(guarded) as client:
        response = await client.post(
            "/files/archive", params={"path": "."}, content=archive.getvalue()
        )
        assert response.is_success, response.text
    assert (guarded.workspace / "packed.txt").stat().st_uid == runner
    # And the other way round.
    await post(guarded, "/commands/run", command="umask 077; mkdir deep; echo made > deep/c.txt")
    async with client_of(guarded) as client:
        response = await client.get("/files/read", params={"path": "deep/c.txt"})
        assert response.json()["content"] == "made\n"
        assert (await client.delete("/files/remove", params={"path": "deep/c.txt"})).is_success


async def test_clients_have_no_rights_that_what_runs_has_not(guarded: Server, kind: str) -> None:
    if not kind.startswith("another user"):
        pytest.skip("the service has no other rights there")
    secret = guarded.workspace / "roots.txt"
    secret.write_text("only root's")
    secret.chmod(0o600)
    closed = guarded.workspace / "closed"
    closed.mkdir(mode=0o700, exist_ok=True)
    (closed / "inner.txt").write_text("only root's")
    async with client_of(guarded) as client:
        for path in ("roots.txt", "closed/inner.txt"):
            response = await client.get("/files/read", params={"path": path})
            assert response.status_code == 403, response.text
            assert "only root" not in response.text
        response = await client.post(
            "/files/write", json={"path": "closed/new.txt", "content": "x"}
        )
        assert (response.status_code, response.json()["code"]) == (403, "PERMISSION_DENIED")
        response = await client.get(
            "/files/watch", params={"path": "closed"}, headers={"Accept": "text/event-stream"}
        )
        assert response.status_code in (400, 403), response.text
