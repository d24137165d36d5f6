"""The rules of a pattern table, matched in C: POSIX regular expressions and PCRE2.

tables/rules.py compiles a table into one Rules; Rules.get() walks the rules for a key. Posix is the C library's regcomp
in the C locale, so that matching is leftmost-longest and a character is a byte, as in regexp_table(5). Pcre is PCRE2's
8-bit library, loaded at run time by its stable soname: neither building nor `pip install` needs its headers, and the
prototypes and constants below are those of its public interface, pcre2api(3). A pattern that does not compile raises
ValueError with the library's text; PCRE2 that is not installed makes pcre_available() false.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc

cdef extern from "<regex.h>" nogil:
    ctypedef int regoff_t
    ctypedef struct regex_t:
        size_t re_nsub
    ctypedef struct regmatch_t:
        regoff_t rm_so
        regoff_t rm_eo
    int REG_EXTENDED, REG_ICASE, REG_NEWLINE, REG_NOSUB, REG_NOMATCH
    int regcomp(regex_t *, const char *, int)
    int regexec(const regex_t *, const char *, size_t, regmatch_t *, int)
    size_t regerror(int, const regex_t *, char *, size_t)
    void regfree(regex_t *)

cdef extern from "<locale.h>" nogil:
    ctypedef void *locale_t
    int LC_ALL_MASK
    locale_t newlocale(int, const char *, locale_t)
    locale_t uselocale(locale_t)

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOW
    void *dlopen(const char *, int)
    void *dlsym(void *, const char *)

cdef enum:
    PCRE2_NO_JIT = 0x2000
    PCRE2_ERROR_NOMATCH = -1
    PCRE2_ERROR_MATCHLIMIT = -47
    PCRE2_ERROR_JIT_STACKLIMIT = -46
    PCRE2_INFO_CAPTURECOUNT = 4
    PCRE2_JIT_COMPLETE = 1

ctypedef void *(*compile_t)(const char *, size_t, uint32_t, int *, size_t *, void *) noexcept nogil
ctypedef void (*free_t)(void *) noexcept nogil
ctypedef int (*match_t)(void *, const char *, size_t, size_t, uint32_t, void *, void *) noexcept nogil
ctypedef void *(*match_data_t)(void *, void *) noexcept nogil
ctypedef size_t *(*ovector_t)(void *) noexcept nogil
ctypedef int (*message_t)(int, char *, size_t) noexcept nogil
ctypedef int (*info_t)(void *, uint32_t, void *) noexcept nogil
ctypedef int (*jit_t)(void *, uint32_t) noexcept nogil

cdef compile_t pcre2_compile = NULL
cdef free_t pcre2_code_free = NULL
cdef match_t pcre2_match = NULL
cdef match_data_t pcre2_match_data = NULL
cdef free_t pcre2_match_data_free = NULL
cdef ovector_t pcre2_ovector = NULL
cdef message_t pcre2_message = NULL
cdef info_t pcre2_info = NULL
cdef jit_t pcre2_jit = NULL

cdef locale_t C_LOCALE = newlocale(LC_ALL_MASK, b"C", NULL)

EXTENDED = REG_EXTENDED
ICASE = REG_ICASE
NEWLINE = REG_NEWLINE


def pcre_available() -> bool:
    """Whether PCRE2 is there; it is loaded at the first call."""
    global pcre2_compile, pcre2_code_free, pcre2_match, pcre2_match_data, pcre2_match_data_free, pcre2_ovector
    global pcre2_message, pcre2_info, pcre2_jit
    if pcre2_compile != NULL:
        return True
    cdef void *library = dlopen(b"libpcre2-8.so.0", RTLD_NOW)
    if library == NULL:
        library = dlopen(b"libpcre2-8.so", RTLD_NOW)
    if library == NULL:
        return False
    pcre2_code_free = <free_t>dlsym(library, b"pcre2_code_free_8")
    pcre2_match = <match_t>dlsym(library, b"pcre2_match_8")
    pcre2_match_data = <match_data_t>dlsym(library, b"pcre2_match_data_create_from_pattern_8")
    pcre2_match_data_free = <free_t>dlsym(library, b"pcre2_match_data_free_8")
    pcre2_ovector = <ovector_t>dlsym(library, b"pcre2_get_ovector_pointer_8")
    pcre2_message = <message_t>dlsym(library, b"pcre2_get_error_message_8")
    pcre2_info = <info_t>dlsym(library, b"pcre2_pattern_info_8")
    pcre2_jit = <jit_t>dlsym(library, b"pcre2_jit_compile_8")
    if (pcre2_code_free == NULL or pcre2_match == NULL or pcre2_match_data == NULL or pcre2_match_data_free == NULL
            or pcre2_ovector == NULL or pcre2_message == NULL or pcre2_info == NULL or pcre2_jit == NULL):
        return False
    pcre2_compile = <compile_t>dlsym(library, b"pcre2_compile_8")
    return pcre2_compile != NULL


cdef class Pattern:
    """One compiled pattern. groups: how many ( ) it has."""

    cdef readonly int groups

    cdef int search(self, const char *text, Py_ssize_t size) except -2:
        """1: it matches; 0: it does not; a negative number or more than 1: the matcher gave up (see trouble)."""
        raise NotImplementedError

    cdef int span(self, int group, Py_ssize_t *start, Py_ssize_t *end) except -2:
        """Where a group of the last match lies; 0 where it took no part."""
        raise NotImplementedError

    cdef str trouble(self, int status):
        raise NotImplementedError


cdef class Posix(Pattern):
    """A POSIX pattern; flags of EXTENDED, ICASE, NEWLINE. capture: spans are wanted."""

    cdef regex_t code
    cdef regmatch_t *found
    cdef bint compiled
    cdef bint capture

    def __cinit__(self, bytes source not None, int flags, bint capture):
        cdef char message[256]
        self.compiled = False
        self.found = NULL
        self.capture = capture
        cdef locale_t before = uselocale(C_LOCALE)
        cdef int status = regcomp(&self.code, PyBytes_AS_STRING(source), flags | (0 if capture else REG_NOSUB))
        if status:
            regerror(status, &self.code, message, sizeof(message))
            uselocale(before)
            raise ValueError((<bytes>message).decode())
        uselocale(before)
        self.compiled = True
        self.groups = <int>self.code.re_nsub
        self.found = <regmatch_t *>malloc((self.groups + 1) * sizeof(regmatch_t))
        if self.found == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.compiled:
            regfree(&self.code)
        free(self.found)

    cdef int search(self, const char *text, Py_ssize_t size) except -2:
        cdef int status
        status = regexec(&self.code, text, self.groups + 1 if self.capture else 0, self.found, 0)
        if status == 0:
            return 1
        return 0 if status == REG_NOMATCH else status + 1

    cdef int span(self, int group, Py_ssize_t *start, Py_ssize_t *end) except -2:
        if self.found[group].rm_so < 0:
            return 0
        start[0] = self.found[group].rm_so
        end[0] = self.found[group].rm_eo
        return 1

    cdef str trouble(self, int status):
        cdef char message[256]
        regerror(status - 1, &self.code, message, sizeof(message))
        return (<bytes>message).decode()


cdef class Pcre(Pattern):
    """A PCRE2 pattern; flags are PCRE2's option bits."""

    cdef void *code
    cdef void *data
    cdef int matched

    def __cinit__(self, bytes source not None, uint32_t flags):
        cdef char message[256]
        cdef int error = 0
        cdef size_t offset = 0
        cdef uint32_t groups = 0
        self.code = NULL
        self.data = NULL
        if not pcre_available():
            raise ValueError("the library libpcre2-8 is not installed")
        self.code = pcre2_compile(PyBytes_AS_STRING(source), PyBytes_GET_SIZE(source), flags, &error, &offset, NULL)
        if self.code == NULL:
            pcre2_message(error, message, sizeof(message))
            raise ValueError(f"error in regex at offset {offset}: {(<bytes>message).decode()}")
        pcre2_jit(self.code, PCRE2_JIT_COMPLETE)  # where the machine has none, it interprets
        pcre2_info(self.code, PCRE2_INFO_CAPTURECOUNT, &groups)
        self.groups = <int>groups
        self.data = pcre2_match_data(self.code, NULL)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.data != NULL:
            pcre2_match_data_free(self.data)
        if self.code != NULL:
            pcre2_code_free(self.code)

    cdef int search(self, const char *text, Py_ssize_t size) except -2:
        cdef int status = pcre2_match(self.code, text, size, 0, 0, self.data, NULL)
        if status == PCRE2_ERROR_JIT_STACKLIMIT:
            status = pcre2_match(self.code, text, size, 0, PCRE2_NO_JIT, self.data, NULL)
        self.matched = status
        if status >= 0:
            return 1
        return 0 if status == PCRE2_ERROR_NOMATCH else -status

    cdef int span(self, int group, Py_ssize_t *start, Py_ssize_t *end) except -2:
        cdef size_t *where
        if group >= self.matched:
            return 0
        where = pcre2_ovector(self.data)
        if where[2 * group] == <size_t>-1:
            return 0
        start[0] = <Py_ssize_t>where[2 * group]
        end[0] = <Py_ssize_t>where[2 * group + 1]
        return 1

    cdef str trouble(self, int status):
        if -status == PCRE2_ERROR_MATCHLIMIT:
            return "backtracking limit exceeded"
        return f"unknown re_exec error: {-status}"


cdef class Rule:
    """One line of a table. It holds where `pattern` is found (negated: is not found) and `other`, if any, likewise.

    jump: for an `if`, the place after its `endif`, where a key that does not match goes on; else -1. value: what a
    match answers, pieces of it as text (bytes) and numbers of groups where it is a tuple.
    """

    cdef Pattern pattern
    cdef Pattern other
    cdef bint negated
    cdef bint other_negated
    cdef object value
    cdef readonly int line
    cdef public int jump

    def __init__(self, int line, Pattern pattern not None, bint negated, object value, Pattern other=None,
                 bint other_negated=False):
        self.line = line
        self.pattern = pattern
        self.negated = negated
        self.value = value
        self.other = other
        self.other_negated = other_negated
        self.jump = -1


cdef class Rules:
    """The rules of a table in order. warn(line, text) is told where a matcher gave up; that rule does not match."""

    cdef list rules
    cdef object warn

    def __init__(self, list rules not None, object warn not None):
        self.rules = rules
        self.warn = warn

    def get(self, bytes key not None):
        """The value of the first rule that holds, or None. Bytes of it that are no UTF-8 are surrogates."""
        cdef locale_t before = uselocale(C_LOCALE)
        try:
            return self.find(key)
        finally:
            uselocale(before)

    cdef object find(self, bytes key):
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t count = len(self.rules)
        cdef Rule rule
        cdef bint holds
        while at < count:
            rule = <Rule>self.rules[at]
            holds = self.search(rule, rule.pattern, rule.negated, text, size)
            if holds and rule.other is not None:
                holds = self.search(rule, rule.other, rule.other_negated, text, size)
            if rule.jump >= 0:
                at = at + 1 if holds else rule.jump
            elif holds:
                return self.answer(rule, text)
            else:
                at += 1
        return None

    cdef bint search(self, Rule rule, Pattern pattern, bint negated, const char *text, Py_ssize_t size) except -1:
        cdef int status = pattern.search(text, size)
        if status == 1:
            return not negated
        if status == 0:
            return negated
        self.warn(rule.line, pattern.trouble(status))
        return False

    cdef object answer(self, Rule rule, const char *text):
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t end = 0
        if type(rule.value) is not tuple:
            return rule.value
        parts = []
        for piece in rule.value:
            if type(piece) is int:
                if rule.pattern.span(piece, &start, &end):
                    parts.append(PyBytes_FromStringAndSize(text + start, end - start))
            else:
                parts.append(piece)
        return b"".join(parts).decode("utf-8", "surrogateescape")
