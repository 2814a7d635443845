"""Full disks, read-only and other file systems, killed servers, other users."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kernelagent.errors import ApiError, PermissionDenied
from kernelagent.files.archives.staging import ArchiveLimits, Staging
from kernelagent.files.fs import draft as drafts
from kernelagent.files.fs.draft import Draft, Sweeper
from kernelagent.files.fs.paths import TEMPORARY_PREFIX, Roots
from kernelagent.files.service import FileService
from tests.files.conftest import Files, files_of, files_server
from tests.runs import client_of
from tests.servers import WITHOUT_KERNELS, Server, serving_in_process, start_server

AS_ROOT = os.geteuid() == 0
SMALL = 4 * 2**20
_MOUNT = (
    'mount -t tmpfs -o size=4m tmpfs "$0/small" && mount -t tmpfs -o ro tmpfs "$0/readonly" '
    '&& exec "$@"'
)


async def write(
    service: FileService, path: str, content: bytes, *, mode: int | None = None
) -> None:
    """Write a file in one of the service's threads, with the rights of its owner."""
    work = partial(service.write_now, path, [content], mode, overwrite=True)
    await service.threads.run(work)


@pytest.fixture(scope="module")
def mounted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that sees a small disk and one that cannot be written."""
    if not AS_ROOT:
        pytest.skip("only root mounts")
    root = tmp_path_factory.mktemp("mounted")
    for name in ("small", "readonly"):
        (root / "mounts" / name).mkdir(parents=True)
    mounts = str(root / "mounts")
    prefix = ("unshare", "-m", "sh", "-c", _MOUNT, mounts)
    with files_server(root, prefix=prefix) as running:
        yield running


@pytest.fixture
async def mounted(mounted_server: Server) -> AsyncIterator[Files]:
    async with client_of(mounted_server) as client:
        yield files_of(mounted_server, client)


def seen(files: Files, path: str) -> Path:
    """A path of the server, which has mounts of its own, from here."""
    return Path(f"/proc/{files.server.process.pid}/root{files.workspace.parent}/mounts/{path}")


def link(files: Files, name: str) -> str:
    return f"{files.workspace.parent}/mounts/{name}"


def leftovers(files: Files) -> list[Path]:
    return [*files.leftovers, *seen(files, "small").rglob(f"{TEMPORARY_PREFIX}*")]


async def test_a_full_disk_changes_nothing(mounted: Files) -> None:
    files, small = mounted, link(mounted, "small")
    await files.write(f"{small}/file", "old")
    (files.workspace / "large").write_bytes(os.urandom(SMALL + 1))
    body: dict[str, Any] = {"path": f"{small}/file", "content": "a" * (SMALL + 1)}
    answer = await files.refused("POST", "/files/write", 409, "DISK_FULL", json=body)
    assert "no space is left" in answer["message"]
    form: dict[str, Any] = {
        "files": {"file": ("x", b"a" * (SMALL + 1))},
        "data": {"path": f"{small}/file"},
    }
    await files.refused("POST", "/files/upload", 409, "DISK_FULL", **form)
    for route in ("copy", "move"):
        body = {"source": "large", "destination": f"{small}/large"}
        await files.refused("POST", f"/files/{route}", 409, "DISK_FULL", json=body)
    assert (files.workspace / "large").stat().st_size == SMALL + 1
    (files.workspace / "tree" / "deep").mkdir(parents=True, exist_ok=True)
    shutil.copy(files.workspace / "large", files.workspace / "tree" / "deep")
    for route in ("copy", "move"):
        body = {"source": "tree", "destination": f"{small}/tree"}
        await files.refused("POST", f"/files/{route}", 409, "DISK_FULL", json=body)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as opened:
        opened.add(files.workspace / "tree", "tree")
    options: dict[str, Any] = {"params": {"path": f"{small}/t"}, "content": archive.getvalue()}
    await files.refused("POST", "/files/archive", 409, "DISK_FULL", **options)
    assert await files.read(f"{small}/file") == "old"
    assert [path.name for path in seen(files, "small").iterdir()] == ["file"]
    assert leftovers(files) == []


async def test_moves_between_file_systems(mounted: Files) -> None:
    files, small = mounted, link(mounted, "small")
    await files.write("a/script", "1", mode="0755")
    (files.workspace / "a" / "link").symlink_to("script")
    os.utime(files.workspace / "a" / "script", (1_000_000_000, 1_000_000_000))
    for source, destination in (("a", f"{small}/a"), (f"{small}/a", "b")):
        body: dict[str, Any] = {"source": source, "destination": destination}
        await files.ask("POST", "/files/move", json=body)
        await files.refused("POST", "/files/move", 404, "FILE_NOT_FOUND", json=body)
    moved = files.workspace / "b" / "script"
    assert stat.S_IMODE(moved.stat().st_mode) == 0o755
    assert (moved.read_text(), moved.stat().st_mtime) == ("1", 1_000_000_000)
    assert (files.workspace / "b" / "link").readlink().as_posix() == "script"
    body = {"source": "b/script", "destination": f"{small}/one"}
    await files.ask("POST", "/files/move", json=body)
    await files.write("b/script", "2")
    await files.refused("POST", "/files/move", 409, "FILE_ALREADY_EXISTS", json=body)
    await files.ask("POST", "/files/move", json={**body, "overwrite": True})
    assert seen(files, "small/one").read_text() == "2"
    body = {"source": "b/link", "destination": f"{small}/link"}
    await files.ask("POST", "/files/move", json=body)
    assert seen(files, "small/link").readlink().as_posix() == "script"
    upload: dict[str, Any] = {"files": {"file": ("x", b"up")}, "data": {"path": f"{small}/up"}}
    await files.ask("POST", "/files/upload", **upload)
    assert seen(files, "small/up").read_text() == "up"
    assert leftovers(files) == []


async def test_a_disk_that_cannot_be_written(mounted: Files) -> None:
    files, readonly = mounted, link(mounted, "readonly")
    await files.write("file", "1")
    for method, url, body in (
        ("POST", "/files/write", {"path": f"{readonly}/x", "content": ""}),
        ("POST", "/files/mkdir", {"path": f"{readonly}/x"}),
        ("POST", "/files/move", {"source": "file", "destination": f"{readonly}/x"}),
        ("POST", "/files/copy", {"source": "file", "destination": f"{readonly}/x"}),
    ):
        answer = await files.refused(method, url, 403, "PERMISSION_DENIED", json=body)
        assert "read-only" in answer["message"]
    assert await files.read("file") == "1"
    assert await files.names(path=readonly) == []


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.ENOSPC, 409, "DISK_FULL"),
        (errno.EDQUOT, 409, "DISK_FULL"),
        (errno.EFBIG, 409, "DISK_FULL"),
        (errno.EROFS, 403, "PERMISSION_DENIED"),
        (errno.EACCES, 403, "PERMISSION_DENIED"),
        (errno.EIO, 400, "FILE_OPERATION_FAILED"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "link", "rename"])
async def test_a_fault_at_any_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    status: int,
    code: str,
) -> None:
    service = FileService(Roots(tmp_path, []), ArchiveLimits(10, 1000))
    (tmp_path / "file").write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if call == "link":
        monkeypatch.setattr(drafts.Draft, "_link", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(ApiError) as caught:
        await write(service, "file", b"new")
    monkeypatch.undo()
    assert (caught.value.status, caught.value.code) == (status, code)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]
    await service.close()


@pytest.fixture(params=["unnamed", "named"])
def either_draft(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Drafts without names, and those of file systems that cannot have them."""
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *args, **options)

    if request.param == "named":
        monkeypatch.setattr(os, "open", refuse)
    return str(request.param)


def test_drafts(tmp_path: Path, either_draft: str) -> None:
    directory = os.open(tmp_path, os.O_PATH)
    draft = Draft(directory)
    draft.write(b"content")
    visible = [path.name for path in tmp_path.iterdir()]
    assert len(visible) == (either_draft == "named")
    # Whoever sweeps leaves alone what is in use.
    Sweeper().sweep(directory)
    assert [path.name for path in tmp_path.iterdir()] == visible
    draft.commit(directory, "file", mode=0o640, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    other = Draft(directory)
    other.write(b"other")
    with pytest.raises(FileExistsError):
        other.commit(directory, "file", mode=0o600, overwrite=False)
    assert (tmp_path / "file").read_text() == "content"
    other.commit(directory, "file", mode=0o600, overwrite=True)
    assert (tmp_path / "file").read_text() == "other"
    lost = Draft(directory)
    lost.write(b"lost")
    for _ in range(2):
        lost.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    os.close(directory)


async def test_what_a_crash_has_left_goes_with_the_next_write(tmp_path: Path) -> None:
    left = tmp_path / f"{TEMPORARY_PREFIX}left"
    left.write_text("half")
    tree = tmp_path / f"{TEMPORARY_PREFIX}tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").write_text("half")
    used = tmp_path / f"{TEMPORARY_PREFIX}used"
    used.write_text("in use")
    (tmp_path / "beneath" / left.name).mkdir(parents=True)
    service = FileService(Roots(tmp_path, []), ArchiveLimits(10, 1000))
    with used.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        listing = await service.list(".", recursive=True, glob=None, limit=10)
        assert [item["name"] for item in listing.files] == ["beneath"]
        await write(service, "file", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [used.name, "beneath", "file"]
    # An archive is unpacked within the directory that is there.
    place = service.locate_directory("beneath")
    staging = Staging(place, service.roots.is_closed)
    service.sweeper.sweep(staging.parent)
    assert len(list((tmp_path / "beneath").iterdir())) == 1
    assert not (tmp_path / "beneath" / left.name).exists()
    staging.discard()
    place.close()
    assert list((tmp_path / "beneath").iterdir()) == []
    await service.close()


@pytest.mark.skipif(not AS_ROOT, reason="only root acts as another user")
async def test_directories_that_may_not_be_written_join_others_of_their_owner() -> None:
    uid, gid = 54321, 54322
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "workspace" / "out").mkdir(parents=True)
        for path in (root / "workspace", root / "workspace" / "out"):
            os.chown(path, uid, gid)
        roots = Roots(root / "workspace", [])
        service = FileService(roots, ArchiveLimits(10, 1000), owner=(uid, gid))

        def unpack(base: str) -> None:
            with service.locate_directory(base) as place:
                staging = Staging(place, roots.is_closed, service.limits)
                try:
                    staging.directory("kept", 0o555, None)
                    staging.begin_file("kept/deep/file", 0o444, None)
                    staging.end_file()
                    staging.directory("kept/deep", 0o500, None)
                    staging.commit(mode=0o755, overwrite=True)
                finally:
                    staging.discard()

        for base in ("out", "fresh"):
            await service.run(base, partial(unpack, base))
            kept = root / "workspace" / base / "kept"
            for path, mode in ((kept, 0o555), (kept / "deep", 0o500)):
                assert stat.S_IMODE(path.stat().st_mode) == mode
            assert (kept / "deep" / "file").stat().st_uid == uid
        await service.close()


@pytest.mark.parametrize("route", ["write", "upload", "archive"])
async def test_a_killed_server_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, route: str
) -> None:
    workspace = tmp_path / "workspace"
    old, new = b"old" * 1_000_000, b"new" * 3_000_000
    for delay in (0.05, 0.3):
        server = await asyncio.to_thread(start_server, tmp_path, **WITHOUT_KERNELS)
        (workspace / "file").write_bytes(old)

        async def change(server: Server = server) -> None:
            async with client_of(server) as client:
                while True:
                    await _send(client, route, new)

        changing = asyncio.create_task(change())
        await asyncio.sleep(delay)
        server.process.kill()
        await asyncio.to_thread(server.process.wait)
        with contextlib.suppress(Exception):
            await changing
        assert (workspace / "file").read_bytes() in (old, new)
    with serving_in_process(tmp_path, pool_idle=0, fork_server=False) as successor:
        async with client_of(successor) as client:
            await _send(client, route, new)
            assert (workspace / "file").read_bytes() == new
            assert [path.name for path in workspace.iterdir()] == ["file"]


async def _send(client: Any, route: str, content: bytes) -> None:
    if route == "write":
        body = {"path": "file", "content": content.decode()}
        response = await client.post("/files/write", json=body)
    elif route == "upload":
        form = {"file": ("x", content)}
        response = await client.post("/files/upload", files=form, data={"path": "file"})
    else:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as opened:
            info = tarfile.TarInfo("file")
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
        response = await client.post("/files/archive?path=.", content=archive.getvalue())
    assert response.status_code == 200, response.text


@pytest.mark.skipif(not AS_ROOT, reason="only root acts as another user")
async def test_what_is_made_belongs_to_the_owner_and_only_what_it_may_use_is_used() -> None:
    uid, gid = 54321, 54322
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        workspace = root / "workspace"
        workspace.mkdir()
        os.chown(workspace, uid, gid)
        (workspace / "private").write_text("root's")
        (workspace / "private").chmod(0o600)
        (workspace / "closed").mkdir(mode=0o700)
        service = FileService(Roots(workspace, []), ArchiveLimits(10, 1000), owner=(uid, gid))
        await write(service, "a/b/file", b"x", mode=0o640)
        await service.make_directory("c/d", 0o755)
        await service.copy("a", "e", overwrite=False)
        made = [*workspace.joinpath("a").rglob("*"), *workspace.joinpath("e").rglob("*")]
        for path in (workspace / "a", workspace / "c" / "d", workspace / "e", *made):
            assert (path.stat().st_uid, path.stat().st_gid) == (uid, gid), path
        with pytest.raises(PermissionDenied):
            await service.open("private")
        for refused in ("closed/x", "/etc/x"):
            with pytest.raises(ApiError) as caught:
                await write(service, refused, b"")
            assert caught.value.status == 403
        # The directory is the owner's, and so is what becomes of names in it.
        await service.remove("private", recursive=True)
        assert not (workspace / "private").exists()
        await service.close()
    # The rest of the process has kept its rights.
    assert await asyncio.to_thread(os.geteuid) == 0
    assert Path("/etc/shadow").read_bytes()
