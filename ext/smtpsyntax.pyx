"""Syntax of SMTP command lines: the path of MAIL and RCPT, tokens, xtext, host names.

smtpserver.pyx calls the C functions for each command, smtpd/mailbox.py the Python ones for addresses that are not
plain. No exception. RFC 5321 section 4.1.2, RFC 3461 section 4; the rules of Postfix's smtpd_token(3) and
valid_hostname(3), whose behaviour the tests hold this against."""

from cpython.unicode cimport PyUnicode_DecodeUTF8

cdef enum:
    ATEXT = 1  # may stand in a plain local part
    HOST = 2  # may stand in a plain domain

cdef unsigned char[256] KIND


cdef void fill_kinds() noexcept:
    cdef int c
    for c in range(256):
        KIND[c] = 0
        if 48 <= c <= 57 or 65 <= c <= 90 or 97 <= c <= 122:
            KIND[c] = ATEXT | HOST
    for c in b"#$&'*+/=?^`{|}~.":  # without % and !, which may mean another domain
        KIND[c] |= ATEXT
    for c in b"-_":
        KIND[c] |= ATEXT | HOST


fill_kinds()


cdef const unsigned char *plain_path(const unsigned char *p, const unsigned char *end) noexcept nogil:
    """local@domain> as most are: letters, digits, no quotes, a good host name. Returns where ">" is, else NULL."""
    cdef const unsigned char *label
    cdef const unsigned char *domain
    cdef const unsigned char *start = p
    cdef bint letters = False
    while p < end and KIND[p[0]] & ATEXT:
        p += 1
    if p == start or p == end or p[0] != b"@":
        return NULL
    p += 1
    domain = label = p
    while p < end:
        if KIND[p[0]] & HOST:
            if not 48 <= p[0] <= 57:
                letters = True
        elif p[0] == b"." or p[0] == b">":
            if p == label or p - label > 63 or label[0] == b"-" or (p - 1)[0] == b"-":
                return NULL
            label = p + 1
            if p[0] == b">":
                return p if letters and p - domain <= 255 else NULL
        else:
            return NULL
        p += 1
    return NULL


cdef list tokenize(const unsigned char *p, size_t n):
    """A command line as a list of (text, well formed). "to:" and "from:" end a token; <> and quotes hold it."""
    cdef const unsigned char *end = p + n
    cdef list tokens = []
    cdef bytearray text
    cdef unsigned char c
    cdef bint good
    while True:
        while p < end and is_space(p[0]):
            p += 1
        if p == end:
            return tokens
        text = bytearray()
        good = True
        while p < end and not is_space(p[0]):
            c = p[0]
            p += 1
            if c == b"<":
                good = quoted(&p, end, text, c, b">") and good
            elif c == b'"':
                good = quoted(&p, end, text, c, c) and good
            elif c == b"\\":
                text.append(c)
                if p < end:
                    text.append(p[0])
                    p += 1
            else:
                text.append(c)
                if c == b":" and bytes(text).lower() in (b"to:", b"from:"):
                    break
        tokens.append((bytes(text), good))


cdef bint quoted(const unsigned char **place, const unsigned char *end, bytearray text, int opening, int closing):
    """Up to the closing character, which must be there."""
    cdef const unsigned char *p = place[0]
    cdef unsigned char c
    cdef bint good
    text.append(opening)
    while p < end:
        c = p[0]
        p += 1
        if c == b"\\":
            text.append(c)
            if p < end:
                text.append(p[0])
                p += 1
        elif c == closing:
            text.append(c)
            place[0] = p
            return True
        elif c == b'"' or c == b"<":
            place[0] = p
            good = quoted(place, end, text, c, b'"' if c == b'"' else b">")
            p = place[0]
            if not good:
                return False
        else:
            text.append(c)
    place[0] = p
    return False


def split_command(bytes line):
    """The tokens of a command line, for tests."""
    return tokenize(line, len(line))


def xtext_decode(bytes text):
    """RFC 3461 section 4: +XX is a byte. None where the syntax is wrong."""
    cdef bytearray out = bytearray()
    cdef int i = 0
    cdef int n = len(text)
    cdef int high, low
    while i < n:
        if text[i] == b"+":
            if i + 2 >= n:
                return None
            high = hex_digit(text[i + 1])
            low = hex_digit(text[i + 2])
            if high < 0 or low < 0:
                return None
            out.append(high * 16 + low)
            i += 3
        else:
            out.append(text[i])
            i += 1
    return bytes(out)


cdef int hex_digit(unsigned char c) noexcept:
    if 48 <= c <= 57:
        return c - 48
    if 65 <= c <= 70:
        return c - 55
    if 97 <= c <= 102:
        return c - 87
    return -1


def valid_hostname(bytes name):
    """Letters, digits, hyphen, underscore (or bytes of UTF-8) in labels of 1 to 63; not all digits; at most 255."""
    cdef bint letters = False
    cdef unsigned char c
    if not name or len(name) > 255:
        return False
    for label in name.split(b"."):
        if not label or len(label) > 63 or label[0] == b"-" or label.endswith(b"-"):
            return False
        for c in label:
            if not KIND[c] & HOST and c < 128:
                return False
            if not 48 <= c <= 57:
                letters = True
    return letters


cdef bint word_in(const unsigned char *p, Py_ssize_t n, frozenset words):
    cdef bytes word = p[:n]
    return word.upper() in words


cdef bint is_header(const unsigned char *p, Py_ssize_t n) noexcept:
    """Does this look like "Name:"?"""
    cdef Py_ssize_t i = 0
    while i < n and p[i] != b":" and 32 < p[i] < 127:
        i += 1
    return 0 < i < n and p[i] == b":"


cdef bint is_utf8(const unsigned char *p, Py_ssize_t n):
    try:
        PyUnicode_DecodeUTF8(<const char *> p, n, NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef bint is_printable(bytes text):
    cdef unsigned char c
    for c in text:
        if c < 32 or c > 126:
            return False
    return True


cdef str text_of(bytes text):
    return text.decode("utf-8", "surrogateescape")
