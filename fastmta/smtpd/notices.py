"""What the machine wants logged: notice(kind, text) of _ext.smtpserver as Postfix's lines.

Called by smtpd/session.py. Nothing is raised. smtpd(8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastmta._ext import smtpserver as machine
from fastmta.observe import lines

if TYPE_CHECKING:
    from fastmta.smtpd.session import Session

CONTROL: Final = dict.fromkeys((*range(32), 127), "?")
_ESCAPES: Final = {8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}


def log_notice(session: Session, kind: int, text: bytes) -> None:
    """One notice."""
    service = session.service
    client = session.client
    said = text.decode("utf-8", "replace").replace("\ufffd", "?")
    queue_id = session.queue_id or "NOQUEUE"
    if kind == machine.NOTICE_ADDRESS:
        where = session.machine.where()[0]
        service.warn(f"Illegal address syntax from {client} in {where} command: {said.translate(CONTROL)}")
    elif kind == machine.NOTICE_PIPELINING:
        service.write(lines.improper_pipelining(session.machine.where()[0], client, _escape(text)))
    elif kind == machine.NOTICE_LONG_LINE:
        limit = service.line_length_limit
        service.warn(f"{client}: request longer than {limit}: {said.translate(CONTROL)}...")
    elif kind == machine.NOTICE_NOT_SMTP:
        service.warn(f"non-SMTP command from {client}: {_escape(text)}")
    elif kind == machine.NOTICE_BARE_LF:
        session.log_refusal(said, "bare <LF> received")
    elif kind == machine.NOTICE_SIZE:
        service.warn(f"{queue_id}: queue file size limit exceeded")
    elif kind == machine.NOTICE_BDAT_SYNTAX:
        service.warn(f"{queue_id}: malformed BDAT command syntax from {client}: {said}")
    elif kind == machine.NOTICE_BDAT_NULL:
        service.warn(f"{queue_id}: null BDAT request from {client}")
    elif kind == machine.NOTICE_BDAT_SIZE:
        service.warn(f"{queue_id}: BDAT request from {client} exceeds message size limit")
    elif kind == machine.NOTICE_NOTIFY:
        word, _, value = said.partition("\0")
        service.warn(f'unknown DSN NOTIFY command value "{word}" in "{value}"')


def _escape(text: bytes) -> str:
    """Control characters and bytes above 127 as in C."""
    return "".join(_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}") for byte in text)
