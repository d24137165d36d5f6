"""Tables that need no database: answers, warnings and errors beside those of Debian's postmap."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from fastmta.tables.lookup import Context, Flags, TableError, TempFail, open_table

POSTMAP = shutil.which("postmap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [pytest.mark.peer, pytest.mark.skipif(POSTMAP is None, reason="no postmap")]
needs_pcre = pytest.mark.skipif(not Path("/usr/lib/postfix/postfix-pcre.so").exists(), reason="no postfix-pcre")


class Nothing:
    def get_str(self, name: str) -> str:
        raise KeyError(name)


def here(name: str, keys: list[str]) -> tuple[list[str | None], list[str], str]:
    """Answers, warnings, and the error that ended it."""
    warnings: list[str] = []
    try:
        table = open_table(name, Context(Nothing(), warnings.append), Flags())
        return [table.get(key) for key in keys], warnings, ""
    except TableError as error:
        return [], warnings, str(error)
    except TempFail:
        return [], warnings, f"table {name}: query error: Application error"  # in postmap's words


def there(name: str, keys: list[str], folder: Path) -> tuple[list[str | None], list[str], str]:
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc" / "main.cf").write_text("compatibility_level = 3.6\n")
    for path in (folder / "etc" / "main.cf", folder / "table"):
        if path.exists():
            os.utime(path, (1e9, 1e9))  # Postfix waits a second before it trusts a file of this second
    assert POSTMAP
    command = [POSTMAP, "-c", str(folder / "etc"), "-q", "-" if len(keys) > 1 else keys[0], name]
    run = subprocess.run(
        command, input="".join(f"{key}\n" for key in keys).encode(), capture_output=True, timeout=60, check=False
    )
    found: dict[str, str] = {}
    for line in run.stdout.decode().splitlines():
        key, _, value = line.partition("\t") if len(keys) > 1 else (keys[0], "", line)
        found[key] = value
    lines = [line.partition("postmap: ")[2] for line in run.stderr.decode().splitlines()]
    fatal = [line.partition(": ")[2] for line in lines if line.startswith("fatal")]
    # postmap's own remark about empty results is no part of the table
    warnings = [
        line.partition(": ")[2]
        for line in lines
        if line.startswith("warning") and "empty string result" not in line and "NO RESULT" not in line
    ]
    return [] if fatal else [found.get(key) for key in keys], warnings, fatal[0] if fatal else ""


RULES = r"""
/abc(/	x
/a/q	x
/a/ii	v1
abc	x
/abc
//	x
!!/zzz/	neg2
! /zzy/	neg3
/a/!	x
/a/!/b/	x
/a/! /b/	x
/a/!/b/i	x
/a(b)/!/(c)/	$1 $2
/(a)/	$2
/(a)/	$1x$$y ${1}z $(1)w
/(a)/	$x
/(a)/	${1
/(a)/	$
/(a)/	a ${} b
/(a)/	a $(1} b
/(a)/	a ${{1}} b
/(a)/	$10
/(a)/	$0
/(a)|(b)/ <$1><$2>$01$$1${2}
/(c)|(d)/m <$1><$2>$01$$1${2}
if /x
if
if x
if!/x/ foo
endif
endif
IF /x/
/q/ w
ENDIF
/b{2,1}/ x
!/a/	$1
/(a)/!/b/ $2
/a/
  cont
/a\/b/ esc
 /lead/ x
-a-  y
/a/b/ x
9abc9 x
/[/ z
endif x
if !/a/!/b/
endif
iff /x/
if/k/
/kk/ v
if /kj/
endif
/j/ j
endif
/./x extended
/^..$/ two
if /./
if /u/
"""
KEYS = ["a", "b", "ab", "abc", "zzz", "zzy", "c", "d", "k", "kk", "kj", "xq", "a/b", "é", "u", "bb", "A"]


@pytest.mark.parametrize("kind", ["regexp", pytest.param("pcre", marks=needs_pcre)])
@pytest.mark.parametrize("drop", [0, 6, 7, 8])
def test_patterns(kind: str, drop: int, tmp_path: Path) -> None:
    """Without its first rules, later ones are reached."""
    path = tmp_path / "table"
    rules = [line for line in RULES.split("\n")[1:] if drop < 6 or not line.startswith(("//", "! /zzy", "/a/ii"))]
    path.write_text("\n".join(rules[drop:] if drop > 6 else rules))
    name = f"{kind}:{path}"
    assert here(name, KEYS) == there(name, KEYS, tmp_path)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["regexp", pytest.param("pcre", marks=needs_pcre)])
def test_generated_patterns(kind: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    pieces = ["a", "b", "(a|ab)", "(c|bcd)", "(d*)", "[ab]+", ".", "^", "$", "(b?)", "x{1,2}", "\\.", "é"]
    lines = []
    for _ in range(60):
        pattern = "".join(chance.choice(pieces) for _ in range(chance.randint(1, 4)))
        flags = "".join(chance.choice("imx") for _ in range(chance.randint(0, 2)))
        verb = chance.choice(["", "", "", "!", "if ", "if !", "endif"])
        if verb == "endif":
            lines.append("endif")
        elif verb.startswith("if"):
            lines.append(f"{verb}/{pattern}/{flags}")
        else:
            lines.append(f"{verb}/{pattern}/{flags} <{chance.choice(['', '$1', '$1-$2', '$3', '$$'])}> {len(lines)}")
    path = tmp_path / "table"
    path.write_text("\n".join(lines) + "\n")
    keys = ["".join(chance.choice("abcdx.Bé") for _ in range(chance.randint(1, 6))) for _ in range(80)]
    assert here(f"{kind}:{path}", keys) == there(f"{kind}:{path}", keys, tmp_path)


NETWORKS = """
1.2.3.4
1.2.3.4 x
1.2.3.4/33 x
1.2.3.4/24 x
abc x
1.2.3 x
1.2.3.0/24x y
::1 v6
::1/129 x
2001:db8::/32 v
!1.2.3.4 neg
if 1.2.3.0/24
1.2.3.5 five
endif foo
if !1.2.3.4 foo
endif
if
if x
endif
endif
[::1] b
[1.2.3.4]/32 b
0.0.0.0/0 any
1.2.3.4/ x
1.2.3.4/-1 x
1.2.3.4/a x
IF 1.2.3.4
01.2.3.4 x
1.2.3.256 x
1.2.3.0/24
! x
!!1.1.1.1 x
 1.1.1.2 lead
if 1.2.3.4
!
"""
ADDRESSES = ["1.2.3.4", "1.2.3.5", "9.9.9.9", "::1", "2001:db8::5", "2001:DB8::5", "foo", "2001:db9::1", "1.2.3"]


@pytest.mark.parametrize("without", [(), ("!1.2.3.4",), ("!1.2.3.4", "1.2.3.4 x")])
def test_networks(without: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text("\n".join(line for line in NETWORKS.split("\n") if not line.startswith(without or "-")))
    assert here(f"cidr:{path}", ADDRESSES) == there(f"cidr:{path}", ADDRESSES, tmp_path)


@pytest.mark.parametrize("seed", range(10))
def test_generated_networks(seed: int, tmp_path: Path) -> None:
    """Small numbers, so that networks lie within each other."""
    chance = random.Random(seed)
    lines, level = [], 0
    for place in range(120):
        length = chance.choice([0, 8, 20, 28, 30, 31, 32])
        number = (10 << 24 | chance.randrange(64)) >> (32 - length) << (32 - length)
        network = ".".join(str(byte) for byte in number.to_bytes(4)) + f"/{length}"
        verb = chance.choice(["", "", "", "", "!" if place > 60 else "", "if", "endif"])
        if verb == "endif" and level:
            lines.append("endif")
            level -= 1
        elif verb == "if":
            lines.append(f"if {chance.choice(['', '!'])}{network}")
            level += 1
        elif length > 20:
            lines.append(f"{'!' if verb == '!' else ''}{network} v{place}")
    path = tmp_path / "table"
    path.write_text("\n".join([*lines, *["endif"] * level]) + "\n")
    keys = [f"10.0.0.{number}" for number in range(70)]
    assert here(f"cidr:{path}", keys) == there(f"cidr:{path}", keys, tmp_path)


SPECS = [
    "inline:{a=b,{c = d}}",
    "inline:{}",
    "inline:x",
    "inline:{a}",
    "static:abc",
    "static:{ a b }",
    "static:{a",
    "environ:x",
    "fail:x",
    "internal:x",
    "randmap:{b,b}",
    "randmap:{}",
    "randmap:x",
    "unionmap:{static:a,static:b}",
    "unionmap:{}",
    "unionmap:{foo}",
    "pipemap:{static:a,inline:{a=b}}",
    "pipemap:x",
    "pipemap:{static:a, zzz:x}",
    "unix:passwd.byname",
    "unix:foo",
    "texthash:/nonexist",
    "regexp:/nonexist",
    "cidr:/nonexist",
    "zzz:a",
    "pipemap:{static:a",
    "static:",
    "inline:{ {a = b} }",
    "inline:{ a = b }",
    "inline:{a=b, a=c}",
    "inline:{=b}",
    "inline:{{a=b}x}",
    "randmap:{ {a b} }",
    "unionmap:{static:{a b},fail:x}",
    "pipemap:{inline:{a=b},fail:x}",
    "pipemap:{inline:{z=b},fail:x}",
    "randmap:{a",
    "unionmap:{static:a}x",
    "inline:{a=b",
    "unionmap:{inline:{a=1},inline:{b=2}}",
]


@pytest.mark.parametrize("spec", SPECS)
def test_tables_in_their_name(spec: str, tmp_path: Path) -> None:
    assert here(spec, ["a"]) == there(spec, ["a"], tmp_path)


@pytest.mark.parametrize("name", ["unix:passwd.byname", "unix:group.byname"])
def test_accounts(name: str, tmp_path: Path) -> None:
    keys = ["root", "ROOT", "adm", "users", "nobody", "nobody-there"]
    assert here(name, keys) == there(name, keys, tmp_path)


def test_texthash(tmp_path: Path) -> None:
    text = (
        'a\nb  \n c d\n"x y" z\n"q\\"r" s\n"unterminated u\nK  v with  spaces  \nK dup\n:colon val\nk2: val2\nÉ fold\n'
    )
    (tmp_path / "table").write_text(text)
    name = f"texthash:{tmp_path}/table"
    keys = ["a", "b", "k", "K", "x y", 'q"r', '"x y"', '"q\\"r"', '"unterminated', ":colon", "k2", "k2:", "é", "É"]
    assert here(name, keys) == there(name, keys, tmp_path)


IN_NAMES = [
    "{{/a(.)/ x$1}, {/b/ y}}",
    "{ {/a/ x} , foo }",
    "{ {/a/ x} , {junk} }",
    "{ {/a/ x} , { /b/ q r  } }",
    "{ {if /a/} {/ab/ 1} {endif} {/b/ 2} }",
    "{}",
    "{ }",
    "{{}}",
    "{{/a/ b}",
    "{{/a/ b} {",
    "{{/a/ b}}x",
    "{{/a/ b}, {/c/ d}e}",
    "{{/a/ b}{/x/ d}}",
    "{ { {/a/ b} } }",
    "{{/a/ b},{}, {/x/ d}, {foo}}",
    "{{/a/ {b}}}",
    "{{/a{1,2}/ x}}",
    "{{ #c}, {/a/ x}}",
    "{{1.2.3.0/24 x}, {::/0 y}}",
    "{{1.2.3.0/24 x}, {junk y}}",
    "{{1.2.3.0/24}}",
    "{{if 1.0.0.0/8} {!1.2.0.0/16 no} {endif} {1.2.3.4 {x}}}",
]


@pytest.mark.parametrize("kind", ["regexp", pytest.param("pcre", marks=needs_pcre), "cidr", "texthash"])
@pytest.mark.parametrize("rules", IN_NAMES)
def test_rules_in_the_name(kind: str, rules: str, tmp_path: Path) -> None:
    """As file names, where a type has no rules in its name."""
    keys = ["ab", "b", "x", "1.2.3.4", "1.3.3.3", "::5"]
    name = f"{kind}:{rules}"
    assert here(name, keys) == there(name, keys, tmp_path)
