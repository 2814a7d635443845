"""As much of a control plane as published clients need to find one running server."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import Service

SANDBOX_ID = "local"


def _sandbox(server: Service) -> dict[str, Any]:
    now = datetime.now(UTC).replace(microsecond=0)
    later = (now + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    return {
        "id": SANDBOX_ID,
        "sandbox_id": SANDBOX_ID,
        "object": "sandbox",
        "organization_id": 0,
        "template_id": "1",
        "template_name": "code-interpreter",
        "region": "local",
        "status": "running",
        "public_host": server.url,
        "direct_url": server.url,
        "resources": {"vcpu": 1, "memory_mb": 1024, "disk_mb": 1024},
        "internet_access": False,
        "live_mode": False,
        "timeout_seconds": 3600,
        "expires_at": later,
        "created_at": now.isoformat().replace("+00:00", "Z"),
        "auth_token": server.token,
        "token_expires_at": later,
        "request_id": "test",
    }


@contextlib.contextmanager
def control_plane(server: Service) -> Iterator[str]:
    """The URL of a control plane whose every sandbox is `server`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps(_sandbox(server)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = _answer

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
