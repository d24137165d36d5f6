"""The queue manager's parameters, read once at load into frozen structs; nothing asks Config later.

`QmgrSettings.read(cfg)` and `TransportRules.read(cfg, service)` are called by master/worker.py; active.py and
ext/sched.pyx use them. A feedback value that makes no sense raises ConfigError with the words of Postfix. Reference:
qmgr(8), postconf(5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from fastmta.config import ConfigError

if TYPE_CHECKING:
    from fastmta.config import Config, Service

_KINDS: Final = {"concurrency": 1, "sqrt_concurrency": 2}
_INT_MAX: Final = 2**31 - 1


class Feedback(msgspec.Struct, frozen=True):
    """How much one delivery changes the window of its destination: base, base / window or base / sqrt(window).

    kind: 0, 1, 2 in this order (FEEDBACK_* of ext/shared.pyx).
    """

    base: float
    kind: int = 0

    @classmethod
    def parse(cls, name: str, text: str) -> Feedback:
        """A number, or number/number, number/concurrency, number/sqrt_concurrency; 0 to 1."""
        numerator, slash, denominator = (part.strip() for part in text.partition("/"))
        base = -1.0
        kind = 0
        try:
            if not slash:
                base = float(numerator)
            elif denominator in _KINDS:
                base, kind = float(numerator), _KINDS[denominator]
            else:
                top, bottom = float(numerator), float(denominator)
                if 0 <= top <= _INT_MAX and 1 / _INT_MAX <= bottom <= _INT_MAX:
                    base = top / bottom
        except ValueError:
            base = -1.0
        if not 0 <= base <= 1:
            raise ValueError(f"{name}: malformed or unreasonable feedback: {text}")
        return cls(base, kind)


class TransportRules(msgspec.Struct, frozen=True):
    """One transport: the parameters that Postfix has per transport, its process limit, and how it is logged.

    Limits of 0 mean none. service is what its deliveries are logged as ("smtp", or "postfix/relay/smtp" in full).
    """

    name: str
    service: str = "smtp"
    process_limit: int = 100
    destination_concurrency_limit: int = 20
    initial_destination_concurrency: int = 5
    destination_recipient_limit: int = 50
    positive_feedback: Feedback = Feedback(1.0)
    negative_feedback: Feedback = Feedback(1.0)
    failed_cohort_limit: float = 1
    destination_rate_delay: float = 0.0
    transport_rate_delay: float = 0.0
    delivery_slot_cost: int = 5
    delivery_slot_loan: int = 3
    delivery_slot_discount: int = 50
    minimum_delivery_slots: int = 3
    minimal_backoff_time: float = 300.0

    @classmethod
    def read(cls, cfg: Config, service: Service, ident: str = "") -> TransportRules:
        """Those of one unix service of master.cf. ident: its name in the log, if not that of its program."""
        name = service.name

        def feedback(sign: str) -> Feedback:
            suffix = f"destination_concurrency_{sign}_feedback"
            parameter = next(
                (p for p in (f"{name}_{suffix}", f"default_{suffix}") if cfg.is_set(p)), f"{name}_{suffix}"
            )
            try:
                return Feedback.parse(parameter, cfg.transport_str(name, suffix))
            except ValueError as error:
                raise ConfigError(*cfg.where(parameter), parameter, str(error)) from None

        return cls(
            name=name,
            service=ident or service.command,
            process_limit=cfg.get_int("default_process_limit") if service.maxproc is None else service.maxproc,
            destination_concurrency_limit=cfg.transport_int(name, "destination_concurrency_limit"),
            initial_destination_concurrency=cfg.transport_int(name, "initial_destination_concurrency"),
            destination_recipient_limit=cfg.transport_int(name, "destination_recipient_limit"),
            positive_feedback=feedback("positive"),
            negative_feedback=feedback("negative"),
            failed_cohort_limit=cfg.transport_int(name, "destination_concurrency_failed_cohort_limit"),
            destination_rate_delay=cfg.transport_time(name, "destination_rate_delay"),
            transport_rate_delay=cfg.transport_time(name, "transport_rate_delay"),
            delivery_slot_cost=cfg.transport_int(name, "delivery_slot_cost"),
            delivery_slot_loan=cfg.transport_int(name, "delivery_slot_loan"),
            delivery_slot_discount=cfg.transport_int(name, "delivery_slot_discount"),
            minimum_delivery_slots=cfg.transport_int(name, "minimum_delivery_slots"),
            minimal_backoff_time=cfg.get_time("minimal_backoff_time"),
        )


class QmgrSettings(msgspec.Struct, frozen=True):
    """What holds for all transports. Times in seconds."""

    message_active_limit: int = 20000
    message_recipient_limit: int = 20000
    minimal_backoff_time: float = 300.0
    maximal_backoff_time: float = 4000.0
    queue_run_delay: float = 300.0
    maximal_queue_lifetime: float = 432000.0
    bounce_queue_lifetime: float = 432000.0
    delay_warning_time: float = 0.0
    daemon_timeout: float = 18000.0
    clog_warn_time: float = 300.0  # 0 = never
    defer_transports: frozenset[str] = frozenset()
    recipient_delimiter: str = ""
    allow_min_user: bool = False
    delay_logging_resolution_limit: int = 2

    @classmethod
    def read(cls, cfg: Config) -> QmgrSettings:
        """From main.cf."""
        return cls(
            message_active_limit=cfg.get_int("qmgr_message_active_limit"),
            message_recipient_limit=cfg.get_int("qmgr_message_recipient_limit"),
            minimal_backoff_time=cfg.get_time("minimal_backoff_time"),
            maximal_backoff_time=cfg.get_time("maximal_backoff_time"),
            queue_run_delay=cfg.get_time("queue_run_delay"),
            maximal_queue_lifetime=cfg.get_time("maximal_queue_lifetime"),
            bounce_queue_lifetime=cfg.get_time("bounce_queue_lifetime"),
            delay_warning_time=cfg.get_time("delay_warning_time"),
            clog_warn_time=cfg.get_time("qmgr_clog_warn_time"),
            daemon_timeout=cfg.get_time("daemon_timeout"),
            defer_transports=frozenset(cfg.get_list("defer_transports")),
            recipient_delimiter=cfg.get_str("recipient_delimiter"),
            allow_min_user=cfg.get_bool("allow_min_user"),
            delay_logging_resolution_limit=cfg.get_int("delay_logging_resolution_limit"),
        )
