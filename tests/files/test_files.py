"""Reading, writing, listing, moving: what clients of /files see."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import PathNotAllowed
from kernelagent.files.paths import Roots
from kernelagent.files.service import FileService
from kernelagent.files.staging import ArchiveLimits
from tests.files.conftest import WRITE_LIMIT, Files

TEXT = 'line "one"\nzwei \\ drei é € 😀\0\x01\u2028 end'


async def test_what_is_written_is_read(files: Files) -> None:
    answer = await files.write("a/b/text", TEXT)
    assert answer["success"] is True
    assert answer["size"] == len(TEXT.encode())
    assert answer["timestamp"].endswith("Z")
    assert (files.workspace / "a" / "b" / "text").read_bytes() == TEXT.encode()
    answer = await files.ask("GET", "/files/read", params={"path": "a/b/text"})
    assert (answer["content"], answer["size"]) == (TEXT, len(TEXT.encode()))
    assert await files.read(str(files.workspace / "a" / "b" / "text")) == TEXT
    await files.write(str(files.other / "x"), "other")
    assert (files.other / "x").read_text() == "other"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 262_144, 262_145, 700_000])
async def test_bytes_come_back_exactly(files: Files, size: int) -> None:
    data = os.urandom(size)
    await files.write("bytes", base64.b64encode(data).decode(), encoding="base64")
    assert (files.workspace / "bytes").read_bytes() == data
    params = {"path": "bytes", "encoding": "base64"}
    answer = await files.ask("GET", "/files/read", params=params)
    assert base64.b64decode(answer["content"], validate=True) == data
    assert answer["size"] == size
    answer = await files.ask("GET", "/files/read", params={"path": "bytes"})
    assert answer["content"] == data.decode("utf-8", "replace")


async def test_large_text(files: Files) -> None:
    text = TEXT * 20_000
    assert len(text.encode()) > 2**19
    await files.write("large", text)
    assert (files.workspace / "large").read_text() == text
    assert await files.read("large") == text


@pytest.mark.parametrize(
    "content", ["AAE", "A===", "AA=A", "Ä", "!!!!", "=AAA", "AAAA=", "AA==AAAA", "A" * 600_001]
)
async def test_bad_base64_changes_nothing(files: Files, content: str) -> None:
    await files.write("file", "old")
    body = {"path": "file", "content": content, "encoding": "base64"}
    await files.refused("POST", "/files/write", 400, "INVALID_REQUEST", json=body)
    assert (files.workspace / "file").read_text() == "old"


async def test_base64_in_lines(files: Files) -> None:
    data = os.urandom(500_000)
    await files.write("file", base64.encodebytes(data).decode(), encoding="base64")
    assert (files.workspace / "file").read_bytes() == data


async def test_modes(files: Files) -> None:
    def mode() -> int:
        return stat.S_IMODE((files.workspace / "file").stat().st_mode)

    await files.write("file")
    assert mode() == 0o644
    await files.write("file", mode="0755")
    assert mode() == 0o755
    await files.write("file", "kept")
    assert mode() == 0o755
    await files.write("file", mode="600")
    assert mode() == 0o600
    for wrong in ("rwx", "888", "4755", "", "-1"):
        body = {"path": "file", "content": "", "mode": wrong}
        await files.refused("POST", "/files/write", 400, "INVALID_REQUEST", json=body)


async def test_overwrite(files: Files) -> None:
    await files.write("file", "one", overwrite=False)
    body = {"path": "file", "content": "two", "overwrite": False}
    await files.refused("POST", "/files/write", 409, "FILE_ALREADY_EXISTS", json=body)
    assert await files.read("file") == "one"
    await files.write("file", "two", overwrite=True)
    await files.write("file", "three", overwrite=None, encoding=None, mode=None, unknown=1)
    assert await files.read("file") == "three"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "MISSING_PARAMETER"),
        (b"{", "INVALID_JSON"),
        (b"[]", "INVALID_JSON"),
        (b'{"path": "x"}', "MISSING_PARAMETER"),
        (b'{"path": "x", "content": null}', "MISSING_PARAMETER"),
        (b'{"content": "x"}', "MISSING_PARAMETER"),
        (b'{"path": "x", "content": 1}', "INVALID_REQUEST"),
        (b'{"path": "x", "content": "", "encoding": "rot13"}', "INVALID_REQUEST"),
        (b'{"path": "x", "content": "\\ud800"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "\xff"}', "INVALID_JSON"),
        (b'{"path": "", "content": ""}', "INVALID_PATH"),
        (b'{"path": "a\\u0000b", "content": ""}', "INVALID_PATH"),
        (b'{"path": "x/", "content": ""}', "INVALID_PATH"),
        (b'{"path": ".", "content": ""}', "INVALID_PATH"),
        (b'{"path": "x", "content": "' + b"a" * 600_000, "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b'" "}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\\ud800" + b'"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\\u12" + b'"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\xff" + b'"}', "INVALID_JSON"),
        (b'{"path": "x", "content": "' + b"a" * 600_000 + b"\n" + b'"}', "INVALID_JSON"),
        (b'{"path": 1, "content": "' + b"a" * 600_000 + b'"}', "INVALID_REQUEST"),
        (b'{"content": "' + b"a" * 600_000 + b'"}', "MISSING_PARAMETER"),
    ],
)
async def test_bodies_that_cannot_be_used(files: Files, content: bytes, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    await files.refused("POST", "/files/write", 400, code, content=content, headers=headers)
    assert list(files.workspace.iterdir()) == []


async def test_a_body_beyond_the_limit(files: Files) -> None:
    body = {"path": "x", "content": "a" * WRITE_LIMIT}
    await files.refused("POST", "/files/write", 413, "BODY_TOO_LARGE", json=body)

    async def chunks() -> Any:
        yield b'{"path": "x", "content": "'
        for _ in range(WRITE_LIMIT // 2**16 + 1):
            yield b"a" * 2**16
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    await files.refused(
        "POST", "/files/write", 413, "BODY_TOO_LARGE", content=chunks(), headers=headers
    )
    await files.write("fits", "a" * (WRITE_LIMIT - 1000))


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


async def test_remove(files: Files) -> None:
    await files.write("a/b/file")
    (files.workspace / "a" / "out").symlink_to(files.outside)
    (files.workspace / "link").symlink_to("a")
    await files.ask("DELETE", "/files/remove?path=link")
    assert (files.workspace / "a").exists()
    await files.refused("DELETE", "/files/remove?path=a&recursive=0", 409, "DIRECTORY_NOT_EMPTY")
    await files.ask("DELETE", "/files/remove", json={"path": "a"})
    assert list(files.workspace.iterdir()) == []
    await files.refused("DELETE", "/files/remove?path=a", 404, "FILE_NOT_FOUND")
    # As a published client sends it.
    headers = {"Content-Type": "application/json"}
    await files.refused("DELETE", "/files/remove", 400, "MISSING_PARAMETER", headers=headers)
    await files.refused("DELETE", "/files/remove?path=x", 404, "FILE_NOT_FOUND", headers=headers)
    for path in (".", str(files.workspace), str(files.other), "../other"):
        params = {"path": path}
        await files.refused("DELETE", "/files/remove", 403, "PATH_NOT_ALLOWED", params=params)


async def test_a_very_deep_directory_is_removed(files: Files) -> None:
    here = os.open(files.workspace, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    answer = await files.ask("GET", "/files/list?recursive=1")
    assert (answer["count"], answer["skipped"]) == (200, 1)
    await files.ask("DELETE", "/files/remove", params={"path": "d" * 20})
    assert list(files.workspace.iterdir()) == []


async def test_a_move_into_itself_makes_nothing(files: Files) -> None:
    await files.write("a/b/file", "1")
    for destination in ("a/new/deep/x", "a/b/../b/new/x"):
        body = {"source": "a", "destination": destination}
        for route in ("move", "copy"):
            await files.refused("POST", f"/files/{route}", 400, "INVALID_PATH", json=body)
    found = [str(path.relative_to(files.workspace)) for path in files.workspace.rglob("*")]
    assert sorted(found) == ["a", "a/b", "a/b/file"]


async def test_a_move_to_another_name_of_the_same_file(files: Files) -> None:
    await files.write("a/one", "1")
    (files.workspace / "two").hardlink_to(files.workspace / "a" / "one")
    body: dict[str, Any] = {"source": "a/one", "destination": "two", "overwrite": True}
    await files.ask("POST", "/files/move", json={**body, "destination": "a/../a/one"})
    assert (files.workspace / "a" / "one").exists()
    await files.ask("POST", "/files/move", json=body)
    assert not (files.workspace / "a" / "one").exists()
    assert (files.workspace / "two").read_text() == "1"


async def test_a_copied_link_replaces_a_file(files: Files) -> None:
    await files.write("file", "1")
    await files.write("other", "2")
    await files.ask("POST", "/files/mkdir", json={"path": "dir"})
    (files.workspace / "link").symlink_to("file")
    body: dict[str, Any] = {"source": "link", "destination": "other"}
    await files.refused("POST", "/files/copy", 409, "FILE_ALREADY_EXISTS", json=body)
    body["overwrite"] = True
    await files.ask("POST", "/files/copy", json=body)
    assert (files.workspace / "other").readlink() == Path("file")
    (files.workspace / "dangling").symlink_to("nothing")
    dangling = {"source": "dangling", "destination": "new/", "overwrite": True}
    await files.ask("POST", "/files/copy", json=dangling)
    assert (files.workspace / "new" / "dangling").readlink() == Path("nothing")
    # Where it leads is not replaced by it, a destination that is a link leads there too.
    for destination in ("link", "file", "other", "dir"):
        body["destination"] = destination
        await files.refused("POST", "/files/copy", 409, "FILE_ALREADY_EXISTS", json=body)
    for destination in ("file", "other"):
        body["destination"] = destination
        await files.refused("POST", "/files/move", 409, "FILE_ALREADY_EXISTS", json=body)
    assert (files.workspace / "file").read_text() == "1"


async def test_the_workspace_is_not_replaced(tmp_path: Path) -> None:
    workspace, state = tmp_path / "workspace", tmp_path / "state"
    for path in (workspace, state, tmp_path / "other", tmp_path / "empty"):
        path.mkdir()
    service = FileService(Roots(workspace, [tmp_path], [state]), ArchiveLimits(1, 1))
    for path in (workspace, state):
        with pytest.raises(PathNotAllowed):
            await service.move(str(tmp_path / "other"), str(path), overwrite=True)
    await service.move(str(tmp_path / "other"), str(tmp_path / "empty"), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "state", "workspace"]
    await service.close()


async def test_copies_are_as_deep_as_lists(files: Files) -> None:
    (files.workspace / "a" / "/".join(["d"] * 199)).mkdir(parents=True)
    body = {"source": "a", "destination": "b"}
    await files.ask("POST", "/files/copy", json=body)
    assert (files.workspace / "b" / "/".join(["d"] * 199)).is_dir()
    (files.workspace / "a" / "/".join(["d"] * 201)).mkdir(parents=True)
    body = {"source": "a", "destination": "c"}
    answer = await files.refused("POST", "/files/copy", 400, "FILE_OPERATION_FAILED", json=body)
    assert "200 directories deep" in answer["message"]
    assert "archive" not in answer["message"]
    assert not (files.workspace / "c").exists()


async def test_mkdir(files: Files) -> None:
    for _ in range(2):
        answer = await files.ask("POST", "/files/mkdir", json={"path": "a/b/c/"})
        assert answer["success"] is True
    assert (files.workspace / "a" / "b" / "c").is_dir()
    await files.ask("POST", "/files/mkdir", json={"path": "private", "mode": "0700"})
    assert stat.S_IMODE((files.workspace / "private").stat().st_mode) == 0o700
    await files.write("file")
    for path in ("file", "file/x"):
        await files.refused("POST", "/files/mkdir", 400, "INVALID_PATH", json={"path": path})


async def test_move(files: Files) -> None:
    await files.write("a/one", "1")
    await files.write("two", "2")

    async def move(source: str, destination: str, **more: Any) -> Any:
        body = {"source": source, "destination": destination, **more}
        return await files.client.post("/files/move", json=body)

    assert (await move("a/one", "new/place/one")).status_code == 200
    assert await files.read("new/place/one") == "1"
    response = await move("two", "new/place/one")
    assert (response.status_code, response.json()["code"]) == (409, "FILE_ALREADY_EXISTS")
    assert (await move("two", "new/place/one", overwrite=True)).status_code == 200
    assert await files.read("new/place/one") == "2"
    assert (await move("new", "other/")).json()["path"] == "other/new"
    assert await files.read("other/new/place/one") == "2"
    for source, destination, status in (
        ("other", "other/new/inside", 400),
        ("missing", "x", 404),
        (".", "x", 400),
        ("other", "/etc/x", 403),
        ("/etc/passwd", "x", 403),
        ("other/new/place/one", "a", 409),
    ):
        assert (await move(source, destination)).status_code == status, (source, destination)
    body = {"source": "a", "destination": "b", "unknown": 1}
    await files.refused("POST", "/files/move", 400, "INVALID_REQUEST", json=body)
    assert await files.read("other/new/place/one") == "2"


async def test_copy(files: Files) -> None:
    await files.write("a/script", "1", mode="0755")
    (files.workspace / "a" / "link").symlink_to("script")
    (files.workspace / "a" / "out").symlink_to("/etc/passwd")

    async def copy(source: str, destination: str, **more: Any) -> Any:
        body = {"source": source, "destination": destination, **more}
        return await files.client.post("/files/copy", json=body)

    assert (await copy("a", "b")).status_code == 200
    copied = files.workspace / "b" / "script"
    assert (copied.read_text(), stat.S_IMODE(copied.stat().st_mode)) == ("1", 0o755)
    assert (files.workspace / "b" / "link").readlink().as_posix() == "script"
    assert (files.workspace / "b" / "out").readlink().as_posix() == "/etc/passwd"
    assert (await copy("a/script", str(files.other / "deep" / "script"))).status_code == 200
    assert (files.other / "deep" / "script").read_text() == "1"
    for source, destination, status in (
        ("a", "b", 409),
        ("a", "a/inside", 400),
        ("a/script", "b/script", 409),
        ("a/out", "stolen/", 200),
        ("missing", "x", 404),
        ("a/script", "/etc/x", 403),
    ):
        assert (await copy(source, destination)).status_code == status, (source, destination)
    assert (files.workspace / "stolen" / "out").readlink().as_posix() == "/etc/passwd"
    assert (await copy("a/script", "a/script", overwrite=True)).status_code == 409
    (files.workspace / "b" / "script").write_text("old")
    assert (await copy("a/script", "b/script", overwrite=True)).status_code == 200
    assert await files.read("b/script") == "1"


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


async def test_messages_that_published_clients_would_misread(files: Files) -> None:
    for path in ("sandbox not found", "a/Not Found/sandbox"):
        body = await files.refused("GET", f"/files/read?path={path}", 404, "FILE_NOT_FOUND")
        assert "not found" not in body["message"].lower()
        assert body["details"]["path"] == path
    body = await files.refused("GET", "/files/read?path=gone", 404, "FILE_NOT_FOUND")
    assert body["message"] == "no such file or directory: gone"
    assert body["path"] == "gone"


async def test_two_writers_at_once_leave_one_of_both(files: Files) -> None:
    contents = ["a" * 500_000, "b" * 400_000]

    async def write(content: str) -> None:
        for _ in range(20):
            await files.write("file", content)

    async def read() -> None:
        while not done.is_set():
            assert await files.read("file") in contents

    done = asyncio.Event()
    await files.write("file", contents[0])
    reading = asyncio.create_task(read())
    await asyncio.gather(*map(write, contents))
    done.set()
    await reading
    assert await files.read("file") in contents


async def test_only_one_of_many_makes_a_file(files: Files) -> None:
    async def write(number: int) -> int:
        body = {"path": "file", "content": str(number), "overwrite": False}
        return (await files.client.post("/files/write", json=body)).status_code

    statuses = await asyncio.gather(*map(write, range(20)))
    assert sorted(statuses) == [200] + [409] * 19


async def test_more_than_the_settings_allow_is_refused(files: Files) -> None:
    from kernelagent.errors import FileLimit
    from kernelagent.files.threads import FileThreads

    threads = FileThreads(None, 1)
    with threads.operation(), pytest.raises(FileLimit), threads.operation():
        pass
    with threads.operation():
        assert await threads.run(lambda: 1) == 1
    await threads.close()
