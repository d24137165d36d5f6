/* The native half of commit.pyx: a thread that makes batches of records durable. No Python in here, no GIL.
 *
 * Rules:
 * - One batch is written and synced at a time; while its sync runs the next one gathers. So at any moment the bytes that are
 *   on disk but perhaps not durable are those of one batch, at the end of the newest segment.
 * - A batch is its riders (state changes: small, kept until they are durable) and then its entries (messages: each one
 *   succeeds or fails). A batch with entries is due when it was kicked; one with riders alone may wait `lazy_ns`.
 * - A write that fails is cut off again (ftruncate to the last whole record), fails the entries that are not in, and puts
 *   the riders back into the next batch. Riders may use the space of the file "reserve" when the disk is full.
 * - A sync that fails is never repeated: the segment is given up, `failed` is set, entries fail from then on, riders go
 *   into a new segment.
 * - The owner's thread alone touches `object` pointers; this one only carries them.
 */
#ifndef FASTMTA_COMMITLOG_H
#define FASTMTA_COMMITLOG_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "record_format.h"

#define COMMIT_IOV 512

enum commit_op { OP_WRITE, OP_SYNC, OP_OPEN, OP_DIRSYNC, OP_TRUNCATE, OP_COUNT };

/* A fault to inject, for tests: the call number `after` (0 = the next) of that operation and `times` - 1 more fail. */
struct commit_fault {
    int active, after, times, error;
    long written; /* OP_WRITE: so many bytes get through first */
    long delay_us;
};

struct commit_part {
    const void *data;
    size_t length;
    void *object;
};

struct commit_entry {
    size_t head; /* offset in arena */
    uint32_t head_length;
    int first_part, parts;
    uint64_t offset, length; /* from the batch's base; whole record */
    int error;
    void *object;
};

struct commit_bytes {
    uint8_t *data;
    size_t used, size;
};

struct commit_batch {
    uint64_t sequence;
    struct commit_bytes riders, arena;
    struct commit_part *parts;
    int parts_used, parts_size;
    struct commit_entry *entries;
    int entries_used, entries_size;
    uint64_t segment, base, end; /* where it went; end = base where nothing did */
    int riders_error;
    struct commit_batch *next;
};

struct commit_log {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int started, stop, waiting, kicked;
    struct commit_batch *gather, *done, **done_tail, *spare;
    uint64_t next_sequence;
    int64_t lazy_ns, riders_since, retry_at;

    int event_fd, directory_fd, reserve_fd, fd;
    uint32_t shard;
    uint64_t segment, next_segment, salt, position, segment_size, reserve_size;
    int header_due, retire, failed;
    uint64_t reserve_held, previous_end;
    int64_t stat_at;
    volatile uint64_t free_bytes;
    volatile uint64_t syncs;
    struct iovec *vector;
    size_t vector_size;
    struct commit_fault faults[OP_COUNT];
};

static int64_t commit_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The error to pretend, or 0. */
static int commit_fault(struct commit_log *log, enum commit_op op)
{
    struct commit_fault *f = &log->faults[op];
    int error = 0;
    long delay = 0;
    if (__builtin_expect(!__atomic_load_n(&f->active, __ATOMIC_ACQUIRE), 1))
        return 0;
    if (f->after > 0) {
        f->after--;
    } else {
        error = f->error;
        delay = f->delay_us;
        if (f->times > 0 && --f->times == 0)
            __atomic_store_n(&f->active, 0, __ATOMIC_RELEASE);
    }
    if (delay)
        usleep((useconds_t)delay);
    return error;
}

/* Write it all at `position`; *written tells how far it got. Returns 0 or errno. */
static int commit_write(struct commit_log *log, struct iovec *v, size_t n, uint64_t position, uint64_t *written)
{
    *written = 0;
    while (n) {
        int chunk = n > COMMIT_IOV ? COMMIT_IOV : (int)n;
        int error = commit_fault(log, OP_WRITE);
        struct iovec cut;
        if (error) {
            size_t limit = (size_t)log->faults[OP_WRITE].written;
            if (limit) { /* a short write before the error */
                size_t k = 0;
                while (k < n && limit) {
                    cut = v[k];
                    if (cut.iov_len > limit)
                        cut.iov_len = limit;
                    if (pwritev(log->fd, &cut, 1, (off_t)(position + *written)) != (ssize_t)cut.iov_len)
                        break;
                    *written += cut.iov_len;
                    limit -= cut.iov_len;
                    k++;
                }
            }
            return error;
        }
        ssize_t got = pwritev(log->fd, v, chunk, (off_t)(position + *written));
        if (got < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        *written += (uint64_t)got;
        size_t left = (size_t)got;
        while (n && left >= v->iov_len) {
            left -= v->iov_len;
            v++;
            n--;
        }
        if (left) {
            v->iov_base = (char *)v->iov_base + left;
            v->iov_len -= left;
        }
    }
    return 0;
}

static int commit_sync(struct commit_log *log)
{
    log->syncs++; /* that it begins can be seen */
    int error = commit_fault(log, OP_SYNC);
    if (error)
        return error;
    return fdatasync(log->fd) < 0 ? errno : 0;
}

static int commit_truncate(struct commit_log *log, uint64_t size)
{
    int error = commit_fault(log, OP_TRUNCATE);
    if (error)
        return error;
    return ftruncate(log->fd, (off_t)size) < 0 ? errno : 0;
}

/* Open the next segment and make its name durable; its header goes out with the first batch. Returns 0 or errno. */
static int commit_roll(struct commit_log *log)
{
    char name[40];
    uint64_t number = log->next_segment;
    snprintf(name, sizeof name, "%010llu.seg", (unsigned long long)number);
    int error = commit_fault(log, OP_OPEN);
    int fd = error ? -1 : openat(log->directory_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error ? error : errno;
    log->next_segment++;
    error = commit_fault(log, OP_DIRSYNC);
    if (!error && fsync(log->directory_fd) < 0)
        error = errno;
    if (error) {
        unlinkat(log->directory_fd, name, 0);
        close(fd);
        return error;
    }
    log->previous_end = 0;
    if (log->fd >= 0) {
        if (!log->header_due && !log->retire)
            log->previous_end = log->position;
        close(log->fd);
    }
    log->fd = fd;
    log->segment = number;
    log->position = SEGMENT_HEADER;
    log->header_due = 1;
    log->retire = 0;
    if (getrandom(&log->salt, sizeof log->salt, 0) != sizeof log->salt)
        log->salt = (uint64_t)commit_now() * 0x9e3779b97f4a7c15u ^ number;
    if (log->reserve_held < log->reserve_size && log->reserve_fd >= 0 && log->free_bytes > 16 * log->reserve_size)
        if (fallocate(log->reserve_fd, 0, 0, (off_t)log->reserve_size) == 0)
            log->reserve_held = log->reserve_size;
    return 0;
}

static void commit_abandon(struct commit_log *log)
{
    if (log->fd >= 0)
        close(log->fd);
    log->fd = -1;
}

/* Salt, base and CRCs of all records. */
static void commit_finish_heads(struct commit_log *log, struct commit_batch *b, uint64_t base)
{
    for (size_t at = 0; at < b->riders.used;) {
        uint8_t *p = b->riders.data + at;
        record_finish(p, log->salt, base, base + at, 0);
        at += record_length(get_u32(p + 36), 0);
    }
    for (int k = 0; k < b->entries_used; k++) {
        struct commit_entry *e = &b->entries[k];
        uint32_t crc = 0;
        for (int i = e->first_part; i < e->first_part + e->parts; i++)
            crc = crc32c(crc, b->parts[i].data, b->parts[i].length);
        record_finish(b->arena.data + e->head, log->salt, base, base + e->offset, crc);
    }
}

static size_t commit_vector(struct commit_log *log, struct commit_batch *b, uint8_t *header, int entries)
{
    static const uint8_t zeros[8] = {0};
    size_t need = 2 + (size_t)b->parts_used + 2 * (size_t)b->entries_used, n = 0;
    if (need > log->vector_size) {
        struct iovec *grown = realloc(log->vector, need * sizeof *grown);
        if (!grown)
            return 0;
        log->vector = grown;
        log->vector_size = need;
    }
    struct iovec *v = log->vector;
    if (log->header_due)
        v[n++] = (struct iovec){header, SEGMENT_HEADER};
    if (b->riders.used)
        v[n++] = (struct iovec){b->riders.data, b->riders.used};
    for (int k = 0; entries && k < b->entries_used; k++) {
        struct commit_entry *e = &b->entries[k];
        uint64_t length = e->head_length;
        v[n++] = (struct iovec){b->arena.data + e->head, e->head_length};
        for (int i = e->first_part; i < e->first_part + e->parts; i++) {
            if (!b->parts[i].length)
                continue;
            v[n++] = (struct iovec){(void *)b->parts[i].data, b->parts[i].length};
            length += b->parts[i].length;
        }
        if (e->length > length)
            v[n++] = (struct iovec){(void *)zeros, (size_t)(e->length - length)};
    }
    return n;
}

/* Make one batch durable as far as that goes. Sets segment, base, end, riders_error and each entry's error. */
static void commit_batch(struct commit_log *log, struct commit_batch *b)
{
    uint64_t total = b->riders.used, written = 0, keep, prefix;
    uint8_t header[SEGMENT_HEADER];
    int error = 0, with_entries = 1, failed_before = log->failed;
    for (int k = 0; k < b->entries_used; k++) {
        b->entries[k].offset = total;
        b->entries[k].error = 0;
        total += b->entries[k].length;
    }
    b->riders_error = 0;
    if (failed_before) {
        with_entries = 0;
        total = b->riders.used;
    }
    b->segment = log->segment;
    b->base = b->end = log->position;
    if (total && (log->fd < 0 || log->retire ||
                  (log->position > SEGMENT_HEADER && log->position + total > log->segment_size))) {
        error = commit_roll(log);
        if (error && log->fd >= 0 && !log->retire)
            error = 0; /* rather a segment too long than a message refused */
    }
    if (!error && total) {
        b->segment = log->segment;
        b->base = b->end = log->position;
        commit_finish_heads(log, b, b->base);
        if (log->header_due)
            segment_header(header, log->shard, log->segment, log->salt, (uint64_t)time(NULL),
                           log->previous_end);
    again:
        prefix = log->header_due ? SEGMENT_HEADER : 0;
        size_t n = commit_vector(log, b, header, with_entries);
        error = n ? commit_write(log, log->vector, n, b->base - prefix, &written) : ENOMEM;
        keep = total;
        if (error) {
            int full = error == ENOSPC || error == EDQUOT;
            keep = written > prefix ? written - prefix : 0;
            if (full && keep < b->riders.used && log->reserve_held) {
                log->reserve_held = 0;
                if (ftruncate(log->reserve_fd, 0) == 0 && fsync(log->reserve_fd) == 0) {
                    with_entries = 0;
                    total = b->riders.used;
                    for (int k = 0; k < b->entries_used; k++)
                        b->entries[k].error = error;
                    goto again;
                }
            }
            uint64_t whole = keep >= b->riders.used ? b->riders.used : 0;
            if (whole || !b->riders.used)
                for (int k = 0; with_entries && k < b->entries_used; k++)
                    if (b->entries[k].offset + b->entries[k].length <= keep)
                        whole = b->entries[k].offset + b->entries[k].length;
            keep = whole;
            if (commit_truncate(log, keep ? b->base + keep : b->base - prefix) || !full)
                log->retire = 1;
        }
        if (keep) {
            int sync_error = commit_sync(log);
            if (sync_error) {
                keep = 0;
                error = log->failed = sync_error;
                commit_truncate(log, b->base - prefix);
                commit_abandon(log);
            } else {
                log->header_due = 0;
                log->position += keep;
                b->end = b->base + keep;
            }
        }
        if (!keep || keep < b->riders.used)
            b->riders_error = b->riders.used ? error : 0;
        for (int k = 0; k < b->entries_used; k++)
            if (b->entries[k].offset + b->entries[k].length > keep && !b->entries[k].error)
                b->entries[k].error = error ? error : EIO;
    } else if (error) {
        b->riders_error = b->riders.used ? error : 0;
        for (int k = 0; k < b->entries_used; k++)
            b->entries[k].error = error;
    }
    if (failed_before)
        for (int k = 0; k < b->entries_used; k++)
            b->entries[k].error = failed_before;
    int64_t now = commit_now();
    /* where little is free, a second is long: then it is asked after every batch */
    if (now - log->stat_at > 1000000000 || error || log->free_bytes < ((uint64_t)1 << 30)) {
        struct statvfs s;
        if (fstatvfs(log->directory_fd, &s) == 0)
            log->free_bytes = (uint64_t)s.f_bavail * s.f_frsize;
        log->stat_at = now;
    }
}

static int commit_reserve(struct commit_bytes *b, size_t more)
{
    if (b->used + more > b->size) {
        size_t size = b->size ? b->size : 8192;
        while (size < b->used + more)
            size *= 2;
        uint8_t *grown = realloc(b->data, size);
        if (!grown)
            return -1;
        b->data = grown;
        b->size = size;
    }
    return 0;
}

/* Riders that did not get in go in front of those that gathered meanwhile. Called with the lock held. */
static void commit_put_back(struct commit_log *log, struct commit_batch *b)
{
    struct commit_bytes *riders = &log->gather->riders;
    if (commit_reserve(riders, b->riders.used) < 0)
        abort(); /* out of memory for state that must not be lost */
    memmove(riders->data + b->riders.used, riders->data, riders->used);
    memcpy(riders->data, b->riders.data, b->riders.used);
    riders->used += b->riders.used;
    log->riders_since = commit_now();
    log->retry_at = log->riders_since + 1000000000;
}

static struct commit_batch *commit_fresh(struct commit_log *log)
{
    struct commit_batch *b = log->spare;
    if (b)
        log->spare = b->next;
    else if (!(b = calloc(1, sizeof *b)))
        abort();
    b->next = NULL;
    b->riders.used = b->arena.used = 0;
    b->parts_used = b->entries_used = 0;
    b->sequence = log->next_sequence++;
    return b;
}

static void *commit_main(void *argument)
{
    struct commit_log *log = argument;
    int64_t linger = 0;
    pthread_mutex_lock(&log->lock);
    for (;;) {
        struct commit_batch *b = log->gather;
        int due = b->entries_used && (log->kicked || log->stop);
        if (!due && b->riders.used) {
            int64_t at = log->riders_since + log->lazy_ns, now = commit_now();
            if (at < log->retry_at)
                at = log->retry_at;
            due = log->stop || log->kicked || now >= at;
            if (!due) {
                struct timespec t = {at / 1000000000, at % 1000000000};
                log->waiting = 2;
                pthread_cond_timedwait(&log->wake, &log->lock, &t);
                log->waiting = 0;
                continue;
            }
        }
        if (!due) {
            if (log->stop)
                break;
            log->kicked = 0;
            if (commit_now() < linger) {
                /* riders are likely to come soon: then nobody has to wake this thread only to have it wait again */
                struct timespec t = {linger / 1000000000, linger % 1000000000};
                log->waiting = 2;
                pthread_cond_timedwait(&log->wake, &log->lock, &t);
            } else {
                log->waiting = 1;
                pthread_cond_wait(&log->wake, &log->lock);
            }
            log->waiting = 0;
            continue;
        }
        log->kicked = 0;
        log->gather = commit_fresh(log);
        pthread_mutex_unlock(&log->lock);

        commit_batch(log, b);

        linger = commit_now() + log->lazy_ns;
        pthread_mutex_lock(&log->lock);
        if (b->riders_error) {
            commit_put_back(log, b);
            if (log->stop)
                log->stop++;
        }
        *log->done_tail = b;
        log->done_tail = &b->next;
        uint64_t one = 1;
        if (write(log->event_fd, &one, sizeof one) < 0) {
            /* only when the counter would overflow: the reader is woken anyway */
        }
        if (log->stop > 3)
            break; /* closing, and the riders cannot be written */
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

static int commit_start(struct commit_log *log)
{
    pthread_condattr_t attributes;
    pthread_mutex_init(&log->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&log->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    log->done_tail = &log->done;
    log->next_sequence = 1;
    log->gather = commit_fresh(log);
    int error = pthread_create(&log->thread, NULL, commit_main, log);
    if (!error)
        log->started = 1;
    return error;
}

/* Unlock, then wake the thread if it waits: woken before, it would have to wait for the lock. */
static void commit_unlock_and_signal(struct commit_log *log)
{
    int waiting = log->waiting;
    pthread_mutex_unlock(&log->lock);
    if (waiting)
        pthread_cond_signal(&log->wake);
}

/* Room for one record in front of which `record_begin` is called; returns where, or NULL. Call with the lock held. */
static uint8_t *commit_rider(struct commit_log *log, size_t length)
{
    struct commit_bytes *riders = &log->gather->riders;
    if (commit_reserve(riders, length) < 0)
        return NULL;
    uint8_t *p = riders->data + riders->used;
    if (!riders->used) {
        log->riders_since = commit_now();
        if (log->waiting == 1)
            pthread_cond_signal(&log->wake);
    }
    riders->used += length;
    return p;
}

static struct commit_entry *commit_entry(struct commit_log *log, size_t head, int parts)
{
    struct commit_batch *b = log->gather;
    if (b->entries_used == b->entries_size) {
        int size = b->entries_size ? 2 * b->entries_size : 64;
        struct commit_entry *grown = realloc(b->entries, (size_t)size * sizeof *grown);
        if (!grown)
            return NULL;
        b->entries = grown;
        b->entries_size = size;
    }
    if (b->parts_used + parts > b->parts_size) {
        int size = b->parts_size ? b->parts_size : 128;
        while (size < b->parts_used + parts)
            size *= 2;
        struct commit_part *grown = realloc(b->parts, (size_t)size * sizeof *grown);
        if (!grown)
            return NULL;
        b->parts = grown;
        b->parts_size = size;
    }
    if (commit_reserve(&b->arena, head) < 0)
        return NULL;
    struct commit_entry *e = &b->entries[b->entries_used++];
    memset(e, 0, sizeof *e);
    e->head = b->arena.used;
    e->head_length = (uint32_t)head;
    e->first_part = b->parts_used;
    b->arena.used += head;
    return e;
}

static void commit_recycle(struct commit_log *log, struct commit_batch *b)
{
    if (b->arena.size > (1u << 20)) {
        free(b->arena.data);
        memset(&b->arena, 0, sizeof b->arena);
    }
    b->next = log->spare;
    log->spare = b;
}

static void commit_free_batches(struct commit_batch *b)
{
    while (b) {
        struct commit_batch *next = b->next;
        free(b->riders.data);
        free(b->arena.data);
        free(b->parts);
        free(b->entries);
        free(b);
        b = next;
    }
}

#endif
