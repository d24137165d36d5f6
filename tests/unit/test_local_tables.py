"""Tables in a file that changes under them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmta.tables.lookup import Context, open_table


class Nothing:
    def get_str(self, name: str) -> str:
        raise KeyError(name)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("regexp", "/1.2.3.4/ old", "/1.2.3.4/ new"),
        ("cidr", "1.2.3.4 old", "1.2.3.4 new"),
        ("texthash", "1.2.3.4 old", "1.2.3.4 new"),
    ],
)
def test_a_changed_file_is_taken_up(kind: str, old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text(old + "\n")
    said: list[str] = []
    table = open_table(f"{kind}:{path}", Context(Nothing(), said.append))
    assert table.get("1.2.3.4") == "old"
    assert not table.refresh()
    path.with_suffix(".new").write_text(new + "\n")
    path.with_suffix(".new").replace(path)
    assert table.refresh()
    assert table.get("1.2.3.4") == "new"
    path.unlink()
    assert not table.refresh()
    assert not table.refresh()
    assert table.get("1.2.3.4") == "new"
    assert said == [f"{kind}:{path}: not taken up, the old contents stay: No such file or directory"]
