"""Table files: what Postfix's postmap makes is read here, and what is made here Postfix reads, entry by entry."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmta.tables import berkeley
from fastmta.tables.lookup import Context, Flags, TableError, TempFail
from fastmta.tables.maker import Duplicates, Maker, MakerError, open_maker
from tests.tables_kit import Opened, Parameters, postmap, program

TYPES = ("lmdb", "hash", "btree", "cdb")
FILES = {"lmdb": ".lmdb", "hash": ".db", "btree": ".db", "cdb": ".cdb"}

KEYS = st.text(
    st.characters(exclude_characters="\0\n\r\t \"\\#:'", exclude_categories=("C", "Z")), min_size=1, max_size=40
)
VALUES = st.text(st.characters(exclude_characters="\0\n\r\t", exclude_categories=("C", "Z")), min_size=1, max_size=200)


def make(
    name: str, entries: dict[str, str], incremental: bool = False, duplicates: Duplicates = Duplicates.REFUSE
) -> Maker:
    maker = open_maker(
        name,
        incremental=incremental,
        duplicates=duplicates,
        context=Context(Parameters({"lmdb_map_size": "65536"}), lambda line: None),
        mode=0o644,
        flags=Flags(),
    )
    for key, value in entries.items():
        maker.put(key, value)
    return maker


def postfix_makes(folder: Path, kind: str, text: str, *options: str) -> str:
    """The name of a table that Postfix's postmap made of a text."""
    postmap(folder, "texthash:/dev/null", ())  # writes the configuration
    (folder / "map").write_text(text)
    subprocess.run(
        [program("postmap"), "-c", folder / "postfix", *options, f"{kind}:{folder}/map"], check=True, timeout=60
    )
    return f"{kind}:{folder}/map"


def postfix_lists(folder: Path, name: str) -> dict[str, str]:
    result = subprocess.run(
        [program("postmap"), "-c", folder / "postfix", "-s", name],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(line.split("\t", 1) for line in result.stdout.splitlines())


@pytest.fixture(params=TYPES)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path
    postmap(folder, "texthash:/dev/null", ())
    known = subprocess.run(
        [program("postconf"), "-c", folder / "postfix", "-m"], capture_output=True, text=True, check=True
    ).stdout.split()
    if request.param not in known:
        pytest.skip(f"this Postfix has no {request.param} tables")
    if request.param in ("hash", "btree"):
        pytest.importorskip("berkeleydb")
    return str(request.param)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(entries=st.dictionaries(KEYS, VALUES.map(str.strip).filter(bool), min_size=1, max_size=30))
def test_generated_tables_both_ways(tmp_path: Path, kind: str, entries: dict[str, str]) -> None:
    folded: dict[str, str] = {}
    for key, value in entries.items():
        folded.setdefault(key.casefold(), value)
    name = f"{kind}:{tmp_path}/ours"
    make(name, entries).commit()
    expected = {key: folded[key.casefold()] for key in entries}
    assert postmap(tmp_path, name, entries, "smtputf8_enable = yes\n") == expected
    if kind != "cdb":
        assert postfix_lists(tmp_path, name) == folded
    table = Opened(name).table
    assert {key: table.get(key) for key in entries} == expected
    assert table.get("no such key") is None

    theirs = Opened(postfix_makes(tmp_path, kind, "".join(f"{k} {v}\n" for k, v in entries.items()), "-w")).table
    assert {key: theirs.get(key) for key in entries} == expected
    if kind != "cdb":
        assert dict(theirs.sequence()) == folded


def test_many_entries_and_big_values(tmp_path: Path, kind: str) -> None:
    """Several levels of pages, and values that have pages of their own."""
    entries = {f"user{number}@example.com": f"{number}" * (number % 7 + 1) for number in range(20000)}
    entries |= {f"big{size}": "v" * size for size in (2000, 4096, 5000, 70000)}
    name = f"{kind}:{tmp_path}/ours"
    make(name, entries).commit()
    theirs = Opened(postfix_makes(tmp_path, kind, "".join(f"{k} {v}\n" for k, v in entries.items()))).table
    ours = Opened(name).table
    assert all(ours.get(key) == value and theirs.get(key) == value for key, value in entries.items())
    assert postmap(tmp_path, name, entries) == entries
    assert ours.get("user20000@example.com") is None and theirs.get("") is None
    assert theirs.get("k" * 600) is None
    if kind != "cdb":
        assert dict(ours.sequence()) == dict(theirs.sequence()) == entries == postfix_lists(tmp_path, name)


def test_changes_to_a_table_of_postfix(tmp_path: Path, kind: str) -> None:
    name = postfix_makes(tmp_path, kind, "a 1\nb 2\nc 3\n")
    if kind == "cdb":
        with pytest.raises(MakerError, match="inappropriate open flags"):
            make(name, {}, incremental=True)
        return
    maker = make(name, {"a": "no", "d": "4"}, incremental=True)
    assert not maker.put("A", "no") and maker.delete("b") and not maker.delete("x")
    maker.commit()
    make(name, {"c": "33"}, incremental=True, duplicates=Duplicates.REPLACE).commit()
    make(name, {"e": "5"}, incremental=True).abort()
    assert postfix_lists(tmp_path, name) == {"a": "1", "c": "33", "d": "4"}


def test_first_value_stays_or_is_replaced(tmp_path: Path, kind: str) -> None:
    for duplicates, expected in ((Duplicates.REFUSE, "1"), (Duplicates.IGNORE, "1"), (Duplicates.REPLACE, "2")):
        maker = make(f"{kind}:{tmp_path}/t", {"a": "1"}, duplicates=duplicates)
        assert maker.put("A", "2") is (expected == "2")
        maker.commit()
        assert Opened(f"{kind}:{tmp_path}/t").table.get("a") == expected


def test_aborted_table_leaves_the_old_one_and_no_trace(tmp_path: Path, kind: str) -> None:
    name = f"{kind}:{tmp_path}/t"
    make(name, {"a": "1"}).commit()
    before = sorted(tmp_path.iterdir())
    make(name, {"a": "2"}).abort()
    assert sorted(tmp_path.iterdir()) == before
    assert Opened(name).table.get("a") == "1"


def test_new_file_is_taken_up_and_a_bad_one_is_not(tmp_path: Path, kind: str) -> None:
    name = postfix_makes(tmp_path, kind, "a 1\n")
    opened = Opened(name)
    assert opened.table.get("a") == "1" and not opened.table.refresh()
    make(name, {"a": "2"}).commit()
    assert opened.table.refresh() and opened.table.get("a") == "2"
    bad = tmp_path / "bad"
    bad.write_bytes(b"half made")
    bad.rename(tmp_path / f"map{FILES[kind]}")
    assert not opened.table.refresh() and not opened.table.refresh()
    assert opened.table.get("a") == "2"
    assert len(opened.warnings) == 1 and "not taken up, the old contents stay" in opened.warnings[0]
    make(name, {"a": "3"}).commit()
    assert opened.table.refresh() and opened.table.get("a") == "3"


@pytest.mark.parametrize("type_", ["lmdb", "cdb"])
def test_file_that_is_cut_off_is_no_crash(tmp_path: Path, type_: str) -> None:
    """The pages of a mapped file go away under a lookup: TempFail, until there is a good file."""
    name = f"{type_}:{tmp_path}/t"
    entries = {f"key{number}": "v" * 300 for number in range(3000)}
    make(name, entries).commit()
    file = tmp_path / f"t{FILES[type_]}"
    for size in (file.stat().st_size // 2, 8192, 4096, 100, 0):
        make(name, entries).commit()
        table = Opened(name).table
        assert table.get("key1")
        os.truncate(file, size)
        failed = 0
        for key in entries:
            try:
                assert table.get(key) in (entries[key], None)
            except TempFail:
                failed += 1
        assert failed
        make(name, entries).commit()
        table.refresh()
        assert table.get("key1") and table.get("key2999")


@pytest.mark.parametrize("type_", ["lmdb", "cdb"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_file_is_no_crash(tmp_path: Path, type_: str, data: st.DataObject) -> None:
    """Whatever the bytes are: a value, none, or an error."""
    path = tmp_path / f"t{FILES[type_]}"
    entries = {f"key{number}": "v" * (number % 50 * 90 + 1) for number in range(300)}
    make(f"{type_}:{tmp_path}/t", entries).commit()
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 30))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 400))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        table = Opened(f"{type_}:{tmp_path}/t").table
    except TableError:
        return
    for key in entries:
        try:
            table.get(key)
        except TempFail:
            continue
    if type_ == "lmdb":
        try:
            for count, _ in enumerate(table.sequence()):
                if count > 1000:
                    break
        except TempFail:
            pass
    table.close()


@pytest.mark.parametrize("type_", ["lmdb", "cdb"])
def test_lookups_while_postfix_writes(tmp_path: Path, type_: str) -> None:
    """No lookup fails or is lost while postmap makes the table again and again; a value is the old or the new one."""
    lines = [f"key{number}" for number in range(2000)]
    name = postfix_makes(tmp_path, type_, "".join(f"{key} 0\n" for key in lines))
    for version in range(1, 9):
        (tmp_path / f"text{version}").write_text("".join(f"{key} {version}\n" for key in lines))
    table = Opened(name).table
    script = f'for v in 1 2 3 4 5 6 7 8; do cp text$v map && "$0" -c postfix {type_}:map || exit 1; done'
    seen: set[str | None] = set()
    with subprocess.Popen(["sh", "-c", script, program("postmap")], cwd=tmp_path) as writer:
        while writer.poll() is None:
            seen.update(table.get(key) for key in lines)
            table.refresh()
    assert writer.returncode == 0
    assert None not in seen and len(seen) > 1
    table.refresh()
    assert table.get("key7") == "8"


def test_what_is_no_table_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TableError, match=rf"open database {tmp_path}/x\{FILES[kind]}: No such file or directory"):
        Opened(f"{kind}:{tmp_path}/x")
    (tmp_path / f"x{FILES[kind]}").write_bytes(b"\1\2\3" * 2000)
    with pytest.raises((TableError, TempFail), match=rf"{tmp_path}/x"):
        Opened(f"{kind}:{tmp_path}/x").table.get("a")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("texthash:x", "unsupported dictionary type: texthash does not support bulk-mode creation."),
        ("xyz:x", "unsupported dictionary type: xyz. Is the postfix-xyz package installed?"),
        ("proxy:hash:x", "can't create maps via the proxy service"),
        ("fail:x", "table fail:x: write error: Application error"),
        ("lmdb:/nonexistent/x", "open database /nonexistent/x.lmdb: No such file or directory"),
    ],
)
def test_what_cannot_be_made(name: str, text: str) -> None:
    with pytest.raises(MakerError) as caught:
        make(name, {"a": "b"})
    assert str(caught.value) == text


def test_a_key_that_lmdb_cannot_have(tmp_path: Path) -> None:
    with pytest.raises(MakerError, match=r"error updating lmdb:.*MDB_BAD_VALSIZE"):
        make(f"lmdb:{tmp_path}/t", {"k" * 511: "v"})


def without_berkeley(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(berkeley, "library", lambda: None)


def test_hash_is_kept_as_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_berkeley(monkeypatch)
    name = f"hash:{tmp_path}/map"
    with pytest.raises(TableError, match=rf"{tmp_path}/map.lmdb.*berkeleydb.*run"):
        Opened(name)
    (tmp_path / "map").write_text("a 1\n")
    opened = Opened(name)
    assert opened.table.get("A") == "1" and (tmp_path / "map.lmdb").exists()
    assert postmap(tmp_path, f"lmdb:{tmp_path}/map", ["a"]) == {"a": "1"}
    # as Postfix: a new text counts when postmap has run, ours or Postfix's
    (tmp_path / "map").write_text("a 2\n")
    assert not opened.table.refresh() and opened.table.get("a") == "1"
    make(f"lmdb:{tmp_path}/map", {"a": "2"}).commit()
    assert opened.table.refresh() and opened.table.get("a") == "2"
    postfix_makes(tmp_path, "hash", "a 3\n")
    assert opened.table.refresh() and opened.table.get("a") == "3" and not opened.table.refresh()
    assert Opened(name).table.get("a") == "3"


def test_aliases_are_kept_as_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_berkeley(monkeypatch)
    (tmp_path / "aliases").write_text('Root: admin,\n  other\n"post master": |"/bin/x: y"\n')
    table = Opened(f"btree:{tmp_path}/aliases", {"alias_maps": f"btree:{tmp_path}/aliases"}).table
    assert table.get("root") == "admin,\n  other".replace("\n", "") and table.get("post master") == '|"/bin/x: y"'


def test_hash_without_a_place_to_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that may not write beside the source has the table all the same."""
    without_berkeley(monkeypatch)
    (tmp_path / "map").write_text("a 1\n")
    real: Callable[..., Maker] = berkeley.open_maker

    def refuse(name: str, **how: object) -> Maker:
        if name.startswith(f"lmdb:{tmp_path}/"):
            raise MakerError(f"open database {tmp_path}/map.lmdb: Permission denied")
        return real(name, **how)

    monkeypatch.setattr(berkeley, "open_maker", refuse)
    table = Opened(f"hash:{tmp_path}/map").table
    assert table.get("a") == "1" and not table.refresh()
    assert not (tmp_path / "map.lmdb").exists()
