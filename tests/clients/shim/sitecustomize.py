"""Points published clients that know one host at another; the packages stay as they are."""

from __future__ import annotations

import os

url = os.environ.get("HOPX_BASE_URL")
if url:
    import hopx_ai

    for kind in (hopx_ai.Sandbox, hopx_ai.AsyncSandbox):
        for name in dir(kind):
            member = getattr(kind, name, None)
            defaults = getattr(getattr(member, "__func__", member), "__kwdefaults__", None)
            if defaults and "base_url" in defaults:
                defaults["base_url"] = url
