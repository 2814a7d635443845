"""Moving, copying, making and removing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import PathNotAllowed
from kernelagent.files.archives.staging import ArchiveLimits
from kernelagent.files.fs.paths import Roots
from kernelagent.files.service import FileService
from tests.files.conftest import Files


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
