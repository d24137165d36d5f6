"""Entries of a table file that is made, in the order of the file: what Python's own sort takes too long for.

Called by tables/makers/lmdb.py. Raises MemoryError.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp, memcpy


cdef extern from *:
    """
    #define first_bytes(word) __builtin_bswap64(word)
    """
    uint64_t first_bytes(uint64_t word) nogil


cdef struct Entry:
    uint64_t start  # the first eight bytes of the key, so that most comparisons need not look at it
    const char *text
    Py_ssize_t size
    PyObject *key
    PyObject *value


cdef int order(const void *left, const void *right) noexcept nogil:
    cdef const Entry *a = <const Entry *>left
    cdef const Entry *b = <const Entry *>right
    cdef int result
    if a.start != b.start:
        return -1 if a.start < b.start else 1
    result = memcmp(a.text, b.text, a.size if a.size < b.size else b.size)
    if result:
        return result
    return -1 if a.size < b.size else a.size > b.size


def in_order(dict entries not None):
    """The keys and values, bytes all, as a list sorted by the bytes of the keys."""
    cdef Py_ssize_t count = len(entries)
    cdef Py_ssize_t place = 0
    cdef Py_ssize_t size
    cdef Entry *all_ = <Entry *>malloc((count + 1) * sizeof(Entry))
    cdef bytes key, value
    if all_ == NULL:
        raise MemoryError
    try:
        for key, value in entries.items():
            size = PyBytes_GET_SIZE(key)
            all_[place].start = 0
            all_[place].text = PyBytes_AS_STRING(key)
            all_[place].size = size
            memcpy(&all_[place].start, all_[place].text, <size_t>(size if size < 8 else 8))
            all_[place].start = first_bytes(all_[place].start)
            all_[place].key = <PyObject *>key
            all_[place].value = <PyObject *>value
            place += 1
        qsort(all_, count, sizeof(Entry), order)
        return [(<object>all_[place].key, <object>all_[place].value) for place in range(count)]
    finally:
        free(all_)
