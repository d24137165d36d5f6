"""The SMTP and LMTP client as a machine without I/O: reply bytes in, command bytes and events out.

deliver/connection.py drives it: it hands in what the network brought (`feed`), a `write` for what is to be sent, and
a handler whose methods are the events. The machine knows no socket, clock, log or policy; whether a reply means "try
another host" is decided in deliver/.

One connection:

    start -> greeting -> EHLO (else HELO; LMTP: LHLO) -> handler.greeted(): answers with starttls() or ready()
    submit(envelope, recipients, content) -> MAIL, RCPT .., DATA (one write where PIPELINING is offered)
        -> content, "." -> handler.transaction_done(transaction), from where the next submit() may be called
    quit(), or no more calls

A transaction without any accepted recipient ends with RSET (or with a lone "." where DATA was accepted, RFC 2920
section 3.1). With LMTP each accepted recipient has its own reply after "." (RFC 2033 section 4.2). Events of the
handler:

    greeted()                  EHLO or HELO was accepted; features and peer_name are known
    refused(reply)             greeting or HELO was not: the session is over
    starttls_reply(reply)      reply to STARTTLS; 2xx: the handler starts TLS, then calls tls_started(write)
    transaction_done(tx)       tx.reply (all recipients alike) or tx.replies (one each) is final
    content_due()              (with prefetch) content goes out next: submit() may be called for the transaction to come
    send_body(chunks, end)     content that is too big for one buffer: to be sent, in order, with `end` behind it
    garbage(text)              a line that is no reply (it is skipped)
    too_long(text)             a reply line longer than the limit (its rest is skipped)
    bad_size(text)             a SIZE limit that is no number
    quit_done()                reply to QUIT
    unexpected()               input while nothing was asked: the connection is of no use any more

`submit` raises ValueError for an address that cannot be sent. Nothing else is raised but what the handler raises.

Sources: RFC 5321 (4.2 replies, 4.5.3), RFC 1870 (SIZE), RFC 2033 (LMTP), RFC 2034 (enhanced codes), RFC 2920
(PIPELINING), RFC 3207 (STARTTLS), RFC 3461 (DSN), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), Postfix smtp(8).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy


# Features that the server offered
FEATURE_ESMTP = 1
FEATURE_PIPELINING = 2
FEATURE_SIZE = 4
FEATURE_8BITMIME = 8
FEATURE_SMTPUTF8 = 16
FEATURE_DSN = 32
FEATURE_STARTTLS = 64
cdef enum:
    F_ESMTP = 1
    F_PIPELINING = 2
    F_SIZE = 4
    F_8BITMIME = 8
    F_SMTPUTF8 = 16
    F_DSN = 32
    F_STARTTLS = 64

STATE_NEW = S_NEW
STATE_GREETING = S_GREETING
STATE_EHLO = S_EHLO
STATE_HELO = S_HELO
STATE_STARTTLS = S_STARTTLS
STATE_TLS = S_TLS
STATE_IDLE = S_IDLE
STATE_RSET = S_RSET
STATE_MAIL = S_MAIL
STATE_RCPT = S_RCPT
STATE_DATA = S_DATA
STATE_DOT = S_DOT
STATE_QUIT = S_QUIT
STATE_CLOSED = S_CLOSED

# Content up to this size goes out in one buffer with its final dot; more is left to the handler.
cdef enum:
    ONE_BUFFER = 65536
    # A line may come with so many CRs (and whatever else is too much) before it is cut without waiting for its end.
    SLACK = 64

# 1: may not stand unquoted in a local part (Postfix: is_821_dot_string), 2: must be quoted in xtext, RFC 3461 section 4
cdef unsigned char SPECIAL[256]
cdef int _c
for _c in range(256):
    SPECIAL[_c] = 0
    if _c <= 32 or _c == 127 or _c in b'<>()[]\\,;:@"':
        SPECIAL[_c] |= 1
    if _c <= 32 or _c >= 127 or _c in b"+=":
        SPECIAL[_c] |= 2

cdef const char* HEX = "0123456789ABCDEF"


cdef class Reply:
    """One reply: its code, its enhanced code (or X.0.0), its text on one line, and the command (STATE_*) it answers."""

    def __init__(self, int code, int stage, str dsn, str text):
        self.code = code
        self.stage = stage
        self.dsn = dsn
        self.text = text

    def __repr__(self):
        return f"Reply({self.code}, {self.stage}, {self.dsn!r}, {self.text!r})"


cdef class Transaction:
    """One message to some of its recipients over one connection, and what the server said.

    recipients are indexes into envelope.recipients. When the transaction is done, either `reply` is the reply for all
    of them, or `replies` has one for each (None: the connection was lost before its reply). A recipient is delivered
    when its reply has stage STATE_DOT and a 2xx code.
    """

    def __cinit__(self):
        self.total = self.received = self.accepted = self.finished = 0
        self.dead = False

    cdef set_reply(self, int index, Reply reply):
        """The reply of one recipient."""
        if self.replies is None:
            self.replies = [None] * self.total
        self.replies[index] = reply

    cdef set_rest(self, Reply reply):
        """The reply of all recipients that have none yet."""
        cdef int i
        if self.replies is None:
            self.reply = reply
        else:
            for i in range(self.total):
                if self.replies[i] is None:
                    self.replies[i] = reply


cdef class SmtpClient:
    """One connection's machine. helo_name is ASCII; discard is a sum of FEATURE_* to ignore in the EHLO reply;
    always_ehlo: 1 = always, 0 = if the greeting has "ESMTP", -1 = never; line_limit bounds reply lines and what is
    kept of a multi-line reply, in bytes; prefetch: ask for the next transaction before content goes out.
    """

    def __cinit__(self):
        self.space = 1024
        self.buffer = <char*>malloc(self.space)
        if self.buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.buffer)

    def __init__(
        self, handler, bytes helo_name, *, bint lmtp=False, int discard=0, int always_ehlo=1,
        Py_ssize_t line_limit=2048, bint prefetch=False,
    ):
        self.handler = handler
        self.helo_name = helo_name
        self.lmtp = lmtp
        self.discard = discard
        self.always_ehlo = always_ehlo
        self.line_limit = line_limit
        self.prefetch = prefetch
        self.state = S_NEW
        self.peer_name = self.greeting_name = ""

    # What the owner asks for

    def start(self, write):
        """The connection is there: wait for the greeting. write(bytes) sends."""
        self.write = write
        self.state = S_GREETING

    def starttls(self):
        """Ask for TLS; to be called from greeted()."""
        self.state = S_STARTTLS
        self.write(b"STARTTLS\r\n")

    def tls_started(self, write):
        """TLS is up: say EHLO again. What was offered in the clear is forgotten (RFC 3207 section 4.2)."""
        self.write = write
        self.tail = None
        self.lines = None
        self.features = F_ESMTP
        self.size_limit = 0
        self.state = S_EHLO
        self.write((b"LHLO " if self.lmtp else b"EHLO ") + self.helo_name + b"\r\n")

    def ready(self):
        """No (more) TLS: transactions may begin."""
        self.state = S_IDLE
        self.pipelining = (self.features & F_PIPELINING) != 0

    def submit(self, envelope, list recipients, list content):
        """Begin a transaction; allowed when idle, in transaction_done(), and in content_due() (then its commands go
        out behind the content, and its replies follow that transaction's).
        """
        cdef Transaction tx = Transaction.__new__(Transaction)
        tx.envelope = envelope
        tx.recipients = recipients
        tx.content = content
        tx.total = <int>len(recipients)
        if self.state == S_IDLE:
            self.begin(tx)
            self.transaction = tx
            self.state = S_MAIL
            self.flush()
        elif self.state == S_RSET:
            if self.pipelining:
                self.begin(tx)
                self.flush()
            self.transaction = tx
        elif self.holding and self.upcoming is None:
            self.begin(tx)
            self.upcoming = tx
        else:
            raise RuntimeError("submit() is not possible in state %d" % self.state)
        return tx

    def quit(self):
        """Say QUIT; its reply is awaited or not, as the owner likes."""
        self.state = S_QUIT
        self.write(b"QUIT\r\n")

    def close(self):
        """The connection is gone: no more events."""
        self.state = S_CLOSED
        self.write = None
        self.tail = None
        self.lines = None
        self.transaction = None
        self.upcoming = None

    # Commands

    cdef int begin(self, Transaction tx) except -1:
        """Write the commands of a transaction into the buffer: all of them, or the first."""
        cdef Py_ssize_t before = self.filled
        cdef int i
        try:
            self.put_mail(tx)
            if self.pipelining:
                for i in range(tx.total):
                    self.put_rcpt(tx, i)
                self.put("DATA\r\n", 6)
        except ValueError:
            self.filled = before
            raise
        return 0

    cdef int put(self, const char* data, Py_ssize_t size) except -1:
        cdef char* bigger
        cdef Py_ssize_t space = self.space
        if self.filled + size > space:
            while self.filled + size > space:
                space *= 2
            bigger = <char*>realloc(self.buffer, space)
            if bigger == NULL:
                raise MemoryError
            self.buffer = bigger
            self.space = space
        memcpy(self.buffer + self.filled, data, size)
        self.filled += size
        return 0

    cdef int put_text(self, str text) except -1:
        cdef Py_ssize_t size
        cdef const char* data = PyUnicode_AsUTF8AndSize(text, &size)
        return self.put(data, size)

    cdef int put_number(self, unsigned long long number) except -1:
        cdef char digits[24]
        cdef int i = 24
        while True:
            i -= 1
            digits[i] = <char>(48 + number % 10)
            number //= 10
            if number == 0:
                break
        return self.put(digits + i, 24 - i)

    cdef int put_address(self, str address) except -1:
        """Write an address, its local part quoted where RFC 5321 wants that."""
        cdef Py_ssize_t size
        cdef const char* data = PyUnicode_AsUTF8AndSize(address, &size)
        cdef bytes quoted
        if is_plain(data, size):
            return self.put(data, size)
        quoted = quote_local_part(data, size)
        return self.put(PyBytes_AS_STRING(quoted), PyBytes_GET_SIZE(quoted))

    cdef int put_xtext(self, const char* text, Py_ssize_t size) except -1:
        """Write text as xtext (RFC 3461 section 4)."""
        cdef const unsigned char* data = <const unsigned char*>text
        cdef Py_ssize_t i
        cdef char code[3]
        for i in range(size):
            if SPECIAL[data[i]] & 2:
                break
        else:
            return self.put(text, size)
        code[0] = c'+'
        for i in range(size):
            if SPECIAL[data[i]] & 2:
                code[1] = HEX[data[i] >> 4]
                code[2] = HEX[data[i] & 15]
                self.put(code, 3)
            else:
                self.put(text + i, 1)
        return 0

    cdef int put_orcpt(self, Transaction tx, object recipient) except -1:
        """Write ORCPT=: what the client gave, else the recipient as it first was."""
        cdef str orcpt = recipient.dsn_orcpt
        cdef str address
        cdef Py_ssize_t size
        cdef const char* data
        cdef bytes quoted
        if orcpt:
            self.put(" ORCPT=", 7)
            if orcpt[:6].lower() == "utf-8;":
                return self.put_text(utf8_xtext(orcpt))
            data = PyUnicode_AsUTF8AndSize(orcpt, &size)
            return self.put_xtext(data, size)
        address = recipient.orig_to or recipient.address
        data = PyUnicode_AsUTF8AndSize(address, &size)
        if not is_plain(data, size):
            quoted = quote_local_part(data, size)
            if tx.envelope.smtputf8 and not address.isascii():
                return self.put_text(" ORCPT=utf-8;" + utf8_xtext(quoted.decode("utf-8", "replace")))
            data, size = PyBytes_AS_STRING(quoted), PyBytes_GET_SIZE(quoted)
        elif tx.envelope.smtputf8 and not address.isascii():
            return self.put_text(" ORCPT=utf-8;" + utf8_xtext(address))
        self.put(" ORCPT=rfc822;", 14)
        return self.put_xtext(data, size)

    cdef int put_mail(self, Transaction tx) except -1:
        cdef object envelope = tx.envelope
        cdef str body
        cdef const char* data
        cdef Py_ssize_t size
        cdef int ret
        self.put("MAIL FROM:<", 11)
        self.put_address(envelope.sender)
        self.put(">", 1)
        if self.features & F_SIZE:
            self.put(" SIZE=", 6)
            self.put_number(envelope.size)
        if self.features & F_8BITMIME:
            body = envelope.body
            if body == "8BITMIME" or envelope.content_flags & 1:
                self.put(" BODY=8BITMIME", 14)
            elif body == "7BIT":
                self.put(" BODY=7BIT", 10)
        if self.features & F_DSN:
            if envelope.dsn_envid:
                body = envelope.dsn_envid
                data = PyUnicode_AsUTF8AndSize(body, &size)
                self.put(" ENVID=", 7)
                self.put_xtext(data, size)
            ret = envelope.dsn_ret
            if ret == 1:
                self.put(" RET=FULL", 9)
            elif ret == 2:
                self.put(" RET=HDRS", 9)
        if self.features & F_SMTPUTF8 and envelope.smtputf8:
            self.put(" SMTPUTF8", 9)
        return self.put("\r\n", 2)

    cdef int put_rcpt(self, Transaction tx, int number) except -1:
        cdef object recipient = tx.envelope.recipients[tx.recipients[number]]
        cdef int notify
        cdef bint more = False
        self.put("RCPT TO:<", 9)
        self.put_address(recipient.address)
        self.put(">", 1)
        if self.features & F_DSN:
            self.put_orcpt(tx, recipient)
            notify = recipient.dsn_notify
            if notify:
                self.put(" NOTIFY=", 8)
                if notify & 1:
                    self.put("NEVER", 5)
                else:
                    if notify & 2:
                        self.put("SUCCESS", 7)
                        more = True
                    if notify & 4:
                        self.put(",FAILURE" if more else "FAILURE", 8 if more else 7)
                        more = True
                    if notify & 8:
                        self.put(",DELAY" if more else "DELAY", 6 if more else 5)
        return self.put("\r\n", 2)

    cdef int flush(self) except -1:
        self.write(PyBytes_FromStringAndSize(self.buffer, self.filled))
        self.filled = 0
        return 0

    cdef int send_data(self) except -1:
        self.state = S_DATA
        self.write(b"DATA\r\n")
        return 0

    cdef int send_content(self) except -1:
        """Content and final dot, and the commands of the transaction to come; a lone dot where no recipient was
        accepted.
        """
        cdef Transaction tx = self.transaction
        cdef Py_ssize_t total = 3
        cdef Py_ssize_t size
        cdef bytes chunk, whole
        cdef char* to
        self.state = S_DOT
        if tx.accepted == 0:
            self.write(b".\r\n")
            return 0
        self.put(".\r\n", 3)
        if self.prefetch and self.pipelining:
            self.holding = True
            try:
                self.handler.content_due()
            finally:
                self.holding = False
        total = self.filled
        for chunk in tx.content:
            total += PyBytes_GET_SIZE(chunk)
        if total - self.filled > ONE_BUFFER:
            whole = PyBytes_FromStringAndSize(self.buffer, self.filled)
            self.filled = 0
            self.handler.send_body(tx.content, whole)
            return 0
        whole = PyBytes_FromStringAndSize(NULL, total)
        to = PyBytes_AS_STRING(whole)
        for chunk in tx.content:
            size = PyBytes_GET_SIZE(chunk)
            memcpy(to, PyBytes_AS_STRING(chunk), size)
            to += size
        memcpy(to, self.buffer, self.filled)
        self.filled = 0
        self.write(whole)
        return 0

    # Replies

    def feed(self, bytes data not None):
        """Take what the server sent; each complete reply moves the machine on."""
        cdef const char* at
        cdef const char* end
        cdef const char* newline
        cdef Py_ssize_t size
        if self.tail is not None:
            data = self.tail + data
            self.tail = None
        at = PyBytes_AS_STRING(data)
        end = at + PyBytes_GET_SIZE(data)
        while at < end and self.state != S_CLOSED:
            newline = <const char*>memchr(at, c'\n', end - at)
            if newline == NULL:
                break
            if self.skipping:
                self.skipping = False
            else:
                size = newline - at
                if size <= self.line_limit + SLACK:
                    while size > 0 and at[size - 1] == c'\r':
                        size -= 1
                if size > self.line_limit:
                    size = self.line_limit
                    self.handler.too_long(printable(at, size))
                self.line(at, size)
                if self.state == S_TLS:
                    # Nothing that came in the clear may be taken for an answer under TLS (CVE-2011-0411).
                    return
            at = newline + 1
        if at < end and self.state != S_CLOSED and not self.skipping:
            if end - at > self.line_limit + SLACK:
                self.skipping = True
                self.handler.too_long(printable(at, self.line_limit))
                self.line(at, self.line_limit)
            else:
                self.tail = at[:end - at]

    cdef int line(self, const char* text, Py_ssize_t size) except -1:
        """One line: the last of a reply, or one before, or no reply at all."""
        cdef bint reply = (
            size >= 3 and 48 <= text[0] <= 57 and 48 <= text[1] <= 57 and 48 <= text[2] <= 57
            and (size == 3 or not 48 <= text[3] <= 57)
        )
        cdef int code
        if reply and (size == 3 or text[3] == c' '):
            code = (text[0] - 48) * 100 + (text[1] - 48) * 10 + (text[2] - 48)
            self.progress += 1
            self.on_reply(code, text, size)
            self.lines = None
            return 0
        if not reply or text[3] != c'-':
            if self.features & F_PIPELINING and not self.garbage:
                self.garbage = True
                self.handler.garbage(printable(text, size))
        if self.lines is None:
            self.lines = []
            self.lines_size = 0
        if self.lines_size < self.line_limit:
            self.lines.append(text[:size])
            self.lines_size += size + 1
        return 0

    cdef int on_reply(self, int code, const char* text, Py_ssize_t size) except -1:
        cdef int state = self.state
        cdef Transaction tx = self.transaction
        if state == S_MAIL:
            if code // 100 == 2:
                self.state = S_RCPT
                if not self.pipelining:
                    self.put_rcpt(tx, 0)
                    self.flush()
            else:
                tx.dead = True
                tx.set_rest(self.reply(code, S_MAIL, text, size))
                if self.pipelining:
                    self.state = S_RCPT
                else:
                    self.abort_transaction()
        elif state == S_RCPT:
            self.on_rcpt_reply(code, text, size)
        elif state == S_DATA:
            self.on_data_reply(code, text, size)
        elif state == S_DOT:
            self.on_dot_reply(code, text, size)
        elif state == S_RSET:
            if code // 100 != 2:
                self.handler.unexpected()
            elif tx is not None:
                self.state = S_MAIL
                if not self.pipelining:
                    self.begin(tx)
                    self.flush()
            else:
                self.state = S_IDLE
        elif state == S_IDLE:
            self.handler.unexpected()
        elif state == S_QUIT:
            self.handler.quit_done()
        elif state < S_IDLE:
            self.on_handshake_reply(code, text, size)
        return 0

    cdef int on_handshake_reply(self, int code, const char* text, Py_ssize_t size) except -1:
        cdef int state = self.state
        cdef bint esmtp
        cdef Reply reply
        if state == S_GREETING:
            reply = self.reply(code, S_GREETING, text, size)
            if code // 100 != 2:
                self.handler.refused(reply)
                return 0
            words = reply.text[4:].split()
            self.greeting_name = words[0] if words else ""
            esmtp = self.always_ehlo > 0 or (self.always_ehlo == 0 and "ESMTP" in [word.upper() for word in words])
            if self.lmtp or esmtp:
                self.state = S_EHLO
                self.write((b"LHLO " if self.lmtp else b"EHLO ") + self.helo_name + b"\r\n")
            else:
                self.state = S_HELO
                self.write(b"HELO " + self.helo_name + b"\r\n")
        elif state == S_EHLO:
            if code // 100 == 2:
                self.parse_features(text, size)
                self.handler.greeted()
            elif code == 421 or self.lmtp:
                self.handler.refused(self.reply(code, S_EHLO, text, size))
            else:
                self.state = S_HELO
                self.write(b"HELO " + self.helo_name + b"\r\n")
        elif state == S_HELO:
            if code // 100 == 2:
                self.features = 0
                self.handler.greeted()
            else:
                self.handler.refused(self.reply(code, S_HELO, text, size))
        elif state == S_STARTTLS:
            if code // 100 == 2:
                self.state = S_TLS
            self.handler.starttls_reply(self.reply(code, S_STARTTLS, text, size))
        return 0

    cdef int on_rcpt_reply(self, int code, const char* text, Py_ssize_t size) except -1:
        cdef Transaction tx = self.transaction
        if not tx.dead:
            if code // 100 == 2:
                tx.accepted += 1
            else:
                tx.set_reply(tx.received, self.reply(code, S_RCPT, text, size))
        tx.received += 1
        if tx.received < tx.total:
            if not self.pipelining:
                self.put_rcpt(tx, tx.received)
                self.flush()
        elif self.pipelining:
            self.state = S_DATA
        elif tx.accepted > 0:
            self.send_data()
        else:
            self.abort_transaction()
        return 0

    cdef int on_data_reply(self, int code, const char* text, Py_ssize_t size) except -1:
        cdef Transaction tx = self.transaction
        if code // 100 == 3:
            self.send_content()
        else:
            if tx.accepted > 0:
                tx.set_rest(self.reply(code, S_DATA, text, size))
            self.abort_transaction()
        return 0

    cdef int on_dot_reply(self, int code, const char* text, Py_ssize_t size) except -1:
        cdef Transaction tx = self.transaction
        cdef Reply reply
        if tx.accepted == 0:
            return self.complete(S_IDLE)
        reply = self.reply(code, S_DOT, text, size)
        if not self.lmtp or tx.total == 1:
            tx.set_rest(reply)
            return self.complete(S_IDLE)
        if tx.replies is None:
            tx.replies = [None] * tx.total
        while tx.replies[tx.finished] is not None:
            tx.finished += 1
        tx.replies[tx.finished] = reply
        tx.accepted -= 1
        if tx.accepted == 0:
            return self.complete(S_IDLE)
        return 0

    cdef int abort_transaction(self) except -1:
        """No recipient is left: RSET, and report."""
        self.write(b"RSET\r\n")
        return self.complete(S_RSET)

    cdef int complete(self, int state) except -1:
        """Report the transaction; go on with the one that was sent behind it, if any."""
        cdef Transaction tx = self.transaction
        self.transaction = self.upcoming
        if self.upcoming is not None:
            self.upcoming = None
            state = S_MAIL
        self.state = state
        self.handler.transaction_done(tx)
        return 0

    cdef Reply reply(self, int code, int stage, const char* text, Py_ssize_t size):
        """Make a Reply of the lines so far and this last one. An enhanced code counts only where its class fits."""
        cdef Reply result = Reply.__new__(Reply)
        cdef Py_ssize_t start, end
        cdef bytes line
        result.code = code
        result.stage = stage
        result.dsn = None
        if size and (text[0] == c'2' or text[0] == c'4' or text[0] == c'5'):
            start = 4
            while start < size and text[start] == c' ':
                start += 1
            end = dsn_end(text, start, size)
            if end and text[start] == text[0]:
                result.dsn = PyUnicode_DecodeASCII(text + start, end - start, NULL)
            else:
                result.dsn = PyUnicode_DecodeASCII(text, 1, NULL) + ".0.0"
        else:
            result.dsn = "5.5.0"
        if self.lines is None:
            result.text = printable(text, size)
        else:
            if self.lines_size < self.line_limit:
                self.lines.append(text[:size])
            result.text = " ".join([printable(line, len(line)) for line in self.lines])
        return result

    cdef int parse_features(self, const char* text, Py_ssize_t size) except -1:
        """Read the EHLO reply. "250-AUTH=LOGIN" counts as "250-AUTH LOGIN"."""
        cdef list lines = list(self.lines) if self.lines is not None else []
        cdef list words
        cdef str word
        lines.append(text[:size])
        self.features = F_ESMTP
        self.size_limit = 0
        for number, line in enumerate(lines):
            words = printable(line, len(line))[4:].replace("=", " ").split()
            if not words:
                continue
            if number == 0:
                self.peer_name = words[0]
                continue
            word = words[0].upper()
            if word == "PIPELINING":
                self.features |= F_PIPELINING
            elif word == "8BITMIME":
                self.features |= F_8BITMIME
            elif word == "SMTPUTF8":
                self.features |= F_SMTPUTF8
            elif word == "DSN":
                self.features |= F_DSN
            elif word == "STARTTLS":
                self.features |= F_STARTTLS
            elif word == "SIZE" and not self.discard & F_SIZE:
                self.features |= F_SIZE
                if len(words) > 1:
                    if words[1].isascii() and words[1].isdigit() and len(words[1]) < 19:
                        self.size_limit = int(words[1])
                    else:
                        self.handler.bad_size(words[1])
        self.features &= ~self.discard
        return 0


cdef Py_ssize_t local_part(const char* data, Py_ssize_t size) noexcept:
    """The length of the local part: up to the last "@"."""
    cdef Py_ssize_t i
    for i in range(size - 1, -1, -1):
        if data[i] == c'@':
            return i
    return size


cdef bint is_plain(const char* data, Py_ssize_t size) except -1:
    """Can the address go out as it is? Raises ValueError for what must not go out at all."""
    cdef Py_ssize_t local = local_part(data, size)
    cdef Py_ssize_t i
    for i in range(local, size):
        if <unsigned char>data[i] < 32:
            raise ValueError("control character in a domain")
    if size == 0:
        return True
    if local == 0 or data[0] == c'.' or data[local - 1] == c'.':
        return False
    for i in range(local):
        if SPECIAL[<unsigned char>data[i]] & 1 or (data[i] == c'.' and data[i + 1] == c'.'):
            return False
    return True


cdef bytes quote_local_part(const char* data, Py_ssize_t size):
    """Quote the local part of an address. Raises ValueError for what cannot be quoted: line breaks and NUL."""
    cdef Py_ssize_t local = local_part(data, size)
    cdef bytes inside = data[:local]
    if b"\r" in inside or b"\n" in inside or b"\0" in inside:
        raise ValueError("line break or NUL in a local part")
    return b'"' + inside.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"' + data[local:size]


cdef Py_ssize_t dsn_end(const char* text, Py_ssize_t start, Py_ssize_t size):
    """The end of an enhanced code ("2.1.5") at start, or 0: one digit, then up to three, then up to three."""
    cdef Py_ssize_t i = start
    cdef int _part, digits
    if i >= size or not (text[i] == c'2' or text[i] == c'4' or text[i] == c'5'):
        return 0
    i += 1
    for _part in range(2):
        if i >= size or text[i] != c'.':
            return 0
        i += 1
        digits = 0
        while i < size and 48 <= text[i] <= 57 and digits < 4:
            i += 1
            digits += 1
        if digits == 0 or digits > 3:
            return 0
    if i < size and text[i] != c' ' and text[i] != c'\t':
        return 0
    return i


cdef str printable(const char* text, Py_ssize_t size):
    """Decode text; what cannot be printed becomes "?" (valid UTF-8 may stay)."""
    cdef Py_ssize_t i
    cdef str decoded
    for i in range(size):
        if not 32 <= <unsigned char>text[i] < 127:
            break
    else:
        return PyUnicode_DecodeASCII(text, size, NULL)
    decoded = text[:size].decode("utf-8", "replace")
    return "".join(["?" if char == "\ufffd" or char < " " or "\x7f" <= char <= "\x9f" else char for char in decoded])


cdef str utf8_xtext(str text):
    """text as a utf-8-addr-unitext (RFC 6533 section 3): specials as \\x{HEX}, the rest as it is."""
    return "".join([f"\\x{{{ord(char):02X}}}" if char <= " " or char in "+=\\\x7f" else char for char in text])
