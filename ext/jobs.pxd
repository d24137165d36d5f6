# The order of jobs inside a destination. See jobs.pyx.


cdef class Node:
    cdef readonly object message
    cdef Node prev, next, parent
    cdef list children
    cdef double queued  # Unix time
    cdef int total  # entries, in all
    cdef readonly int left  # entries not taken
    cdef int slots_available, slots_used
    cdef readonly int level  # 0, or how deep it stands on a stack of jobs that preempted each other


cdef class JobQueue:
    cdef Node head, tail, candidate, candidate_for
    cdef long candidate_time
    cdef int slot_cost, slot_loan, slot_loan_factor, minimum_slots

    cdef void append(self, Node node)
    cdef Node take(self, double now)
    cpdef void remove(self, Node node)
    cpdef list members(self)
    cdef list clear(self)
    cdef void unlink(self, Node node)
    cdef Node preempt(self, Node current, double now)
    cdef Node find_candidate(self, Node current, double now)
    cdef void pop(self, Node node)
