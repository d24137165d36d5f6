# Memory shared by all workers: who holds what, how fast clients come, how destinations fare. See shared.pyx.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SLOTS = 64  # columns: one for each worker that can live at the same time, draining ones included
    KEY_SIZE = 92
    REASON_SIZE = 160
    RATES = 5  # connections, messages, recipients, newtls, auth
    PEAKS = 6  # those, and connections at once
    ATTEMPTS = 8  # to get along with a worker that does the same at the same moment

cdef struct Entry:
    # 512 bytes, eight cache lines; the columns have two of their own
    uint64_t hash  # EMPTY, GONE, BUSY | slot, or the key's first half
    uint64_t check  # the key's second half
    uint64_t used  # Unix seconds of the last use, for reclaiming
    uint64_t state  # window (16 bits), success and failure (24 bits each, signed, in 2**-20); window 0 = throttled
    uint64_t cohorts  # bits of a double: failed pseudo-cohorts
    uint64_t until  # bits of a double: Unix time when a throttled destination comes back
    uint64_t after  # bits of a double: Unix time before which no delivery begins (rate delay)
    uint64_t waiters  # a bit for each worker that wants a place here
    uint64_t start  # Unix seconds when the present time unit of the rates began
    uint64_t[RATES] rate  # start of the time unit (upper 32 bits), count (lower 32)
    uint64_t[2] spare
    uint16_t[SLOTS] held  # a column for each worker: only its owner adds and subtracts
    uint32_t serial  # of the reason: odd while it is being written
    uint16_t key_length
    uint16_t reason_length
    char[KEY_SIZE] key
    char[REASON_SIZE - 4] reason

cdef struct Peak:
    uint64_t value
    uint64_t when
    uint32_t serial  # odd while the key is being written
    uint16_t key_length
    char[KEY_SIZE + 2] key

cdef struct Header:
    uint64_t magic
    uint64_t capacity
    uint64_t[2] seed
    uint64_t live  # columns below this number were ever used
    int[SLOTS] wake_fd
    Peak[PEAKS] peak  # of the rates, and of the connections at once


cdef class SharedTable:
    cdef readonly int fd
    cdef readonly int slot
    cdef readonly int capacity
    cdef public double time_unit  # anvil_rate_time_unit, seconds
    cdef public double max_idle  # an unused entry may be taken for another key after so many seconds
    cdef public double fixed_time  # tests: the time, instead of the system's; 0 = the system's
    cdef char *base
    cdef size_t length
    cdef Entry *entries
    cdef uint64_t mask

    cdef double now(self) noexcept nogil
    cdef void digest(self, const char *data, Py_ssize_t size, uint64_t *out) noexcept nogil
    cdef Entry *locate(self, uint64_t first, uint64_t second, const char *key, Py_ssize_t size) noexcept nogil
    cdef Entry *search(self, uint64_t first, uint64_t second, Entry *other, Entry **free) noexcept nogil
    cdef bint reclaimable(self, Entry *entry, uint64_t now) noexcept nogil
    cdef int held(self, Entry *entry) noexcept nogil
    cdef void note_peak(self, int which, uint64_t value, Entry *entry) noexcept nogil
    cdef void wake_mask(self, uint64_t mask) noexcept nogil


cdef class Client:
    cdef SharedTable table
    cdef Entry *entry
    cdef bint connected
    cdef readonly int count
    cdef readonly int connection_rate
    cpdef disconnect(self)
    cpdef int message(self)
    cpdef int recipient(self)
    cpdef int newtls(self)
    cpdef int auth(self)
    cpdef int newtls_rate(self)
    cdef int bump(self, int which) noexcept
    cdef int peek(self, int which) noexcept
