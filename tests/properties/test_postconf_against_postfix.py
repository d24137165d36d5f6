"""Our postconf and Postfix's postconf on the same files: what they print, what they complain of, and what they leave.

Listed differences: the parameters of another version (tests/postfix_versions.py), who we are, and the words of a newer
postconf (3.11) for parameters that are to go away and for #comments behind a value, where it stops reading that value.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from fastmta.cli import postconf
from fastmta.config import parameters
from fastmta.config.databases import OPTIONS
from fastmta.config.expand import names_in, scan
from tests import postfix_versions
from tests.properties.test_config_against_postconf import MASTER, REALISTIC, expressions

POSTCONF = shutil.which("postconf") or "/usr/sbin/postconf"
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not Path(POSTCONF).exists(), reason="Postfix is not installed"),
]
BOUNDED = settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)
ONLY_OURS = {name for name in parameters.table() if name.startswith("fastmta_")} | postfix_versions.ADDED
NOT_COMPARED = {"mail_version", "process_id", *postfix_versions.CHANGED, *postfix_versions.REMOVED, *ONLY_OURS}
# with -x, what is made of those differs, too
MADE_OF_THEM = NOT_COMPARED | {
    name for name, row in parameters.table().items() if names_in(row.default) & (NOT_COMPARED - {"process_id"})
}


class Answer:
    """What a postconf printed and complained of, without what is known to differ."""

    def __init__(self, out: str, err: str, expanded: bool = False) -> None:
        self.lines: list[str] = []
        left_out = MADE_OF_THEM if expanded else NOT_COMPARED
        shown = True
        for line in out.splitlines():
            if not line.startswith("    "):  # a folded line goes on
                shown = line.partition(" =")[0] not in left_out
            if shown:
                self.lines.append(line)
        complaints = re.sub(r"^\S*postconf: ", "", err, flags=re.M).splitlines()
        # ours have the number of the line
        complaints = [re.sub(r", line \d+: (?=logical)", ": ", line) for line in complaints]
        # 3.7 has no words for what is to go away, and says "unused" of what is gone
        self.complaints = sorted(
            line
            for line in complaints
            if "support for parameter" not in line and "DEPRECATION_README" not in line and "verbose" not in line
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return "\n".join([*self.lines, "--", *self.complaints])


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def theirs(directory: Path, *arguments: str) -> Answer:
    done = subprocess.run(
        [POSTCONF, "-c", ".", *arguments], cwd=directory, capture_output=True, timeout=20, check=False
    )
    return Answer(
        done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"), is_expanded(arguments)
    )


def is_expanded(arguments: tuple[str, ...]) -> bool:
    return any(argument.startswith("-") and "x" in argument for argument in arguments)


def ours(capfd: pytest.CaptureFixture[str], directory: Path, *arguments: str) -> Answer:
    capfd.readouterr()
    with working_in(directory):
        postconf.main(["-c", ".", *arguments])
    return Answer(*capfd.readouterr(), is_expanded(arguments))


def write(directory: Path, main_cf: str, master_cf: str = "") -> Path:
    for name, text in (("main.cf", main_cf), ("master.cf", master_cf)):
        (directory / name).write_text(text, "utf-8")
        # Postfix waits a while before it believes in a file that is younger than a second.
        os.utime(directory / name, (1e9, 1e9))
    return directory


WAYS = [
    ["-n"],
    ["-nx"],
    ["-nf"],
    ["-nh"],
    ["-nH"],
    [],
    ["-x"],
    ["-f"],
    ["-d"],
    ["-df"],
    ["-dx"],
    ["-C", "user"],
    ["-C", "builtin,USER"],
    ["-C", "service"],
    ["-o", "stress=yes", "-x", "smtpd_timeout", "smtpd_hard_error_limit"],
    ["mydestination", "nonsense", "relayhost", "smtp_destination_recipient_limit"],
    ["-M"],
    ["-Mf"],
    ["-Mx"],
    ["-M", "smtp"],
    ["-M", "smtp/unix", "*/inet", "nothing/unix"],
    ["-F"],
    ["-Ff"],
    ["-Fh"],
    ["-FH"],
    ["-Fx", "*/*/command"],
    ["-F", "smtp/inet/chroot", "submission", "no/such/wakeup"],
    ["-P"],
    ["-Px"],
    ["-Pf"],
    ["-Ph"],
    ["-PH"],
    ["-P", "*/inet/syslog_name", "relay", "smtp/inet/none"],
    ["-l"],
]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
@pytest.mark.parametrize("name", ["debian", "gateway"])
def test_realistic_files(name: str, way: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = write(tmp_path, REALISTIC[name] + "unused_thing = 1\n", MASTER + "  -o my_thing=$unused_thing -o x=y\n")
    answer = ours(capfd, directory, *way)
    assert answer == theirs(directory, *way)
    assert answer.lines


def test_the_table_has_the_parameters_of_postfix_and_no_others(tmp_path: Path) -> None:
    """But for those that another version has, all of which are listed."""
    done = subprocess.run(
        [POSTCONF, "-c", str(write(tmp_path, "")), "-dH"], capture_output=True, text=True, timeout=20, check=True
    )
    installed = set(done.stdout.split()) - parameters.READ_ONLY
    table = {name for name in parameters.table() if not name.startswith("fastmta_")}
    assert table - installed == postfix_versions.ADDED
    assert installed - table == postfix_versions.REMOVED


WRONG = [
    ["-d", "-n"],
    ["-M", "-h"],
    ["-h", "-H"],
    ["-e"],
    ["-X"],
    ["-X", "a=b"],
    ["-X", ""],
    ["-#", "a=b"],
    ["a", "b=c"],
    ["b=c", "a"],
    ["x\ny=z"],
    ["#x=1"],
    ["=1"],
    ["-o", "foo"],
    ["-M", "foo/x", "b/"],
    ["-M", "f*"],
    ["-M", "/x"],
    ["-M", "a=b c d"],
    ["-M", "a/b=c d"],
    ["-F", "smtp/inet/zz"],
    ["-F", "smtp/inet/*=x"],
    ["-F", "smtp/inet/wakeup=a b"],
    ["-F", "smtp/inet/wakeup=x"],
    ["-F", "smtp/inet=x"],
    ["-P", "smtp/inet/*=x"],
    ["-P", "smtp/inet/a=x y"],
    ["-FX", "a/b/c"],
    ["-F#", "a/b/c"],
    ["-P#", "a/b/c"],
    ["-a", "-m"],
    ["-C", "bogus"],
    ["-nC", "user", "-M"],
    ["-T", "bogus"],
    ["-T", "compile-version", "-T", "run-version"],
    ["-b", "-t"],
]


@pytest.fixture(scope="module")
def complaints_of_postfix(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """All at once: Postfix waits a second before it ends with a fatal error."""
    folders = [write(tmp_path_factory.mktemp("wrong"), "a = b\nb = 1\n", MASTER) for _ in WRONG]
    with ThreadPoolExecutor(len(WRONG)) as pool:
        answers = pool.map(lambda folder, way: theirs(folder, *way), folders, WRONG)
        return dict(zip(map(repr, WRONG), answers, strict=True))


@pytest.mark.parametrize("way", WRONG, ids=repr)
def test_wrong_command_lines(
    way: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], complaints_of_postfix: dict[str, Answer]
) -> None:
    directory = write(tmp_path, "a = b\nb = 1\n", MASTER)
    answer = ours(capfd, directory, *way)
    expected = complaints_of_postfix[repr(way)]
    assert answer.complaints == expected.complaints
    assert answer.complaints
    assert (directory / "main.cf").read_text() == "a = b\nb = 1\n"
    assert (directory / "master.cf").read_text() == MASTER
    assert not list(directory.glob("*.tmp"))


@pytest.mark.parametrize(
    ("main_cf", "master_cf"),
    [
        ("a = b\n  c\nno equals sign\n", ""),
        ("= x\n", ""),
        ("  leading = blank\na = b\n", ""),
        ("a = 1\na = 2\nalways_bcc = $a\n", ""),
        ("always_bcc = ${b\n", ""),
        ("x = ${{a} = {b} ? c : d}\n", ""),
        ("config_directory = /x\nprocess_name = y\n", ""),
        ("", "smtp inet n - n - - smtpd\nsmtp unix -\n"),
        ("", "smtp bogus n - n - - smtpd\n"),
        ("", "smtp inet n - x - - smtpd\n"),
        ("", "smtp inet n - n - x smtpd\n"),
        ("", "smtp unix - - n - - smtp -o x -o { y } -o = -o a=$b -o process_id=1\n"),
        ("smtpd_restriction_classes = one, two\ntwo = reject\n", "smtp inet n - n - - smtpd -o one=permit -o two=x\n"),
    ],
)
def test_files_with_errors(main_cf: str, master_cf: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = write(tmp_path, main_cf, master_cf)
    with ThreadPoolExecutor(2) as pool:
        expected = list(pool.map(lambda way: theirs(directory, way), ("-n", "-P")))
    assert [ours(capfd, directory, way) for way in ("-n", "-P")] == expected


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_options_of_tables(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    newer = {
        "mysql": {"charset", "idle_interval", "retry_interval"},
        "pgsql": {"encoding", "idle_interval", "retry_interval"},
    }
    if kind == "mongodb":
        pytest.skip("3.7 does not have it")
    options = sorted({option for own in OPTIONS.values() for option in own} - newer.get(kind, set()))
    text = f"always_bcc = {kind}:t proxy:{kind}:u\n" + "".join(f"t_{name} = 1\nu_{name} = 2\n" for name in options)
    directory = write(tmp_path, text)
    assert ours(capfd, directory, "-n") == theirs(directory, "-n")


# -- generated

values = st.one_of(
    # what is looked at after an error in the syntax depends on the order of Postfix's hash table; 3.7 splits at braces
    # that 3.11 leaves together
    expressions().filter(
        lambda text: not scan(text, str) and "level" not in text and not set(re.sub(r"\$\{.*\}", "", text)) & set("{}")
    ),
    st.sampled_from(["hash:/etc/x", "inline:{a=b, {c = d}}", "one two", "{ a b } c", "$relayhost x", "$myhostname"]),
)
names = st.sampled_from(
    [
        "alpha",
        "beta_2",
        "relayhost",
        "always_bcc",
        "smtpd_restriction_classes",
        "virtual_maps",
        "mydestination",
        "gamma",
    ]
)
services = st.sampled_from(["smtp inet n", "relay unix -", "spawned unix -", "x fifo n", "p pass -"])
commands = st.sampled_from(["smtpd", "smtp", "spawn", "pipe", "local", "other"])
options = st.one_of(
    st.tuples(names, st.sampled_from(["1", "$alpha", "$gamma$$", "${beta_2?x}"])).map("-o {0[0]}={0[1]}".format),
    st.tuples(names, values.filter(lambda text: "{" not in text)).map("-o {{ {0[0]} = {0[1]} }}".format),
    st.sampled_from(["-v", "-D", "-oa=b", "-vo c=d", "--", "word", "{ two words }", "argv=${x}"]),
)


def stands_for_itself(definitions: list[tuple[str, str]]) -> bool:
    """Whether a $name comes back to itself: in a comparison, that makes Postfix crash."""
    uses: dict[str, set[str]] = {}
    for name, value in definitions:
        uses.setdefault(name, set()).update(names_in(value))
    for start in uses:
        reached, ahead = set[str](), set(uses[start])
        while ahead:
            name = ahead.pop()
            reached.add(name)
            ahead |= uses.get(name, set()) - reached
        if start in reached:
            return True
    return False


@given(
    st.lists(st.tuples(names, values), max_size=5),
    st.lists(st.tuples(services, commands, st.lists(options, max_size=4)), max_size=3),
    st.sampled_from(
        [["-n"], ["-nx"], ["-nf"], ["-M"], ["-Mx"], ["-Mf"], ["-P"], ["-Px"], ["-F"], ["-C", "user,service"]]
    ),
)
@BOUNDED
def test_generated_files(
    capfd: pytest.CaptureFixture[str],
    definitions: list[tuple[str, str]],
    entries: list[tuple[str, str, list[str]]],
    way: list[str],
) -> None:
    of_entries = [
        found for _, _, items in entries for item in items for found in re.findall(r"-o (?:\{ )?(\w+) ?=(.*)", item)
    ]
    assume(not stands_for_itself(definitions + of_entries))
    main_cf = "".join(f"{name} = {value}\n" for name, value in definitions)
    master_cf = "".join(
        f"{service} - n - - {command}" + "".join(f"\n  {item}" for item in items) + "\n"
        for service, command, items in entries
    )
    with tempfile.TemporaryDirectory() as folder:
        directory = write(Path(folder), main_cf, master_cf)
        answer, expected = ours(capfd, directory, *way), theirs(directory, *way)
    if any("#comment after other text is not allowed" in line for line in answer.complaints):
        assert answer.lines == expected.lines
        assert set(expected.complaints) <= set(answer.complaints)
    else:
        assert answer == expected


EDITS = st.one_of(
    st.lists(
        st.tuples(names, st.sampled_from(["", "x", "a b  c", "$alpha"])).map("{0[0]} = {0[1]}".format),
        min_size=1,
        max_size=3,
    ),
    # Postfix's crashes when a name is there twice
    st.sets(names, min_size=1, max_size=3).map(lambda some: ["-X", *sorted(some)]),
    st.sets(names, min_size=1, max_size=3).map(lambda some: ["-#", *sorted(some)]),
)
LINES = st.lists(
    st.one_of(
        st.tuples(names, st.sampled_from(["1", "", "a,\n   b", "a\n# in between\n\n\tb"])).map(
            "{0[0]} = {0[1]}".format
        ),
        st.sampled_from(
            ["# comment", "", "   # indented comment", "#relayhost = x", "relayhost=y", "mydestination\t=z"]
        ),
    ),
    max_size=6,
)


@given(LINES, EDITS)
@BOUNDED
def test_edits_of_main_cf(capfd: pytest.CaptureFixture[str], lines: list[str], edit: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        left = write(Path(folder), text)
        complaints = ours(capfd, left, *edit).complaints
        result = (left / "main.cf").read_text()
        right = write(left, text)
        assert theirs(right, *edit).complaints == complaints
        expected = (right / "main.cf").read_text()
    # 3.7 adds what is new in no order
    assert sorted(result.splitlines()) == sorted(expected.splitlines())
    there = {re.split(r"[\s=]", line, maxsplit=1)[0] for line in text.splitlines()}
    added = 0 if edit[0].startswith("-") else len({item.partition(" =")[0] for item in edit} - there)
    kept = len(result.splitlines()) - added
    assert result.splitlines()[:kept] == expected.splitlines()[:kept]


MASTER_EDITS = st.one_of(
    st.tuples(services, st.sampled_from(["a=1", "alpha=x,y", "c="])).map(lambda two: ["-P", f"{key(two[0])}/{two[1]}"]),
    st.tuples(services, st.sampled_from(["a", "alpha", "c"])).map(lambda two: ["-PX", f"{key(two[0])}/{two[1]}"]),
    st.tuples(services, st.sampled_from(["chroot=y", "wakeup=3?", "command=pipe -o x=y flags=z w", "type=unix"])).map(
        lambda two: ["-F", f"{key(two[0])}/{two[1]}"]
    ),
    services.map(lambda one: ["-MX", key(one)]),
    services.map(lambda one: ["-M#", key(one), "x/fifo"]),
)


def key(service: str) -> str:
    return "/".join(service.split()[:2])


@given(st.lists(st.tuples(services, commands, st.lists(options, max_size=4)), min_size=1, max_size=3), MASTER_EDITS)
@BOUNDED
def test_edits_of_master_cf(
    capfd: pytest.CaptureFixture[str], entries: list[tuple[str, str, list[str]]], edit: list[str]
) -> None:
    # without braces around a first argument, which Postfix loses
    text = "# first\n" + "".join(
        f"{service} - n - - {command}"
        + "".join(f"\n  {item}\n# between" for item in items if item != "{ two words }")
        + "\n  last\n"
        for service, command, items in entries
    )
    with tempfile.TemporaryDirectory() as folder:
        left = write(Path(folder), "", text)
        answer = ours(capfd, left, *edit)
        result = (left / "master.cf").read_text()
        right = write(left, "", text)
        expected = theirs(right, *edit)
        assert answer == expected
        assert result == (right / "master.cf").read_text()
