"""Every setting of the service, read from `KERNELAGENT_*` and documented in one place."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kernelagent.errors import ConfigurationError

ENV_PREFIX = "KERNELAGENT_"
_LARGEST_POOL = 64

# Settings whose value may be given as the name of a file that holds it: KERNELAGENT_X_FILE.
_FILE_VARIANTS = ("jwt_secret", "jwt_public_key")

# Variables that hold secrets themselves.
SECRET_VARIABLES = (f"{ENV_PREFIX}JWT_SECRET",)


def _default_state_dir() -> Path:
    try:
        return Path.home() / ".local" / "state" / "kernelagent"
    except RuntimeError:
        raise ConfigurationError(
            f"this user has no home directory: set {ENV_PREFIX}STATE_DIR"
        ) from None


class Settings(BaseSettings):
    """The service's settings; durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="ignore", frozen=True, allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(7777, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    workspace: Path = Field(
        Path("/workspace"),
        description="Directory in which everything starts; made if missing. Where it is another "
        "and the machine has no `/workspace`, that name means it too, as published clients send it "
        "with every call.",
    )
    state_dir: Path = Field(
        default_factory=_default_state_dir,
        description="Directory for the generated key and for what must survive a restart.",
    )
    runtime_dir: Path | None = Field(
        None,
        description="Parent of the private directory for kernel sockets; default: the system's "
        "temporary directory. Keep it short: socket paths end at 107 bytes.",
    )
    sandbox_id: str = Field(
        "local", min_length=1, max_length=128, description="The id that tokens must carry."
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    log_format: str = Field("json", pattern="^(json|text)$", description="json or text.")

    no_auth: bool = Field(
        False, description="Serve without tokens; refused unless the host is a loopback address."
    )
    jwt_secret: SecretStr | None = Field(
        None,
        description="Shared secret for HS256 tokens, 32 bytes or more. With neither this nor a "
        "public key, a secret is made once and kept in the state directory with mode 0600. "
        "KERNELAGENT_JWT_SECRET_FILE names a file instead.",
    )
    jwt_public_key: str | None = Field(
        None,
        description="PEM of an Ed25519 public key: only EdDSA tokens are accepted and the service "
        "can issue none. KERNELAGENT_JWT_PUBLIC_KEY_FILE names a file instead.",
    )
    token_ttl: float = Field(7 * 86400.0, gt=0, description="Life of the tokens we issue.")

    max_body_bytes: int = Field(
        64 * 2**20, ge=1024, description="Largest request body; above it the answer is 413."
    )
    max_timeout: float = Field(
        86400.0, gt=0, description="Upper bound of a run's timeout; larger values are lowered."
    )
    default_timeout: float = Field(60.0, gt=0, description="Time limit of a run that names none.")
    queue_limit: int = Field(
        100, ge=1, description="Runs that may wait in one session; one more is refused with 409."
    )
    interrupt_grace: float = Field(
        2.0, gt=0, description="How long an interrupted run may take to end before it is killed."
    )
    output_bytes: int = Field(
        8 * 2**20,
        ge=1024,
        description="Output of one run that is kept in its answer; the rest goes to a file in the "
        "workspace, which the answer names.",
    )
    output_items: int = Field(
        1000, ge=1, description="Displayed outputs of one run kept in its answer."
    )
    max_output_bytes: int = Field(
        256 * 2**20, ge=1024, description="Highest output budget that a request may ask for."
    )
    spill_bytes: int = Field(
        2 * 2**30,
        ge=0,
        description="Largest total of the files that keep one run's excess output; 0 keeps none.",
    )
    keepalive: float = Field(
        5.0, gt=0, description="Pause after which a silent stream sends a keepalive."
    )

    pool_idle: int = Field(
        1, ge=0, le=64, description="Warm, never-used Python kernels kept ready."
    )
    pools: Annotated[dict[str, int], NoDecode] = Field(
        default_factory=dict,
        description="The same for other languages, as `javascript=1,bash=2`. Kernels of languages "
        "that are not named start when they are needed, the first of them in tens of "
        "milliseconds to a second.",
    )
    max_kernels: int = Field(
        256, ge=1, description="Kernels alive at once; a session beyond that is refused with 409."
    )
    max_sessions: int = Field(
        200, ge=1, description="Sessions alive at once; one more is refused with 409."
    )
    session_idle_timeout: float = Field(
        3600.0,
        ge=0,
        description="A session without runs for this long is closed; 0 keeps it. The default "
        "session of a language stays.",
    )
    fork_server: bool = Field(
        True,
        description="Fork kernels from a process that has everything imported (one for Python, a "
        "light one for the other languages), which makes them quick to start and small. Without "
        "it each kernel is started by itself.",
    )
    preload: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None,
        description="Modules that Python's fork server imports, separated by commas; default: "
        "numpy, pandas, matplotlib.pyplot. None of them may start a thread.",
    )
    lean_kernel: bool = Field(
        True,
        description="Run Python on our own subclasses of ipykernel, where its version was tested; "
        "else on stock classes.",
    )
    kernel_start_timeout: float = Field(
        60.0, gt=0, description="How long a kernel may take from its start to its first answer."
    )
    kernel_memory: int | None = Field(
        None,
        ge=64 * 2**20,
        description="Memory one kernel and its children may use; above it the run ends as "
        "out_of_memory. Default: three quarters of what the machine or container has.",
    )
    max_checkpoints: int = Field(
        16, ge=0, description="Checkpoints of one session; one more is refused with 409."
    )
    checkpoint_memory: int | None = Field(
        None,
        ge=2**20,
        description="Memory that all checkpoints together may take; a new one beyond it is refused "
        "with 409, and if they grow beyond it the oldest is given up. Default: a third of what a "
        "kernel may use.",
    )
    max_commands: int = Field(
        256,
        ge=1,
        description="Commands that run at once beside jobs; one more is refused with 409.",
    )
    max_terminals: int = Field(
        64, ge=1, description="Terminals that run at once; one more is refused with 409."
    )
    terminal_scrollback: int = Field(
        2**20,
        ge=256 * 1024,
        description="Output of one named terminal that is kept for whoever comes back to it.",
    )
    terminal_idle_timeout: float = Field(
        86400.0,
        ge=0,
        description="A named terminal at which nobody was for this long is ended; 0 keeps it.",
    )
    terminal_keep: float = Field(
        3600.0,
        ge=0,
        description="How long a named terminal that has ended is kept with its output and exit "
        "code.",
    )
    max_watches: int = Field(
        32, ge=1, description="Files and directories watched at once; one more is refused with 409."
    )
    watch_names: int = Field(
        100_000,
        ge=0,
        description="Names of files and directories that all watches together remember, about 150 "
        "bytes each; a file that replaces one beyond that is told as created.",
    )
    watch_changes: int = Field(
        20_000,
        ge=1,
        description="Changes that wait for the client of a watch; beyond it they are lost, and it "
        "is told so.",
    )
    job_kernels: int = Field(
        8, ge=1, description="Background runs of code at once; the rest wait in order."
    )
    job_commands: int = Field(
        64, ge=1, description="Background commands at once; the rest wait in order."
    )
    job_queue: int = Field(
        1000, ge=1, description="Jobs that may wait; one more is refused with 409."
    )
    job_log_bytes: int = Field(
        16 * 2**20,
        ge=64 * 1024,
        description="Log of one job that is kept, its beginning and its end; the middle is cut.",
    )
    jobs_kept: int = Field(
        1000, ge=1, description="Ended jobs that are kept with their logs; the oldest go first."
    )
    jobs_bytes: int = Field(
        4 * 2**30,
        ge=2**20,
        description="Disk for logs and outputs of ended jobs; the oldest jobs go first.",
    )
    webhook_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Private hosts and networks that webhooks may reach, separated by commas, as "
        "`127.0.0.0/8,::1,hooks.internal`; all public addresses are allowed.",
    )
    webhook_timeout: float = Field(
        10.0, gt=0, description="How long a receiver may take to answer one delivery."
    )
    webhook_retry_time: float = Field(
        86400.0, ge=0, description="How long the delivery of a webhook is tried."
    )
    cache_bytes: int = Field(
        64 * 2**20, ge=0, description="Memory for cached results; the least recently used go."
    )
    cache_entries: int = Field(10_000, ge=0, description="Results that are cached at most.")
    cache_ttl: float = Field(
        3600.0, gt=0, description="Life of a cached result, and the longest one to be asked for."
    )
    idempotency_ttl: float = Field(
        600.0,
        gt=0,
        description="How long the answer to a run with an Idempotency-Key is kept for a repeat.",
    )
    idempotency_bytes: int = Field(
        64 * 2**20, ge=0, description="Memory for such answers; the oldest go first."
    )
    file_roots: Annotated[tuple[Path, ...] | None, NoDecode] = Field(
        None,
        description="Directories whose contents clients may use by /files, separated by commas, "
        "beside the workspace. Default: the system's temporary directory, /app, /home and the "
        "home of the service's user.",
    )
    file_hard_links: bool = Field(
        False,
        description="Let clients read files with several names that belong to another user than "
        "code runs as; such a name can be one outside the allowed directories.",
    )
    max_file_operations: int = Field(
        256, ge=1, description="Operations on files at once; one more is refused with 409."
    )
    max_write_bytes: int = Field(
        144 * 2**20,
        ge=1024,
        description="Largest JSON body of /files/write, which is 100 MB as Base64 and more.",
    )
    max_upload_bytes: int = Field(
        10 * 2**30, ge=1024, description="Largest file or archive that is uploaded."
    )
    max_archive_bytes: int = Field(
        10 * 2**30, ge=1024, description="Largest total of what an uploaded archive unpacks to."
    )
    max_archive_entries: int = Field(
        100_000, ge=1, description="Entries that an uploaded archive may have."
    )
    kernel_env: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names of the service's variables that kernels inherit beside the usual ones "
        "(PATH, HOME, LANG, ...), separated by commas. KERNELAGENT_* never are.",
    )

    isolation: str = Field(
        "auto",
        pattern="^(auto|require|off)$",
        description="auto: keep what runs away from the service by every layer that the system "
        "permits, and tell which it refuses. require: do not start unless all can be had. off: "
        "what runs can do what the service can.",
    )
    sandbox_user: str | None = Field(
        None,
        description="User that everything runs as where the service is root: a name, or UID or "
        "UID:GID; `root` for none. Default: `sandbox` or `user` if there is one, else an unused "
        "id. Without an interpreter that this user can read, what runs stays root.",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name in _FILE_VARIANTS:
            variable = f"{ENV_PREFIX}{name.upper()}_FILE"
            path = os.environ.get(variable)
            if not path or values.get(name) is not None:
                continue
            try:
                values[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(
                    f"{variable} names a file that cannot be read: {error}"
                ) from error
        return values

    @field_validator("kernel_env", "preload", "webhook_allow", "file_roots", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("pools", mode="before")
    @classmethod
    def _read_pools(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        sizes = {}
        for pair in filter(None, map(str.strip, value.split(","))):
            name, _, size = pair.partition("=")
            try:
                sizes[name.strip().lower()] = int(size)
            except ValueError:
                raise ValueError(f"{pair!r} is not LANGUAGE=NUMBER") from None
        return sizes

    @field_validator("pools")
    @classmethod
    def _check_pools(cls, value: dict[str, int]) -> dict[str, int]:
        for name, size in value.items():
            if not 0 <= size <= _LARGEST_POOL:
                raise ValueError(f"{name}={size}: a pool holds 0 to {_LARGEST_POOL} kernels")
        return value

    def pool_size(self, language: str, *aliases: str) -> int:
        """Warm kernels of a language, by its name or one of its aliases."""
        named = [self.pools[name] for name in (language, *aliases) if name in self.pools]
        return max(named, default=self.pool_idle if language == "python" else 0)

    @field_validator("workspace", "state_dir", "runtime_dir")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        try:
            return None if value is None else value.expanduser().absolute()
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    @property
    def secret_files(self) -> list[Path]:
        """Files that hold secrets and are named in the environment."""
        named = (os.environ.get(f"{variable}_FILE") for variable in SECRET_VARIABLES)
        return [Path(path).absolute() for path in named if path]

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            # Any other name may mean any address.
            return False

    @field_validator("file_roots")
    @classmethod
    def _check_roots(cls, value: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        for root in value or ():
            if not root.is_absolute():
                raise ValueError(f"{root} is no absolute path")
        return value

    @property
    def allowed_roots(self) -> tuple[Path, ...]:
        """Where clients may use files, beside the workspace."""
        if self.file_roots is not None:
            return self.file_roots
        usual = [Path(tempfile.gettempdir()), Path("/app"), Path("/home")]
        with contextlib.suppress(RuntimeError):
            usual.append(Path.home())
        # A user without a home is often given this one.
        return tuple(root for root in usual if root != Path("/"))

    @property
    def runtime_parent(self) -> Path:
        """Where the private directory for kernel sockets is made."""
        return self.runtime_dir or Path(tempfile.gettempdir())

    def check(self) -> None:
        """Refuse combinations that would leave an open door; raises ConfigurationError."""
        if self.no_auth and not self.is_loopback:
            raise ConfigurationError(
                f"--no-auth is refused on {self.host}: anyone who can reach it could run code. "
                "Listen on 127.0.0.1 or leave authentication on."
            )
        secret = None if self.jwt_secret is None else self.jwt_secret.get_secret_value()
        if secret is not None and len(secret.encode()) < 32:
            raise ConfigurationError("KERNELAGENT_JWT_SECRET must have at least 32 bytes")
        if secret is not None and self.jwt_public_key is not None:
            raise ConfigurationError(
                "set KERNELAGENT_JWT_SECRET or KERNELAGENT_JWT_PUBLIC_KEY, not both"
            )


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and `overrides` (a value of None is no override)."""
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = ENV_PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationError(f"{name}: {first['msg']}") from None
    settings.check()
    return settings
