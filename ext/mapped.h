/* Reading a mapped file that somebody may cut off meanwhile: the SIGBUS of a page that is gone becomes a return value.
 *
 * Used by mapped.pyx. The handler is the process's, set at the first use of mapped_guard(); a fault that is not in the
 * guarded range goes to the handler that was there before. faulthandler(3), set after us, ends in ours by raise(3):
 * then there is no address, and a guard that is active takes it.
 */
#ifndef FASTMTA_MAPPED_H
#define FASTMTA_MAPPED_H

#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>

#define MAPPED_FAULT -100

static __thread sigjmp_buf mapped_jump;
static __thread const char *volatile mapped_begin = NULL;
static __thread const char *volatile mapped_end = NULL;
static struct sigaction mapped_before;

static void mapped_fault(int number, siginfo_t *info, void *context)
{
    const char *where = (const char *)info->si_addr;
    (void)number;
    (void)context;
    if (mapped_begin != NULL && (info->si_code <= 0 || (where >= mapped_begin && where < mapped_end))) {
        mapped_begin = NULL;
        siglongjmp(mapped_jump, 1);
    }
    sigaction(SIGBUS, &mapped_before, NULL); /* the instruction is done again, and faults again */
}

static void mapped_init(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = mapped_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK; /* no mask to restore after the jump */
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &mapped_before);
}

/* What work(request) returns, or MAPPED_FAULT. work() holds nothing that a jump out of it would leave behind. */
static int mapped_guard(int (*work)(void *), void *request, const char *begin, size_t size)
{
    int result;
    if (sigsetjmp(mapped_jump, 0))
        return MAPPED_FAULT;
    mapped_end = begin + size;
    mapped_begin = begin;
    result = work(request);
    mapped_begin = NULL;
    return result;
}

#endif
