"""Contract of the record frame for other compiled modules: the C of record_format.h and crc32c.h."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "record_format.h" nogil:
    enum:
        SEGMENT_HEADER
        RECORD_HEADER
        RECORD_MAGIC
        RECORD_VERSION
        RECORD_META_MAX
    void crc32c_init()
    int crc32c_hardware
    uint32_t c_crc32c "crc32c"(uint32_t crc, const void *data, size_t n)
    uint32_t c_crc32c_portable "crc32c_portable"(uint32_t crc, const uint8_t *data, size_t n)
    uint32_t get_u32(const uint8_t *p)
    uint64_t get_u64(const uint8_t *p)
    uint64_t record_length(uint32_t meta, uint64_t content)
    void record_begin(uint8_t *p, uint8_t kind, uint32_t meta, uint64_t content)
    uint32_t record_crc(const uint8_t *p, uint64_t offset)
    void record_finish(uint8_t *p, uint64_t salt, uint64_t base, uint64_t offset, uint32_t content_crc)
    void segment_header(uint8_t *p, uint32_t shard, uint64_t number, uint64_t salt, uint64_t made, uint64_t last_end)
    int segment_header_valid(const uint8_t *p)
