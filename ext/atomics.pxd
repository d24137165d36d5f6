# Atomic operations on shared memory (sequentially consistent, but for load16), and the time.

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>
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


cdef inline uint64_t bits(double value) noexcept nogil:
    cdef uint64_t out
    memcpy(&out, &value, 8)
    return out


cdef inline double real(uint64_t value) noexcept nogil:
    cdef double out
    memcpy(&out, &value, 8)
    return out
