"""Lookups in table files that are mapped into memory: LMDB and CDB, read without their libraries.

tables/types/lmdb.py and cdb.py open them and turn what is raised into TempFail. Every offset in the file is checked
against the mapping, and a page that is gone (a file cut off in place) is noticed: damage raises Damaged, and never
ends the process. A lookup allocates nothing but its result.

LMDB: a writer (Postfix's postmap, in place) never touches the pages of the last transaction, only those that the one
before it had left free. So a lookup takes no lock: it begins at the newer of the two meta pages, copies the value, and
is repeated where the file has gone on by two transactions meanwhile. A file that grew is mapped anew.

Keys may end with a zero byte or not, as the program that wrote the file liked: both are tried until one was found
(DICT_FLAG_TRY0NULL and TRY1NULL of Postfix's dict(3)). A value ends before its first zero byte.

References: LMDB's data version 1 (mdb.c); cdb(5).
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *, size_t, int, int, int, int64_t)
    int munmap(void *, size_t)
    int PROT_READ, MAP_SHARED
    void *MAP_FAILED

cdef extern from "mapped.h" nogil:
    int MAPPED_FAULT
    void mapped_init()
    int mapped_guard(int (*work)(void *) noexcept nogil, void *request, const char *begin, size_t size)

cdef enum:
    FOUND = 1
    MISSING = 0
    DAMAGED = -1
    BEYOND = -2  # a page is not in the mapping: the file grew, or is cut off
    SMALL = -3  # the buffer is too small for the value
    PAGE_HEADER = 16
    NODE_HEADER = 8
    BRANCH = 0x01
    LEAF = 0x02
    OVERFLOW = 0x04
    BIG = 0x01
    DEEPEST = 40

cdef uint32_t LMDB_MAGIC = 0xBEEFC0DE
cdef uint64_t NO_PAGE = <uint64_t>-1

mapped_init()


class Damaged(Exception):
    """The file is not what it should be; the text says how."""


cdef struct Request:
    const char *base
    uint64_t size
    const char *key
    uint64_t key_size
    bint after  # the first entry after the key, instead of the key's own
    char *buffer  # the value, or value and key for `after`
    uint64_t capacity
    uint64_t value_size
    uint64_t found_key_size
    # of the transaction that was read
    uint64_t page_size
    uint64_t last_page
    uint64_t root
    uint64_t transaction


cdef inline uint16_t get16(const char *at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t get32(const char *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t get64(const char *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline int compare(const char *a, uint64_t a_size, const char *b, uint64_t b_size) noexcept nogil:
    cdef int order = memcmp(a, b, a_size if a_size < b_size else b_size)
    if order:
        return order
    return -1 if a_size < b_size else 1 if a_size > b_size else 0


cdef int read_meta(Request *request) noexcept nogil:
    """Take the newer of the two meta pages."""
    cdef const char *meta = request.base
    cdef const char *other
    cdef uint64_t page_size
    if request.size < 512:
        return DAMAGED
    if get32(meta + 16) != LMDB_MAGIC or get32(meta + 20) != 1:
        return DAMAGED
    page_size = get32(meta + 40)
    if page_size < 512 or page_size > 65536 or page_size & (page_size - 1) or request.size < 2 * page_size:
        return DAMAGED
    other = meta + page_size
    if get32(other + 16) != LMDB_MAGIC or get32(other + 20) != 1:
        return DAMAGED
    if get64(other + 144) > get64(meta + 144):
        meta = other
    if get16(meta + 92) & 0x7FFF:  # an order of keys that is not ours, or several values of a key
        return DAMAGED
    request.page_size = page_size
    request.root = get64(meta + 128)
    request.last_page = get64(meta + 136)
    request.transaction = get64(meta + 144)
    return FOUND


cdef int read_transaction(void *argument) noexcept nogil:
    return read_meta(<Request *>argument)


cdef inline const char *page_at(Request *request, uint64_t number, int *status) noexcept nogil:
    if number > request.last_page or number < 2:
        status[0] = DAMAGED
        return NULL
    if number >= request.size // request.page_size:
        status[0] = BEYOND
        return NULL
    return request.base + number * request.page_size


cdef inline const char *node_at(Request *request, const char *page, uint64_t index) noexcept nogil:
    """A node whose header and key are within the page."""
    cdef uint64_t offset = get16(page + PAGE_HEADER + 2 * index)
    if offset < PAGE_HEADER or offset + NODE_HEADER > request.page_size:
        return NULL
    if offset + NODE_HEADER + get16(page + offset + 6) > request.page_size:
        return NULL
    return page + offset


cdef inline uint64_t child(const char *node) noexcept nogil:
    return get16(node) | <uint64_t>get16(node + 2) << 16 | <uint64_t>get16(node + 4) << 32


cdef int take(Request *request, const char *page, const char *node) noexcept nogil:
    """Copy the value of a leaf's node, and its key for `after`."""
    cdef uint64_t key_size = get16(node + 6)
    cdef uint64_t size = get16(node) | <uint64_t>get16(node + 2) << 16
    cdef uint16_t flags = get16(node + 4)
    cdef const char *value = node + NODE_HEADER + key_size
    cdef uint64_t number
    cdef int status = DAMAGED
    if flags & ~BIG:
        return DAMAGED
    if flags & BIG:
        if value + 8 > page + request.page_size:
            return DAMAGED
        number = get64(value)
        page = page_at(request, number, &status)
        if page == NULL:
            return status
        if not get16(page + 10) & OVERFLOW:
            return DAMAGED
        if number * request.page_size + PAGE_HEADER + size > request.size:
            return BEYOND
        value = page + PAGE_HEADER
    elif value + size > page + request.page_size:
        return DAMAGED
    request.value_size = size
    request.found_key_size = key_size if request.after else 0
    if size + request.found_key_size > request.capacity:
        return SMALL
    memcpy(request.buffer, value, size)
    if request.after:
        memcpy(request.buffer + size, node + NODE_HEADER, key_size)
    return FOUND


cdef int search_lmdb(void *argument) noexcept nogil:
    cdef Request *request = <Request *>argument
    cdef int status = read_meta(request)
    cdef uint64_t number = request.root
    cdef uint64_t next_number = NO_PAGE  # the child to the right of the way down, for `after`
    cdef bint leftmost = False
    cdef const char *page
    cdef const char *node
    cdef uint64_t count, low, high, middle
    cdef uint16_t flags
    cdef int _depth, order
    if status < 0:
        return status
    if number == NO_PAGE:
        return MISSING
    for _depth in range(DEEPEST):
        page = page_at(request, number, &status)
        if page == NULL:
            return status
        flags = get16(page + 10)
        count = get16(page + 12)
        if get64(page) != number or count < PAGE_HEADER or count > request.page_size:
            return DAMAGED
        count = (count - PAGE_HEADER) >> 1
        if count == 0:
            return DAMAGED
        if flags & BRANCH:
            low = 0
            if not leftmost:  # the last child whose key is not after ours; the first has none
                high = count
                while low + 1 < high:
                    middle = (low + high) >> 1
                    node = node_at(request, page, middle)
                    if node == NULL:
                        return DAMAGED
                    order = compare(node + NODE_HEADER, get16(node + 6), request.key, request.key_size)
                    if order <= 0:
                        low = middle
                    else:
                        high = middle
                if request.after and low + 1 < count:
                    node = node_at(request, page, low + 1)
                    if node == NULL:
                        return DAMAGED
                    next_number = child(node)
            node = node_at(request, page, low)
            if node == NULL:
                return DAMAGED
            number = child(node)
            continue
        if not flags & LEAF:
            return DAMAGED
        low = 0
        high = 0 if leftmost else count
        while low < high:
            middle = (low + high) >> 1
            node = node_at(request, page, middle)
            if node == NULL:
                return DAMAGED
            order = compare(node + NODE_HEADER, get16(node + 6), request.key, request.key_size)
            if order == 0 and not request.after:
                return take(request, page, node)
            if order <= 0:
                low = middle + 1
            else:
                high = middle
        if not request.after:
            return MISSING
        if low < count:
            node = node_at(request, page, low)
            return DAMAGED if node == NULL else take(request, page, node)
        if next_number == NO_PAGE:
            return MISSING
        number = next_number
        next_number = NO_PAGE
        leftmost = True
    return DAMAGED


cdef int search_cdb(void *argument) noexcept nogil:
    cdef Request *request = <Request *>argument
    cdef uint32_t code = 5381
    cdef uint64_t at, slots, slot, record, key_size, value_size, _probe
    if request.size < 2048:
        return DAMAGED
    for at in range(request.key_size):
        code = (code * 33) ^ <unsigned char>request.key[at]
    at = get32(request.base + 8 * (code & 255))
    slots = get32(request.base + 8 * (code & 255) + 4)
    if slots == 0:
        return MISSING
    if at + 8 * slots > request.size:
        return DAMAGED
    slot = (code >> 8) % slots
    for _probe in range(slots):
        record = get32(request.base + at + 8 * slot + 4)
        if record == 0:
            return MISSING
        if get32(request.base + at + 8 * slot) == code:
            if record + 8 > request.size:
                return DAMAGED
            key_size = get32(request.base + record)
            value_size = get32(request.base + record + 4)
            if record + 8 + key_size + value_size > request.size:
                return DAMAGED
            if key_size == request.key_size and memcmp(request.base + record + 8, request.key, key_size) == 0:
                request.value_size = value_size
                if value_size > request.capacity:
                    return SMALL
                memcpy(request.buffer, request.base + record + 8 + key_size, value_size)
                return FOUND
        slot = slot + 1 if slot + 1 < slots else 0
    return MISSING


cdef class Mapped:
    """A file that is open and mapped. Raises OSError and Damaged."""

    cdef Request request
    cdef int descriptor
    cdef int zero  # keys end with a zero byte: 1 yes, 0 no, -1 not known yet

    def __cinit__(self):
        self.descriptor = -1
        self.zero = -1
        self.request.base = NULL
        self.request.size = 0
        self.request.capacity = 4096
        self.request.buffer = <char *>malloc(4096)
        if self.request.buffer == NULL:
            raise MemoryError

    def __init__(self, int descriptor):
        """Takes over a descriptor that is open for reading, and closes it in the end; not where this raises."""
        self.descriptor = descriptor
        try:
            self.map()
            self.check()
        except BaseException:
            self.descriptor = -1
            raise

    def __dealloc__(self):
        self.unmap()
        free(self.request.buffer)
        if self.descriptor >= 0:
            os.close(self.descriptor)

    cdef void unmap(self):
        if self.request.base != NULL:
            munmap(<void *>self.request.base, self.request.size)
            self.request.base = NULL
            self.request.size = 0

    cdef int map(self) except -1:
        cdef uint64_t size = os.fstat(self.descriptor).st_size
        cdef void *base
        if size == 0:
            raise Damaged("the file is empty")
        base = mmap(NULL, size, PROT_READ, MAP_SHARED, self.descriptor, 0)
        if base == MAP_FAILED:
            raise OSError("mmap failed")
        self.unmap()
        self.request.base = <const char *>base
        self.request.size = size
        return 0

    cdef int check(self) except -1:
        return 0

    cdef int search(self) except -100:
        raise NotImplementedError

    cdef int enlarge(self) except -1:
        cdef uint64_t wanted = self.request.value_size + self.request.found_key_size
        cdef char *buffer = <char *>malloc(wanted)
        if buffer == NULL:
            raise MemoryError
        free(self.request.buffer)
        self.request.buffer = buffer
        self.request.capacity = wanted
        return 0

    cdef int find(self, const char *key, Py_ssize_t size) except -100:
        """1: the value is in the request's buffer; 0: there is none. key[size] is a zero byte, as it is in bytes."""
        cdef int status
        if self.descriptor < 0:
            raise Damaged("the file is closed")
        self.request.after = False
        self.request.key = key
        if self.zero != 0:
            self.request.key_size = size + 1
            status = self.search()
            if status == FOUND:
                self.zero = 1
                return FOUND
        if self.zero == 1:
            return MISSING
        self.request.key_size = size
        status = self.search()
        if status == FOUND:
            self.zero = 0
        return status

    cdef object value(self):
        cdef Py_ssize_t size = self.request.value_size
        cdef const char *end = <const char *>memchr(self.request.buffer, 0, size)
        if end != NULL:
            size = end - self.request.buffer
        return PyUnicode_DecodeUTF8(self.request.buffer, size, "surrogateescape")

    def get(self, bytes key not None):
        """The value of a key as text, bytes that are no UTF-8 as surrogates, or None."""
        if self.find(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) == FOUND:
            return self.value()
        return None

    def count(self, list keys not None):
        """How many of these keys are there."""
        cdef Py_ssize_t hits = 0
        cdef bytes key
        for key in keys:
            hits += self.find(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return hits

    def close(self):
        """No more lookups."""
        self.unmap()
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


cdef class LmdbFile(Mapped):
    """The main database of an LMDB file."""

    cdef int check(self) except -1:
        if mapped_guard(read_transaction, &self.request, self.request.base, self.request.size) != FOUND:
            raise Damaged("MDB_INVALID: File is not an LMDB file")
        # With the first entry's key we know how keys end, and a miss is one search from the beginning.
        first = self.after(None)
        if first is not None and first[0].endswith(b"\0"):
            self.zero = 1
        return 0

    cdef int search(self) except -100:
        cdef int status = MISSING
        cdef uint64_t transaction
        cdef int _attempt
        for _attempt in range(100):
            self.request.transaction = 0
            status = mapped_guard(search_lmdb, &self.request, self.request.base, self.request.size)
            if status == MAPPED_FAULT:
                raise Damaged("the file was cut off")
            if status == SMALL:
                self.enlarge()
                continue
            if status == BEYOND:
                if <uint64_t>os.fstat(self.descriptor).st_size <= self.request.size:
                    raise Damaged("the file is cut off")
                self.map()
                continue
            transaction = self.request.transaction
            if mapped_guard(read_transaction, &self.request, self.request.base, self.request.size) != FOUND:
                raise Damaged("the file is damaged")
            if self.request.transaction > transaction + 1 or (
                    status == DAMAGED and self.request.transaction != transaction):
                continue
            if status == DAMAGED:
                raise Damaged("the file is damaged")
            return status
        raise Damaged("the file changes all the time")

    def after(self, key):
        """The first entry after a key (None: of all), as bytes (key, value) without the zero bytes; or None."""
        cdef bytes start = b"" if key is None else key
        cdef char *buffer
        if self.descriptor < 0:
            raise Damaged("the file is closed")
        self.request.after = True
        self.request.key = PyBytes_AS_STRING(start)
        self.request.key_size = PyBytes_GET_SIZE(start)
        if self.search() != FOUND:
            return None
        buffer = self.request.buffer
        return (
            PyBytes_FromStringAndSize(buffer + self.request.value_size, self.request.found_key_size),
            PyBytes_FromStringAndSize(buffer, self.request.value_size),
        )


cdef class CdbFile(Mapped):
    """A CDB file, which never changes: a new one takes its place."""

    cdef int check(self) except -1:
        if self.request.size < 2048:
            raise Damaged("Protocol error")
        return 0

    cdef int search(self) except -100:
        cdef int status = mapped_guard(search_cdb, &self.request, self.request.base, self.request.size)
        if status == SMALL:
            self.enlarge()
            status = mapped_guard(search_cdb, &self.request, self.request.base, self.request.size)
        if status == MAPPED_FAULT:
            raise Damaged("the file was cut off")
        if status < 0:
            raise Damaged("the file is damaged")
        return status
