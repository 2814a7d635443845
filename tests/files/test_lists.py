"""What is there: lists, facts, names, and what is no file."""

from __future__ import annotations

import base64
import os
import socket
import stat
from datetime import datetime
from typing import Any

import pytest

from tests.files.conftest import Files


async def test_the_list(files: Files) -> None:
    assert await files.names() == []
    await files.write("b.txt", "123", mode="0640")
    await files.ask("POST", "/files/mkdir", json={"path": "a"})
    (files.workspace / "link").symlink_to("a")
    answer = await files.ask("GET", "/files/list")
    assert answer["path"] == str(files.workspace)
    directory, file, link = answer["files"]
    assert (file["name"], file["size"]) == ("b.txt", 3)
    assert file["path"] == str(files.workspace / "b.txt")
    assert (file["permissions"], file["mode"]) == ("-rw-r-----", "0640")
    assert file["is_directory"] is file["is_dir"] is False
    assert directory["is_directory"] is directory["is_dir"] is True
    assert directory["permissions"] == "drwxr-xr-x"
    assert (link["is_symlink"], link["is_directory"], link["target"]) == (True, True, "a")
    assert file["modified_time"] == file["modified"]
    assert datetime.fromisoformat(file["modified"]).tzinfo is not None
    assert "target" not in file


async def test_recursive_lists(files: Files) -> None:
    for path in ("a/x.py", "a/b/y.py", "a/b/z.txt", "c.py", "d/e/f/test_g.py"):
        await files.write(path)
    (files.workspace / "a" / "up").symlink_to("..")

    async def paths(**params: Any) -> list[str]:
        answer = await files.ask("GET", "/files/list", params={"recursive": True, **params})
        base = f"{files.workspace}/"
        return [item["path"].removeprefix(base) for item in answer["files"]]

    assert await paths(glob="*.py") == ["a/b/y.py", "a/x.py", "c.py", "d/e/f/test_g.py"]
    assert await paths(glob="*/*.py") == ["a/x.py"]
    assert await paths(glob="a/**/*.py") == ["a/b/y.py", "a/x.py"]
    assert await paths(glob="**/test_?.py") == ["d/e/f/test_g.py"]
    assert await paths(glob="**/[yz].*") == ["a/b/y.py", "a/b/z.txt"]
    assert await paths(glob="nothing") == []
    assert "a/up" in await paths()
    assert len(await paths()) == 11
    assert await files.names(glob="*.py") == ["c.py"]
    answer = await files.ask("GET", "/files/list", params={"recursive": True, "limit": 3})
    assert (answer["count"], answer["truncated"]) == (3, True)
    answer = await files.ask("GET", "/files/list", params={"limit": 3})
    assert (answer["count"], answer["truncated"]) == (3, False)


async def test_a_list_of_what_is_no_directory(files: Files) -> None:
    await files.write("file")
    await files.refused("GET", "/files/list?path=file", 400, "INVALID_PATH")
    await files.refused("GET", "/files/list?path=missing", 404, "DIRECTORY_NOT_FOUND")
    await files.refused("GET", "/files/list?path=/etc", 403, "PATH_NOT_ALLOWED")
    for limit in (0, 100_001, "x"):
        await files.refused("GET", f"/files/list?limit={limit}", 400, "INVALID_REQUEST")


async def test_exists(files: Files) -> None:
    await files.write("a/file")
    (files.workspace / "out").symlink_to(files.outside)
    for path, exists, is_directory in (
        ("a", True, True),
        ("a/file", True, False),
        ("a/file/x", False, False),
        ("missing", False, False),
        ("/etc/passwd", False, False),
        ("out/secret", False, False),
        ("x" * 5000, False, False),
        ("a\0b", False, False),
    ):
        answer = await files.ask("GET", "/files/exists", params={"path": path})
        assert (answer["exists"], answer["is_directory"]) == (exists, is_directory), path
    await files.refused("GET", "/files/exists", 400, "MISSING_PARAMETER")


async def test_stat(files: Files) -> None:
    await files.write("file", "123")
    (files.workspace / "link").symlink_to("file")
    (files.workspace / "dangling").symlink_to("nothing")
    answer = await files.ask("GET", "/files/stat?path=file")
    assert (answer["type"], answer["size"], answer["links"]) == ("file", 3, 1)
    download = await files.client.get("/files/download?path=file")
    assert answer["etag"] == download.headers["etag"]
    link = await files.ask("GET", "/files/stat?path=link")
    assert (link["type"], link["target"], link["etag"]) == ("symlink", "file", answer["etag"])
    assert (await files.ask("GET", "/files/stat?path=dangling"))["target"] == "nothing"
    (files.workspace / "out").symlink_to(files.outside / "secret")
    outside = await files.ask("GET", "/files/stat?path=out")
    assert (outside["type"], outside["target"]) == ("symlink", str(files.outside / "secret"))
    assert outside["size"] == len(str(files.outside / "secret"))
    assert (await files.ask("GET", "/files/stat?path=."))["type"] == "directory"
    await files.refused("GET", "/files/stat?path=missing", 404, "FILE_NOT_FOUND")


async def test_names_that_are_no_utf8_can_be_sent_back(files: Files) -> None:
    raw = [b"caf\xe9.txt", b"\xff\xfe", "é\uef80\ueffe".encode(), b"a\x80b", "\U0001f600".encode()]
    for name in raw:
        (files.workspace / os.fsdecode(name)).write_bytes(name)
    answer = await files.ask("GET", "/files/list")
    assert len(answer["files"]) == len(raw)
    seen = set()
    for item in answer["files"]:
        item["path"].encode()
        for path in (item["path"], item["name"]):
            params = {"path": path, "encoding": "base64"}
            content = (await files.ask("GET", "/files/read", params=params))["content"]
            seen.add(base64.b64decode(content))
            answer = await files.ask("GET", "/files/stat", params={"path": path})
            assert answer["path"] == item["path"]
    assert seen == set(raw)
    assert await files.read(item["path"])
    # The bytes themselves, percent-encoded, do as well.
    await files.ask("GET", "/files/read?path=caf%E9.txt")
    shown = next(item["path"] for item in (await files.ask("GET", "/files/list"))["files"])
    await files.write(shown, "changed")
    await files.ask("POST", "/files/move", json={"source": shown, "destination": "plain"})
    assert await files.read("plain") == "changed"
    for item in (await files.ask("GET", "/files/list"))["files"]:
        await files.ask("DELETE", "/files/remove", params={"path": item["path"]})
    assert list(files.workspace.iterdir()) == []


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
async def test_what_is_no_file_is_not_waited_for(files: Files, kind: str) -> None:
    path = files.workspace / "special"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("this user makes no devices")
    for route in ("read", "download"):
        await files.refused("GET", f"/files/{route}?path=special", 400, "INVALID_PATH")
    body = {"path": "special", "content": ""}
    await files.refused("POST", "/files/write", 400, "INVALID_PATH", json=body)
    assert (await files.ask("GET", "/files/stat?path=special"))["type"] == "other"
    assert (await files.ask("GET", "/files/search?pattern=x"))["count"] == 0
    assert (await files.client.get("/files/archive")).status_code == 200
    await files.ask("DELETE", "/files/remove?path=special")


async def test_messages_that_published_clients_would_misread(files: Files) -> None:
    for path in ("sandbox not found", "a/Not Found/sandbox"):
        body = await files.refused("GET", f"/files/read?path={path}", 404, "FILE_NOT_FOUND")
        assert "not found" not in body["message"].lower()
        assert body["details"]["path"] == path
    body = await files.refused("GET", "/files/read?path=gone", 404, "FILE_NOT_FOUND")
    assert body["message"] == "no such file or directory: gone"
    assert body["path"] == "gone"
