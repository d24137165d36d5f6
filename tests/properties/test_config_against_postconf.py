"""The same files read by Postfix's postconf(1) and by us: main.cf with every $name expanded, and master.cf."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fastmta.config import ConfigError, Service, load
from fastmta.config.mastercf import parse_master_cf
from tests import postfix_versions

# Each example starts a process, so a failing one is not made smaller.
BOUNDED = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
POSTCONF = shutil.which("postconf") or "/usr/sbin/postconf"
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not Path(POSTCONF).exists(), reason="Postfix is not installed"),
]

# Ours by intent: who we are, and where a newer Postfix is safer than the one installed.
DIFFERENT = {
    "config_directory",
    "mail_version",
    "milter_macro_v",
    "proxy_write_maps",  # made of postscreen_cache_map
    "process_id",
    "process_name",
    "service_name",
    *postfix_versions.CHANGED,
    *postfix_versions.REMOVED,
}

REALISTIC = {
    "empty": "",
    "level": "compatibility_level = 3.6\n",
    "old": "compatibility_level = 1\nmyhostname = mx.example.org\nmynetworks_style = subnet\ninet_protocols = ipv4\n",
    "stress": "compatibility_level = 2\nstress = yes\nmydomain = example.net\nmyorigin = /etc/mailname\n",
    "debian": """
# See /usr/share/postfix/main.cf.dist for a commented, more complete version
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
append_dot_mydomain = no
#delay_warning_time = 4h
readme_directory = no
compatibility_level = 3.6
smtpd_tls_cert_file=/etc/ssl/certs/ssl-cert-snakeoil.pem
smtpd_tls_security_level=may
smtp_tls_CApath=/etc/ssl/certs
smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache
smtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination
myhostname = mail.example.com
alias_maps = hash:/etc/aliases
alias_database = hash:/etc/aliases
mydestination = $myhostname, mail.example.com, localhost.example.com, , localhost
relayhost =
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
mailbox_size_limit = 0
recipient_delimiter = +
inet_interfaces = all
inet_protocols = all
""",
    "gateway": """
compatibility_level = 3
myhostname = gw.corp.example
mydestination =
local_transport = error:no local delivery
relay_domains = corp.example,
    # the branch
    branch.example
  sub.corp.example
relayhost = [smarthost.example.net]:587
mynetworks = 10.0.0.0/8, 192.168.0.0/16
smtp_destination_concurrency_limit = 50
default_destination_concurrency_limit = ${stress?{5}:{40}}
maximal_queue_lifetime = 1d
fallback_relay = [old.example]
smtpd_per_record_deadline = yes
mua_client_restrictions = permit_sasl_authenticated, reject
smtpd_client_restrictions = ${{$myhostname} == {gw.corp.example} ? {$mua_client_restrictions} : {}}
""",
}

MASTER = """
# service type  private unpriv  chroot  wakeup  maxproc command + args
smtp      inet  n       -       y       -       -       smtpd
submission inet n       -       y       -       -       smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
# a comment in between
  -o { smtpd_recipient_restrictions = permit_mynetworks, reject }
  -o smtpd_client_restrictions=$mua_client_restrictions -v
[::1]:2525 inet n       n       n       -       10      smtpd -v -o stress=yes
127.0.0.1:26 inet n     -       -       -       -       smtpd
pickup    unix  n       -       y       60      1       pickup
tlsmgr    unix  -       -       y       1000?   1       tlsmgr
smtp      unix  -       -       y       -       -       smtp
relay     unix  -       -       y       -       -       smtp
        -o syslog_name=postfix/$service_name
maildrop  unix  -       n       n       -       -       pipe
  flags=DRXhu user=vmail argv=/usr/bin/maildrop -d ${recipient}
mailman   unix  -       n       n       -       -       pipe flags=FRX user=list argv={ /usr/lib/list.py x } ${nexthop}
postlog   unix-dgram n  -       n       -       1       postlogd
"""


def postconf(directory: Path, *arguments: str) -> tuple[list[str], str, int]:
    """Its output lines, its complaints, and its exit status."""
    done = subprocess.run([POSTCONF, "-c", str(directory), *arguments], capture_output=True, timeout=20, check=False)
    return done.stdout.decode("utf-8", "replace").splitlines(), done.stderr.decode("utf-8", "replace"), done.returncode


def values_by_postconf(directory: Path, *names: str) -> dict[str, str] | None:
    """Values by name, or None when it gives up."""
    lines, _, status = postconf(directory, "-x", *names)
    pairs = (line.partition(" =") for line in lines)
    return None if status else {name: value.strip() for name, _, value in pairs}


def write(directory: Path, main_cf: str, master_cf: str = "") -> Path:
    (directory / "main.cf").write_text(main_cf, "utf-8")
    (directory / "master.cf").write_text(master_cf, "utf-8")
    # Postfix waits a while before it believes in a file that is younger than a second.
    os.utime(directory / "main.cf", (1e9, 1e9))
    return directory


def blanks_once(text: str) -> str:
    """postconf prints each run of blanks as one."""
    return " ".join(text.split(" ")) if "  " not in text and "\t" not in text else " ".join(text.split())


@pytest.mark.parametrize("name", REALISTIC)
def test_every_parameter_of_postfix_has_its_value(name: str, tmp_path: Path) -> None:
    directory = write(tmp_path, REALISTIC[name], MASTER)
    theirs = values_by_postconf(directory)
    assert theirs is not None
    assert len(theirs) > 880
    ours = load(directory)
    wrong = {
        key: (value, blanks_once(ours.get_str(key)))
        for key, value in theirs.items()
        if key not in DIFFERENT and blanks_once(ours.get_str(key)) != value
    }
    assert wrong == {}


@pytest.mark.parametrize("name", REALISTIC)
def test_unused_parameters_are_those_that_postconf_names(name: str, tmp_path: Path) -> None:
    text = REALISTIC[name] + "smtpd_typo_limit = 5\nspam_timeout = 3\nnot_a_class = reject\n"
    directory = write(tmp_path, text, MASTER + "  -o my_thing=$spam_timeout\n")
    _, complaints, _ = postconf(directory, "-n")
    theirs = {
        line.partition("unused parameter: ")[2] for line in complaints.splitlines() if "unused parameter: " in line
    }
    ours = {
        line.partition("unused parameter: ")[2] for line in load(directory).report() if "unused parameter: " in line
    }
    assert "smtpd_typo_limit=5" in ours
    assert ours == theirs


# -- generated main.cf

refused: list[str] = []

NAMES = ["alpha", "beta_2", "gamma", "relayhost", "defer_transports"]
words = st.text("abz0 .:,-_[]/@\\\"'#", max_size=8)


def expressions() -> st.SearchStrategy[str]:
    name = st.sampled_from([*NAMES, "nowhere", "compatibility_level", "smtpd_banner"])
    simple = st.one_of(
        words,
        name.map("${}".format),
        name.map("$({})".format),
        name.map("${{{}}}".format),
        st.sampled_from(["$$", "$ ", "${", "}", "{", "$(", "?", ":", "${}", "${ alpha }"]),
    )
    operator = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "=", "<level", ">=level", "==level"])

    def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, inner).map("".join),
            st.builds("${{{}?{}}}".format, name, inner),
            st.builds("${{{}:{}}}".format, name, inner),
            st.builds("${{{}?{{{}}}:{{{}}}}}".format, name, inner, inner),
            st.builds("${{{}? {{{}}} : {}}}".format, name, inner, inner),
            st.builds("${{{{{}}} {} {{{}}} ? {{{}}} : {{{}}}}}".format, inner, operator, inner, inner, inner),
            st.builds("${{{{{}}}{}{{{}}}}}".format, inner, operator, inner),
        )

    return st.recursive(simple, compound, max_leaves=5)


@given(st.lists(st.tuples(st.sampled_from(NAMES), expressions()), min_size=1, max_size=5), st.data())
@BOUNDED
def test_generated_main_cf(definitions: list[tuple[str, str]], data: st.DataObject) -> None:
    layout = st.sampled_from(["{} = {}\n", "{}={}\n", "{} =\n  {}\n", "{} =\n# comment\n\n\t{}  \n", "{}\t=  {}\t\n"])
    text = "".join(data.draw(layout).format(name, value) for name, value in definitions)
    text += "always_bcc = $alpha $beta_2 $gamma\n"  # postconf does not show what nothing mentions
    with tempfile.TemporaryDirectory() as folder:
        directory = write(Path(folder), text)
        asked = sorted({name for name, _ in definitions})
        try:
            ours = {name: blanks_once(config.get_str(name)).strip() for config in [load(directory)] for name in asked}
        except ConfigError:
            ours = None
            if len(refused) >= 5:  # Postfix takes a second for each: a few will do
                return
            refused.append(text)
        theirs = values_by_postconf(directory, *asked)
    assert ours == theirs


NUMBERS = [
    "",
    "0",
    "9",
    "09",
    "10",
    "-1",
    "1.5",
    "1.10",
    " 9",
    "9 ",
    "a",
    "9a",
    "4294967297",
    "2147483648",
    "3",
    "3.10",
]
LEVELS = ["0", "3", "03", " 3", "+3", "3.2", "3.10", "3. 1", "3.1.2", "3.1.1023", "99999", "3.1023.1023"]
OPERATORS = ["==", "!=", "<", "<=", ">=", ">"]


@pytest.mark.parametrize(("words", "suffix"), [(NUMBERS, ""), (LEVELS, "level")], ids=["plain", "level"])
def test_all_comparisons(words: list[str], suffix: str, tmp_path: Path) -> None:
    """Digits compare as numbers, levels part by part, all else as text: each with each, by every operator."""
    texts = [f"${{{{{a}}} {op}{suffix} {{{b}}} ? {{yes}} : {{no}}}}" for a in words for b in words for op in OPERATORS]
    definitions = "".join(f"p{number} = {text}\n" for number, text in enumerate(texts))
    mentioned = "".join(f" $p{number}" for number in range(len(texts)))
    directory = write(tmp_path, f"{definitions}always_bcc ={mentioned}\n")
    config = load(directory)
    ours = {f"p{number}": config.get_str(f"p{number}") for number in range(len(texts))}
    assert ours == values_by_postconf(directory, *ours)
    assert set(ours.values()) == {"yes", "no"}


@pytest.mark.parametrize(
    "text",
    [
        "${{3 } <level {3}}",
        "${{-3} <level {3}}",
        "${{3} <level {3.}}",
        "${{} <level {3}}",
        "${{3.1.2.3} <level {3}}",
        "${{3.1024} <level {3}}",
        "${{9223372036854775808} <level {3}}",
        "${{99999999999999999999} == {1}}",
        "${" * 5000,
        "$(" * 5000 + ")" * 5000,
    ],
    ids=lambda text: text[:40],
)
def test_errors_of_expansion_are_those_of_postfix(text: str, tmp_path: Path) -> None:
    directory = write(tmp_path, f"relayhost = {text}\n")
    _, complaints, status = postconf(directory, "-x", "relayhost")
    assert status
    with pytest.raises(ConfigError) as error:
        load(directory)
    assert error.value.message in complaints


# -- master.cf


def plain_words(text: str) -> list[str]:
    """What a line of `postconf -M` says, with the braces gone: it prints them for some words only."""
    return text.replace("{", " ").replace("}", " ").split()


def as_words(service: Service) -> list[str]:
    words: list[str] = list(service.fields)
    words += service.flags
    for name, value in service.options:
        words += "-o", f"{name}={value}"
    return plain_words(" ".join((*words, *service.args)))


def test_realistic_master_cf(tmp_path: Path) -> None:
    directory = write(tmp_path, "", MASTER)
    lines, complaints, status = postconf(directory, "-M")
    assert status == 0, complaints
    services = parse_master_cf(MASTER, "master.cf", [])
    assert len(services) == 11
    # We keep -o apart from the other options: order among them is free.
    assert [sorted(as_words(service)) for service in services] == [sorted(plain_words(line)) for line in lines]


GOOD_FIELDS = (
    ["smtp", "relay", "x-y", "127.0.0.1:2525", "[::1]:25", "a.b"],
    ["inet", "unix", "fifo", "pass", "unix-dgram"],
    ["n"],
    ["n", "y", "-"],
    ["n", "y", "-"],
    ["-", "0", "300", "1000?"],
    ["-", "0", "1", "100"],
    ["smtpd", "smtp", "pipe"],
)
BAD_FIELDS = (None, ["tcp", "-"], ["N", "yn", "y"], ["1"], ["x", ""], ["x", "3x"], ["x", "-1", "?"], None)
good_row = st.tuples(*map(st.sampled_from, GOOD_FIELDS))


@st.composite
def bad_row(draw: st.DrawFn) -> tuple[str, ...]:
    row = list(draw(good_row))
    field = draw(st.sampled_from(range(1, 7)))
    row[field] = draw(st.sampled_from(BAD_FIELDS[field] or ["?"]))
    return tuple(row)


# One in twelve is wrong: Postfix takes a second to say so.
fields = st.integers(0, 11).flatmap(lambda number: good_row if number else bad_row())
arguments = st.lists(
    st.sampled_from(
        ["-v", "-o a=b", "-o { a = b c }", "-o {a=b}", "-oa=b", "{ x y }", "argv=x", "flags=DR", "${nexthop}", "-D"]
    ),
    max_size=4,
)


@given(st.lists(st.tuples(fields, arguments), min_size=1, max_size=3))
@BOUNDED
def test_generated_master_cf(entries: list[tuple[tuple[str, ...], list[str]]]) -> None:
    text = "".join(" ".join(row) + "".join(f"\n  {item}" for item in items) + "\n" for row, items in entries)
    with tempfile.TemporaryDirectory() as folder:
        lines, complaints, status = postconf(write(Path(folder), "", text), "-M")
    try:
        services = parse_master_cf(text, "master.cf", [])
    except ConfigError as error:
        # master(8) refuses what postconf(1) prints: private inet services.
        assert status or "cannot be private" in str(error), complaints
        return
    assert status == 0, complaints
    last = {(line.split()[0], line.split()[1]): line for line in lines}
    assert len(services) == len(last)
    for service in services:
        assert sorted(as_words(service)) == sorted(plain_words(last[service.name, service.type]))
