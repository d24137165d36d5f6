"""The bouncer: who is told, when it is done, and that nothing gets lost. The texts are held against a live Postfix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmta.address.rewrite import RewriteSettings
from fastmta.bounce.bouncer import Bouncer, BounceSettings
from fastmta.bounce.report import ReportSettings, wrap
from fastmta.model.envelope import (
    KIND_BOUNCE,
    KIND_DOUBLE_BOUNCE,
    NOTIFY_DELAY,
    NOTIFY_FAILURE,
    NOTIFY_NEVER,
    NOTIFY_SUCCESS,
    Envelope,
    Recipient,
)
from fastmta.model.message import Message
from fastmta.model.outcome import Bounced, Deferred, Sent

REPORT = ReportSettings("mx.example.org", "MAILER-DAEMON@mx.example.org")
NO_USER = Bounced("5.1.1", "no such user")
LATER = Deferred("4.2.0", "try later")
OK = Sent("2.0.0", "250 Ok", "mx", "250 Ok")


class World:
    """A queue that answers when told."""

    def __init__(
        self, classes: tuple[str, ...] = (), damaged: bool = False, error: BaseException | None = None
    ) -> None:
        self.damaged = damaged
        self.error = error
        self.sent: list[tuple[str, tuple[Recipient, ...], str, int]] = []
        self.waiting: list[Callable[[BaseException | None], None]] = []
        self.lines: list[str] = []
        self.answers: list[BaseException | None] = []
        settings = BounceSettings(REPORT, RewriteSettings("origin.example"), frozenset(classes))
        self.bouncer = Bouncer(settings, self, self, self, lambda: 1000.0)

    def content(self, message: Message) -> list[bytes]:
        if self.damaged:
            raise ValueError("checksum")
        return [b"Received: x\r\nSubject: s\r\n\r\n", b"..secret body\r\n"]

    def new_queue_id(self, now: float) -> str:
        return f"4N{len(self.sent)}"

    def accept_own(
        self,
        content: list[bytes],
        sender: str,
        recipients: Sequence[Recipient],
        kind: int,
        now: float,
        done: Callable[[BaseException | None], None],
        smtputf8: bool = False,
        queue_id: str = "",
    ) -> str:
        if self.error:
            raise self.error
        self.sent.append((sender, tuple(recipients), b"".join(content).decode(), kind))
        self.waiting.append(done)
        return queue_id

    def commit(self, error: BaseException | None = None) -> None:
        while self.waiting:
            self.waiting.pop(0)(error)

    def write(self, service: str, line: str) -> None:
        self.lines.append(line)

    def warning(self, service: str, text: str) -> None:
        self.lines.append("warning: " + text)


def message(*recipients: Recipient, sender: str = "s@x.example", kind: int = 0) -> Message:
    return Message(Envelope("4M", 1.0, sender, recipients or (Recipient("r@y.example"),), 100, kind=kind))


def test_done_only_when_durable() -> None:
    world = World()
    world.bouncer.bounce(message(), [(0, NO_USER)], world.answers.append)
    assert world.answers == [] and world.lines == []
    world.commit()
    assert world.answers == [None]
    assert world.lines == ["4M: sender non-delivery notification: 4N0"]
    sender, (recipient,), text, kind = world.sent[0]
    assert (sender, recipient.address, kind) == ("", "s@x.example", KIND_BOUNCE)
    assert "\r\n<r@y.example>: no such user\r\n" in text
    assert "\r\nDiagnostic-Code: X-Postfix; no such user\r\n" in text
    assert "..secret body" in text


def test_a_notification_that_cannot_be_kept() -> None:
    world = World()
    world.bouncer.bounce(message(), [(0, NO_USER)], world.answers.append)
    world.commit(OSError("full"))
    assert [type(answer) for answer in world.answers] == [OSError]
    assert world.lines == []


def test_a_queue_that_raises_is_answered_too() -> None:
    world = World(error=RuntimeError("bug"))
    world.bouncer.bounce(message(), [(0, NO_USER)], world.answers.append)
    assert [type(answer) for answer in world.answers] == [RuntimeError]


def test_a_damaged_original_is_reported_all_the_same() -> None:
    world = World(damaged=True)
    world.bouncer.bounce(message(), [(0, NO_USER)], world.answers.append)
    world.commit()
    assert world.answers == [None]
    assert "--- Undelivered message unavailable ---" in world.sent[0][2]


@pytest.mark.parametrize(
    ("notify", "failure", "delay"),
    [
        (0, True, True),
        (NOTIFY_NEVER, False, False),
        (NOTIFY_FAILURE, True, False),
        (NOTIFY_DELAY, False, True),
        (NOTIFY_SUCCESS, False, False),
        (NOTIFY_FAILURE | NOTIFY_DELAY, True, True),
    ],
)
def test_who_wants_to_know(notify: int, failure: bool, delay: bool) -> None:
    mail = message(Recipient("r@y.example", dsn_notify=notify))
    for wanted, tell in (
        (failure, lambda world: world.bouncer.bounce(mail, [(0, NO_USER)], world.answers.append)),
        (delay, lambda world: world.bouncer.delay_notice(mail, [(0, LATER)], world.answers.append)),
    ):
        world = World()
        tell(world)
        assert len(world.sent) == wanted
        world.commit()
        assert world.answers == [None]


def test_only_those_who_want_are_named() -> None:
    world = World()
    mail = message(Recipient("a@y"), Recipient("b@y", dsn_notify=NOTIFY_NEVER), Recipient("c@y"))
    world.bouncer.bounce(mail, [(0, NO_USER), (1, NO_USER), (2, NO_USER)], world.answers.append)
    text = world.sent[0][2]
    assert "a@y" in text and "c@y" in text and "b@y" not in text


def test_success_for_those_who_asked() -> None:
    world = World()
    mail = message(Recipient("a@y", dsn_notify=NOTIFY_SUCCESS), Recipient("b@y"))
    world.bouncer.success(mail, [(0, OK), (1, OK)], "mx[192.0.2.1]:25", "relayed", world.answers.append)
    text = world.sent[0][2]
    assert "<a@y>: delivery via mx[192.0.2.1]:25: 250 Ok" in text and "b@y" not in text
    assert "Action: relayed" in text and "secret body" not in text
    world.commit()
    assert world.answers == [None]
    assert world.lines == ["4M: sender delivery status notification: 4N0"]


def test_a_bounce_is_not_bounced() -> None:
    world = World()
    world.bouncer.bounce(message(sender=""), [(0, NO_USER)], world.answers.append)
    assert (world.sent, world.answers) == ([], [None])


def test_a_bounce_that_fails_goes_to_the_postmaster_who_wants_that() -> None:
    world = World(("2bounce",))
    world.bouncer.bounce(message(sender=""), [(0, NO_USER)], world.answers.append)
    world.commit()
    sender, recipients, text, kind = world.sent[0]
    assert sender == "double-bounce@mx.example.org"
    assert recipients == (Recipient("postmaster@origin.example", "postmaster"),)
    assert kind == KIND_DOUBLE_BOUNCE
    assert "Postmaster Copy: Undelivered Mail" in text
    assert world.lines == ["4M: postmaster non-delivery notification: 4N0"]


@pytest.mark.parametrize(
    "mail", [message(sender="double-bounce@MX.example.org"), message(sender="x@y", kind=KIND_DOUBLE_BOUNCE)]
)
def test_a_double_bounce_ends_here(mail: Message) -> None:
    world = World(("2bounce", "bounce", "delay"))
    world.bouncer.bounce(mail, [(0, NO_USER)], world.answers.append)
    assert (world.sent, world.answers) == ([], [None])
    assert world.lines == ["warning: 4M: undeliverable postmaster notification discarded"]


def test_the_copy_for_the_postmaster_does_not_hold_up() -> None:
    world = World(("bounce",))
    world.bouncer.bounce(message(), [(0, NO_USER)], world.answers.append)
    world.waiting.pop(0)(None)
    assert world.answers == [None]
    world.waiting.pop(0)(OSError("full"))
    assert world.answers == [None]
    assert world.lines[-1] == "warning: 4M: postmaster notice failed while bouncing to s@x.example"
    assert "secret body" not in world.sent[1][2]


def test_nobody_injects_a_line() -> None:
    world = World()
    evil = Bounced("5.0.0", "x\r\n.\r\nMAIL FROM:<y>\n.z", "mx\r\nX: y", "550 a\r\n.\r\nb")
    mail = Message(
        Envelope(
            "4M", 1.0, "s@x\r\nBcc: v@w", (Recipient("r\n@y", "o\r\n.", "rfc822;a\r\n.\r\nb"),), 1, dsn_envid="a\r\n."
        )
    )
    world.bouncer.bounce(mail, [(0, evil)], world.answers.append)
    lines = world.sent[0][2].split("\r\n")
    assert all("\r" not in line and "\n" not in line for line in lines)
    assert "." not in lines
    assert not any(line.startswith(("MAIL FROM", "Bcc:", "X: y")) for line in lines)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=300))
def test_wrapping_loses_nothing(text: str) -> None:
    lines = wrap(text)
    joined = lines[0] + "".join(" " + line[4:] for line in lines[1:])
    assert joined == text
    for line in lines[1:]:
        assert line.startswith("    ")
    for line in lines:
        assert len(line.encode()) <= 79 or " " not in line.strip(" ")
