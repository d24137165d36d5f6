"""master.cf: fields, defaults, arguments, what is wrong and where."""

from __future__ import annotations

import pytest

from fastmta.config import ConfigError, Service
from fastmta.config.mastercf import parse_master_cf


def one(text: str, **options: bool) -> Service:
    (service,) = parse_master_cf(text, "master.cf", [], **options)
    return service


def test_fields_and_defaults() -> None:
    service = one("# comment\nsmtp unix - - - - - smtp\n")
    assert (service.name, service.type, service.command) == ("smtp", "unix", "smtp")
    assert (service.private, service.unpriv, service.chroot) == (True, True, False)
    assert (service.wakeup, service.wakeup_conditional, service.maxproc) == (0, False, None)
    assert (service.options, service.args, service.flags) == ((), (), ())
    assert (service.file, service.line) == ("master.cf", 2)
    assert service.fields == ("smtp", "unix", "-", "-", "-", "-", "-", "smtp")
    assert one("smtp unix - - - - - smtp\n", chroot_default=True).chroot


def test_explicit_fields() -> None:
    service = one("[::1]:2525 inet n n y 1000? 7 smtpd\n")
    assert (service.private, service.unpriv, service.chroot) == (False, False, True)
    assert (service.wakeup, service.wakeup_conditional, service.maxproc) == (1000, True, 7)


@pytest.mark.parametrize(
    ("arguments", "options", "flags", "args"),
    [
        ("-o a=b", (("a", "b"),), (), ()),
        ("-oa=b", (("a", "b"),), (), ()),
        ("-o { a = b c }", (("a", "b c"),), (), ()),
        ("-o {a=b} -o c=", (("a", "b"), ("c", "")), (), ()),
        ("-o a={b} -v", (("a", "{b}"),), ("-v",), ()),
        ("\n  -o a=b\n# between\n  -o c=d", (("a", "b"), ("c", "d")), (), ()),
        ("flags=R user=x argv={ /bin/x y } -o a=b", (), (), ("flags=R", "user=x", "argv={ /bin/x y }", "-o", "a=b")),
        ("{ two words } ${nexthop}", (), (), ("two words", "${nexthop}")),
        ("-v -- -o a=b", (), ("-v",), ("-o", "a=b")),
    ],
)
def test_arguments(
    arguments: str, options: tuple[tuple[str, str], ...], flags: tuple[str, ...], args: tuple[str, ...]
) -> None:
    service = one(f"x unix - n n - - pipe {arguments}\n")
    assert (service.options, service.flags, service.args) == (options, flags, args)


def test_the_last_of_two_entries_counts_with_a_warning() -> None:
    warnings: list[str] = []
    text = "smtp inet n - n - - smtpd\nsmtp unix - - n - - smtp\nsmtp inet n - n - 5 smtpd\n"
    services = parse_master_cf(text, "master.cf", warnings)
    assert [(service.type, service.maxproc) for service in services] == [("unix", None), ("inet", 5)]
    assert warnings == [
        'master.cf, line 3: duplicate master.cf entry for service "smtp" (inet) -- using the last entry'
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("smtp unix - - n - smtp", 'missing "command" field in "smtp unix - - n - smtp"'),
        ("bar xxxx - n n - 0 other", 'invalid type field "xxxx" in "bar xxxx - n n - 0 other"'),
        ("bar unix X n n - 0 other", 'invalid private field "X" in "bar unix X n n - 0 other"'),
        ("bar unix - X n - 0 other", 'invalid unprivileged field "X" in "bar unix - X n - 0 other"'),
        ("bar unix - n X - 0 other", 'invalid chroot field "X" in "bar unix - n X - 0 other"'),
        ("bar unix - n n X? 0 other", 'invalid wakeup field "X?" in "bar unix - n n X? 0 other"'),
        ("bar unix - n n - -1 other", 'invalid process_limit field "-1" in "bar unix - n n - -1 other"'),
        ("bar inet - n n - 0 other", "inet service bar cannot be private"),
        ("bar unix - n n - 0 other -o", 'option "-o" needs a value'),
        ("bar unix - n n - 0 other -o a", "missing '=' after attribute name: \"a\""),
        ("bar unix - n n - 0 other -o { a = b }x", "syntax error after '}' in \"{ a = b }x\""),
        ("bar unix - n n - 0 other { a", "missing '}' in \"{ a\""),
    ],
)
def test_errors_name_file_and_line(entry: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_master_cf(f"foo unix - n n - 0 other\n\n{entry}\n", "/x/master.cf", [])
    assert str(caught.value) == f"/x/master.cf, line 3: {message}"
