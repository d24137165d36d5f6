/* CRC-32C (Castagnoli; RFC 3720 appendix B.4), reflected polynomial 0x82f63b78.
 *
 * Used by records.pyx and commitlog.h. With SSE4.2 three streams run side by side, because the instruction takes three
 * cycles but one can start in each; their results are joined with tables that append a block of zeros to a CRC. Without
 * it (found out when the module is loaded) eight tables, eight bytes a step. Call crc32c_init() once before anything.
 */
#ifndef FASTMTA_CRC32C_H
#define FASTMTA_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define CRC32C_POLY 0x82f63b78u
#define CRC32C_BLOCK 512 /* bytes a stream takes in one round of three */

static uint32_t crc32c_table[8][256];
static uint32_t crc32c_zeros[4][256]; /* append CRC32C_BLOCK zero bytes */
static int crc32c_hardware = 0;

/* a * b modulo the polynomial, both bit-reflected (x^0 is the top bit). */
static uint32_t crc32c_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = (b & 1) ? (b >> 1) ^ CRC32C_POLY : b >> 1;
    }
    return product;
}

static void crc32c_init(void)
{
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 1) ? (crc >> 1) ^ CRC32C_POLY : crc >> 1;
        crc32c_table[0][n] = crc;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int k = 1; k < 8; k++) {
            uint32_t crc = crc32c_table[k - 1][n];
            crc32c_table[k][n] = crc32c_table[0][crc & 0xff] ^ (crc >> 8);
        }
    uint32_t power = 0x00800000u; /* x^8: one zero byte */
    for (size_t bytes = 1; bytes < CRC32C_BLOCK; bytes <<= 1)
        power = crc32c_multiply(power, power);
    for (int k = 0; k < 4; k++)
        for (uint32_t n = 0; n < 256; n++)
            crc32c_zeros[k][n] = crc32c_multiply(power, n << (8 * k));
#if defined(__x86_64__)
    __builtin_cpu_init();
    crc32c_hardware = __builtin_cpu_supports("sse4.2") ? 1 : 0;
#endif
}

static uint32_t crc32c_portable(uint32_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    while (n && ((uintptr_t)p & 7)) {
        crc = crc32c_table[0][(crc ^ *p++) & 0xff] ^ (crc >> 8);
        n--;
    }
    while (n >= 8) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        crc = crc32c_table[7][low & 0xff] ^ crc32c_table[6][(low >> 8) & 0xff] ^ crc32c_table[5][(low >> 16) & 0xff] ^
              crc32c_table[4][low >> 24] ^ crc32c_table[3][p[4]] ^ crc32c_table[2][p[5]] ^ crc32c_table[1][p[6]] ^
              crc32c_table[0][p[7]];
        p += 8;
        n -= 8;
    }
    while (n--)
        crc = crc32c_table[0][(crc ^ *p++) & 0xff] ^ (crc >> 8);
    return ~crc;
}

#if defined(__x86_64__)
static inline uint64_t crc32c_load(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static inline uint32_t crc32c_skip(uint32_t crc)
{
    return crc32c_zeros[0][crc & 0xff] ^ crc32c_zeros[1][(crc >> 8) & 0xff] ^ crc32c_zeros[2][(crc >> 16) & 0xff] ^
           crc32c_zeros[3][crc >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t a = (uint32_t)~crc;
    while (n >= 3 * CRC32C_BLOCK) {
        uint64_t b = 0, c = 0;
        const uint8_t *end = p + CRC32C_BLOCK;
        do {
            a = __builtin_ia32_crc32di(a, crc32c_load(p));
            b = __builtin_ia32_crc32di(b, crc32c_load(p + CRC32C_BLOCK));
            c = __builtin_ia32_crc32di(c, crc32c_load(p + 2 * CRC32C_BLOCK));
            p += 8;
        } while (p < end);
        a = crc32c_skip((uint32_t)a) ^ b;
        a = crc32c_skip((uint32_t)a) ^ c;
        p += 2 * CRC32C_BLOCK;
        n -= 3 * CRC32C_BLOCK;
    }
    while (n >= 8) {
        a = __builtin_ia32_crc32di(a, crc32c_load(p));
        p += 8;
        n -= 8;
    }
    uint32_t low = (uint32_t)a;
    while (n--)
        low = __builtin_ia32_crc32qi(low, *p++);
    return ~low;
}
#endif

/* The CRC of what `crc` covers (0 for nothing) followed by those n bytes. */
static inline uint32_t crc32c(uint32_t crc, const void *data, size_t n)
{
#if defined(__x86_64__)
    if (crc32c_hardware)
        return crc32c_sse42(crc, (const uint8_t *)data, n);
#endif
    return crc32c_portable(crc, (const uint8_t *)data, n);
}

#endif
