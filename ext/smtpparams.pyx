"""Parameters of MAIL and RCPT: SIZE, BODY, SMTPUTF8, AUTH, RET and ENVID; NOTIFY and ORCPT. Called by smtpserver.pyx.

What is wrong is a reply, in Postfix's words; nothing is raised. RFC 1870, RFC 6152, RFC 6531, RFC 3461 section 4.
"""

from fastmta._ext.smtpsession cimport Limits
from fastmta._ext.smtpsyntax cimport is_printable, text_of

from fastmta._ext.smtpsyntax import xtext_decode

cdef dict NOTIFY = {b"NEVER": 1, b"SUCCESS": 2, b"FAILURE": 4, b"DELAY": 8}

cdef bytes NO_DSN = b"501 5.7.1 DSN support is disabled\r\n"


cdef class Parameters:
    """Those of one command."""

    def __cinit__(self):
        self.body = self.envid = self.orcpt = ""

    cdef bytes read_mail(self, list params, Limits limits):
        """The reply where one is wrong, else None."""
        cdef bytes word, upper, value
        cdef bint auth = False
        for word in params:
            upper = word.upper()
            if upper.startswith(b"SIZE="):
                value = word[5:]
                if not value.isdigit():
                    return b"501 5.5.4 Bad message size syntax\r\n"
                if len(value.lstrip(b"0")) > 18:
                    return b"552 5.3.4 Message size exceeds file system imposed limit\r\n"
                self.size = int(value)
            elif upper == b"BODY=8BITMIME":
                self.body = "8BITMIME"
            elif upper == b"BODY=7BIT":
                self.body = "7BIT"
            elif upper == b"SMTPUTF8" and limits.smtputf8_enable:
                self.utf8 = True
            elif upper.startswith(b"AUTH="):
                if auth:
                    return b"503 5.5.4 Error: multiple AUTH= options\r\n"
                auth = True
            elif upper.startswith(b"RET="):
                if not limits.offer_dsn:
                    return NO_DSN
                if self.ret or upper not in (b"RET=FULL", b"RET=HDRS"):
                    return b"501 5.5.4 Bad RET parameter syntax\r\n"
                self.ret = 1 if upper == b"RET=FULL" else 2
            elif upper.startswith(b"ENVID="):
                if not limits.offer_dsn:
                    return NO_DSN
                value = xtext_decode(word[6:])
                if self.envid or not value or not is_printable(value):
                    return b"501 5.5.4 Bad ENVID parameter syntax\r\n"
                self.envid = text_of(value)
            else:
                return b"555 5.5.4 Unsupported option: %s\r\n" % word
        return None

    cdef bytes read_rcpt(self, list params, Limits limits):
        """The same for RCPT; bad_notify is set for a word of NOTIFY that is none: the word, NUL, the whole value."""
        cdef bytes word, upper, kind, value
        cdef bint has_orcpt = False
        for word in params:
            upper = word.upper()
            if upper.startswith(b"NOTIFY="):
                if not limits.offer_dsn:
                    return NO_DSN
                if self.notify or not self.read_notify(word[7:]):
                    return b"501 5.5.4 Error: Bad NOTIFY parameter syntax\r\n"
            elif upper.startswith(b"ORCPT="):
                if not limits.offer_dsn:
                    return NO_DSN
                kind, _, value = word[6:].partition(b";")
                value = xtext_decode(value)
                if has_orcpt or not kind or value is None or b";" not in word:
                    return b"501 5.5.4 Error: Bad ORCPT parameter syntax\r\n"
                has_orcpt = True
                if value:
                    self.orcpt = text_of(kind + b";" + value)
            else:
                return b"555 5.5.4 Unsupported option: %s\r\n" % word
        return None

    cdef bint read_notify(self, bytes value):
        """RFC 3461 section 4.1: NEVER, or a list of the others."""
        cdef int mask = 0
        for word in value.split(b","):
            if not word:
                continue  # as in Postfix
            bit = NOTIFY.get(word.upper(), 0)
            if bit == 0:
                self.bad_notify = word + b"\0" + value
                return False
            mask |= bit
        self.notify = mask
        return mask == 1 or (mask and not mask & 1)
