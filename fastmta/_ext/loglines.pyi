def format_tv(seconds: float, sig_dig: int = 2, max_dig: int = 6) -> str: ...
def client(queue_id: str, client: str) -> str: ...
def message_id(queue_id: str, value: str) -> str: ...
def queue_active(queue_id: str, sender: str, size: int, nrcpt: int) -> str: ...
def removed(queue_id: str) -> str: ...
def delivery(
    queue_id: str,
    to: str,
    orig_to: str,
    relay: str,
    conn_use: int,
    before: float,
    queued: float,
    setup: float,
    transfer: float,
    dsn: str,
    status: str,
    text: str,
    resolution: int = 2,
) -> str: ...
