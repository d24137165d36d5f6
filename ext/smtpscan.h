/* Scan message content for whole, well-formed lines: CRLF at their end, no CR or LF inside, not too long.
 *
 * Called by smtpcontent.pyx, which copies what was found as it is and treats any other line one by one. Sixteen bytes at
 * a time where SSE2 is there (every x86-64), byte by byte elsewhere. Reads no byte outside [p, end).
 */
#ifndef FASTMTA_SMTPSCAN_H
#define FASTMTA_SMTPSCAN_H

#include <stddef.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { SCAN_MORE = 0, SCAN_DOT = 1, SCAN_CARE = 2 };

typedef struct {
    size_t used;          /* bytes of whole well-formed lines, from the start */
    size_t lines;         /* how many */
    size_t dotted;        /* how many of them begin with "." */
    size_t long_records;  /* how many hold 128 bytes or more, without the dot and CRLF */
    int over_998;         /* one of them is longer than RFC 5322 allows */
    ptrdiff_t header_end; /* offset behind the first empty line, or -1 */
    int stop;             /* SCAN_MORE: no further LF; SCAN_DOT: the line "."; SCAN_CARE: a line to be looked at */
} fm_scan;

static inline int fm_masks(const unsigned char *p, size_t n, unsigned *lf, unsigned *cr)
{
#ifdef __SSE2__
    __m128i block;
    if (n >= 16) {
        block = _mm_loadu_si128((const __m128i *)p);
    } else {
        unsigned char rest[16] = {0};
        memcpy(rest, p, n);
        block = _mm_loadu_si128((const __m128i *)rest);
    }
    *lf = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(block, _mm_set1_epi8('\n')));
    *cr = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(block, _mm_set1_epi8('\r')));
#else
    unsigned l = 0, c = 0;
    size_t i, stop = n < 16 ? n : 16;
    for (i = 0; i < stop; i++) {
        l |= (unsigned)(p[i] == '\n') << i;
        c |= (unsigned)(p[i] == '\r') << i;
    }
    *lf = l;
    *cr = c;
#endif
    return (*lf | *cr) != 0;
}

/* Is there a byte above 127? */
static inline int fm_has_8bit(const unsigned char *p, size_t n)
{
    size_t i = 0;
#ifdef __SSE2__
    for (; i + 16 <= n; i += 16)
        if (_mm_movemask_epi8(_mm_loadu_si128((const __m128i *)(p + i))))
            return 1;
#endif
    for (; i < n; i++)
        if (p[i] & 0x80)
            return 1;
    return 0;
}

/* p is at the beginning of a line. limit: line_length_limit; dots: is "." special (DATA), or must a line that begins with
 * it be changed (BDAT)? */
static inline void fm_scan_lines(const unsigned char *p, size_t n, size_t limit, int dots, fm_scan *out)
{
    size_t pos, start = 0, text, counted;
    unsigned lf, cr, stray, carry = 0;
    int bit, dot;

    memset(out, 0, sizeof(*out));
    out->header_end = -1;
    for (pos = 0; pos < n; pos += 16) {
        size_t left = n - pos;
        if (!fm_masks(p + pos, left, &lf, &cr) && !carry)
            continue;
        stray = (((cr << 1) | carry) ^ lf) & 0xffff;
        if (left < 16)
            stray &= (1u << left) - 1; /* a CR as the very last byte is not stray yet */
        carry = (cr >> 15) & 1;
        if (stray)
            lf &= (stray & -stray) - 1;
        while (lf) {
            bit = __builtin_ctz(lf);
            lf &= lf - 1;
            text = pos + (size_t)bit - start - 1;
            dot = p[start] == '.';
            if (text >= limit || (dot && !dots)) {
                out->used = start;
                out->stop = SCAN_CARE;
                return;
            }
            if (dot && text == 1) {
                out->used = start;
                out->stop = SCAN_DOT;
                return;
            }
            counted = text - (size_t)dot;
            out->lines++;
            out->dotted += (size_t)dot;
            out->long_records += counted >= 128;
            out->over_998 |= counted > 998;
            start = pos + (size_t)bit + 1;
            if (text == 0 && out->header_end < 0)
                out->header_end = (ptrdiff_t)start;
        }
        if (stray) {
            out->used = start;
            out->stop = SCAN_CARE;
            return;
        }
    }
    out->used = start;
    out->stop = SCAN_MORE;
}

#endif
