"""What the routes of observability answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Features(BaseModel):
    """What this agent can do; each but `languages` is true or false."""

    model_config = {"extra": "allow"}

    code_execution: bool
    rich_output: bool
    websocket_streaming: bool
    background_jobs: bool
    process_management: bool
    file_operations: bool
    terminal_access: bool
    system_metrics: bool
    ipython_kernel: bool
    ipython: bool
    desktop: bool
    languages: list[str]


class Identity(BaseModel):
    """Who answers."""

    agent: str
    version: str
    agent_version: str
    vm_id: str = Field(description="The sandbox's id, which tokens must carry")
    timestamp: str


class Root(Identity):
    """Who answers, and at which routes."""

    status: str
    message: str
    endpoints: dict[str, str] = Field(description="Name of each route: method and path")


class Ping(BaseModel):
    """It answers."""

    status: str
    message: str


class PoolFacts(BaseModel):
    """Kernels of one language."""

    idle: int = Field(description="Warm, never used")
    starting: int
    leased: int
    wanted: int = Field(description="How many shall be idle")
    error: str = Field(description="Why the last start failed; empty once one succeeds")


class LaneFacts(BaseModel):
    """Background jobs of one kind."""

    running: int
    queued: int
    limit: int


class Health(Identity):
    """Whether the service lives, and how it is."""

    status: str = Field(description="`healthy`")
    message: str
    go_version: str
    uptime: str
    uptime_seconds: float
    features: Features
    active_streams: int
    active_executions: int
    sessions: int
    ready: bool = Field(description="Whether a first run would find a warm kernel")
    pools: dict[str, PoolFacts]
    jobs: dict[str, LaneFacts]
    fork_servers: dict[str, dict[str, Any]]
    memory: dict[str, Any] = Field(description="How the memory of kernels is limited")


class LanguageFacts(BaseModel):
    """A language that is known here."""

    name: str
    aliases: list[str]
    available: bool
    missing: str | None = Field(description="How to get it, if it is not available")
    version: str
    display_name: str
    pool: int = Field(description="Warm kernels kept ready")


class LayerFacts(BaseModel):
    """One layer of isolation."""

    name: str
    state: str = Field(description="Whether it is in force: active, or missing, or unneeded")
    detail: str


class IsolationFacts(BaseModel):
    """What holds of what code, commands and terminals may do."""

    mode: str
    user: int | None = Field(description="Whom they run as, if not the service's own user")
    layers: list[LayerFacts]


class Info(Identity):
    """What this machine and this service are."""

    os: str
    arch: str
    platform: str
    python_version: str
    go_version: str
    hostname: str
    cpu_count: int
    ip: str
    vm_ip: str
    port: str
    vm_port: str
    start_time: str
    uptime: float
    uptime_seconds: float
    workspace: str
    authentication: bool
    languages: list[LanguageFacts]
    limits: dict[str, float | None]
    isolation: IsolationFacts
    endpoints: dict[str, str]
    features: Features


class OsFacts(BaseModel):
    """The operating system."""

    name: str
    version: str
    kernel: str
    arch: str
    hostname: str
    timezone: str


class Hardware(BaseModel):
    """What the machine has, or the container where that is less."""

    cpu_cores: int
    cpu_model: str
    memory_mb: int
    disk_mb: int


class Interface(BaseModel):
    """A network interface."""

    name: str
    ip: str
    mac: str


class Network(BaseModel):
    """The machine's network."""

    hostname: str
    interfaces: list[Interface]


class UserFacts(BaseModel):
    """Who the service runs as."""

    shell: str
    user: str
    home: str
    path: str
    working_dir: str
    environment: dict[str, str] = Field(description="Locale and time zone; nothing else is told")


class CpuUsage(BaseModel):
    """Processors that may be used."""

    usage_percent: float = Field(description="Of all of the machine's, since the last look")
    cores: int


class ShareUsage(BaseModel):
    """Bytes of memory, or of the workspace's file system."""

    total: int
    used: int
    free: int
    usage_percent: float


class MachineUsage(BaseModel):
    """How busy the machine is; a second old at most."""

    cpu: CpuUsage
    memory: ShareUsage
    disk: ShareUsage


class System(MachineUsage):
    """The machine: what it is, and how busy."""

    os: OsFacts
    hardware: Hardware
    network: Network
    environment: UserFacts
    capabilities: list[str]
    uptime: float = Field(description="Of the service, in seconds")
    timestamp: str


class RouteCounts(BaseModel):
    """Requests of one route."""

    success: int
    error: int = Field(description="Those with a status of 400 or more")


class Durations(BaseModel):
    """Milliseconds; quantiles are as exact as the histogram's bounds."""

    avg: float
    p50: float
    p95: float
    p99: float


class RunFacts(BaseModel):
    """Runs of one language that had the same outcome."""

    language: str
    outcome: str
    count: int
    queue_ms: Durations
    run_ms: Durations
    whole_ms: Durations


class ProcessCounts(BaseModel):
    """Processes of the machine."""

    count: int
    running: int


class CacheUse(BaseModel):
    """The result cache."""

    size: int
    bytes: int
    hits: int
    misses: int
    hit_rate: float


class CommandCounts(BaseModel):
    """Commands whose end is waited for."""

    running: int
    total: int
    outcomes: dict[str, int]


class Metrics(BaseModel):
    """What the service has done since its start, and how it is now."""

    timestamp: str
    uptime_seconds: float
    total_requests: int
    total_errors: int
    error_count: int
    active_executions: int
    queued_executions: int
    total_executions: int
    failed_executions: int
    executions: list[RunFacts]
    requests_total: dict[str, RouteCounts] = Field(description="By template of the route")
    avg_duration_ms: dict[str, float]
    p95_duration_ms: dict[str, float]
    system: MachineUsage
    process: ProcessCounts
    cpu_percent: float
    memory_percent: float
    disk_percent: float
    cache: CacheUse
    pools: dict[str, PoolFacts]
    sessions: dict[str, int] = Field(description="By state")
    jobs: dict[str, LaneFacts]
    commands: CommandCounts
    kernel_memory_bytes: dict[str, int] = Field(
        description="By language; resident, so that shared pages count for each kernel"
    )
    event_loop_lag_ms: Durations
