"""A message as a certain server takes it: is it too big, does it need SMTPUTF8, are lines to be broken.

Called by deliver/delivery.py for each transaction that is not plain. Content is in wire form: lines end with CRLF,
dots are doubled. Content is not converted for servers without 8BITMIME: it goes out as it is, as Postfix does with
disable_mime_output_conversion = yes. Raises nothing.

RFC 5321 section 4.5.3.1.6 (line length), RFC 6531 (SMTPUTF8); smtp_line_length_limit in postconf(5).
"""

from __future__ import annotations

from fastmta.model.envelope import CONTENT_HEADER_8BIT, Envelope


def needs_smtputf8(envelope: Envelope, recipients: list[int]) -> bool:
    """Whether a message cannot do without SMTPUTF8: its sender asked for it, and it is used."""
    if not envelope.smtputf8:
        return False
    if envelope.content_flags & CONTENT_HEADER_8BIT or not envelope.sender.isascii():
        return True
    return any(not envelope.recipients[index].address.isascii() for index in recipients)


def fold_long_lines(content: list[bytes], limit: int) -> list[bytes]:
    """Break lines of more than limit bytes with CRLF and a space, as Postfix does; the dot that doubles another does
    not count.

    Returns the same list where no line is too long.
    """
    lines = b"".join(content).split(b"\r\n")
    folded = False
    for number, line in enumerate(lines):
        room = limit + 1 if line.startswith(b"..") else limit
        if len(line) > room:
            folded = True
            pieces = [line[:room]]
            pieces += [b" " + line[at : at + limit - 1] for at in range(room, len(line), limit - 1)]
            lines[number] = b"\r\n".join(pieces)
    return [b"\r\n".join(lines)] if folded else content
