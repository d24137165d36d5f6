# The core of the queue manager: which entry goes next, over which place. See sched.pyx.

from fastmta._ext.jobs cimport JobQueue, Node
from fastmta._ext.window cimport Window


cdef class Scheduler:
    cdef public object clock  # None = the system's time
    cdef public object owner
    cdef readonly object table
    cdef readonly dict transports
    cdef readonly bint draining
    cdef readonly int in_flight
    cdef bint dispatching
    cdef list dirty  # transports to be looked at by the running dispatch
    cdef list timers
    cdef long timer_count
    cdef readonly set waiting  # destinations and transports that wait for a place which other workers hold
    cdef readonly set slots
    cdef bint polling
    cdef bint forced

    cdef double now(self)
    cdef void dispatch(self, Transport transport)
    cdef int grant(self, Destination destination, double now) except -1
    cdef void wait_for(self, object who, Window window)
    cdef void set_timer(self, double when, object what)
    cdef void suspend(self, Destination destination, double now)
    cpdef DeliveryRequest add(self, Destination destination, object message, list recipients)
    cpdef Job add_job(self, Destination destination, object message, list groups)


cdef class Transport:
    cdef readonly Scheduler scheduler
    cdef readonly str name
    cdef readonly object service
    cdef readonly object rules
    cdef readonly object agent
    cdef readonly dict destinations
    cdef readonly Window processes  # None = no limit
    cdef object ready  # deque of destinations with entries and without a place for them, in turn
    cdef bint starved  # no process left for what is ready
    cdef bint dirty
    cdef bint timed
    cdef int process_limit, limit, initial, positive_kind, negative_kind
    cdef int slot_cost, slot_loan, slot_discount, minimum_slots
    cdef double positive_base, negative_base, cohort_limit, rate_delay, transport_delay, dead_time

    cdef int give(self) except -1


cdef class Destination:
    cdef readonly Transport via
    cdef readonly str name
    cdef readonly str nexthop
    cdef readonly Window window
    cdef readonly int todo  # entries that wait
    cdef readonly int busy  # places held here
    cdef int idle  # places without an entry on the way
    cdef bint queued  # in transport.ready
    cdef readonly bint waiting
    cdef readonly bint timed
    cdef readonly double last_used
    cdef JobQueue jobs

    cpdef stop_waiting(self)
    cdef DeliveryRequest select(self, double now)


cdef class Job(Node):
    cdef list entries  # in reverse order


cdef class DeliveryRequest(Node):
    cdef readonly list recipients
    cdef readonly double started
    cdef readonly Destination destination
    cdef Slot slot
    cdef readonly bint finished


cdef class Slot:
    cdef readonly Destination destination
    cdef readonly list requests  # taken and not finished
    cdef readonly double granted
    cdef readonly bint closed
    cdef bint gone
    cdef bint yielded  # for another worker: let it have the place first
    cdef bint used
    cpdef DeliveryRequest take(self)
    cpdef void release(self)
    cdef bint must_yield(self, double now)
    cdef void leave(self)
    cdef void finished_one(self)
