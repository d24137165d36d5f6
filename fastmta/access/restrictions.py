"""Restriction lists, compiled once into plain callables: who may connect, greet, send, relay.

master/worker.py calls compile_checks(cfg, ...) for each smtpd service and hands the result to smtpd. A restriction
says PERMIT or a refusal, which end its list, or None: go on. Names, replies and order are those of smtpd(8) and
SMTPD_ACCESS_README. A name that is unknown or not supported yet is reported by `report` and refuses with 451 4.3.5
when it is reached, as Postfix does for what it does not know. Raises ConfigError where nothing guards against relaying.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from fastmta.access.destination import Unlisted
from fastmta.access.hostnames import is_fqdn, valid_helo
from fastmta.config import Config, ConfigError
from fastmta.smtpd.checks import Check, Checks, Subject
from fastmta.tables.lookup import TempFail

PERMIT: Final = ""
SERVER_ERROR: Final = "451 4.3.5 Server configuration error"

Restriction: TypeAlias = Callable[[Subject], str | None]

# What a list is about, for the text of a refusal: "<name>: class rejected: why"
_CLIENT: Final = "Client host"
_HELO: Final = "Helo command"
_SENDER: Final = "Sender address"
_RECIPIENT: Final = "Recipient address"
_DATA: Final = "Data command"
_END_OF_DATA: Final = "End-of-data"

_GUARDS: Final = (
    "reject_unauth_destination",
    "defer_unauth_destination",
    "reject",
    "defer",
    "defer_if_permit",
    "check_relay_domains",
)


# Restrictions that a word follows which is none.
_WITH_ARGUMENT: Final = ("check_", "reject_rbl_", "reject_rhsbl_", "permit_dnswl_", "permit_rhswl_", "sleep")
_ROUTE_MAPS: Final = ("transport_maps", "relocated_maps", "sender_dependent_default_transport_maps")


class Stage(msgspec.Struct, frozen=True, eq=False):
    """A list's parameter, what it is about, and what stands for that in a reply."""

    parameter: str
    reply_class: str
    name: Callable[[Subject], str]


STAGES: Final = {
    "client": Stage("smtpd_client_restrictions", _CLIENT, lambda subject: subject.client),
    "helo": Stage("smtpd_helo_restrictions", _HELO, lambda subject: subject.helo_name or ""),
    "sender": Stage("smtpd_sender_restrictions", _SENDER, lambda subject: subject.sender or ""),
    "relay": Stage("smtpd_relay_restrictions", _RECIPIENT, lambda subject: subject.recipient or ""),
    "recipient": Stage("smtpd_recipient_restrictions", _RECIPIENT, lambda subject: subject.recipient or ""),
    "data": Stage("smtpd_data_restrictions", _DATA, lambda subject: "DATA"),
    "end_of_data": Stage("smtpd_end_of_data_restrictions", _END_OF_DATA, lambda subject: "END-OF-MESSAGE"),
}


class Codes(msgspec.Struct, frozen=True):
    """Reply codes from main.cf."""

    reject: int
    defer: int
    relay_domains: int
    non_fqdn: int = 504
    invalid_hostname: int = 501
    multi_recipient_bounce: int = 550
    plaintext: int = 450


def compile_checks(
    cfg: Config,
    is_authorized_destination: Callable[[str], bool],
    unlisted: Callable[[str, str], Unlisted | None],
    warn: Callable[[str], None],
    has_lists: bool = False,
) -> Checks:
    """All lists of one service.

    is_authorized_destination(recipient): mail for it is accepted from anybody. unlisted(address, sender): why mail for
    it is refused, None where it is not. warn gets the text to log when a list is reached that cannot be used.
    has_lists: there are lists of recipients.
    """
    check_relay_guard(cfg)
    codes = Codes(cfg.get_int("reject_code"), cfg.get_int("defer_code"), cfg.get_int("relay_domains_reject_code"))
    asked = unlisted if has_lists or _may_bounce(cfg) else None
    maker = _Maker(codes, is_authorized_destination, asked, warn)
    lists = {name: maker.make(stage, cfg.get_list(stage.parameter)) for name, stage in STAGES.items()}
    if cfg.get_bool("smtpd_reject_unlisted_sender"):
        lists["sender"] = _both(lists["sender"], maker.reject_unlisted_sender(STAGES["sender"]))
    at_the_end = None
    if cfg.get_bool("smtpd_reject_unlisted_recipient"):
        at_the_end = maker.reject_unlisted_recipient(STAGES["recipient"])
    relaying = (
        ("relay", "recipient") if cfg.get_bool("smtpd_relay_before_recipient_restrictions") else ("recipient", "relay")
    )
    before = ("client", "helo", "sender")
    if cfg.get_bool("smtpd_delay_reject"):
        connect = helo = mail = None
        all_of_them = [_after_helo(lists[name]) if name == "helo" else lists[name] for name in before + relaying]
        rcpt = _sequence([*all_of_them, at_the_end])
        vrfy = rcpt
        etrn = _sequence([lists["client"], _after_helo(lists["helo"])])
    else:
        connect, helo, mail = (_sequence([lists[name]]) for name in before)
        rcpt = vrfy = _sequence([*(lists[name] for name in relaying), at_the_end])
        etrn = None
    return Checks(
        connect=connect,
        helo=helo,
        mail=mail,
        rcpt=_but_postmaster(rcpt),
        vrfy=_but_postmaster(vrfy),
        etrn=etrn,
        data=_sequence([lists["data"]]),
        end_of_data=_sequence([lists["end_of_data"]]),
    )


def report(cfg: Config) -> list[str]:
    """What in the lists is unknown or not supported yet: a line each, with file and line."""
    out: list[str] = []
    for stage in STAGES.values():
        words = iter(cfg.get_list(stage.parameter))
        for word in words:
            if word.lower() in KNOWN or word.lower() in _GUARDS[:-1]:
                continue
            file, line = cfg.where(stage.parameter)
            where = f"{file}, line {line}: " if line else ""
            out.append(
                f"{where}{stage.parameter}: restriction {word} is not supported yet: refuses with {SERVER_ERROR[:9]}"
            )
            if word.lower().startswith(_WITH_ARGUMENT):
                next(words, None)
    return out


def check_relay_guard(cfg: Config) -> None:
    """Postfix does not start without one: this would be an open relay."""
    words = {word.lower() for word in cfg.get_list("smtpd_relay_restrictions")}
    words |= {word.lower() for word in cfg.get_list("smtpd_recipient_restrictions")}
    if words.isdisjoint(_GUARDS):
        raise ConfigError(
            *cfg.where("smtpd_relay_restrictions"),
            "smtpd_relay_restrictions",
            "in parameter smtpd_relay_restrictions or smtpd_recipient_restrictions, specify at least one working "
            "instance of: reject_unauth_destination, defer_unauth_destination, reject, defer, defer_if_permit or "
            "check_relay_domains",
        )


def _may_bounce(cfg: Config) -> bool:
    """Where no address can go to the error transport, nobody needs to ask."""
    for parameter in ("local_transport", "relay_transport", "default_transport"):
        if cfg.get_str(parameter).partition(":")[0] in ("error", "retry"):
            return True
    return any(cfg.get_list(name) for name in _ROUTE_MAPS)


def _both(first: Restriction | None, then: Restriction | None) -> Restriction | None:
    """A list, and a check that a PERMIT in it does not spare."""
    if first is None or then is None:
        return first or then
    return lambda subject: first(subject) or then(subject)


def _sequence(lists: Sequence[Restriction | None]) -> Check | None:
    """Lists one after the other: a PERMIT ends its own list only."""
    used = [each for each in lists if each is not None]
    if not used:
        return None
    if len(used) == 1:
        only = used[0]
        return lambda subject: only(subject) or None

    def check(subject: Subject) -> str | None:
        for each in used:
            refusal = each(subject)
            if refusal:
                return refusal
        return None

    return check


def _after_helo(check: Restriction | None) -> Restriction | None:
    """Where the client never said HELO there is nothing to restrict (smtpd_helo_required is for that)."""
    if check is None:
        return None
    return lambda subject: None if subject.helo_name is None else check(subject)


def _but_postmaster(check: Check | None) -> Check | None:
    """RFC 5321 section 4.5.1: mail for postmaster, without a domain, is always accepted."""
    if check is None:
        return None

    def guarded(subject: Subject) -> str | None:
        refusal = check(subject)
        if refusal and (subject.recipient or "").lower() == "postmaster":
            return None
        return refusal

    return guarded


class _Maker:
    """Compiles lists."""

    def __init__(
        self,
        codes: Codes,
        is_authorized_destination: Callable[[str], bool],
        unlisted: Callable[[str, str], Unlisted | None] | None,
        warn: Callable[[str], None],
    ) -> None:
        self._codes = codes
        self._is_authorized = is_authorized_destination
        self._is_unlisted = unlisted
        self._warn = warn

    def make(self, stage: Stage, words: Sequence[str]) -> Restriction | None:
        """One list. None where it is empty."""
        steps: list[Restriction] = []
        for word in words:
            builder = KNOWN.get(word.lower())
            if builder is None:
                steps.append(self._server_error(stage.parameter, word))
                break
            step = builder(self, stage)
            if step is None:
                continue
            steps.append(step)
        if not steps:
            return None
        first, rest = steps[0], tuple(steps[1:])
        name = stage.name

        def run(subject: Subject) -> str | None:
            try:
                result = first(subject)
                if result is not None:
                    return result
                for step in rest:
                    result = step(subject)
                    if result is not None:
                        return result
            except TempFail:
                return f"451 4.3.0 <{name(subject)}>: Temporary lookup failure"
            return None

        return run

    def _server_error(self, parameter: str, word: str) -> Restriction:
        def refuse(subject: Subject) -> str:
            self._warn(f'unknown smtpd restriction: "{word}"')
            return SERVER_ERROR

        return refuse

    def _text(self, stage: Stage, code: int, dsn: str, why: str) -> Restriction:
        name, kind = stage.name, stage.reply_class
        return lambda subject: f"{code} {dsn} <{name(subject)}>: {kind} rejected: {why}"

    def permit(self, stage: Stage) -> Restriction:
        return lambda subject: PERMIT

    def reject(self, stage: Stage) -> Restriction:
        return self._text(stage, self._codes.reject, "5.7.1", "Access denied")

    def defer(self, stage: Stage) -> Restriction:
        return self._text(stage, self._codes.defer, "4.3.2", "Try again later")

    def permit_mynetworks(self, stage: Stage) -> Restriction:
        return lambda subject: PERMIT if subject.in_mynetworks else None

    def never(self, stage: Stage) -> Restriction | None:
        return None

    def permit_auth_destination(self, stage: Stage) -> Restriction:
        is_authorized = self._is_authorized
        return lambda subject: PERMIT if subject.recipient is not None and is_authorized(subject.recipient) else None

    def reject_unauth_destination(self, stage: Stage) -> Restriction:
        return self._unauth(f"{self._codes.relay_domains} 5.7.1")

    def defer_unauth_destination(self, stage: Stage) -> Restriction:
        return self._unauth("454 4.7.1")

    def _unauth(self, code: str) -> Restriction:
        is_authorized = self._is_authorized

        def check(subject: Subject) -> str | None:
            recipient = subject.recipient
            if recipient is None or is_authorized(recipient):
                return None
            return f"{code} <{recipient}>: Relay access denied"

        return check

    def reject_unlisted_recipient(self, stage: Stage) -> Restriction | None:
        return self._unlisted(_RECIPIENT, "5.1.1", lambda subject: subject.recipient)

    def reject_unlisted_sender(self, stage: Stage) -> Restriction | None:
        return self._unlisted(_SENDER, "5.1.0", lambda subject: subject.sender)

    def _unlisted(self, kind: str, default: str, address_of: Callable[[Subject], str | None]) -> Restriction | None:
        unlisted = self._is_unlisted
        if unlisted is None:
            return None

        def check(subject: Subject) -> str | None:
            address = address_of(subject)
            try:
                found = unlisted(address, subject.sender or "") if address else None
            except TempFail:
                return f"451 4.3.0 <{address}>: Temporary lookup failure"
            if found is None:
                return None
            dsn = f"{found.code // 100}{(found.dsn or default)[1:]}"
            return f"{found.code} {dsn} <{address}>: {kind} rejected: {found.text}"

        return check

    def reject_unauth_pipelining(self, stage: Stage) -> Restriction:
        refuse = self._text(stage, 503, "5.5.0", "Improper use of SMTP command pipelining")
        return lambda subject: refuse(subject) if subject.improper_pipelining else None

    def reject_non_fqdn_sender(self, stage: Stage) -> Restriction:
        return self._non_fqdn(_SENDER, lambda subject: subject.sender)

    def reject_non_fqdn_recipient(self, stage: Stage) -> Restriction:
        return self._non_fqdn(_RECIPIENT, lambda subject: subject.recipient)

    def _non_fqdn(self, kind: str, address_of: Callable[[Subject], str | None]) -> Restriction:
        code = self._codes.non_fqdn

        def check(subject: Subject) -> str | None:
            address = address_of(subject)
            if not address or address.lower() == "postmaster":
                return None
            _, at, domain = address.rpartition("@")
            if at and is_fqdn(domain):
                return None
            return f"{code} {code // 100}.5.2 <{address}>: {kind} rejected: need fully-qualified address"

        return check

    def reject_non_fqdn_helo_hostname(self, stage: Stage) -> Restriction:
        code = self._codes.non_fqdn

        def check(subject: Subject) -> str | None:
            name = subject.helo_name
            if name is None or name.startswith("[") or is_fqdn(name):
                return None
            return f"{code} {code // 100}.5.2 <{name}>: {_HELO} rejected: need fully-qualified hostname"

        return check

    def reject_invalid_helo_hostname(self, stage: Stage) -> Restriction:
        code = self._codes.invalid_hostname

        def check(subject: Subject) -> str | None:
            name = subject.helo_name
            if name is None or valid_helo(name):
                return None
            why = "invalid ip address" if name.startswith("[") else "Invalid name"
            return f"{code} {code // 100}.5.2 <{name}>: {_HELO} rejected: {why}"

        return check

    def reject_multi_recipient_bounce(self, stage: Stage) -> Restriction:
        code = self._codes.multi_recipient_bounce
        refuse = self._text(stage, code, f"{code // 100}.5.3", "Multi-recipient bounce")

        def check(subject: Subject) -> str | None:
            if subject.sender != "":
                return None
            if subject.recipient_count > (0 if stage.reply_class == _RECIPIENT else 1):
                return refuse(subject)
            return None

        return check


KNOWN: Final[dict[str, Callable[[_Maker, Stage], Restriction | None]]] = {
    "permit": _Maker.permit,
    "reject": _Maker.reject,
    "defer": _Maker.defer,
    "permit_mynetworks": _Maker.permit_mynetworks,
    "permit_sasl_authenticated": _Maker.never,
    "permit_tls_clientcerts": _Maker.never,
    "permit_tls_all_clientcerts": _Maker.never,
    "permit_auth_destination": _Maker.permit_auth_destination,
    "reject_unauth_destination": _Maker.reject_unauth_destination,
    "defer_unauth_destination": _Maker.defer_unauth_destination,
    "reject_unlisted_recipient": _Maker.reject_unlisted_recipient,
    "reject_unlisted_sender": _Maker.reject_unlisted_sender,
    "reject_unauth_pipelining": _Maker.reject_unauth_pipelining,
    "reject_non_fqdn_sender": _Maker.reject_non_fqdn_sender,
    "reject_non_fqdn_recipient": _Maker.reject_non_fqdn_recipient,
    "reject_non_fqdn_helo_hostname": _Maker.reject_non_fqdn_helo_hostname,
    "reject_non_fqdn_hostname": _Maker.reject_non_fqdn_helo_hostname,
    "reject_invalid_helo_hostname": _Maker.reject_invalid_helo_hostname,
    "reject_invalid_hostname": _Maker.reject_invalid_helo_hostname,
    "reject_multi_recipient_bounce": _Maker.reject_multi_recipient_bounce,
}
