"""The agents of one worker, by transport: the unix services of master.cf that deliver.

Called by master/worker.py at start. `smtp` and `lmtp` programs become SmtpAgents with the service's own -o settings
(so "relay" is one too); error (under the name "retry" it defers), discard; other delivery programs get an agent that
defers with a clear reason. Raises ConfigError and TlsError for settings that cannot be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from fastmta.config import Config, Service
from fastmta.config.served import is_disabled
from fastmta.deliver.agent import Agent, DeliverContext
from fastmta.deliver.error import DiscardAgent, ErrorAgent, RetryAgent, UnavailableAgent
from fastmta.deliver.passing import passer
from fastmta.deliver.settings import read_settings
from fastmta.deliver.smtp import SmtpAgent
from fastmta.net.tls import client_context

UNSUPPORTED: Final[Mapping[str, str]] = {
    "local": "local delivery is not supported yet",
    "virtual": "virtual mailbox delivery is not supported yet",
    "pipe": "mail transport unavailable: delivery to commands is not supported yet",
    "spawn": "mail transport unavailable: spawn is not supported yet",
}


def build_agents(cfg: Config, context: DeliverContext) -> dict[str, Agent]:
    """Make an agent for each transport of master.cf."""
    agents: dict[str, Agent] = {}
    if context.pass_on is None:
        context = msgspec.structs.replace(context, pass_on=passer(agents))
    disabled = cfg.get_list("master_service_disable")
    for service in cfg.services:
        if service.type == "unix" and not is_disabled(service, disabled):
            agent = build_agent(cfg, service, context)
            if agent is not None:
                agents[service.name] = agent
    return agents


def build_agent(cfg: Config, service: Service, context: DeliverContext) -> Agent | None:
    """The agent of one service, or None where it is none that delivers."""
    command = service.program
    if command in ("smtp", "lmtp"):
        own = cfg.for_service(service)
        settings = read_settings(own, command)
        tls = client_context(own, command) if settings.tls_level != "none" else None
        return SmtpAgent(settings, context, tls)
    ident = f"{cfg.for_service(service).get_str('syslog_name')}/{command}"
    if command == "error":
        return RetryAgent(ident) if service.name == "retry" else ErrorAgent(ident)
    if command == "discard":
        return DiscardAgent(ident)
    if command in UNSUPPORTED:
        return UnavailableAgent(ident, UNSUPPORTED[command])
    return None
