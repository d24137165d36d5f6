"""From the text of a value to what it means, with the rules and error texts of Postfix's mail_conf_int(3) and its kin.

Called by Config's getters. Each function takes the parameter's name for the message and raises ValueError.
"""

from __future__ import annotations

from typing import Final

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
INT_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1
LIST_SEPARATORS: Final = ", \t\r\n"
_TO_BLANKS: Final = str.maketrans(LIST_SEPARATORS, " " * len(LIST_SEPARATORS))


def to_int(name: str, text: str, low: int = 0, high: int = 0, limit: int = INT_MAX) -> int:
    """A decimal number as C's strtol reads it. low and high 0: no bound; limit is the largest that the type holds."""
    digits = text.lstrip(" \t\r\n\v\f")
    sign = digits[:1] if digits[:1] in ("-", "+") else ""
    if not (digits[len(sign) :].isdigit() and digits.isascii()):
        raise ValueError(f"bad numerical configuration: {name} = {text}")
    value = int(digits)
    if not -limit - 1 <= value <= limit:
        raise ValueError(f"bad numerical configuration: {name} = {text}")
    if low and value < low:
        raise ValueError(f"invalid {name} parameter value {value} < {low}")
    if high and value > high:
        raise ValueError(f"invalid {name} parameter value {value} > {high}")
    return value


def to_bool(name: str, text: str) -> bool:
    """yes or no, in any case."""
    answer = text.lower()
    if answer == "yes":
        return True
    if answer == "no":
        return False
    raise ValueError(f"bad boolean configuration: {name} = {text}")


def to_seconds(name: str, text: str, unit: str = "s", low: int = 0, high: int = 0) -> float:
    """Seconds, from a time with one of the units s m h d w; without one, unit applies (that of the default)."""
    number = text
    if text and text[-1] in _SECONDS:
        number, unit = text[:-1], text[-1]
    digits = number.lstrip(" \t\r\n\v\f")
    digits = digits[1:] if digits[:1] == "+" else digits
    if not (digits.isdigit() and digits.isascii()):
        raise ValueError(f"parameter {name}: bad time value or unit: {text}")
    seconds = int(digits) * _SECONDS[unit]
    if seconds > INT_MAX:
        raise ValueError(f"parameter {name}: bad time value or unit: {text}")
    if low and seconds < low:
        raise ValueError(f"invalid {name}: {seconds} (min {low})")
    if high and seconds > high:
        raise ValueError(f"invalid {name}: {seconds} (max {high})")
    return float(seconds)


def check_length(name: str, text: str, low: int = 0, high: int = 0) -> str:
    """The text itself, if it is as long as the parameter must be."""
    if low and len(text) < low:
        raise ValueError(f"bad string length {len(text)} < {low}: {name} = {text}")
    if high and len(text) > high:
        raise ValueError(f"bad string length {len(text)} > {high}: {name} = {text}")
    return text


def to_list(text: str) -> tuple[str, ...]:
    """Split at commas and white space; what is between { and } stays together, with its braces."""
    if "{" not in text:
        return tuple(filter(None, text.translate(_TO_BLANKS).split(" ")))
    items: list[str] = []
    start = -1
    level = 0
    for at, character in enumerate(text):
        if level == 0 and character in LIST_SEPARATORS:
            if start >= 0:
                items.append(text[start:at])
                start = -1
            continue
        if start < 0:
            start = at
        if character == "{":
            level += 1
        elif character == "}" and level:
            level -= 1
    if start >= 0:
        items.append(text[start:])
    return tuple(items)


def inside_braces(text: str) -> str:
    """What stands between { and }, without blanks at its ends (extpar(3)). Raises ValueError with Postfix's words."""
    if not text.startswith("{"):
        raise ValueError(f"no '{{' at start of text in \"{text}\"")
    level = 0
    for at, character in enumerate(text):
        level += (character == "{") - (character == "}")
        if level == 0:
            if text[at + 1 :].strip():
                raise ValueError(f"syntax error after '}}' in \"{text}\"")
            return text[1:at].strip()
    raise ValueError(f"missing '}}' in \"{text}\"")


def before_comment(text: str) -> tuple[tuple[str, ...], str]:
    """The same up to the first item that begins with #, where Postfix ends a list; and what it says of that, or ""."""
    words = to_list(text)
    end = 0
    for at, word in enumerate(words):
        end = text.index(word, end) + len(word)
        if word.startswith("#"):
            return words[:at], f"#comment after other text is not allowed: {word} {text[end + 1 : end + 21]}..."
    return words, ""


def time_unit(default: str) -> str:
    """The unit of values that name none: the last letter of the parameter's default, "s" where it has none."""
    return default[-1:] if default[-1:] in _SECONDS else "s"
