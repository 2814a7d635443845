"""What `make run` does: serve, replay a notebook with plots against it, keep serving."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out"
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Exit code 0 if the notebook ran and the service ended as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7777)
    parser.add_argument("--once", action="store_true", help="end after the notebook")
    arguments = parser.parse_args()
    port = _free_port(arguments.port)
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "KERNELAGENT_WORKSPACE": str(OUT / "workspace"),
        "KERNELAGENT_STATE_DIR": str(OUT / "state"),
        "KERNELAGENT_LOG_LEVEL": os.environ.get("KERNELAGENT_LOG_LEVEL", "warning"),
        "KERNELAGENT_LOG_FORMAT": os.environ.get("KERNELAGENT_LOG_FORMAT", "text"),
    }
    kernelagent = [sys.executable, "-m", "kernelagent"]
    OUT.mkdir(exist_ok=True)
    (OUT / "state").mkdir(mode=0o700, exist_ok=True)
    # The key is made here, so that the service prints no token of its own.
    token = subprocess.run(
        [*kernelagent, "token"], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
    server = subprocess.Popen(
        [*kernelagent, "serve", "--host", "127.0.0.1", "--port", str(port)],
        env=environment,
        # Ctrl-C is ours: the service is asked to leave when the demo is done.
        start_new_session=True,
    )
    try:
        _wait_until_healthy(url, server)
        client = {**environment, "KERNELAGENT_URL": url, "KERNELAGENT_TOKEN": token}
        replayed = subprocess.run(
            [*kernelagent, "replay", str(NOTEBOOK), "--out", str(OUT)], env=client, check=False
        ).returncode
        _explain(url, token)
        if arguments.once or replayed:
            return replayed
        console.print("\nServing until Ctrl-C.")
        return server.wait()
    except KeyboardInterrupt:
        console.print("\nStopping.")
        return 0
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            console.print(f"Port {wanted} is taken; using another one.")
        else:
            return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the service did not start; its reason stands above")
        time.sleep(0.05)


def _explain(url: str, token: str) -> None:
    body = json.dumps({"code": "import sys; print(sys.version)"})
    console.print(f"\n[bold]Results[/]  {OUT}")
    console.print(f"[bold]URL[/]      {url}   (API: {url}/docs)")
    console.print(f"[bold]Token[/]    {token}", markup=True)
    console.print("\nTry it:\n")
    # Not by the console: it would wrap the line, and then it does not work when pasted.
    sys.stdout.flush()
    sys.stdout.write(
        f"curl -s -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' "
        f"-d '{body}' {url}/execute\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
