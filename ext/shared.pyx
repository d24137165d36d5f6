"""Memory shared by all workers: counts and rates per client, concurrency and feedback per destination.

The master makes the table before it forks (`SharedTable.create`), each worker says which column is its own (`bind`), and
the master calls `clear_worker` when a worker died: that drops whatever it held. smtpd/ takes a `Client` for each
connection, ext/sched.pyx a `Window` for each destination and transport.

Layout: a hash table of fixed size, open addressing, an entry of 512 bytes for each key of at most 92 bytes (longer ones
count by their hash). Nothing here is a lock: a worker may die of SIGKILL between any two instructions and the others go on.
What a worker holds stands only in its own column, so the places taken are the sum of the columns; to take one is to add to
the own column *first*, then to sum, and to step back when the sum is over the limit: two that come at once may both
step back (and try again), never both get in. Who steps back sets its bit in `waiters` and tries again; who leaves
subtracts, then looks at the bits: with sequential consistency one of both sees the other, so no wakeup is lost. A poll
timer of the scheduler covers a worker that died before it could wake anybody.

Rates follow anvil(8): one fixed time unit per client for all its counters, which begins with the first event after the
last one ended; the count carries the beginning of its unit in the same word, so that the turn of the unit needs no lock.

An entry is claimed by swapping its hash for BUSY | slot; it is filled, then published. An entry that holds nothing and
was not used for `max_idle` seconds may be taken for another key; therefore a user adds to its column, then checks that the
entry is still its own. A table that is full answers with private counts (limits then apply per worker) instead of failing.

Raises OSError where the memory or the eventfds cannot be had, ValueError for a bad slot. Reference: anvil(8),
Postfix's SCHEDULER_README.
"""

import os

from libc.math cimport sqrt
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #include <sched.h>
    #include <unistd.h>
    #include <sys/mman.h>
    #define fm_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define fm_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define fm_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define fm_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
    #define fm_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
    #define fm_and(p, v) __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)
    static inline int fm_cas(uint64_t *p, uint64_t from, uint64_t to)
    {
        return __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline int fm_cas32(uint32_t *p, uint32_t from, uint32_t to)
    {
        return __atomic_compare_exchange_n(p, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline int fm_popcount(uint64_t v) { return __builtin_popcountll(v); }
    static inline int fm_lowest(uint64_t v) { return __builtin_ctzll(v); }
    static inline void fm_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    static inline void fm_signal(int fd)
    {
        uint64_t one = 1;
        if (write(fd, &one, 8) < 0) { /* full: it is awake already */ }
    }
    static inline double fm_time(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
    }
    _Static_assert(sizeof(double) == 8, "a double is 64 bits");
    """
    uint64_t load "fm_load"(uint64_t *) noexcept nogil
    uint32_t load32 "fm_load"(uint32_t *) noexcept nogil
    uint16_t load16 "fm_relaxed"(uint16_t *) noexcept nogil
    void store "fm_store"(uint64_t *, uint64_t) noexcept nogil
    void store16 "fm_store"(uint16_t *, uint16_t) noexcept nogil
    void store32 "fm_store"(uint32_t *, uint32_t) noexcept nogil
    uint16_t add16 "fm_add"(uint16_t *, int) noexcept nogil
    uint64_t set_bits "fm_or"(uint64_t *, uint64_t) noexcept nogil
    uint64_t keep_bits "fm_and"(uint64_t *, uint64_t) noexcept nogil
    bint cas "fm_cas"(uint64_t *, uint64_t, uint64_t) noexcept nogil
    bint cas32 "fm_cas32"(uint32_t *, uint32_t, uint32_t) noexcept nogil
    int popcount "fm_popcount"(uint64_t) noexcept nogil
    int lowest "fm_lowest"(uint64_t) noexcept nogil
    void fence "fm_fence"() noexcept nogil
    void signal_fd "fm_signal"(int) noexcept nogil
    double system_time "fm_time"() noexcept nogil
    int sched_yield() nogil
    void *mmap(void *, size_t, int, int, int, int64_t) nogil
    int munmap(void *, size_t) nogil
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

cdef enum:
    PROBES = 48  # an entry lies within so many places of where its hash points
    HEADER_SIZE = 4096
    ATTEMPTS = 8
    IDLE_WINDOW = 30  # seconds without a use after which a destination's window begins anew

cdef uint64_t EMPTY = 0  # never used: ends a search
cdef uint64_t GONE = 1  # used and given back
cdef uint64_t BUSY = <uint64_t>1 << 63  # being filled by the worker in the low bits
cdef uint64_t MAGIC = 0x46544d4153483033
cdef double UNIT = 1048576.0  # 2**20: one, in the fractions of Entry.state

# Window.positive, negative: the kinds of feedback
FEEDBACK_CONSTANT = 0
FEEDBACK_CONCURRENCY = 1
FEEDBACK_SQRT_CONCURRENCY = 2

cdef struct Header:
    uint64_t magic
    uint64_t capacity
    uint64_t[2] seed
    uint64_t live  # columns below this number were ever used
    int[SLOTS] wake_fd


cdef inline uint64_t bits(double value) noexcept nogil:
    cdef uint64_t out
    memcpy(&out, &value, 8)
    return out


cdef inline double real(uint64_t value) noexcept nogil:
    cdef double out
    memcpy(&out, &value, 8)
    return out


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


cdef inline uint64_t rotate(uint64_t v, int n) noexcept nogil:
    return (v << n) | (v >> (64 - n))


cdef class SharedTable:
    """The table, as one process sees it: `create` in the master, inherited by fork (or `attach` by fd), then `bind`."""

    def __cinit__(self):
        self.fd = -1
        self.slot = 0
        self.base = NULL
        self.time_unit = 60.0
        self.max_idle = 120.0

    def __init__(self, int fd):
        cdef Header *header
        cdef void *base
        self.length = <size_t>os.fstat(fd).st_size
        base = mmap(NULL, self.length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise OSError("cannot map the shared table")
        self.base = <char *>base
        self.fd = fd
        header = <Header *>base
        if self.length < HEADER_SIZE or header.magic != MAGIC:
            raise ValueError(f"file descriptor {fd} is no shared table")
        self.capacity = <int>header.capacity
        self.mask = header.capacity - 1
        self.entries = <Entry *>(self.base + HEADER_SIZE)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.length)

    @staticmethod
    def create(int capacity=65536):
        """A new empty table in anonymous memory, for that many keys (rounded up to a power of two)."""
        cdef Header header
        cdef int slot
        if sizeof(Entry) != 512:
            raise ValueError("an entry of the shared table must have 512 bytes")
        size = 64
        while size < capacity:
            size *= 2
        fd = os.memfd_create("fastmta-shared", os.MFD_CLOEXEC)
        os.ftruncate(fd, HEADER_SIZE + size * sizeof(Entry))
        memset(&header, 0, sizeof(header))
        header.magic = MAGIC
        header.capacity = size
        seed = os.urandom(16)
        memcpy(&header.seed[0], <const char *>seed, 16)
        for slot in range(SLOTS):
            header.wake_fd[slot] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        os.pwrite(fd, (<char *>&header)[:sizeof(header)], 0)
        return SharedTable(fd)

    @staticmethod
    def attach(int fd):
        """The table behind an inherited file descriptor. The eventfds must have been inherited under their numbers."""
        return SharedTable(fd)

    def bind(self, int slot):
        """From now on this process is the worker with that number, 0 to 63."""
        cdef Header *header = <Header *>self.base
        cdef uint64_t live
        if not 0 <= slot < SLOTS:
            raise ValueError(f"no column {slot} in the shared table")
        self.slot = slot
        while True:
            live = load(&header.live)
            if live > <uint64_t>slot or cas(&header.live, live, slot + 1):
                return

    def close(self):
        """The master's end: close the descriptors. The memory stays until the last process unmapped it."""
        cdef Header *header = <Header *>self.base
        cdef int slot
        if self.fd >= 0:
            for slot in range(SLOTS):
                os.close(header.wake_fd[slot])
            os.close(self.fd)
            self.fd = -1

    def wake_fd(self, int slot=-1):
        """The eventfd that wakes that worker (by default this one): readable when a place became free that it waits for."""
        return (<Header *>self.base).wake_fd[self.slot if slot < 0 else slot]

    def wake(self, int slot):
        """Wake that worker."""
        self.wake_mask(<uint64_t>1 << slot)

    cdef void wake_mask(self, uint64_t mask) noexcept nogil:
        cdef Header *header = <Header *>self.base
        while mask:
            signal_fd(header.wake_fd[lowest(mask)])
            mask &= mask - 1

    def clear_worker(self, int slot):
        """The worker with that number is gone: drop all that it held, and wake those that wait for it."""
        cdef uint64_t i, waiters, woken = 0
        cdef Entry *entry
        cdef uint64_t own = <uint64_t>1 << slot
        if not 0 <= slot < SLOTS:
            raise ValueError(f"no column {slot} in the shared table")
        for i in range(<uint64_t>self.capacity):
            entry = &self.entries[i]
            if entry.hash == EMPTY:
                continue
            if load(&entry.hash) == (BUSY | <uint64_t>slot):
                memset(&entry.held[0], 0, sizeof(entry.held))
                store(&entry.waiters, 0)
                cas(&entry.hash, BUSY | <uint64_t>slot, GONE)
                continue
            store16(&entry.held[slot], 0)
            waiters = keep_bits(&entry.waiters, ~own)
            woken |= waiters
        self.wake_mask(woken & ~own)

    def client(self, str service not None, str address not None):
        """A connection of that client to that service begins: it is counted, and its rate with it (see `Client`)."""
        return Client(self, service, address)

    def window(self, str key not None, int initial=5):
        """The places at a destination or transport; initial is the first window of one not seen lately."""
        return Window(self, key, initial)

    def entries_in_use(self):
        """(key, places taken, window, throttled until, (start, rates ...)) of each entry that is known, for listings."""
        cdef uint64_t i
        cdef Entry *entry
        cdef int r
        found = []
        for i in range(<uint64_t>self.capacity):
            entry = &self.entries[i]
            if load(&entry.hash) in (EMPTY, GONE) or load(&entry.hash) & BUSY:
                continue
            key = entry.key[:min(entry.key_length, KEY_SIZE)].decode("utf-8", "replace")
            rates = tuple(
                [<uint32_t>entry.rate[r] if entry.rate[r] >> 32 == entry.start else 0 for r in range(RATES)]
            )
            found.append((key, self.held(entry), <int>(entry.state >> 48), real(entry.until), (entry.start, *rates)))
        return found

    cdef double now(self) noexcept nogil:
        return self.fixed_time if self.fixed_time != 0 else system_time()

    cdef void digest(self, const char *data, Py_ssize_t size, uint64_t *out) noexcept nogil:
        # SipHash-1-3 with a secret seed and 128 bits of result: clients choose their addresses, they must not choose
        # where they land.
        cdef Header *header = <Header *>self.base
        cdef uint64_t v0 = header.seed[0] ^ <uint64_t>0x736f6d6570736575
        cdef uint64_t v1 = header.seed[1] ^ <uint64_t>0x646f72616e646f6d ^ 0xee
        cdef uint64_t v2 = header.seed[0] ^ <uint64_t>0x6c7967656e657261
        cdef uint64_t v3 = header.seed[1] ^ <uint64_t>0x7465646279746573
        cdef uint64_t word
        cdef Py_ssize_t at = 0, rest
        cdef int turn, rounds
        cdef bint last = False
        while not last:
            word = 0
            rest = size - at
            if rest >= 8:
                memcpy(&word, data + at, 8)
            else:
                if rest > 0:
                    memcpy(&word, data + at, rest)
                word |= <uint64_t>size << 56
                last = True
            at += 8
            v3 ^= word
            sip_round(&v0, &v1, &v2, &v3)
            v0 ^= word
        v2 ^= 0xee
        for turn in range(2):
            for rounds in range(3):
                sip_round(&v0, &v1, &v2, &v3)
            out[turn] = v0 ^ v1 ^ v2 ^ v3
            v1 ^= 0xdd
        out[0] &= ~BUSY
        if out[0] <= GONE:
            out[0] = 2

    cdef int held(self, Entry *entry) noexcept nogil:
        cdef int i, total = 0, live = <int>(<Header *>self.base).live
        fence()
        for i in range(live):
            total += load16(&entry.held[i])
        return total

    cdef bint reclaimable(self, Entry *entry, uint64_t now) noexcept nogil:
        return (
            load(&entry.used) + <uint64_t>self.max_idle < now
            and load(&entry.waiters) == 0
            and real(load(&entry.until)) < now
            and real(load(&entry.after)) < now
            and self.held(entry) == 0
        )

    cdef Entry *search(self, uint64_t first, uint64_t second, Entry *other, Entry **free) noexcept nogil:
        # The entry of the key, passing over `other`; else NULL, and the first place that could be made one in free.
        cdef uint64_t i, value, now = 0
        cdef int patience
        cdef Entry *entry
        free[0] = NULL
        for i in range(PROBES):
            entry = &self.entries[(first + i) & self.mask]
            value = load(&entry.hash)
            patience = 200
            while value & BUSY and patience > 0:
                # Another worker makes an entry here, perhaps this very one: that takes it a moment, unless it died.
                patience -= 1
                if patience < 20:
                    sched_yield()
                value = load(&entry.hash)
            if value == first and load(&entry.check) == second and entry != other:
                return entry
            if value == EMPTY:
                if free[0] == NULL:
                    free[0] = entry
                return NULL
            if free[0] == NULL and not value & BUSY and entry != other:
                if now == 0:
                    now = <uint64_t>self.now()
                if value == GONE or self.reclaimable(entry, now):
                    free[0] = entry
        return NULL

    cdef Entry *locate(self, uint64_t first, uint64_t second, const char *key, Py_ssize_t size) noexcept nogil:
        # The entry of the key, made if need be; NULL when there is no room.
        cdef Entry *entry
        cdef Entry *free
        cdef Entry *ignored
        cdef uint64_t value, busy = BUSY | <uint64_t>self.slot
        cdef int attempt
        for attempt in range(ATTEMPTS):
            entry = self.search(first, second, NULL, &free)
            if entry != NULL:
                return entry
            if free == NULL:
                return NULL
            value = load(&free.hash)
            if value & BUSY or not cas(&free.hash, value, busy):
                continue
            if value > GONE and not self.reclaimable(free, <uint64_t>self.now()):
                store(&free.hash, value)
                continue
            store(&free.check, second)
            store(&free.used, <uint64_t>self.now())
            store(&free.state, 0)
            store(&free.cohorts, 0)
            store(&free.until, 0)
            store(&free.after, 0)
            store(&free.start, 0)
            memset(&free.rate[0], 0, sizeof(free.rate))
            free.key_length = <uint16_t>(size if size < KEY_SIZE else KEY_SIZE)
            free.reason_length = 0
            memcpy(&free.key[0], key, free.key_length)
            store(&free.hash, first)
            # Two may make an entry for the same key in different places: who sees the other's gives its own back.
            if self.search(first, second, free, &ignored) == NULL:
                return free
            store(&free.hash, GONE)
        return NULL


cdef inline void sip_round(uint64_t *v0, uint64_t *v1, uint64_t *v2, uint64_t *v3) noexcept nogil:
    v0[0] += v1[0]
    v1[0] = rotate(v1[0], 13) ^ v0[0]
    v0[0] = rotate(v0[0], 32)
    v2[0] += v3[0]
    v3[0] = rotate(v3[0], 16) ^ v2[0]
    v0[0] += v3[0]
    v3[0] = rotate(v3[0], 21) ^ v0[0]
    v2[0] += v1[0]
    v1[0] = rotate(v1[0], 17) ^ v2[0]
    v2[0] = rotate(v2[0], 32)


cdef class Client:
    """One connection of a client to a service: counted from its making until `disconnect`, or until it is dropped.

    count is the number of connections of this client at that moment, this one included; connection_rate that of the present
    time unit. Each event method counts one and returns how many that makes in this time unit. Without room in the table
    everything is 0.
    """

    def __cinit__(self, SharedTable table not None, str service not None, str address not None):
        cdef uint64_t[2] name
        cdef Entry *entry
        cdef int attempt
        cdef bytes key = f"{service}:{address}".encode("utf-8", "surrogateescape")
        self.table = table
        self.entry = NULL
        table.digest(key, len(key), name)
        for attempt in range(ATTEMPTS):
            entry = table.locate(name[0], name[1], key, len(key))
            if entry == NULL:
                return
            add16(&entry.held[table.slot], 1)
            if load(&entry.hash) == name[0] and load(&entry.check) == name[1]:
                self.entry = entry
                self.connected = True
                self.count = table.held(entry)
                self.connection_rate = self.bump(0)
                return
            add16(&entry.held[table.slot], -1)

    def __dealloc__(self):
        self.disconnect()

    cpdef disconnect(self):
        """The connection is over. Doing it twice is harmless."""
        if self.connected:
            self.connected = False
            store(&self.entry.used, <uint64_t>self.table.now())
            add16(&self.entry.held[self.table.slot], -1)
            self.entry = NULL

    cpdef int message(self):
        """A MAIL FROM."""
        return self.bump(1)

    cpdef int recipient(self):
        """A RCPT TO."""
        return self.bump(2)

    cpdef int newtls(self):
        """A TLS handshake without resumption."""
        return self.bump(3)

    cpdef int auth(self):
        """An AUTH command."""
        return self.bump(4)

    cpdef int newtls_rate(self):
        """How many handshakes there were in this time unit, without counting one."""
        return self.peek(3)

    cdef int peek(self, int which) noexcept:
        cdef uint64_t start, word
        if self.entry == NULL:
            return 0
        start = load(&self.entry.start)
        word = load(&self.entry.rate[which])
        if start + <uint64_t>self.table.time_unit < <uint64_t>self.table.now() or word >> 32 != start & 0xffffffff:
            return 0
        return <int>(word & 0x7fffffff)

    cdef int bump(self, int which) noexcept:
        cdef Entry *entry = self.entry
        cdef uint64_t now, start, word, count
        if entry == NULL:
            return 0
        now = <uint64_t>self.table.now()
        while True:
            start = load(&entry.start)
            if start + <uint64_t>self.table.time_unit < now or start > now + 1:
                if not cas(&entry.start, start, now):
                    continue
                start = now
            break
        while True:
            word = load(&entry.rate[which])
            count = (word & 0xffffffff) + 1 if word >> 32 == start & 0xffffffff else 1
            if cas(&entry.rate[which], word, (start << 32) | count):
                return <int>count


cdef class Window:
    """The places at one destination ("smtp:example.com") or transport, shared by all workers.

    A worker holds `mine` of them. Those of a Window that is dropped are given back.
    """

    def __cinit__(self, SharedTable table not None, str key not None, int initial):
        cdef uint64_t[2] name
        self.table = table
        self.key = key.encode("utf-8", "surrogateescape")
        self.initial = min(max(initial, 1), 65535)
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

    cpdef bint try_acquire(self, int limit=0):
        """Take a place, unless the window is closed or full or limit places (0: no limit) are taken."""
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
            if limit and limit < window:
                window = limit
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
        cdef uint64_t waiters
        if self.mine <= 0:
            return
        self.mine -= 1
        if self.alone > 0:
            self.alone -= 1
            return
        add16(&entry.held[self.table.slot], -1)
        waiters = load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)
        if waiters:
            self.table.wake_mask(waiters)

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

    cpdef uint64_t others_waiting(self):
        """A bit for each other worker that waits for a place."""
        cdef Entry *entry = self.entry
        if entry == NULL:
            return 0
        return load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)

    cpdef bint over_share(self, int limit, bint rested):
        """Whether this worker should give a place up for others that wait: it holds more than its part of the window.

        rested: the place was held for a while, so that it may go round where the parts are not even.
        """
        cdef Entry *entry = self.entry
        cdef int i, live, claimants, window
        cdef uint64_t wanting
        if entry == NULL:
            return False
        wanting = load(&entry.waiters) & ~(<uint64_t>1 << self.table.slot)
        if wanting == 0:
            return False
        window = <int>(load(&entry.state) >> 48)
        if limit and limit < window:
            window = limit
        live = <int>(<Header *>self.table.base).live
        for i in range(live):
            if load16(&entry.held[i]):
                wanting |= <uint64_t>1 << i
        wanting |= <uint64_t>1 << self.table.slot
        claimants = popcount(wanting)
        if rested:
            return self.mine > window // claimants
        return self.mine > (window + claimants - 1) // claimants

    cpdef void positive(self, int limit, int margin, double base, int kind):
        """A delivery met a live site: the failed cohorts are forgotten; the window grows up to limit (0: none), but not
        more than margin beyond the places in use. A throttled destination comes back.
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
            if limit and window >= limit:
                return
            busy = self.table.held(entry)
            if window >= busy + margin or window >= 65535:
                return
            success = fraction(old >> 24)
            failure = fraction(old)
            step = feedback(base, kind, window)
            success += step
            while success + step / 2 >= 1 - 2e-6:
                window += 1
                success -= 1
                failure = 0
            if limit and window > limit:
                window = limit
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
        """Let deliveries to a throttled destination begin again, with the places in use as the window, else the first."""
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
        """Begin a delivery at that time if none began within delay seconds before; the next may begin delay after it."""
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
        cdef int size, attempt
        if entry == NULL:
            return None
        for attempt in range(3):
            serial = load32(&entry.serial)
            size = min(<int>entry.reason_length, REASON_SIZE - 4)
            memcpy(&copy[0], &entry.reason[0], size)
            fence()
            if serial & 1 == 0 and load32(&entry.serial) == serial and size:
                dsn, _, text = copy[:size].decode("utf-8", "ignore").partition(" ")
                return (dsn, text)
        return None
