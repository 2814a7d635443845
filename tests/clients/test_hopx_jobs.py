"""The published hopx clients' calls for jobs, unmodified: Python, both ways, and JavaScript."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hopx_ai import AsyncSandbox, Sandbox
from hopx_ai.errors import HopxError

from tests.clients.control_plane import SANDBOX_ID, control_plane
from tests.installed import javascript_client
from tests.servers import Server, serving
from tests.waiting import PATIENCE, until, wait_until

_SCRIPT = "jobs.mjs"
_SECRET = "s3cret"


@dataclass
class Receiver:
    """What has been posted to it: headers and body."""

    url: str = ""
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("jobs")
    settings = {"KERNELAGENT_WEBHOOK_ALLOW": "127.0.0.1", "KERNELAGENT_PRELOAD": ""}
    with serving(root, **settings) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.seen.append((headers, body))
            self.send_response(204)
            self.end_headers()

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{listener.server_port}/hook"
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture
def sandbox(server: Server) -> Any:
    return Sandbox.debug(agent_url=server.url, jwt_token=server.token)


def ended(sandbox: Any, process_id: str) -> dict[str, Any]:
    """The job in the client's list, once it has ended."""

    def look() -> dict[str, Any] | None:
        for item in sandbox.list_processes():
            if item["process_id"] == process_id and item["status"] not in ("queued", "running"):
                return dict(item)
        return None

    return dict(wait_until(look))


def check_callback(receiver: Receiver, execution_id: str, stdout: str, status: str) -> None:
    headers, body = wait_until(lambda: receiver.seen)[0]
    content = json.loads(body)
    assert content["execution_id"] == execution_id
    assert (content["status"], content["stdout"]) == (status, stdout)
    assert content["success"] is (status == "completed")
    assert isinstance(content["execution_time"], float)
    signed = headers["x-hopx-timestamp"].encode() + body
    expected = hmac.new(_SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["x-hopx-signature"] == f"sha256={expected}"
    assert headers["x-mine"] == "1"
    assert abs(int(headers["x-hopx-timestamp"]) - time.time()) < 60
    assert headers["idempotency-key"]


def test_background_list_and_kill(sandbox: Any) -> None:
    started = sandbox.run_code_background("print(6 * 7)", name="mine", env={"X": "1"})
    assert started["process_id"].startswith("proc_")
    assert started["status"] == "running"
    item = ended(sandbox, started["process_id"])
    assert (item["status"], item["stdout"], item["name"]) == ("completed", "42\n", "mine")

    sleeper = sandbox.run_code_background("import time; time.sleep(60)")
    running = [item for item in sandbox.list_processes() if item["status"] == "running"]
    assert [item["process_id"] for item in running] == [sleeper["process_id"]]
    # As the cookbook filters and sorts them.
    assert "python" in running[0]["name"]
    sorted(sandbox.list_processes(), key=lambda item: item["cpu_percent"])
    assert sandbox.kill_process(sleeper["process_id"])["status"] == "killed"
    assert ended(sandbox, sleeper["process_id"])["status"] == "killed"
    with pytest.raises(HopxError):
        sandbox.kill_process("proc_unknown")


def test_a_command_in_the_background(sandbox: Any, server: Server) -> None:
    result = sandbox.commands.run(
        "echo out; sleep 0.1; exit 4", background=True, working_dir=str(server.workspace)
    )
    # How published tools find the id.
    process_id = "cmd_" + result.stdout.split("cmd_")[1].split()[0]
    item = ended(sandbox, process_id)
    assert (item["status"], item["exit_code"], item["stdout"]) == ("failed", 4, "out\n")


@pytest.mark.parametrize(
    ("code", "stdout", "status"),
    [
        ("print('done')", "done\n", "completed"),
        ("print('done'); 1/0", "done\n", "failed"),
        ("print('done', flush=True)\nimport time; time.sleep(60)", "done\n", "timeout"),
    ],
)
def test_async_calls_back(
    sandbox: Any, server: Server, receiver: Receiver, code: str, stdout: str, status: str
) -> None:
    started = sandbox.run_code_async(
        code,
        receiver.url,
        timeout=1 if status == "timeout" else 60,
        working_dir=str(server.workspace),
        callback_headers={"X-Mine": "1"},
        callback_signature_secret=_SECRET,
    )
    assert started["status"] == "queued"
    assert started["callback_url"] == receiver.url
    check_callback(receiver, started["execution_id"], stdout, status)


async def test_the_asynchronous_client(server: Server, receiver: Receiver) -> None:
    with control_plane(server) as base_url:
        sandbox = await AsyncSandbox.connect(SANDBOX_ID, api_key="any", base_url=base_url)
        started = await sandbox.run_code_background("print(6 * 7)", name="mine")
        sleeper = await sandbox.run_code_background("import time; time.sleep(60)")

        async def item(process_id: str) -> dict[str, Any]:
            found = [
                item
                for item in await sandbox.list_processes()
                if item.get("process_id") == process_id
            ]
            return dict(found[0]) if found else {}

        async def is_completed() -> bool:
            return (await item(started["process_id"])).get("status") == "completed"

        async def has_process() -> bool:
            return bool((await item(sleeper["process_id"])).get("pid"))

        await until(is_completed)
        await until(has_process)
        assert (await item(sleeper["process_id"]))["execution_id"] == sleeper["execution_id"]
        killed = await sandbox.kill_process(sleeper["process_id"])
        assert killed["status"] == "killed"
        assert (await item(sleeper["process_id"]))["status"] == "killed"

        command = await sandbox.commands.run(
            "echo out", background=True, working_dir=str(server.workspace)
        )
        assert "cmd_" in command.stdout
        called = await sandbox.run_code_async(
            "print('async')",
            receiver.url,
            working_dir=str(server.workspace),
            callback_headers={"X-Mine": "1"},
            callback_signature_secret=_SECRET,
        )
        await asyncio.to_thread(
            check_callback, receiver, called["execution_id"], "async\n", "completed"
        )
        await sandbox._agent_client.close()
        await sandbox._client.close()


async def test_the_javascript_client(server: Server, receiver: Receiver) -> None:
    with control_plane(server) as base_url:
        node = await asyncio.create_subprocess_exec(
            *javascript_client(_SCRIPT),
            base_url,
            str(server.workspace),
            receiver.url,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(node.communicate(), PATIENCE)
    assert node.returncode == 0
    got = json.loads(output.splitlines()[-1])

    assert (got["code"]["stdout"], got["code"]["name"]) == ("42\n", "mine")
    assert got["code"]["status"] == "completed"
    assert got["sleeper"]["status"] == "killed"
    assert got["started"]["process_id"].startswith("cmd_")
    assert (got["command"]["exit_code"], got["command"]["stdout"]) == (4, "out\n")
    assert got["async"]["status"] == "queued"
    assert [item["status"] for item in got["system"]] == ["completed"]
    await asyncio.to_thread(
        check_callback, receiver, got["async"]["execution_id"], "async\n", "completed"
    )
