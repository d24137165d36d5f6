# The places at one destination or transport, shared by all workers. See window.pyx.

from libc.stdint cimport uint64_t

from fastmta._ext.shared cimport Entry, SharedTable


cdef class Window:
    cdef SharedTable table
    cdef Entry *entry
    cdef uint64_t first, second
    cdef readonly bytes key
    cdef int initial, limit
    cdef int alone  # places held while the table had no room for this key
    cdef readonly int mine  # places that this worker holds
    cdef Entry *at(self) noexcept
    cpdef bint try_acquire(self)
    cpdef void release(self)
    cdef void wake_next(self, Entry *entry) noexcept
    cpdef void pass_on(self)
    cpdef int size(self)
    cpdef int in_use(self)
    cpdef bint wait(self)
    cpdef void stop_waiting(self)
    cpdef uint64_t others_waiting(self)
    cpdef bint over_share(self, bint rested)
    cpdef bint may_acquire(self)
    cdef int fewest(self) noexcept
    cpdef void alive(self)
    cpdef void positive(self, int margin, double base, int kind)
    cpdef bint negative(self, double cohort_limit, double base, int kind, double until)
    cpdef double dead_until(self)
    cpdef double not_before(self)
    cpdef void delay_until(self, double when)
    cpdef bint claim_start(self, double when, double delay)
