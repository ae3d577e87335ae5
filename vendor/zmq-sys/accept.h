/*
 * Put before each of libzmq's source files by build.rs.
 *
 * When a process has no descriptor left, accept(2) fails with EMFILE. libzmq 4.3.5 is not prepared for that in its ipc listener, where an
 * assertion ends the process, and its TCP listener tries again at once, for ever. Both know ENFILE, which means the same for the whole
 * machine; so they are told that, a little later: whoever watches the socket has time to close something, and the thread doesn't spin.
 */
#ifndef KVBROKER_ACCEPT_H
#define KVBROKER_ACCEPT_H

#if defined(__linux__) && defined(HAVE_ACCEPT4)

#include <errno.h>
#include <sys/socket.h>
#include <time.h>

static inline int kvbroker_accept4 (int socket_, struct sockaddr *address_, socklen_t *length_, int flags_)
{
    const int accepted = accept4 (socket_, address_, length_, flags_);
    if (accepted < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        const struct timespec pause = {0, 1000 * 1000};
        nanosleep (&pause, 0);
        errno = ENFILE;
    }
    return accepted;
}

/* `::accept4 (…)` in the sources becomes `::kvbroker_accept4 (…)`. */
#define accept4 kvbroker_accept4

#endif
#endif
