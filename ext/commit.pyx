"""The commit thread: takes records from the event loop, makes them durable in groups, and says so through an eventfd.

Used by fastmta/queue/keeping.py, one per open shard. The loop calls message(), record(), remove(), then kick() at the
end of its turn; when the eventfd is readable it calls collect(). The thread itself is C (commitlog.h) and never takes
the GIL: it holds pointers into bytes objects that this class keeps alive until collect(). A write or sync that fails
is reported by collect(), never raised; see commitlog.h for what happens then, records.pyx for what a record is.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastmta._ext.records cimport (
    RECORD_HEADER,
    crc32c_init,
    record_begin,
    record_length,
)

import os

from fastmta.model.message import Place

WRITE = OP_WRITE
SYNC = OP_SYNC
OPEN = OP_OPEN
DIRECTORY_SYNC = OP_DIRSYNC
TRUNCATE = OP_TRUNCATE

cdef enum:
    KIND_REMOVE = 4

cdef extern from "commitlog.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_t:
        pass
    int pthread_mutex_lock(pthread_mutex_t *m)
    int pthread_mutex_unlock(pthread_mutex_t *m)
    int pthread_join(pthread_t t, void **result)
    int pthread_cond_signal(void *c)
    int c_eventfd "eventfd"(unsigned int n, int flags)
    int EFD_NONBLOCK, EFD_CLOEXEC
    ssize_t c_read "read"(int fd, void *buffer, size_t n)
    int OP_WRITE, OP_SYNC, OP_OPEN, OP_DIRSYNC, OP_TRUNCATE, OP_COUNT

    struct commit_fault:
        int active, after, times, error
        long written, delay_us
    struct commit_part:
        const void *data
        size_t length
        void *object
    struct commit_bytes:
        uint8_t *data
        size_t used, size
    struct commit_entry:
        size_t head
        uint32_t head_length
        int first_part, parts
        uint64_t offset, length
        int error
        void *object
    struct commit_batch:
        uint64_t sequence
        commit_bytes riders, arena
        commit_part *parts
        int parts_used
        commit_entry *entries
        int entries_used
        uint64_t segment, base, end
        int riders_error
        commit_batch *next
    struct commit_log:
        pthread_t thread
        pthread_mutex_t lock
        int started, stop, waiting, kicked, failed
        commit_batch *gather
        commit_batch *done
        commit_batch **done_tail
        commit_batch *spare
        int64_t lazy_ns
        int event_fd, directory_fd, reserve_fd, fd
        uint32_t shard
        uint64_t next_segment, segment_size, reserve_size, reserve_held
        uint64_t free_bytes, syncs
        void *vector
        commit_fault *faults
    int commit_start(commit_log *log)
    void commit_unlock_and_signal(commit_log *log)
    uint8_t *commit_rider(commit_log *log, size_t length)
    commit_entry *commit_new_entry "commit_entry"(commit_log *log, size_t head, int parts)
    void commit_recycle(commit_log *log, commit_batch *b)
    void commit_free_batches(commit_batch *b)


cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t length, int advice)
    int MADV_DONTNEED


crc32c_init()


def drop_pages(str path not None):
    """Unmap from this process the resident pages of every read-only mapping of that file; they stay in the page cache.

    For LMDB, whose mapping otherwise grows into the process as far as it was ever read. Raises nothing.
    """
    cdef size_t start, end
    ending = path.encode() + b"\n"
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            if line.endswith(ending):
                fields = line.split(None, 2)
                if fields[1].startswith(b"r-"):
                    first, _, last = fields[0].partition(b"-")
                    start = int(first, 16)
                    end = int(last, 16)
                    madvise(<void *> start, end - start, MADV_DONTNEED)


cdef class CommitThread:
    """One shard's writer. Not to be shared among Python threads."""

    cdef commit_log *log

    def __cinit__(self):
        self.log = <commit_log *> calloc(1, sizeof(commit_log))
        if self.log == NULL:
            raise MemoryError
        self.log.event_fd = self.log.directory_fd = self.log.reserve_fd = self.log.fd = -1

    def __init__(
        self,
        str directory not None,
        int shard,
        uint64_t next_segment,
        *,
        uint64_t segment_size,
        double lazy,
        str reserve="",
        uint64_t reserve_size=0,
    ):
        """directory: where segments are made, the first with number next_segment, when there is something to write.

        lazy: seconds that state changes may wait for a message to ride with. reserve: a file of reserve_size bytes
        that is given up so that state changes can be written on a full disk. Raises OSError.
        """
        cdef int error
        if self.log.event_fd >= 0:
            raise RuntimeError("already started")
        self.log.shard = shard
        self.log.next_segment = next_segment
        self.log.segment_size = segment_size
        self.log.lazy_ns = <int64_t> (lazy * 1e9)
        self.log.directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if reserve and reserve_size:
            self.log.reserve_fd = os.open(reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.log.reserve_size = reserve_size
            try:
                os.posix_fallocate(self.log.reserve_fd, 0, reserve_size)
                self.log.reserve_held = reserve_size
            except OSError:
                pass  # as good as used already: made when there is room again
        space = os.fstatvfs(self.log.directory_fd)
        self.log.free_bytes = space.f_bavail * space.f_frsize
        self.log.event_fd = c_eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.log.event_fd < 0:
            raise OSError(24, "eventfd")
        error = commit_start(self.log)
        if error:
            raise OSError(error, "pthread_create")

    def __dealloc__(self):
        cdef int fd
        if self.log == NULL:
            return
        if self.log.started:
            self.shut()
        self.drop_all()
        for fd in (self.log.event_fd, self.log.directory_fd, self.log.reserve_fd, self.log.fd):
            if fd >= 0:
                os.close(fd)
        if self.log.gather != NULL:
            commit_free_batches(self.log.gather)
        commit_free_batches(self.log.spare)
        free(self.log.vector)
        free(self.log)

    cdef void drop_all(self):
        """Let go of every reference of batches that nobody collected."""
        cdef commit_batch *b = self.log.done
        cdef commit_batch *following
        while b != NULL:
            following = b.next
            self.release(b)
            commit_recycle(self.log, b)
            b = following
        self.log.done = NULL
        if self.log.gather != NULL:
            self.release(self.log.gather)

    cdef void release(self, commit_batch *b):
        cdef int k
        for k in range(b.parts_used):
            Py_DECREF(<object> <PyObject *> b.parts[k].object)
        for k in range(b.entries_used):
            if b.entries[k].object != NULL:
                Py_DECREF(<object> <PyObject *> b.entries[k].object)
        b.parts_used = b.entries_used = 0

    cdef void shut(self):
        pthread_mutex_lock(&self.log.lock)
        self.log.stop = 1
        commit_unlock_and_signal(self.log)
        with nogil:
            pthread_join(self.log.thread, NULL)
        self.log.started = 0

    def close(self):
        """Make all that was handed in durable and end the thread; collect() still has its answers afterwards."""
        if self.log.started:
            self.shut()

    def fileno(self):
        """Readable when collect() has something."""
        return self.log.event_fd

    def message(self, int kind, bytes meta not None, list content not None, object token):
        """Hand in a record with content; returns its batch's number. Its fate is told by collect() with token."""
        cdef commit_log *log = self.log
        cdef commit_entry *e
        cdef commit_part *part
        cdef commit_batch *b
        cdef uint8_t *head
        cdef uint32_t meta_length = PyBytes_GET_SIZE(meta)
        cdef uint64_t length = 0
        cdef int parts = 0
        cdef bytes chunk
        if not log.started:
            raise RuntimeError("closed")
        for item in content:
            chunk = <bytes?> item
            length += PyBytes_GET_SIZE(chunk)
            parts += 1
        pthread_mutex_lock(&log.lock)
        e = commit_new_entry(log, RECORD_HEADER + meta_length, parts)
        if e == NULL:
            pthread_mutex_unlock(&log.lock)
            raise MemoryError
        b = log.gather
        head = b.arena.data + e.head
        record_begin(head, kind, meta_length, length)
        memcpy(head + RECORD_HEADER, PyBytes_AS_STRING(meta), meta_length)
        e.length = record_length(meta_length, length)
        e.parts = parts
        for item in content:
            chunk = <bytes> item
            part = &b.parts[b.parts_used]
            b.parts_used += 1
            part.data = PyBytes_AS_STRING(chunk)
            part.length = PyBytes_GET_SIZE(chunk)
            part.object = <void *> chunk
            Py_INCREF(chunk)
        e.object = <void *> token
        Py_INCREF(token)
        sequence = b.sequence
        pthread_mutex_unlock(&log.lock)
        return sequence

    def record(self, int kind, bytes meta not None):
        """Hand in a state change, kept until it is durable; returns its batch's sequence number."""
        cdef uint32_t meta_length = PyBytes_GET_SIZE(meta)
        cdef uint64_t length = record_length(meta_length, 0)
        cdef uint64_t sequence
        cdef uint8_t *p
        if not self.log.started:
            raise RuntimeError("closed")
        pthread_mutex_lock(&self.log.lock)
        p = commit_rider(self.log, length)
        if p != NULL:
            memset(p + length - 8, 0, 8)
            record_begin(p, kind, meta_length, 0)
            memcpy(p + RECORD_HEADER, PyBytes_AS_STRING(meta), meta_length)
        sequence = self.log.gather.sequence
        pthread_mutex_unlock(&self.log.lock)
        if p == NULL:
            raise MemoryError
        return sequence

    def remove(self, str queue_id not None, uint32_t home):
        """record(REMOVE, (queue id, home)) without a detour through an encoder."""
        cdef Py_ssize_t n
        cdef const char *text = PyUnicode_AsUTF8AndSize(queue_id, &n)
        cdef uint32_t meta_length = n + 7
        cdef uint64_t length = record_length(meta_length, 0)
        cdef uint64_t sequence
        cdef uint8_t *p
        if n > 31:
            raise ValueError("no queue id")
        if not self.log.started:
            raise RuntimeError("closed")
        pthread_mutex_lock(&self.log.lock)
        p = commit_rider(self.log, length)
        if p != NULL:
            memset(p + length - 8, 0, 8)
            record_begin(p, KIND_REMOVE, meta_length, 0)
            p += RECORD_HEADER
            p[0] = 0x92  # array of 2
            p[1] = 0xa0 | n  # string of n bytes
            memcpy(p + 2, text, n)
            p += 2 + n
            p[0] = 0xce  # unsigned, 32 bits, big-endian
            p[1] = home >> 24
            p[2] = (home >> 16) & 0xff
            p[3] = (home >> 8) & 0xff
            p[4] = home & 0xff
        sequence = self.log.gather.sequence
        pthread_mutex_unlock(&self.log.lock)
        if p == NULL:
            raise MemoryError
        return sequence

    def kick(self):
        """Start on what has gathered; cheap when the thread is at work anyway."""
        pthread_mutex_lock(&self.log.lock)
        self.log.kicked = 1
        commit_unlock_and_signal(self.log)

    def collect(self):
        """What has become durable or failed: [(sequence, segment, base, end, riders_error, [(token, place, error)])].

        base and end: which bytes of the segment this batch is. error: 0, or an errno, then place is None.
        riders_error: an errno when the state changes of this batch were put back: they are in the next one.
        """
        cdef commit_batch *b
        cdef commit_batch *following
        cdef commit_entry *e
        cdef uint64_t count
        cdef int k
        cdef list answers = [], entries
        c_read(self.log.event_fd, &count, sizeof(count))
        pthread_mutex_lock(&self.log.lock)
        b = self.log.done
        self.log.done = NULL
        self.log.done_tail = &self.log.done
        pthread_mutex_unlock(&self.log.lock)
        while b != NULL:
            following = b.next
            entries = []
            for k in range(b.entries_used):
                e = &b.entries[k]
                if e.error:
                    entries.append((<object> <PyObject *> e.object, None, e.error))
                else:
                    entries.append((<object> <PyObject *> e.object, Place(b.segment, b.base + e.offset, e.length), 0))
            answers.append((b.sequence, b.segment, b.base, b.end, b.riders_error, entries))
            self.release(b)
            pthread_mutex_lock(&self.log.lock)
            commit_recycle(self.log, b)
            pthread_mutex_unlock(&self.log.lock)
            b = following
        return answers

    def inject(self, int operation, int error, int after=0, int times=1, long written=0, double delay=0.0):
        """For tests: let the call number `after` of that operation, and times - 1 more (0: all), fail with error.

        written: bytes that a WRITE gets through before; delay: seconds that the operation takes longer.
        """
        cdef commit_fault *fault = &self.log.faults[operation]
        fault.active = 0
        fault.after = after
        fault.times = times
        fault.error = error
        fault.written = written
        fault.delay_us = <long> (delay * 1e6)
        fault.active = times >= 0

    @property
    def last_sequence(self):
        """The number of the last batch that has anything in it."""
        cdef uint64_t sequence
        pthread_mutex_lock(&self.log.lock)
        sequence = self.log.gather.sequence
        if not (self.log.gather.entries_used or self.log.gather.riders.used):
            sequence -= 1
        pthread_mutex_unlock(&self.log.lock)
        return sequence

    @property
    def failed(self):
        """The errno of the sync that failed, or 0."""
        return self.log.failed

    @property
    def free_bytes(self):
        """Space left on the disk, at most a second old while there is traffic."""
        return self.log.free_bytes

    @property
    def syncs(self):
        """How many syncs there were."""
        return self.log.syncs
