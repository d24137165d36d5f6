"""The places at one destination or transport, shared by all workers: who holds them, and how many there are.

ext/sched.pyx makes one `Window` for each destination and each transport with a process limit. The entry in shared
memory, how it is claimed, and why nothing here is a lock: see ext/shared.pyx. The window with its success and failure
stands in one word, so that feedback of several workers cannot tear it; that is qmgr_queue_throttle and
qmgr_queue_unthrottle of Postfix, in fixed point.

Raises nothing. Reference: SCHEDULER_README, qmgr(8).
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastmta._ext.atomics cimport (
    add16, bits, cas, cas32, fence, keep_bits, load, load16, load32, lowest, real, set_bits, store, store32,
)
from fastmta._ext.shared cimport ATTEMPTS, REASON_SIZE, Entry, SharedTable

cdef enum:
    IDLE_WINDOW = 30  # seconds without a use after which a destination's window begins anew

cdef double UNIT = 1048576.0  # 2**20: one, in the fractions of Entry.state

# Window.positive, negative: the kinds of feedback
FEEDBACK_CONSTANT = 0
FEEDBACK_CONCURRENCY = 1
FEEDBACK_SQRT_CONCURRENCY = 2


cdef inline uint64_t pack(int64_t window, double success, double failure) noexcept nogil:
    cdef int64_t s = <int64_t>(success * UNIT + (0.5 if success >= 0 else -0.5))
    cdef int64_t f = <int64_t>(failure * UNIT + (0.5 if failure >= 0 else -0.5))
    return (<uint64_t>window << 48) | (<uint64_t>(s & 0xffffff) << 24) | <uint64_t>(f & 0xffffff)


cdef inline double fraction(uint64_t value) noexcept nogil:
    cdef int64_t v = value & 0xffffff
    return <double>(v - 0x1000000 if v & 0x800000 else v) / UNIT


cdef inline double feedback(double base, int kind, int window) noexcept nogil:
    if kind == 1:
        return base / window
    if kind == 2:
        return base / sqrt(<double>window)
    return base


cdef class Window:
    """The places at one destination ("smtp:example.com") or transport, shared by all workers.

    initial is the window of a destination not seen lately, limit the most there may be (0: no limit). This worker
    holds `mine` of them. Those of a Window that is dropped are given back.
    """

    def __cinit__(self, SharedTable table not None, str key not None, int initial=5, int limit=0):
        cdef uint64_t[2] name
        self.table = table
        self.key = key.encode("utf-8", "surrogateescape")
        self.initial = min(max(initial, 1), 65535)
        self.limit = limit if 0 < limit < 65535 else 65535
        table.digest(self.key, len(self.key), name)
        self.first = name[0]
        self.second = name[1]
        self.entry = NULL

    def __dealloc__(self):
        cdef Entry *entry = self.entry
        cdef int places = self.mine - self.alone
        if entry != NULL and places > 0 and self.table.base != NULL:
            add16(&entry.held[self.table.slot], -places)

    cdef Entry *at(self) noexcept:
        # The entry, which stays ours while we hold a place; else it may have been given to another key meanwhile.
        cdef Entry *entry = self.entry
        cdef uint64_t now = <uint64_t>self.table.now()
        if entry == NULL or load(&entry.hash) != self.first or load(&entry.check) != self.second:
            entry = self.table.locate(self.first, self.second, self.key, len(self.key))
            self.entry = entry
            if entry == NULL:
                return NULL
        if entry.used != now:
            if entry.used + IDLE_WINDOW < now and load(&entry.state) and self.table.held(entry) == 0:
                # As Postfix, which forgets a queue that becomes empty; but not between two messages.
                store(&entry.cohorts, 0)
                store(&entry.state, pack(self.initial, 0, 0))
            store(&entry.used, now)
        if load(&entry.state) == 0 and load(&entry.until) == 0:
            cas(&entry.state, 0, pack(self.initial, 0, 0))
        return entry

    cpdef bint try_acquire(self):
        """Take a place, unless the window is closed or full or as many as the limit are taken."""
        cdef Entry *entry
        cdef int window, attempt
        cdef uint16_t *own
        for attempt in range(ATTEMPTS):
            entry = self.at()
            if entry == NULL:
                if self.mine < self.initial:
                    self.alone += 1
                    self.mine += 1
                    return True
                return False
            window = <int>(load(&entry.state) >> 48)
            if self.limit < window:
                window = self.limit
            own = &entry.held[self.table.slot]
            if attempt and self.table.held(entry) >= window:
                return False
            add16(own, 1)
            if load(&entry.hash) != self.first or load(&entry.check) != self.second:
                add16(own, -1)
                self.entry = NULL
                continue
            if self.table.held(entry) <= window:
                self.mine += 1
                return True
            add16(own, -1)
            # Either it is full, or another worker came at the same moment and both stepped back: the sum tells.
        return False

    cpdef void release(self):
        """Give a place back and wake who waits for one."""
        cdef Entry *entry = self.entry
        if self.mine <= 0:
            return
        self.mine -= 1
        if self.alone > 0:
            self.alone -= 1
            return
        add16(&entry.held[self.table.slot], -1)
        self.wake_next(entry)

    cdef void wake_next(self, Entry *entry) noexcept:
        # One place is free: wake one that waits, in turn. Who does not use it calls pass_on.
        cdef uint64_t waiters = load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)
        cdef uint64_t after
        if waiters:
            after = waiters & ~((<uint64_t>2 << self.table.slot) - 1)
            self.table.wake_mask(<uint64_t>1 << lowest(after if after else waiters))

    cpdef void pass_on(self):
        """This worker was woken: if a place is free nevertheless, wake the next one that waits."""
        cdef Entry *entry = self.entry
        if (
            entry != NULL
            and load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)
            and self.table.held(entry) < min(self.limit, <int>(load(&entry.state) >> 48))
        ):
            self.wake_next(entry)

    cpdef int size(self):
        """The window: how many places there are; 0 = throttled."""
        cdef Entry *entry = self.at()
        return self.initial if entry == NULL else <int>(load(&entry.state) >> 48)

    cpdef int in_use(self):
        """How many places are taken, by all workers."""
        cdef Entry *entry = self.at()
        return self.mine if entry == NULL else self.table.held(entry)

    cpdef bint wait(self):
        """Ask to be woken when a place becomes free. Try once more afterwards: it may just have been given back."""
        cdef Entry *entry = self.at()
        if entry == NULL:
            return False
        set_bits(&entry.waiters, <uint64_t>1 << self.table.slot)
        return True

    cpdef void stop_waiting(self):
        """No more wish for a place."""
        cdef Entry *entry = self.entry
        cdef uint64_t own = <uint64_t>1 << self.table.slot
        if entry != NULL and load(&entry.hash) == self.first and load(&entry.waiters) & own:
            keep_bits(&entry.waiters, ~own)
            self.pass_on()  # the wakeup that was meant for this worker

    cpdef uint64_t others_waiting(self):
        """A bit for each other worker that waits for a place."""
        cdef Entry *entry = self.entry
        if entry == NULL:
            return 0
        return load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)

    cpdef bint over_share(self, bint rested):
        """Whether this worker should give a place up: one that waits has fewer, so that giving makes it more even.

        rested: the place was held for a while, so that it may go round where the parts cannot be even.
        """
        return self.mine > self.fewest() + (0 if rested else 1)

    cpdef bint may_acquire(self):
        """Whether one more place may be taken: no other worker that waits has fewer."""
        return self.mine <= self.fewest()

    cdef int fewest(self) noexcept:
        # How many places that other worker has that waits and has the fewest; many if none waits.
        cdef Entry *entry = self.entry
        cdef uint64_t waiters
        cdef int held, least = 65535
        if entry != NULL:
            waiters = load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)
            while waiters:
                held = load16(&entry.held[lowest(waiters)])
                if held < least:
                    least = held
                waiters &= waiters - 1
        return least

    cpdef void alive(self):
        """The site answers: the failed cohorts are forgotten. A throttled destination stays so."""
        if self.entry != NULL and self.entry.cohorts and load(&self.entry.state) >> 48:
            store(&self.entry.cohorts, 0)

    cpdef void positive(self, int margin, double base, int kind):
        """A delivery met a live site: the failed cohorts are forgotten; the window grows up to the limit, but not more
        than margin beyond the places in use. A throttled destination comes back.
        """
        cdef Entry *entry = self.entry
        cdef uint64_t old
        cdef int window, busy, before
        cdef double success, failure, step
        cdef uint64_t waiters
        if entry == NULL:
            return
        if entry.cohorts:
            store(&entry.cohorts, 0)
        while True:
            old = load(&entry.state)
            window = before = <int>(old >> 48)
            if window == 0:
                self.revive()
                return
            if window >= self.limit:
                return
            busy = self.table.held(entry)
            if window >= busy + margin:
                return
            success = fraction(old >> 24)
            failure = fraction(old)
            step = feedback(base, kind, window)
            success += step
            while success + step / 2 >= 1 - 2e-6:
                window += 1
                success -= 1
                failure = 0
            if window > self.limit:
                window = self.limit
            if cas(&entry.state, old, pack(window, success, failure)):
                break
        if window > before:
            waiters = load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)
            if waiters:
                self.table.wake_mask(waiters)

    cpdef bint negative(self, double cohort_limit, double base, int kind, double until):
        """A connection or handshake failed: True when that makes the destination dead, until that Unix time.

        Nothing happens to one that is dead already.
        """
        cdef Entry *entry = self.at()
        cdef uint64_t old, cohorts
        cdef int window
        cdef double success, failure, step, sum_
        if entry == NULL:
            return False
        while True:
            old = load(&entry.state)
            window = <int>(old >> 48)
            if window == 0:
                return False
            while True:
                cohorts = load(&entry.cohorts)
                sum_ = real(cohorts) + 1.0 / window
                if cas(&entry.cohorts, cohorts, bits(sum_)):
                    break
            if cohort_limit > 0 and sum_ >= cohort_limit:
                store(&entry.until, bits(until))
                if cas(&entry.state, old, 0):
                    self.table.wake_mask(load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot))
                    return True
                continue
            success = fraction(old >> 24)
            failure = fraction(old)
            step = feedback(base, kind, window)
            failure -= step
            while failure - step / 2 < -2e-6:
                window -= 1
                success = 0
                failure += 1
            if window < 1:
                window = 1
            if cas(&entry.state, old, pack(window, success, failure)):
                return False
            # Another worker changed the window meanwhile: count this failure again against the new one, not twice.
            while not cas(&entry.cohorts, cohorts, bits(real(cohorts) - 1.0 / <int>(old >> 48))):
                cohorts = load(&entry.cohorts)

    def revive(self):
        """Let deliveries to a throttled destination begin again; the window is what is in use, else the first one."""
        cdef Entry *entry = self.at()
        cdef int busy
        if entry == NULL:
            return
        store(&entry.cohorts, 0)
        busy = self.table.held(entry)
        if cas(&entry.state, 0, pack(busy if busy > 0 else self.initial, 0, 0)):
            store(&entry.until, 0)
            self.table.wake_mask(load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot))

    cpdef double dead_until(self):
        """The Unix time when a throttled destination comes back; 0 when it is alive."""
        cdef Entry *entry = self.at()
        if entry == NULL or load(&entry.state) >> 48:
            return 0
        return real(load(&entry.until))

    cpdef double not_before(self):
        """The Unix time before which no delivery may begin (rate delay); 0 = at any time."""
        cdef Entry *entry = self.entry
        return 0 if entry == NULL else real(load(&entry.after))

    cpdef void delay_until(self, double when):
        """No delivery begins before that Unix time."""
        cdef Entry *entry = self.at()
        cdef uint64_t old
        while entry != NULL:
            old = load(&entry.after)
            if real(old) >= when or cas(&entry.after, old, bits(when)):
                return

    cpdef bint claim_start(self, double when, double delay):
        """Begin a delivery now (when) if none began within delay seconds before; the next may begin delay later."""
        cdef Entry *entry = self.at()
        cdef uint64_t old
        if entry == NULL:
            return True
        old = load(&entry.after)
        if real(old) > when and real(old) <= when + delay:  # one further away comes from a clock that was put back
            return False
        return cas(&entry.after, old, bits(when + delay))

    def set_reason(self, str dsn not None, str text not None):
        """Why the destination is dead, for the workers that did not find it out themselves."""
        cdef Entry *entry = self.at()
        cdef bytes data = f"{dsn} {text}".encode("utf-8", "surrogateescape")[:REASON_SIZE - 4]
        cdef uint32_t serial
        if entry == NULL:
            return
        serial = load32(&entry.serial)
        if not cas32(&entry.serial, serial, (serial + 1) | 1):
            return  # another worker writes its reason: as good as ours
        entry.reason_length = <uint16_t>len(data)
        memcpy(&entry.reason[0], <const char *>data, len(data))
        store32(&entry.serial, ((serial + 1) | 1) + 1)

    def reason(self):
        """(enhanced status code, text) of `set_reason`; None when there is none, or it was half written."""
        cdef Entry *entry = self.at()
        cdef uint32_t serial
        cdef char[REASON_SIZE] copy
        cdef int size, _attempt
        if entry == NULL:
            return None
        for _attempt in range(3):
            serial = load32(&entry.serial)
            size = min(<int>entry.reason_length, REASON_SIZE - 4)
            memcpy(&copy[0], &entry.reason[0], size)
            fence()
            if serial & 1 == 0 and load32(&entry.serial) == serial and size:
                dsn, _, text = copy[:size].decode("utf-8", "ignore").partition(" ")
                return (dsn, text)
        return None
