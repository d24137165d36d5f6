class HeaderScan:
    size: int
    octets: int
    header_end: int
    flags: int
    hops: int
    seen: int
    repairs: int
    message_id: str | None
    resent_message_id: str | None
    more_ids: list[tuple[bool, str]] | None
    def scan(self, content: list[bytes], line_limit: int) -> None: ...

def header_name_length(line: bytes) -> int: ...
