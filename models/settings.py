"""Settings of service and worker, read once from the environment (prefix AMUN_)."""

from __future__ import annotations

import shlex
import sys
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models import crashes


class Settings(BaseSettings):
    """The defaults are the embedded way: SQLite and Celery's filesystem transport inside one data folder."""

    model_config = SettingsConfigDict(env_prefix="AMUN_", extra="ignore", frozen=True)

    data_dir: Path = Field(
        default=Path("amun-data"), description="Arrays, checkpoints, reports and, embedded, the database."
    )
    database_url: str | None = Field(default=None, description="SQLAlchemy URL; default: SQLite in the data folder.")
    broker_url: str | None = Field(default=None, description="redis://… ; default: a folder inside the data folder.")
    secrets_dir: Path | None = Field(default=None, description="Keys, mode 0600; default: secrets/ in the data folder.")
    import_root: Path | None = Field(default=None, description="Folder sources are read from; none: only builtin sets.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where jobs run; cuda: never without a GPU, auto: on one where there is one."
    )
    threads: int | None = Field(default=None, ge=1, description="Torch threads of a job; default: torch's own choice.")
    niceness: int = Field(
        default=10, ge=0, le=19, description="How far jobs give way to other processes for the processor (nice(1))."
    )
    pipeline: str | None = Field(
        default=None, description="Command of the child that runs a job; default: worker.pipeline."
    )
    seed: int | None = Field(
        default=None, ge=0, description="Makes the seeds of jobs repeatable; default: drawn at random."
    )
    issuer: str = Field(
        default="not configured (set AMUN_ISSUER)", description="Controller named in reports, and contact."
    )
    record_retention_months: int = Field(
        default=24, ge=1, description="How long requests, reports and certificates are kept; printed in each."
    )

    lease_seconds: float = Field(
        default=45, gt=0, description="A job whose worker is silent for so long is queued again."
    )
    heartbeat_seconds: float = Field(default=10, gt=0, description="How often a worker renews its job's lease.")
    dispatch_seconds: float = Field(default=1, gt=0, description="Pause between two rounds of the dispatcher.")
    job_limit_seconds: float = Field(
        default=24 * 3600, gt=0, description="A job that runs longer is stopped and fails."
    )
    body_limit: int = Field(default=1024 * 1024, gt=0, description="Bytes of a request body.")
    webhook_networks: str = Field(
        default="", description="Private networks that webhooks may lie in, as CIDRs with commas; default: none."
    )
    webhook_ca: Path | None = Field(default=None, description="PEM file of a further CA that webhooks may rest on.")
    webhook_retention_days: int = Field(
        default=30,
        ge=4,
        description="How long a finished delivery of a webhook is kept; attempts go on for three days.",
    )
    bulk_body_limit: int = Field(
        default=16 * 1024 * 1024, gt=0, description="Bytes of a body that may list many samples."
    )
    upload_limit: int = Field(default=2 * 1024**3, gt=0, description="Bytes of an uploaded checkpoint.")
    upload_hours: float = Field(default=24, gt=0, description="An upload that no model uses is destroyed after this.")
    rate_limit: str = Field(
        default="100/second;3000/minute", description="Requests a key, in each API process; empty: no limit."
    )
    failed_auth_limit: str = Field(
        default="30/minute", description="Wrong keys a client address, in each API process; empty: no limit."
    )
    stream_limit: int = Field(default=64, ge=1, description="Live streams at a time, in each API process.")
    crash: str = Field(
        default="", description="For tests alone: a name in models.crashes at which the process is killed."
    )

    @field_validator("secrets_dir", "import_root", "webhook_ca", mode="before")
    @classmethod
    def empty_is_none(cls, path: object) -> object:
        return path or None  # as a path it would be the working folder

    @field_validator("data_dir", "secrets_dir", "import_root", "webhook_ca")
    @classmethod
    def absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

    @field_validator("webhook_networks")
    @classmethod
    def networks(cls, listed: str) -> str:
        _networks(listed)
        return listed

    @field_validator("crash")
    @classmethod
    def crash_point(cls, name: str) -> str:
        return crashes.known(name) if name else name

    @property
    def allowed_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return _networks(self.webhook_networks)

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'amun.sqlite3'}"

    @property
    def secrets(self) -> Path:
        return self.secrets_dir or self.data_dir / "secrets"

    @property
    def pipeline_command(self) -> list[str]:
        return shlex.split(self.pipeline) if self.pipeline else [sys.executable, "-m", "worker.pipeline"]


def _networks(listed: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(each.strip()) for each in listed.split(",") if each.strip())


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    return Settings()
