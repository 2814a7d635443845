"""Directories of a server outside its state: who is killed leaves them to its successor."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from kernelagent.jupyter.cgroup import remove_groups

log = logging.getLogger(__name__)

RUNTIME_PREFIX, GROUPS_PREFIX = "ka-", "kernelagent-"


def remove_places(places: Sequence[str]) -> None:
    """Remove what is left of `places`, whose processes have ended; blocks."""
    for place in map(Path, places):
        try:
            # Where everybody can make directories, another's may have its name by now.
            if place.lstat().st_uid != os.getuid():
                continue
            if place.name.startswith(GROUPS_PREFIX):
                remove_groups(place)
            elif place.name.startswith(RUNTIME_PREFIX):
                shutil.rmtree(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("%s of the server before this one is left: %s", place, error)
