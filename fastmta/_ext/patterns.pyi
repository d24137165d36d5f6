from collections.abc import Callable

EXTENDED: int
ICASE: int
NEWLINE: int

def pcre_available() -> bool: ...

class Pattern:
    groups: int

class Posix(Pattern):
    def __init__(self, source: bytes, flags: int, capture: bool) -> None: ...

class Pcre(Pattern):
    def __init__(self, source: bytes, flags: int) -> None: ...

class Rule:
    line: int
    jump: int
    def __init__(
        self,
        line: int,
        pattern: Pattern,
        negated: bool,
        value: str | tuple[bytes | int, ...],
        other: Pattern | None = None,
        other_negated: bool = False,
    ) -> None: ...

class Rules:
    def __init__(self, rules: list[Rule], warn: Callable[[int, str], None]) -> None: ...
    def get(self, key: bytes) -> str | None: ...
