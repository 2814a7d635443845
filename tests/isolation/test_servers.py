"""What holds on a server of each kind: nothing hostile gets at it, files belong to what runs."""

from __future__ import annotations

import io
import json
import os
import shlex
import zipfile
from pathlib import Path
from typing import Any

import pytest

from kernelagent.isolation.confinement import UNUSED_ID
from tests.isolation.conftest import ORDINARY, Place, ordinary_users_make_namespaces
from tests.jobs.jobs import ended, follow, get, output, post
from tests.runs import client_of
from tests.servers import SECRET, Server
from tests.terminals.console import console

HOSTILE = Path(__file__).with_name("hostile.py")
WAYS_IN = ["code", "command", "job", "terminal"]


def target_of(server: Server, place: Place, kind: str) -> list[Any]:
    state = server.workspace.parent / "var" / "state"
    key = state / "kernelagent.db"
    assert key.exists()
    return [
        server.process.pid,
        str(state),
        str(key),
        SECRET,
        # Whoever is root needs no such program.
        "" if kind.startswith("root") else str(place.privileged),
    ]


async def run_hostile(server: Server, way: str, target: list[Any], python: Path) -> dict[str, str]:
    """What the program has achieved."""
    program = server.workspace / "hostile.py"
    program.write_text(HOSTILE.read_text())
    program.chmod(0o644)
    if way == "code":
        code = (
            "import json, runpy\n"
            f"hostile = runpy.run_path({str(program)!r})\n"
            f"print(json.dumps(hostile['attack'](*{target!r})))"
        )
        answer = await post(server, "/execute", code=code, timeout=60)
        told = answer["stdout"]
    elif way == "terminal":
        line = shlex.join([str(python), str(program), json.dumps(target)])
        async with console(server) as terminal:
            await terminal.type(f"{line} > told; echo en''d\n")
            await terminal.until("end\r\n", 90)
        told = (server.workspace / "told").read_text()
    else:
        args = [str(program), json.dumps(target)]
        asked = {"command": str(python), "args": args, "timeout": 60}
        if way == "command":
            told = (await post(server, "/commands/run", **asked))["stdout"]
        else:
            job_id = (await post(server, "/commands/background", **asked))["process_id"]
            await ended(server, job_id)
            told = output(await follow(server, job_id)).decode()
    result: dict[str, str] = json.loads(told[told.index("{") : told.rindex("}") + 1])
    return result


def worked(result: dict[str, str]) -> set[str]:
    return {name for name, told in result.items() if told == "worked"}


def layers_of(facts: dict[str, Any]) -> dict[str, str]:
    return {layer["name"]: layer["state"] for layer in facts["isolation"]["layers"]}


# What is told to be missing there; container engines see to the disks and the system themselves.
KNOWN = {
    "ordinary user in a container": {"list_state", "change_modes"},
    "root in a container": {
        "list_state",
        "change_modes",
        "read_a_disk",
        "have_the_system_run_a_program",
        "write_settings_of_the_system",
        "leave_its_memory_group",
        "have_it_killed_first",
        "clear_its_references",
    },
}


def as_restricted(kind: str) -> str:
    """The kind that this one is like here: an ordinary user may have no namespaces anywhere."""
    if kind == "ordinary user" and not ordinary_users_make_namespaces():
        return "ordinary user in a container"
    return kind


@pytest.mark.parametrize("way", WAYS_IN)
async def test_no_way_leads_to_the_service(
    guarded: Server, place: Place, kind: str, way: str
) -> None:
    result = await run_hostile(guarded, way, target_of(guarded, place, kind), place.python)

    assert len(result) > 35
    assert worked(result) - KNOWN.get(as_restricted(kind), set()) == set()
    assert "ended" not in result.values()


async def test_the_layers_in_force_are_told(guarded: Server, kind: str) -> None:
    facts = await get(guarded, "/info")

    states = layers_of(facts)
    user, _, contained = as_restricted(kind).partition(" in a ")
    others = {"another user": "active", "root": "missing", "ordinary user": "unneeded"}
    assert states.pop("user") == others[user]
    assert states.pop("cover") == (
        "active" if not contained else "unneeded" if user == "another user" else "missing"
    )
    assert states == dict.fromkeys(
        ("memory", "privileges", "capabilities", "landlock", "seccomp"), "active"
    )
    assert all(layer["detail"] for layer in facts["isolation"]["layers"])
    assert facts["isolation"]["user"] == (UNUSED_ID if user == "another user" else None)


async def test_without_isolation_many_ways_lead_to_it(
    open_server: Server, place: Place, kind: str
) -> None:
    """That the others find none proves something only if there are some."""
    if kind.endswith("container"):
        pytest.skip("it is the same there")
    target = target_of(open_server, place, kind)
    result = await run_hostile(open_server, "command", target, place.python)

    ways = {
        "read_environ",
        "read_memory",
        "open_memory_for_writing",
        "trace",
        "read_by_process_vm",
        "write_by_process_vm",
        "see_descriptors",
        "open_descriptors",
        "take_descriptors",
        "enter_its_root",
        "enter_its_directory",
        "read_key_through_its_root",
        "signal_it",
        "stop_it",
        "signal_its_thread",
        "queue_a_signal",
        "signal_by_descriptor",
        "signal_its_group",
        "limit_it",
        "have_it_killed_first",
        "clear_its_references",
        "list_state",
        "read_key",
        "read_key_through_own_root",
        "read_key_by_link",
        "link_key",
        "write_state",
        "overwrite_key",
        "change_modes",
        "move_state",
        "move_parent_of_state",
    }
    if kind == "ordinary user":
        ways |= {"become_root"}
    else:
        ways |= {
            "enter_its_namespaces",
            "bind_state_elsewhere",
            "open_by_handle",
            "make_a_disk",
            "have_the_system_run_a_program",
            "write_settings_of_the_system",
            "sniff_packets",
            "sniff_segments",
        }
    assert ways - worked(result) == set()
    assert set(layers_of(await get(open_server, "/info")).values()) == {"missing"}


async def test_the_secret_is_gone_from_the_environment_of_the_service(
    guarded: Server, open_server: Server
) -> None:
    for server in (guarded, open_server):
        environ = Path(f"/proc/{server.process.pid}/environ").read_bytes()
        assert b"PATH=" in environ
        assert SECRET.encode() not in environ


async def test_who_kills_everything_kills_only_what_runs(guarded: Server, kind: str) -> None:
    if kind.startswith("root"):
        pytest.skip("if it failed, it would end more than the service")
    answer = await post(guarded, "/commands/run", command="kill -9 -1; echo alive", timeout=10)
    assert answer["exit_code"] in (0, 137)
    # The spawner and the fork server of that user have gone with it: they come back.
    answer = await post(guarded, "/commands/run", command="echo fine")
    assert answer["stdout"] == "fine\n"
    # Whoever had a kernel is told that it has died, and has another one.
    answer = await post(guarded, "/execute", code="print(6 * 7)", timeout=60)
    if answer["outcome"] == "kernel_died":
        answer = await post(guarded, "/execute", code="print(6 * 7)", timeout=60)
    assert answer["stdout"] == "42\n", answer
    assert guarded.process.poll() is None


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
