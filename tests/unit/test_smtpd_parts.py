"""The timer wheel, the settings, the tokens of a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastmta._ext.smtpsyntax import split_command, valid_hostname, xtext_decode
from fastmta.config import ConfigError, load
from fastmta.smtpd import settings as smtpd_settings
from fastmta.smtpd.wheel import Wheel

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "postfix" / "smtpd"


class Clock:
    """call_later of a loop without time."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        assert delay == 1.0
        self.waiting.append(callback)

    def second(self) -> None:
        due, self.waiting = self.waiting, []
        for callback in due:
            callback()


class Item:
    def __init__(self, wheel: Wheel, timeout: int) -> None:
        self.wheel = wheel
        self.timeout = timeout
        self.active = 0
        self.fired: list[int] = []

    def timed_out(self) -> None:
        self.fired.append(self.wheel.now)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wheel(clock: Clock) -> Wheel:
    return Wheel(clock.call_later)


def test_wheel_fires_never_early_and_soon(clock: Clock, wheel: Wheel) -> None:
    items = [Item(wheel, timeout) for timeout in (1, 5, 300)]
    for item in items:
        wheel.add(item)
    for _ in range(310):
        clock.second()
    assert [item.fired[0] for item in items] == [2, 6, 301]


def test_wheel_waits_for_the_active(clock: Clock, wheel: Wheel) -> None:
    item = Item(wheel, 5)
    wheel.add(item)
    for _ in range(20):
        clock.second()
        item.active = wheel.now
    assert not item.fired
    for _ in range(6):
        clock.second()
    assert item.fired == [26]


def test_wheel_stops_when_it_is_empty(clock: Clock, wheel: Wheel) -> None:
    item = Item(wheel, 2)
    wheel.add(item)
    wheel.remove(item)
    wheel.remove(item)
    clock.second()
    assert not clock.waiting and not len(wheel)
    wheel.add(item)
    assert len(clock.waiting) == 1
    for _ in range(10):
        clock.second()
    assert item.fired


def test_wheel_without_timeout(clock: Clock, wheel: Wheel) -> None:
    item = Item(wheel, 0)
    wheel.add(item)
    for _ in range(4000):
        clock.second()
    assert not item.fired


def test_wheel_when_an_item_leaves_while_it_fires(clock: Clock, wheel: Wheel) -> None:
    class Leaver(Item):
        def timed_out(self) -> None:
            super().timed_out()
            for item in both:
                wheel.remove(item)

    both = [Leaver(wheel, 1), Leaver(wheel, 1)]
    for item in both:
        wheel.add(item)
    for _ in range(10):
        clock.second()
    assert [len(item.fired) for item in both].count(1) >= 1
    assert not len(wheel)


# -- settings


def read(tmp_path: Path, **parameters: str) -> smtpd_settings.SmtpdSettings:
    (tmp_path / "main.cf").write_text(
        "compatibility_level = 3.6\nmyhostname = m.example\n"
        + "".join(f"{name} = {value}\n" for name, value in parameters.items())
    )
    (tmp_path / "master.cf").write_text("smtp inet n - n - - smtpd\n")
    return smtpd_settings.read(load(tmp_path), "smtp", lambda token, strict, utf8: None, False)


def test_ehlo(tmp_path: Path) -> None:
    made = read(tmp_path, smtpd_tls_security_level="may", message_size_limit="1000")
    assert made.ehlo.plain == (
        b"250-m.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-VRFY\r\n250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n"
        b"250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n"
    )
    assert made.ehlo.tls == made.ehlo.plain.replace(b"250-STARTTLS\r\n", b"")
    assert made.banner == b"220 m.example ESMTP Postfix\r\n"


def test_ehlo_with_nothing_left(tmp_path: Path) -> None:
    words = "pipelining size vrfy enhancedstatuscodes 8bitmime dsn smtputf8 chunking starttls"
    assert read(tmp_path, smtpd_discard_ehlo_keywords=words).ehlo.plain == b"250 m.example\r\n"


def test_no_size_limit(tmp_path: Path) -> None:
    assert b"250-SIZE\r\n" in read(tmp_path, message_size_limit="0").ehlo.plain


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("smtpd_forbid_bare_newline", "maybe"),
        ("smtpd_discard_ehlo_keywords", "dsn, nonsense"),
        ("smtpd_tls_security_level", "verify"),
        ("smtpd_forbidden_commands", "regexp:{{/x/ y}}"),
    ],
)
def test_bad_values(tmp_path: Path, parameter: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, **{parameter: value})
    assert caught.value.parameter == parameter
    assert caught.value.line == 3


def test_tls_levels(tmp_path: Path) -> None:
    assert read(tmp_path, smtpd_use_tls="yes").tls_level == smtpd_settings.TLS_MAY
    assert read(tmp_path, smtpd_enforce_tls="yes").tls_level == smtpd_settings.TLS_ENCRYPT
    assert read(tmp_path, smtpd_enforce_tls="yes", smtpd_tls_security_level="none").tls_level == smtpd_settings.TLS_NONE


# -- syntax


def test_tokens_as_postfix_splits_them() -> None:
    if not VECTORS.exists():
        pytest.skip("no vectors here")
    printed: list[str] = []
    for line in (VECTORS / "smtpd_token.in").read_bytes().splitlines():
        printed.append(line.decode())
        for text, good in split_command(line):
            printed += [f"Token type:  {'other' if good else 'error'}", f"Token value: {text.decode()}"]
    assert printed == (VECTORS / "smtpd_token.ref").read_text().splitlines()


@pytest.mark.parametrize(
    ("text", "decoded"),
    [(b"", b""), (b"a+2Bb", b"a+b"), (b"a+2b", b"a+"), (b"+", None), (b"+4", None), (b"+zz", None), (b"a+00", b"a\0")],
)
def test_xtext(text: bytes, decoded: bytes | None) -> None:
    assert xtext_decode(text) == decoded


def test_hostnames() -> None:
    assert all(valid_hostname(name) for name in (b"a", b"a.b", b"a-b.c_d", b"1a", b"\xc3\xbc.b", b"a" * 63))
    assert not any(
        valid_hostname(name) for name in (b"", b".", b"a.", b"1.2", b"-a", b"a-.b", b"a" * 64, b"a b", b"a" * 256)
    )
