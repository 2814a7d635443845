"""No generated request makes the service fail, and each answer is as OpenAPI describes it.

Thousands of requests, for every operation of `/openapi.json`, whatever they are. No answer may be a
5xx, and each must have a status, a content type and a body that the document describes.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Err
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from prove.report import Report
from tests.servers import serving
from tests.waiting import wait_until

LIMIT = 1200
CASES = 5000
SECONDS = 900.0

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# What is left out is a stream that ends only when its client leaves: nothing comes of waiting for
# it. An operation is one if all that it answers with on success is one of these.
_ENDLESS = frozenset({"text/event-stream", "application/x-ndjson"})
_TIMEOUT = 30.0
# Of names that end so, values that an answer has told are used again: that is how cases get beyond
# the 404 of a made-up id.
_ID = ("id", "_id")
_KEPT = 40
# How often a generated value gives way to one that leads somewhere.
_MEANT = 0.5
# Cases of an operation that are made in any case.
_LEAST = 2
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


@dataclass(frozen=True, slots=True)
class Target:
    """A server to be asked."""

    url: str
    token: str
    workspace: Path


@dataclass(slots=True)
class Answers:
    """What came of it."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    # By operation and kind of failure, one example of each.
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many requests were made."""
        return sum(self.cases.values())


def prove(report: Report) -> None:
    """Ask for as long as it takes, and then run code once more."""
    with tempfile.TemporaryDirectory(prefix="ka-fuzz-") as name, running(Path(name)) as target:
        answers = fuzz(target, cases=CASES, seconds=SECONDS, seed=report.seed)
        works = still_works(target)
    report.say(describe(answers))
    report.figure("answers that are not as they should be", len(answers.failures), most=0)
    report.check(works, "the server still runs code")


def fuzz(target: Target, *, cases: int, seconds: float, seed: int) -> Answers:
    """About so many cases, shared among all operations, in no more than so many seconds."""
    load_all_checks()
    document = requests.get(f"{target.url}/openapi.json", timeout=_TIMEOUT).json()
    schema = schemathesis.openapi.from_dict(document)
    report = Answers(left_out=list(_endless(document)))
    operations = []
    for found in schema.get_all_operations():
        if isinstance(found, Err):
            raise found.err()
        operation = found.ok()
        if operation.label not in report.left_out:
            operations.append(operation)
    fuzzer = _Fuzzer(target, report, seed)
    started = time.monotonic()
    for number, operation in enumerate(operations, 1):
        # Each has its share of the time; what one does not need is the next one's.
        deadline = started + seconds * number / len(operations)
        share = max(cases // len(operations), 2)
        fuzzer.run(operation, GenerationMode.POSITIVE, share - share // 3, deadline)
        # In a path any text is a good one: no other can be made, however long one tries.
        if operation.query or operation.headers or operation.body:
            fuzzer.run(operation, GenerationMode.NEGATIVE, share // 3, deadline)
    return report


class _Fuzzer:
    def __init__(self, target: Target, report: Answers, seed: int) -> None:
        self._target = target
        self._report = report
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 - guards nothing
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {target.token}"
        self._ids: deque[str] = deque(["default"], _KEPT)
        file = target.workspace / "fuzzed.txt"
        file.write_text("text\n")
        self._meant: dict[str, list[Any]] = {
            "path": [str(file), str(target.workspace), file.name, str(target.workspace / "new")],
            "workdir": [str(target.workspace)],
            "language": ["python", "bash"],
            "code": ["1", "1/0", "print('é' * 100)"],
            "command": ["true", "printf '\\377'; exit 3"],
            "timeout": [1, 5],
        }

    def run(self, operation: Any, mode: GenerationMode, count: int, deadline: float) -> None:
        """So many cases of one operation, unless its time is over before."""

        @hypothesis.seed(self._seed)
        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            # Failures are gathered, not narrowed down.
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            # No operation is passed over because others were slow.
            if time.monotonic() < deadline or self._report.cases[operation.label] < _LEAST:
                self._check(case, operation.label)

        check()

    def _check(self, case: Any, label: str) -> None:
        for part in (case.path_parameters, case.query, case.body):
            if isinstance(part, dict):
                self._mean(part)
        self._report.cases[label] += 1
        try:
            response = case.call(base_url=self._target.url, session=self._session, timeout=_TIMEOUT)
        except requests.RequestException as error:
            self._fail(label, type(error).__name__, case, str(error))
            return
        self._report.statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=_CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self._fail(label, getattr(failure, "title", type(failure).__name__), case, failure)
        if response.status_code < 300:
            if str(response.status_code) not in case.operation.definition.raw["responses"]:
                # `default`, which is there for errors, would cover it.
                self._fail(label, "Undocumented success", case, response.status_code)
            self._learn(response)

    def _mean(self, part: dict[str, Any]) -> None:
        for name in part:
            if self._chance.random() > _MEANT:
                continue
            if name in self._meant:
                part[name] = self._chance.choice(self._meant[name])
            elif name.endswith(_ID):
                part[name] = self._chance.choice(self._ids)

    def _learn(self, response: Any) -> None:
        with contextlib.suppress(ValueError):
            self._take_ids(response.json(), 2)

    def _take_ids(self, value: Any, depth: int) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                if name.endswith(_ID) and isinstance(item, str) and 0 < len(item) < 100:
                    if item not in self._ids:
                        self._ids.append(item)
                elif depth:
                    self._take_ids(item, depth - 1)
        elif isinstance(value, list) and depth:
            for item in value[:5]:
                self._take_ids(item, depth - 1)

    def _fail(self, label: str, title: str, case: Any, failure: object) -> None:
        if (label, title) not in self._report.failures:
            self._report.failures[label, title] = f"{failure}\n{_curl(case)}"


def _curl(case: Any) -> str:
    try:
        return str(case.as_curl_command())
    except Exception as error:  # of a case that cannot be shown, as far as it goes
        return f"({case.method} {case.path_parameters} {case.query} {case.body!r:.300}: {error})"


def _endless(document: Mapping[str, Any]) -> Iterator[str]:
    for path, item in document["paths"].items():
        for method in item.keys() & set(_METHODS):
            responses = item[method]["responses"]
            contents = [
                set(response.get("content", {}))
                for status, response in responses.items()
                if status.startswith("2")
            ]
            if contents and all(content and content <= _ENDLESS for content in contents):
                yield f"{method.upper()} {path}"


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Target]:
    """A server of our own, warm, with few sessions so that kernels do not pile up."""
    settings = {
        # What cases may find there must not be anybody's.
        "HOME": str(directory),
        "KERNELAGENT_PRELOAD": "",
        "KERNELAGENT_MAX_SESSIONS": "12",
        "KERNELAGENT_MAX_TIMEOUT": "5",
        "KERNELAGENT_JOB_KERNELS": "2",
        "KERNELAGENT_WEBHOOK_RETRY_TIME": "0",
    }
    with serving(directory, **settings) as server:
        wait_until(lambda: server.request("GET", "/health?ready=1").is_success)
        yield Target(server.url, str(server.token), server.workspace)


def still_works(target: Target) -> bool:
    """Whether the server runs code, once what the cases have made is gone."""
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {target.token}"
        listed = session.get(f"{target.url}/sessions", timeout=_TIMEOUT).json()
        for made in listed["sessions"]:
            session.delete(f"{target.url}/sessions/{made['id']}", timeout=_TIMEOUT)
        answer = session.post(f"{target.url}/execute", json={"code": "6 * 7"}, timeout=_TIMEOUT)
        return bool(answer.json().get("result") == "42")


def describe(report: Answers) -> str:
    """What came of it, for people."""
    lines = [f"{report.total} cases of {len(report.cases)} operations"]
    lines.append(", ".join(f"{code}: {n}" for code, n in sorted(report.statuses.items())))
    lines += [f"left out, ends only when its client leaves: {name}" for name in report.left_out]
    for (label, title), example in report.failures.items():
        lines.append(f"\n{label}: {title}\n{example}")
    return "\n".join(lines)
