/* The frame of a log record and of a segment, as bytes (little-endian). records.pyx holds the grammar in words.
 *
 * segment header, 64 bytes         record header, 48 bytes
 *   0  magic "FMTASEG1"              0  magic
 *   8  u32 CRC of bytes 12..63       4  u32 CRC of the offset, bytes 8..47 and the meta
 *  12  u32 shard                     8  u64 the segment's salt
 *  16  u64 number                   16  u64 base: all before this offset was durable when the record was written
 *  24  u64 salt                     24  u64 length of the content
 *  32  u64 made at (Unix seconds)   32  u32 CRC of the content
 *  40  u64 where the segment        36  u32 length of the meta
 *      before it ended; 0: not known  40  u8 kind, u8 format version, u16 and u32 zero
 * Then meta, content, zeros up to a multiple of 8.
 */
#ifndef FASTMTA_RECORD_FORMAT_H
#define FASTMTA_RECORD_FORMAT_H

#include <stdint.h>
#include <string.h>

#include "crc32c.h"

#define SEGMENT_MAGIC "FMTASEG1"
#define SEGMENT_HEADER 64
#define RECORD_MAGIC 0x01524d46u /* "FMR\1" */
#define RECORD_HEADER 48
#define RECORD_VERSION 1
#define RECORD_META_MAX (256u << 20)

static inline uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t get_u64(const uint8_t *p)
{
    return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

static inline void put_u32(uint8_t *p, uint32_t value)
{
    for (int k = 0; k < 4; k++)
        p[k] = (uint8_t)(value >> (8 * k));
}

static inline void put_u64(uint8_t *p, uint64_t value)
{
    put_u32(p, (uint32_t)value);
    put_u32(p + 4, (uint32_t)(value >> 32));
}

/* The whole length on disk of a record with that meta and content. */
static inline uint64_t record_length(uint32_t meta, uint64_t content)
{
    return (RECORD_HEADER + (uint64_t)meta + content + 7) & ~(uint64_t)7;
}

/* Everything but salt, base and the two CRCs, which record_finish() puts in when the record's place is known. */
static inline void record_begin(uint8_t *p, uint8_t kind, uint32_t meta, uint64_t content)
{
    memset(p, 0, RECORD_HEADER);
    put_u32(p, RECORD_MAGIC);
    put_u64(p + 24, content);
    put_u32(p + 36, meta);
    p[40] = kind;
    p[41] = RECORD_VERSION;
}

/* The offset is in the CRC so that a block that the disk put elsewhere is no record there. */
static inline uint32_t record_crc(const uint8_t *p, uint64_t offset)
{
    uint8_t place[8];
    put_u64(place, offset);
    return crc32c(crc32c(0, place, sizeof place), p + 8, RECORD_HEADER - 8 + get_u32(p + 36));
}

static inline void record_finish(uint8_t *p, uint64_t salt, uint64_t base, uint64_t offset, uint32_t content_crc)
{
    put_u64(p + 8, salt);
    put_u64(p + 16, base);
    put_u32(p + 32, content_crc);
    put_u32(p + 4, record_crc(p, offset));
}

static inline void segment_header(uint8_t *p, uint32_t shard, uint64_t number, uint64_t salt, uint64_t made,
                                  uint64_t previous_end)
{
    memset(p, 0, SEGMENT_HEADER);
    memcpy(p, SEGMENT_MAGIC, 8);
    put_u32(p + 12, shard);
    put_u64(p + 16, number);
    put_u64(p + 24, salt);
    put_u64(p + 32, made);
    put_u64(p + 40, previous_end);
    put_u32(p + 8, crc32c(0, p + 12, SEGMENT_HEADER - 12));
}

static inline int segment_header_valid(const uint8_t *p)
{
    return memcmp(p, SEGMENT_MAGIC, 8) == 0 && get_u32(p + 8) == crc32c(0, p + 12, SEGMENT_HEADER - 12);
}

#endif
