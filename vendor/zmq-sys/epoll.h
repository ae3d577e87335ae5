/*
 * Put before each of libzmq's source files by build.rs, behind accept.h.
 *
 * For each message that an idle connection is to send, libzmq has the kernel watch for room in its socket, sends, is told at once that there is
 * still room, finds nothing left to send, and has the watching ended: three system calls beside the one that sends, on both ends. So the
 * wish to hear of room is not passed on at once. epoll_wait, before it waits, says once by itself that there is room: if nothing is left to send
 * then, the wish is gone; if there was no room after all, sending sends nothing, and only now the kernel is asked.
 *
 * - Only of sockets that are also watched for input: who waits for the end of a connect(2) watches for room alone, and believes it.
 * - All of it belongs to the thread that waits, and to the one epoll that it waits for. Anything else is passed on as it is.
 *
 * libzmq's sources stay as they are.
 */
#ifndef KVBROKER_EPOLL_H
#define KVBROKER_EPOLL_H

#if defined(__linux__) && defined(__cplusplus) && defined(ZMQ_IOTHREAD_POLLER_USE_EPOLL)

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include <vector>

namespace kvbroker_epoll
{
/* A descriptor that is watched. */
struct watched_t
{
    /* What the kernel was asked for, and what libzmq wants. */
    uint32_t asked;
    uint32_t wanted;
    epoll_data_t data;
    bool is_known;
    /* It is in `changed`. */
    bool is_changed;
    /* It was said that there is room since libzmq wanted to know. */
    bool is_said;
};

/* What one thread waits for. */
struct waits_t
{
    waits_t () : epoll (-1) {}

    int epoll;
    std::vector<watched_t> by_descriptor;
    std::vector<int> changed;
};

static inline waits_t &mine ()
{
    static thread_local waits_t waits;
    return waits;
}

static inline int ask (int epoll_, int what_, int descriptor_, struct epoll_event *event_)
{
    return ::epoll_ctl (epoll_, what_, descriptor_, event_);
}

static inline int control (int epoll_, int what_, int descriptor_, struct epoll_event *event_)
{
    waits_t &waits = mine ();
    if (epoll_ != waits.epoll || descriptor_ < 0)
        return ask (epoll_, what_, descriptor_, event_);
    const size_t place = static_cast<size_t> (descriptor_);
    if (place >= waits.by_descriptor.size ())
        waits.by_descriptor.resize (place + 1, watched_t ());
    watched_t &watched = waits.by_descriptor[place];
    if (what_ == EPOLL_CTL_DEL) {
        watched.is_known = false;
        return ask (epoll_, what_, descriptor_, event_);
    }
    const uint32_t wanted = event_->events;
    if (what_ == EPOLL_CTL_MOD && watched.is_known && watched.data.ptr == event_->data.ptr
        && (wanted & watched.asked & EPOLLIN) && !((wanted ^ watched.asked) & ~static_cast<uint32_t> (EPOLLOUT))) {
        if (wanted & ~watched.wanted)
            watched.is_said = false;
        watched.wanted = wanted;
        if (!watched.is_changed) {
            watched.is_changed = true;
            waits.changed.push_back (descriptor_);
        }
        return 0;
    }
    const int result = ask (epoll_, what_, descriptor_, event_);
    if (result == 0) {
        watched.asked = watched.wanted = wanted;
        watched.data = event_->data;
        watched.is_known = true;
        watched.is_said = false;
    }
    return result;
}

static inline int wait (int epoll_, struct epoll_event *events_, int most_, int timeout_)
{
    waits_t &waits = mine ();
    if (waits.epoll == -1)
        waits.epoll = epoll_;
    if (epoll_ != waits.epoll || waits.changed.empty ())
        return ::epoll_wait (epoll_, events_, most_, timeout_);
    int said = 0;
    size_t left = 0;
    for (size_t at = 0; at != waits.changed.size (); ++at) {
        const int descriptor = waits.changed[at];
        watched_t &watched = waits.by_descriptor[static_cast<size_t> (descriptor)];
        if (watched.is_known && watched.wanted != watched.asked) {
            struct epoll_event event;
            event.events = watched.wanted;
            event.data = watched.data;
            if ((watched.wanted & EPOLLOUT) && !watched.is_said) {
                if (said < most_) {
                    watched.is_said = true;
                    event.events = EPOLLOUT;
                    events_[said++] = event;
                }
                waits.changed[left++] = descriptor;
                continue;
            }
            /* It fails for want of kernel memory only, which libzmq takes for the end as well. */
            if (ask (epoll_, EPOLL_CTL_MOD, descriptor, &event) != 0)
                abort ();
            watched.asked = watched.wanted;
        }
        watched.is_changed = false;
    }
    waits.changed.resize (left);
    return said > 0 ? said : ::epoll_wait (epoll_, events_, most_, timeout_);
}
}

/* `epoll_ctl (…)` and `epoll_wait (…)` in the sources become these. */
#define epoll_ctl kvbroker_epoll::control
#define epoll_wait kvbroker_epoll::wait

#endif
#endif
