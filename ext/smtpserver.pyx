"""The SMTP server machine: bytes in; bytes and hook calls out. No socket, clock, log or configuration inside.

smtpd/protocol.py feeds it, smtpd/session.py is its handler. One object per session; what is not finished of the input
(part of a line, or what came while an answer is awaited) is kept here, everything else is parsed where it was read to.

Hooks of the handler answer at once with a reply (bytes with CRLF, several lines allowed), or return None: then nothing
more is parsed until resume(reply). A reply that begins with 2 or 3 is success. In the order of a session:

    helo(name, esmtp)   mail(sender, size, body, smtputf8, dsn_ret, dsn_envid)   rcpt(address, dsn_orcpt, dsn_notify)
    data()              end_of_data(content, size, records, flags, chunked)      vrfy(address, said)
    etrn(domain)        starttls()
    reset(): the transaction is over without end_of_data     notice(kind, text): something to be logged

data() is called only with Limits.ask_data. chunked is the number of bytes that came by BDAT, or -1.

After each call: `attention` says what the driver must do beside writing the output: CLOSE the connection, SLEEP for
error_sleep_time and then call wake(), TLS: make the handshake and then call tls_started().

Replies and their order are those of Postfix's smtpd(8), held against a live one by tests/dialogue. RFC 5321, RFC 1870
(SIZE), RFC 2034, RFC 2920 (PIPELINING), RFC 3030 (CHUNKING), RFC 3207 (STARTTLS), RFC 3461 (DSN), RFC 6152, RFC 6531.
No exception but MemoryError and what a hook raises."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memchr

from fastmta._ext.smtpcommands cimport (
    C_AUTH, C_BDAT, C_DATA, C_EHLO, C_ETRN, C_HELO, C_HELP, C_MAIL, C_MANY, C_NONE, C_NOOP, C_QUIT, C_RCPT, C_RSET,
    C_STARTTLS, C_UNKNOWN, C_VRFY, F_LAST, F_LIMIT, F_PRE_TLS, FLAGS, NAMES, find_command,
)
from fastmta._ext.smtpcontent cimport LF_REJECT, ContentReader
from fastmta._ext.smtpparams cimport Parameters
from fastmta._ext.smtpsession cimport HeldInput, Limits, ReadBuffer
from fastmta._ext.smtpsyntax cimport is_header, is_letter, is_space, is_utf8, plain_path, text_of, tokenize, word_in

from fastmta._ext.smtpsyntax import valid_hostname


cdef extern from "smtpscan.h" nogil:
    int fm_has_8bit(const unsigned char *p, size_t n)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *a, const char *b, size_t n)

# attention
CLOSE = 1
SLEEP = 2
TLS = 4


# notice(kind, text)
NOTICE_ADDRESS = 1  # illegal address syntax; text: what the client said
NOTICE_PIPELINING = 2  # text: the input that came too early
NOTICE_LONG_LINE = 3  # text: how the command line begins
NOTICE_NOT_SMTP = 4  # text: the line
NOTICE_BARE_LF = 5
NOTICE_SIZE = 6  # the content is over message_size_limit
NOTICE_BDAT_SYNTAX = 7  # text: the line
NOTICE_BDAT_NULL = 8
NOTICE_BDAT_SIZE = 9
NOTICE_NOTIFY = 10  # text: the bad word, NUL, the whole value


cdef bytes OK = b"250 2.0.0 Ok\r\n"
cdef bytes GO_AHEAD = b"354 End data with <CR><LF>.<CR><LF>\r\n"
cdef bytes NEED_HELO = b"503 5.5.1 Error: send HELO/EHLO first\r\n"
cdef bytes NOT_IMPLEMENTED = b"502 5.5.1 Error: command not implemented\r\n"
cdef bytes NEED_RCPT = b"503 5.5.1 Error: need RCPT command\r\n"
cdef bytes NO_VALID_RCPT = b"554 5.5.1 Error: no valid recipients\r\n"
cdef bytes TOO_MANY_RCPT = b"452 4.5.3 Error: too many recipients\r\n"
cdef bytes UNSYNCHRONIZED = b"554 5.5.0 Error: SMTP protocol synchronization\r\n"
cdef bytes HELP = (
    b"214-2.0.0 Commands:\r\n214-2.0.0 HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT HELP STARTTLS\r\n"
    b"214 2.0.0 End of HELP info\r\n"
)
cdef bytes NEED_SMTPUTF8 = b"553 5.6.7 Must declare SMTPUTF8 to send unicode address\r\n"
cdef bytes BAD_SENDER = b"501 5.1.7 Bad sender address syntax\r\n"
cdef bytes BAD_RECIPIENT = b"501 5.1.3 Bad recipient address syntax\r\n"


cdef class SmtpServer(HeldInput):
    """One session."""

    def __cinit__(self, handler, Limits limits, int bare_lf=1):
        self.handler = handler
        self.limits = limits
        self.bare_lf = bare_lf
        self.content = ContentReader(limits.line_length_limit, limits.message_size_limit, limits.replace_stray_cr_lf)
        self.waiting = self.where_command = C_NONE

    # ---------------------------------------------------------------- calls from the driver

    def greet(self, bytes reply, bytes early=b""):
        """Begin with this greeting, unless the client spoke first (early, or what the machine holds)."""
        self.state = AT_COMMAND
        if self.held_used:
            early = self.held[:self.held_used]
        if early and self.limits.forbid_unauth_pipelining and reply.startswith(b"2"):
            self.improper(early, len(early))
        else:
            self.denied = not reply.startswith(b"2")
            self.reply(reply)
        self.go_on()
        return self.collect()

    def feed(self, ReadBuffer buffer, Py_ssize_t n):
        """n bytes were read. Returns output, or None."""
        self.take(buffer.data, n)
        return self.collect()

    def feed_bytes(self, bytes data):
        """The same."""
        self.take(data, len(data))
        return self.collect()

    def resume(self, bytes reply):
        """The answer that a hook owed. Returns output, or None."""
        cdef int command = self.waiting
        self.waiting = C_NONE
        if command != C_NONE and self.state != AT_END:
            self.finish(command, reply)
            self.go_on()
        return self.collect()

    def wake(self):
        """The sleep is over. Returns output, or None."""
        self.attention &= ~A_SLEEP
        if self.delayed is not None:
            self.output = self.delayed if self.output is None else self.output + self.delayed
            self.delayed = None
        self.go_on()
        return self.collect()

    def tls_started(self):
        """The handshake is done: the session begins anew."""
        self.attention &= ~A_TLS
        self.reset()
        self.secure = True
        self.helo_seen = self.esmtp = False
        self.held_used = 0
        self.state = AT_COMMAND

    def hang_up(self, bytes reply=None):
        """Say this, if anything, and close."""
        if reply is not None and self.state != AT_END:
            self.output = reply if self.output is None else self.output + reply
        self.close()
        return self.collect()

    @property
    def awaited(self):
        """Is an answer owed, or a sleep going on?"""
        return not self.idle()

    @property
    def greeted(self):
        """Was greet() called?"""
        return self.state != AT_START

    @property
    def saw_bare_lf(self):
        """For LF_NOTE: did a line end without CR?"""
        return self.noted_bare_lf or self.content.saw_bare_lf

    @property
    def backlog(self):
        """How many bytes of input are kept."""
        return self.held_used

    def where(self):
        """For the log: the last command in capitals, and the number of bytes inside content, else -1."""
        if self.after_message:
            return "END-OF-MESSAGE", -1
        if self.where_command == C_NONE:
            return "CONNECT", -1
        if self.inside or self.state == AT_DATA or self.state == AT_CHUNK:
            return NAMES[self.where_command].upper(), self.content.size
        return NAMES[self.where_command].upper(), -1

    def counters(self):
        """(command, succeeded, all) in Postfix's order, those that came."""
        cdef int i
        return [(NAMES[i], self.good[i], self.total[i]) for i in range(C_MANY) if self.total[i]]

    # ---------------------------------------------------------------- input

    cdef int take(self, const unsigned char *p, Py_ssize_t n) except -1:
        """Work through what was held and what came."""
        cdef Py_ssize_t part, used
        cdef const unsigned char *lf
        if self.state == AT_END or self.state == AT_TLS:
            return 0
        while n > 0 and self.held_used and self.idle():
            lf = <const unsigned char *> memchr(p, b"\n", n)
            part = n if lf == NULL else lf - p + 1
            if part > 4096:
                part = 4096
            self.hold(p, part)
            p += part
            n -= part
            self.behind = n
            self.drop_held(self.run(self.held, self.held_used))
        self.behind = 0
        if n > 0:
            if not self.held_used and self.idle():
                used = self.run(p, n)
                p += used
                n -= used
            if n > 0:
                self.hold(p, n)
        if self.state == AT_END or self.state == AT_TLS or not self.held_used:
            self.forget()
        return 0

    cdef int go_on(self) except -1:
        """Work through what was held."""
        if self.held_used and self.idle():
            self.drop_held(self.run(self.held, self.held_used))
        if self.state == AT_END or self.state == AT_TLS or not self.held_used:
            self.forget()
        return 0

    cdef bint idle(self) noexcept:
        return self.waiting == C_NONE and self.attention == 0 and self.state != AT_START

    cdef Py_ssize_t run(self, const unsigned char *p, Py_ssize_t n) except -1:
        """Parse until an answer is awaited or more input is needed; returns how many bytes are done with."""
        cdef Py_ssize_t used = 0
        cdef Py_ssize_t part
        while used < n and self.idle():
            if self.state == AT_COMMAND:
                part = self.run_line(p + used, n - used)
                if part == 0:
                    break
                used += part
            elif self.state == AT_DATA:
                used += self.content.read(p + used, n - used)
                if self.content.done:
                    self.after_message = True
                    self.end_of_content()
            elif self.state == AT_CHUNK:
                part = n - used if n - used < self.chunk_left else self.chunk_left
                if not self.chunk_failed:
                    self.content.read(p + used, part)
                used += part
                self.chunk_left -= part
                if self.chunk_left == 0:
                    self.chunk_done()
            else:
                return n
        return used

    cdef Py_ssize_t run_line(self, const unsigned char *p, Py_ssize_t n) except -1:
        """One command line, if it is there as a whole; returns its length. Of a line that is too long, only
        line_length_limit bytes count.
        """
        cdef Py_ssize_t limit = self.limits.line_length_limit
        cdef const unsigned char *lf = <const unsigned char *> memchr(p, b"\n", n)
        cdef Py_ssize_t length = n if lf == NULL else lf - p + 1
        cdef bytes cut
        if self.cut is None:
            if lf == NULL and n <= limit:
                return 0
            if length <= limit or (length == limit + 1 and lf != NULL and p[limit - 1] == b"\r"):
                self.behind += n - length
                self.line(p, length - 1, True, p + length, n - length)
                self.behind -= n - length
                return length
            self.cut = PyBytes_FromStringAndSize(<const char *> p, limit)
        if lf != NULL:
            cut = self.cut
            self.cut = None
            self.handler.notice(N_LONG_LINE, cut[:30])
            self.behind += n - length
            self.line(cut, limit, False, p + length, n - length)
            self.behind -= n - length
        return length

    cdef int line(
        self, const unsigned char *p, Py_ssize_t n, bint ended, const unsigned char *after, Py_ssize_t rest
    ) except -1:
        """One command line of n bytes without its LF; ended: it had one. after: what input there is behind it."""
        cdef bint bare = ended and (n == 0 or p[n - 1] != b"\r")
        cdef const unsigned char *nul
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t stop
        cdef int command
        cdef int flags
        self.after_message = False
        if bare and self.bare_lf & LF_REJECT:
            self.reply(self.bare_newline(self.where()[0].encode()))
            return self.close()
        if bare and self.bare_lf:
            self.noted_bare_lf = True
        if ended and not bare:
            n -= 1
        if self.limits.smtputf8_enable and fm_has_8bit(p, n) and not is_utf8(p, n):
            self.reply(b"500 5.5.2 Error: bad UTF-8 syntax\r\n")
            self.errors += 1
            return self.check_errors()
        nul = <const unsigned char *> memchr(p, 0, n)
        if nul != NULL:
            n = nul - p
        while n > 0 and is_space(p[n - 1]):
            n -= 1
        while start < n and is_space(p[start]):
            start += 1
        if start == n:
            self.reply(b"500 5.5.2 Error: bad syntax\r\n")
            self.errors += 1
            return self.check_errors()
        p += start
        n -= start
        stop = 0
        while stop < n and not is_space(p[stop]):
            stop += 1
        command = find_command(p, stop)
        if self.limits.noop_commands and word_in(p, stop, self.limits.noop_commands):
            self.reply(OK)
            self.count_junk()
            return self.check_errors()
        self.where_command = command
        self.total[command] += 1
        if self.denied and command != C_QUIT and not (command == C_UNKNOWN and self.is_not_smtp(p, stop)):
            self.reply(b"503 5.7.0 Error: access denied for %s\r\n" % self.handler.client.encode())
            self.errors += 1
            return self.check_errors()
        if command == C_UNKNOWN:
            return self.unknown(p, n, stop)
        flags = FLAGS[command]
        if self.behind and (flags & F_LAST or not self.esmtp) and not self.improper_pipelining:
            self.improper(after, rest)
            if self.limits.forbid_unauth_pipelining:
                return 0
        if self.limits.require_tls and not self.secure and not flags & F_PRE_TLS:
            self.reply(b"530 5.7.0 Must issue a STARTTLS command first\r\n")
            self.errors += 1
            return self.check_errors()
        return self.dispatch(command, p, n, bare)

    cdef int improper(self, const unsigned char *after, Py_ssize_t rest) except -1:
        """The client did not wait for its turn."""
        self.improper_pipelining = True
        self.handler.notice(N_PIPELINING, after[:rest if rest < 100 else 100])
        if self.limits.forbid_unauth_pipelining:
            self.reply(UNSYNCHRONIZED)
            self.close()
        return 0

    cdef bint is_not_smtp(self, const unsigned char *p, Py_ssize_t stop):
        """A header field, a word of smtpd_forbidden_commands, or what is no word at all."""
        return (
            is_header(p, stop)
            or (self.limits.forbid_non_letters and not is_letter(p[0]))
            or word_in(p, stop, self.limits.forbidden_commands)
        )

    cdef int unknown(self, const unsigned char *p, Py_ssize_t n, Py_ssize_t stop) except -1:
        """No command of ours, or no SMTP at all."""
        if self.is_not_smtp(p, stop):
            self.handler.notice(N_NOT_SMTP, p[:n if n < 100 else 100])
            self.reply(b"221 2.7.0 Error: I can break rules, too. Goodbye.\r\n")
            return self.close()
        self.reply(b"500 5.5.2 Error: command not recognized\r\n")
        self.errors += 1
        return self.check_errors()

    # ---------------------------------------------------------------- commands

    cdef int dispatch(self, int command, const unsigned char *p, Py_ssize_t n, bint bare) except -1:
        """To each its own; the line begins with the command and has no space at its end."""
        if command == C_MAIL:
            return self.mail(p, n)
        if command == C_RCPT:
            return self.rcpt(p, n)
        if command == C_DATA:
            return self.data(n == 4)
        if command == C_BDAT:
            return self.bdat(tokenize(p, n), p, n)
        if command == C_HELO or command == C_EHLO:
            return self.helo(command, tokenize(p, n))
        if command == C_RSET:
            if n != 4:
                return self.fail(command, b"501 5.5.4 Syntax: RSET\r\n")
            self.reset()
            return self.finish(command, OK)
        if command == C_NOOP:
            return self.finish(command, OK)
        if command == C_QUIT:
            self.finish(command, b"221 2.0.0 Bye\r\n")
            return self.close()
        if command == C_VRFY:
            return self.vrfy(tokenize(p, n))
        if command == C_HELP:
            return self.finish(command, HELP)
        if command == C_STARTTLS:
            return self.starttls(n == 8)
        if command == C_ETRN:
            return self.etrn(tokenize(p, n))
        if command == C_AUTH:
            if self.limits.helo_required and not self.helo_seen:
                return self.fail(command, NEED_HELO)
            return self.fail(command, b"503 5.5.1 Error: authentication not enabled\r\n")
        if self.in_mail:  # XCLIENT and XFORWARD: no client is authorized
            return self.fail(command, b"503 5.5.1 Error: MAIL transaction in progress\r\n")
        if len(tokenize(p, n)) < 2:
            return self.fail(command, b"501 5.5.4 Syntax: %s attribute=value...\r\n" % NAMES[command].upper().encode())
        return self.fail(command, b"550 5.7.0 Error: insufficient authorization\r\n")

    cdef int helo(self, int command, list words) except -1:
        """RFC 5321 section 4.1.1.1. A new EHLO ends a transaction, once it was accepted."""
        if len(words) < 2:
            return self.fail(command, b"501 Syntax: %s hostname\r\n" % NAMES[command].upper().encode())
        name = b" ".join([word for word, _ in words[1:]])
        return self.answer(command, self.handler.helo(text_of(name), command == C_EHLO))

    cdef int mail(self, const unsigned char *p, Py_ssize_t n) except -1:
        """RFC 5321 section 4.1.1.2, with SIZE, BODY, SMTPUTF8, RET and ENVID."""
        cdef list params = []
        cdef Parameters given = Parameters()
        cdef bytes wrong
        if self.limits.helo_required and not self.helo_seen:
            return self.fail(C_MAIL, NEED_HELO)
        if self.in_mail:
            return self.fail(C_MAIL, b"503 5.5.1 Error: nested MAIL command\r\n")
        if self.chunking:
            return self.fail(C_MAIL, b"503 5.5.1 Error: MAIL after BDAT\r\n")
        address = self.path(C_MAIL, p, n, params)
        if address is None:
            return 0
        wrong = given.read_mail(params, self.limits)
        if wrong is not None:
            return self.fail(C_MAIL, wrong)
        if address is False:
            address = self.read_path(C_MAIL, p, n, given.utf8)
            if address is None:
                return 0
        if not given.utf8 and self.limits.strict_smtputf8 and not (<str> address).isascii():
            return self.fail(C_MAIL, NEED_SMTPUTF8)
        self.utf8 = given.utf8
        return self.answer(C_MAIL, self.handler.mail(
            address, given.size, given.body, given.utf8, given.ret, given.envid))

    cdef int rcpt(self, const unsigned char *p, Py_ssize_t n) except -1:
        """RFC 5321 section 4.1.1.3, with NOTIFY and ORCPT."""
        cdef list params = []
        cdef Parameters given = Parameters()
        cdef bytes wrong
        if not self.in_mail:
            return self.fail(C_RCPT, b"503 5.5.1 Error: need MAIL command\r\n")
        if self.chunking:
            return self.fail(C_RCPT, b"503 5.5.1 Error: RCPT after BDAT\r\n")
        address = self.path(C_RCPT, p, n, params)
        if address is None:
            return 0
        wrong = given.read_rcpt(params, self.limits)
        if wrong is not None:
            if given.bad_notify is not None:
                self.handler.notice(N_NOTIFY, given.bad_notify)
            return self.fail(C_RCPT, wrong)
        if address is False:
            address = self.read_path(C_RCPT, p, n, self.utf8)
            if address is None:
                return 0
        if not self.utf8 and self.limits.strict_smtputf8 and not (<str> address).isascii():
            return self.fail(C_RCPT, NEED_SMTPUTF8)
        if self.limits.recipient_limit and self.recipients >= self.limits.recipient_limit:
            self.overshoot += 1
            if self.overshoot > self.limits.recipient_overshoot_limit:
                return self.fail(C_RCPT, TOO_MANY_RCPT)
            self.good[<int> C_RCPT] += 1
            self.reply(TOO_MANY_RCPT)
            return 0
        return self.answer(C_RCPT, self.handler.rcpt(address, given.orcpt, given.notify))

    cdef object path(self, int command, const unsigned char *p, Py_ssize_t n, list params):
        """The address and the parameters of MAIL or RCPT. Returns the address where it is plain, False where it must be
        read with care, None when a reply was given.
        """
        cdef const unsigned char *start
        cdef const unsigned char *close
        cdef Py_ssize_t skip = 11 if command == C_MAIL else 9
        cdef Py_ssize_t rest
        cdef list words
        if n > skip and strncasecmp(<const char *> p, "MAIL FROM:<" if command == C_MAIL else "RCPT TO:<", skip) == 0:
            start = p + skip
            if command == C_MAIL and start[0] == b">":
                close = start
            else:
                close = plain_path(start, p + n)
            if close != NULL and (close + 1 == p + n or close[1] == b" "):
                if close + 1 < p + n:
                    rest = p + n - close - 1
                    if memchr(close, b'"', rest) or memchr(close, b"\\", rest) or memchr(close, b"<", rest):
                        params.extend([word for word, _ in tokenize(close + 1, rest)])
                    else:
                        params.extend((close + 1)[:rest].split())
                return PyUnicode_DecodeASCII(<const char *> start, close - start, NULL)
        words = tokenize(p, n)
        if len(words) < 3 or words[1][0].lower() != (b"from:" if command == C_MAIL else b"to:"):
            self.fail(command, b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n" if command == C_MAIL
                      else b"501 5.5.4 Syntax: RCPT TO:<address>\r\n")
            return None
        if not words[2][1]:
            self.fail(command, BAD_SENDER if command == C_MAIL else BAD_RECIPIENT)
            return None
        params.extend([word for word, _ in words[3:]])
        return False

    cdef object read_path(self, int command, const unsigned char *p, Py_ssize_t n, bint utf8):
        """An address that is not plain. Returns it in internal form, or None when a reply was given."""
        cdef bytes token = tokenize(p, n)[2][0]
        address = self.limits.parse_mailbox(token, self.limits.strict_rfc821_envelopes, utf8)
        if address is None or (address == "" and command == C_RCPT):
            self.handler.notice(N_ADDRESS, token)
            self.fail(command, BAD_SENDER if command == C_MAIL else BAD_RECIPIENT)
            return None
        return address

    cdef int data(self, bint alone) except -1:
        """RFC 5321 section 4.1.1.4. Who pipelines may send DATA before knowing that no recipient was accepted."""
        if self.chunking:
            return self.fail(C_DATA, b"503 5.5.1 Error: DATA after BDAT\r\n")
        if self.recipients == 0:
            return self.fail(C_DATA, NO_VALID_RCPT if self.in_mail else NEED_RCPT)
        if not alone:
            return self.fail(C_DATA, b"501 5.5.4 Syntax: DATA\r\n")
        if self.limits.ask_data:
            return self.answer(C_DATA, self.handler.data())
        return self.finish(C_DATA, GO_AHEAD)

    cdef int bdat(self, list words, const unsigned char *p, Py_ssize_t n) except -1:
        """RFC 3030. Whatever is wrong, the chunk must be read."""
        cdef bint last = len(words) == 3
        cdef bytes count
        if not self.limits.offer_chunking:
            return self.fail(C_BDAT, b"521 5.5.1 Error: command not implemented\r\n")
        count = words[1][0] if len(words) > 1 else b""
        wrong = len(words) > 3 or (last and words[2][0].upper() != b"LAST")
        if wrong or not count.isdigit() or len(count.lstrip(b"0")) > 18:
            self.handler.notice(N_BDAT_SYNTAX, p[:n if n < 100 else 100])
            return self.fail(C_BDAT, b"521 5.5.4 Syntax: BDAT count [LAST]\r\n")
        self.chunk_size = self.chunk_left = int(count)
        self.chunk_last = last
        self.chunk_reply = None
        self.state = AT_CHUNK
        if self.chunk_size == 0 and not last:
            self.handler.notice(N_BDAT_NULL, b"")
            self.chunk_reply = b"551 5.7.1 Null BDAT request\r\n"
        elif self.chunk_failed:
            self.chunk_reply = b"551 5.0.0 Discarded %d bytes after earlier error\r\n" % self.chunk_size
        elif self.recipients == 0:
            self.chunk_reply = NO_VALID_RCPT if self.in_mail else NEED_RCPT
        elif 0 < self.limits.message_size_limit < self.chunk_size:
            self.handler.notice(N_BDAT_SIZE, b"")
            self.chunk_reply = b"552 5.3.4 Chunk exceeds message size limit\r\n"
        elif not self.chunking:
            self.content.begin(True, self.bare_lf)
            if self.limits.ask_data:
                self.chunking = True
                return self.answer(C_BDAT, self.handler.data())
        self.chunking = True
        if self.chunk_reply is not None:
            self.chunk_failed = True
        if self.chunk_left == 0:
            return self.chunk_done()
        return 0

    cdef int chunk_done(self) except -1:
        """A chunk was read."""
        cdef bytes reply = self.chunk_reply
        self.state = AT_COMMAND
        if self.chunk_failed:
            if reply is None:
                reply = b"551 5.0.0 Discarded %d bytes after earlier error\r\n" % self.chunk_size
        else:
            if self.chunk_last and not (self.content.saw_bare_lf and self.bare_lf & LF_REJECT):
                self.content.finish()
            reply = self.content_error()
            if reply is None and self.chunk_last:
                self.after_message = True
                return self.hand_over(C_BDAT, self.content.size)
            if reply is None:
                return self.finish(C_BDAT, b"250 2.0.0 Ok: %d bytes\r\n" % self.chunk_size)
            self.chunk_failed = True
        if self.chunk_last:
            self.reset()
        else:
            self.content.end()
        return self.fail(C_BDAT, reply)

    cdef int end_of_content(self) except -1:
        """The dot was read."""
        cdef bytes reply = self.content_error()
        self.state = AT_COMMAND
        if reply is None:
            return self.hand_over(C_DATA, -1)
        self.reset()
        return self.fail(C_DATA, reply)

    cdef bytes content_error(self):
        """What is wrong with the content that was read so far."""
        if self.content.saw_bare_lf and self.bare_lf & LF_REJECT:
            over = self.after_message or self.chunk_last
            return self.bare_newline(b"END-OF-MESSAGE" if over else b"BDAT content")
        if self.content.too_big:
            self.handler.notice(N_SIZE, b"")
            return b"552 5.3.4 Error: message file too big\r\n"
        return None

    cdef bytes bare_newline(self, bytes where):
        """The reply to a line that ended without CR, where that is not allowed."""
        self.handler.notice(N_BARE_LF, where)
        return b"%d 5.5.2 %s Error: bare <LF> received\r\n" % (
            self.limits.bare_newline_reject_code, self.limits.myhostname)

    cdef int hand_over(self, int command, long long chunked) except -1:
        """A whole message: the session keeps it, and answers."""
        cdef list chunks = self.content.take()
        self.noted_bare_lf |= self.content.saw_bare_lf
        self.recipients = self.overshoot = 0
        self.in_mail = self.chunking = False
        return self.answer(command, self.handler.end_of_data(
            chunks, self.content.size, self.content.records, self.content.flags, chunked))

    cdef int vrfy(self, list words) except -1:
        """RFC 5321 section 4.1.1.6. Postfix answers with what the client said."""
        cdef bint utf8 = False
        cdef bytes token
        if self.limits.disable_vrfy_command:
            return self.fail(C_VRFY, b"502 5.5.1 VRFY command is disabled\r\n")
        if len(words) < 2:
            return self.fail(C_VRFY, b"501 5.5.4 Syntax: VRFY address [SMTPUTF8]\r\n" if self.limits.smtputf8_enable
                             else b"501 5.5.4 Syntax: VRFY address\r\n")
        if len(words) > 2 and self.limits.smtputf8_enable and words[len(words) - 1][0].upper() == b"SMTPUTF8":
            utf8 = True
            words.pop()
        token = b" ".join([word for word, _ in words[1:]])
        address = self.limits.parse_mailbox(token, False, utf8)
        if not address:
            self.handler.notice(N_ADDRESS, token)
            return self.fail(C_VRFY, BAD_RECIPIENT)
        if self.limits.strict_smtputf8 and not utf8 and not (<str> address).isascii():
            return self.fail(C_VRFY, NEED_SMTPUTF8)
        return self.answer(C_VRFY, self.handler.vrfy(address, token))

    cdef int etrn(self, list words) except -1:
        """RFC 1985."""
        cdef bytes domain
        if self.limits.helo_required and not self.helo_seen:
            return self.fail(C_ETRN, b"503 Error: send HELO/EHLO first\r\n")
        if self.in_mail:
            return self.fail(C_ETRN, b"503 Error: MAIL transaction in progress\r\n")
        if len(words) != 2:
            return self.fail(C_ETRN, b"500 Syntax: ETRN domain\r\n")
        domain = words[1][0]
        if not domain[:1].isalnum():
            domain = domain[1:]
        if not valid_hostname(domain):
            return self.fail(C_ETRN, b"501 Error: invalid parameter syntax\r\n")
        return self.answer(C_ETRN, self.handler.etrn(text_of(domain)))

    cdef int starttls(self, bint alone) except -1:
        """RFC 3207. What came behind the command was not protected: it is dropped."""
        if not alone:
            return self.fail(C_STARTTLS, b"501 5.5.4 Syntax: STARTTLS\r\n")
        if self.secure:
            return self.fail(C_STARTTLS, b"554 5.5.1 Error: TLS already active\r\n")
        if not self.limits.offer_starttls:
            return self.fail(C_STARTTLS, NOT_IMPLEMENTED)
        return self.answer(C_STARTTLS, self.handler.starttls())

    # ---------------------------------------------------------------- answers

    cdef int answer(self, int command, object reply) except -1:
        """What a hook said: a reply, or None for later."""
        if reply is None:
            self.waiting = command
            return 0
        return self.finish(command, reply)

    cdef int finish(self, int command, bytes reply) except -1:
        """A command has its reply: what that changes."""
        cdef const unsigned char *text = reply
        cdef bint good = text[0] == b"2" or text[0] == b"3"
        if command == C_RCPT:
            if good:
                self.recipients += 1
        elif command == C_MAIL:
            self.in_mail = good
        elif command == C_DATA or command == C_BDAT:
            if self.in_mail:
                return self.data_answer(command, good, reply)
            # the end of a message
            self.chunk_failed = False
            if good:
                self.errors = self.junk = 0
        elif good:
            if command == C_HELO or command == C_EHLO:
                self.reset()
                self.helo_seen = True
                if command == C_EHLO:
                    self.esmtp = True  # HELO after that takes nothing back, as in Postfix
            elif command == C_STARTTLS:
                self.state = AT_TLS
                self.attention |= A_TLS
        if good:
            self.good[command] += 1
        self.reply(reply)
        if not good:
            self.errors += 1
        if FLAGS[command] & F_LIMIT:
            self.count_junk()
        return self.check_errors()

    cdef int data_answer(self, int command, bint good, bytes reply) except -1:
        """DATA or BDAT: the answer before the content."""
        if command == C_BDAT:
            if self.state == AT_COMMAND:
                # a chunk that is not the last
                self.good[command] += 1
                self.reply(reply)
                return self.check_errors()
            if not good:
                self.chunk_failed = True
                self.chunk_reply = reply
            if self.chunk_left == 0:
                return self.chunk_done()
            return 0
        if good:
            self.content.begin(False, self.bare_lf)
            self.state = AT_DATA
            return self.reply(reply)
        return self.fail(command, reply)

    cdef int fail(self, int command, bytes reply) except -1:
        """A command was refused."""
        self.reply(reply)
        self.errors += 1
        if FLAGS[command] & F_LIMIT:
            self.count_junk()
        return self.check_errors()

    cdef int count_junk(self) except -1:
        if self.junk > self.limits.junk_command_limit:
            self.errors += 1
        self.junk += 1
        return 0

    cdef int check_errors(self) except -1:
        """Too many errors end the session."""
        if self.errors >= self.limits.hard_error_limit and self.state != AT_END:
            self.too_many_errors = True
            self.reply(b"421 4.7.0 %s Error: too many errors\r\n" % self.limits.myhostname)
        return 0

    cdef int reply(self, bytes text) except -1:
        """Say this, after a rest for a client with many errors. 421 and 521 end the session."""
        if self.state == AT_END:
            return 0
        if self.limits.soft_bounce and text.startswith(b"5"):
            text = b"4" + (text[1:4] + b"4" + text[5:] if text[4] == b"5" else text[1:])
        if self.delayed is not None:
            self.delayed = self.delayed + text
        elif self.errors >= self.limits.soft_error_limit and self.limits.error_sleep_time > 0:
            self.delayed = text
            self.attention |= A_SLEEP
        else:
            self.output = text if self.output is None else self.output + text
        if text.startswith((b"421", b"521")):
            self.close()
        return 0

    cdef int close(self) except -1:
        """No more input; the driver closes once the output is out."""
        self.inside = self.state == AT_DATA or self.state == AT_CHUNK
        self.state = AT_END
        self.waiting = C_NONE
        self.attention |= A_CLOSE
        self.attention &= ~A_TLS
        self.content.end()
        return 0

    cdef int reset(self) except -1:
        """The transaction is over."""
        cdef bint told = self.in_mail
        self.in_mail = self.chunking = self.chunk_failed = False
        self.recipients = self.overshoot = 0
        self.content.end()
        if told:
            self.handler.reset()
        return 0

    cdef object collect(self):
        output, self.output = self.output, None
        return output
