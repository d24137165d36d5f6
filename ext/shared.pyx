"""Memory shared by all workers: counts and rates per client, concurrency and feedback per destination.

The master makes the table before it forks (`SharedTable.create`), each worker says which column is its own
(`bind`), and the master calls `clear_worker` when a worker died: that drops whatever it held. smtpd/ takes a
`Client` for each connection, ext/sched.pyx a `Window` for each destination and transport.

Layout: a hash table of fixed size, open addressing, an entry of 512 bytes for each key of at most 92 bytes (longer
ones count by their hash). Nothing here is a lock: a worker may die of SIGKILL between any two instructions and the
others go on. What a worker holds stands only in its own column, so the places taken are the sum of the columns; to
take one is to add to the own column *first*, then to sum, and to step back when the sum is over the limit: two that
come at once may both step back (and try again), never both get in. Who steps back sets its bit in `waiters` and
tries again; who leaves subtracts, then looks at the bits: with sequential consistency one of both sees the other,
so no wakeup is lost. A poll timer of the scheduler covers a worker that died before it could wake anybody.

Rates follow anvil(8): one fixed time unit per client for all its counters, which begins with the first event after
the last one ended; the count carries the beginning of its unit in the same word, so that the turn of the unit needs
no lock.

An entry is claimed by swapping its hash for BUSY | slot; it is filled, then published. An entry that holds nothing
and was not used for `max_idle` seconds may be taken for another key; therefore a user adds to its column, then
checks that the entry is still its own. A table that is full answers with private counts (limits then apply per
worker) instead of failing.

Raises OSError where the memory or the eventfds cannot be had, ValueError for a bad slot. Reference: anvil(8),
Postfix's SCHEDULER_README.
"""

import os

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastmta._ext.atomics cimport (
    add16, cas, cas32, fence, keep_bits, load, load16, load32, lowest, real, signal_fd, store, store16, store32,
    system_time,
)

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *, size_t, int, int, int, int64_t)
    int munmap(void *, size_t)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

cdef enum:
    PROBES = 48  # an entry lies within so many places of where its hash points
    HEADER_SIZE = 4096

cdef uint64_t EMPTY = 0  # never used: ends a search
cdef uint64_t GONE = 1  # used and given back
cdef uint64_t BUSY = <uint64_t>1 << 63  # being filled by the worker in the low bits
cdef uint64_t MAGIC = 0x46544d4153483033

PEAK_NAMES = ("connection", "message", "recipient", "newtls", "auth", "count")

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
        """The eventfd that wakes that worker (by default this one) when a place that it waits for became free."""
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

    def entries_in_use(self):
        """(key, places taken, window, throttled until, (start, rates ...)) of each known entry, for listings."""
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

    def peaks(self):
        """The highest figures since the last call, as anvil(8) tells them: (what, value, "service:address", Unix time).

        what: connection, message, recipient, newtls, auth (rates), count (connections at once).
        """
        cdef Header *header = <Header *>self.base
        cdef Peak *peak
        cdef uint64_t value
        cdef int i
        found = []
        for i in range(PEAKS):
            peak = &header.peak[i]
            value = load(&peak.value)
            if value:
                key = peak.key[:min(peak.key_length, KEY_SIZE)].decode("utf-8", "replace")
                if cas(&peak.value, value, 0):  # else another worker tells it
                    found.append((PEAK_NAMES[i], value, key, peak.when))
        return found

    cdef void note_peak(self, int which, uint64_t value, Entry *entry) noexcept nogil:
        cdef Peak *peak = &(<Header *>self.base).peak[which]
        cdef uint64_t old = load(&peak.value)
        cdef uint32_t serial = load32(&peak.serial)
        if value <= old or not cas(&peak.value, old, value):
            return
        if cas32(&peak.serial, serial, (serial + 1) | 1):
            peak.when = <uint64_t>self.now()
            peak.key_length = entry.key_length
            memcpy(&peak.key[0], &entry.key[0], entry.key_length)
            store32(&peak.serial, ((serial + 1) | 1) + 1)

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
        cdef int turn, _round
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
            for _round in range(3):
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
        cdef int _attempt
        for _attempt in range(ATTEMPTS):
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

    count: the connections of this client at that moment, this one included; connection_rate: those of the present
    time unit. Each event method counts one and returns how many that makes in this time unit. Without room in the table
    everything is 0.
    """

    def __cinit__(self, SharedTable table not None, str service not None, str address not None):
        cdef uint64_t[2] name
        cdef Entry *entry
        cdef int _attempt
        cdef bytes key = f"{service}:{address}".encode("utf-8", "surrogateescape")
        self.table = table
        self.entry = NULL
        table.digest(key, len(key), name)
        for _attempt in range(ATTEMPTS):
            entry = table.locate(name[0], name[1], key, len(key))
            if entry == NULL:
                return
            add16(&entry.held[table.slot], 1)
            if load(&entry.hash) == name[0] and load(&entry.check) == name[1]:
                self.entry = entry
                self.connected = True
                self.count = table.held(entry)
                table.note_peak(5, self.count, entry)
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
                if count > (<Header *>self.table.base).peak[which].value:
                    self.table.note_peak(which, count, entry)
                return <int>count
