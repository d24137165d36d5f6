"""One configuration at work: what a reload replaces as a whole.

Made by master/supervisor.py from the configuration folder, at start and at each reload. Everything that can be wrong
with a configuration as far as the master is concerned comes out here, before anything is changed: ConfigError,
IdentityError.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fastmta.config import ConfigError
from fastmta.master import identity
from fastmta.master.identity import Identity, IdentityError
from fastmta.master.journal import log_settings
from fastmta.master.sockets import Bound, smtpd_services
from fastmta.observe.log import LogSettings

if TYPE_CHECKING:
    from fastmta.config import Config


class Slot(msgspec.Struct, eq=False):
    """The place of a worker that is started anew when it dies. Times are of the monotonic clock."""

    not_before: float = 0.0
    failures: int = 0  # times in a row that its worker died at once
    last_shard: int = -1
    starved: bool = False  # no shard is free for it


class Generation(msgspec.Struct, eq=False):
    """A configuration, and what the master made of it."""

    number: int
    config: Config
    identity: Identity
    log: LogSettings
    public_gid: int
    queue_directory: Path
    shards: int
    backlog: int
    stop_timeout: float
    drain_timeout: float
    slots: list[Slot]
    bound: Bound = ()
    was_ready: bool = False  # all of its workers accepted at one time


def plan(number: int, config: Config, directory: Path) -> Generation:
    """The generation that this configuration describes, its sockets not bound yet."""
    workers = worker_count(config)
    shards = config.get_int("fastmta_queue_shards")
    if workers > shards:
        text = f"{workers} workers need as many shards, and fastmta_queue_shards = {shards}"
        raise ConfigError(*config.where("fastmta_workers"), "fastmta_workers", text)
    if not smtpd_services(config):
        but = " that master_service_disable leaves on" if config.get_list("master_service_disable") else ""
        raise ConfigError(str(directory / "master.cf"), 0, "", f"no inet service{but} runs smtpd")
    try:
        owner = identity.find(config.get_str("mail_owner"))
    except IdentityError as error:
        raise ConfigError(*config.where("mail_owner"), "mail_owner", str(error)) from None
    if not config.queue_directory.is_absolute():
        text = f"not an absolute pathname: {config.queue_directory}"
        raise ConfigError(*config.where("queue_directory"), "queue_directory", text)
    return Generation(
        number=number,
        config=config,
        identity=owner,
        log=log_settings(config, owner),
        public_gid=identity.group(config.get_str("setgid_group")),
        queue_directory=config.queue_directory,
        shards=shards,
        backlog=config.get_int("fastmta_listen_backlog"),
        stop_timeout=config.get_time("fastmta_stop_timeout"),
        drain_timeout=config.get_time("fastmta_drain_timeout"),
        slots=[Slot() for _ in range(workers)],
    )


def worker_count(config: Config) -> int:
    """fastmta_workers: a number, or "auto" for one worker on each core that this process may use."""
    text = config.get_str("fastmta_workers").strip().lower()
    if text == "auto":
        return min(len(os.sched_getaffinity(0)), config.get_int("fastmta_queue_shards"))
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ConfigError(
        *config.where("fastmta_workers"), "fastmta_workers", f"neither auto nor a number above zero: {text}"
    )
