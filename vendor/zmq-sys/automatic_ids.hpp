// Included by the compiler in front of every file of libzmq: peers do not choose their routing ids.
//
// A ROUTER knows its peers by the property `Identity` of their handshake, or by a counter where that is empty. Both are open
// to every peer that is let in: who names itself as another one did, whose connection has ended, is sent the replies to that
// one's requests; and who takes an id that the counter comes to later ends the process (`zmq_assert (ok)` in
// `routing_socket_base_t::add_out_pipe`). The counter begins at the same number in every process, since nobody seeds rand(3).
//
// So the ids of peers are not heard: each gets one of the counter, which nobody has had before. libzmq's sources stay as they
// are. `mechanism_t` gets an overload that fits the one call which passes a peer's id on better than the real function does,
// and does nothing. If a later libzmq does it in another way, tests/tests/libzmq_effects.rs fails.
#ifdef __cplusplus
#include "precompiled.hpp"
#define set_peer_routing_id(id, size)                                                                                          \
    set_peer_routing_id (id, size);                                                                                            \
    void set_peer_routing_id (const unsigned char *, size_t) {}
#include "mechanism.hpp"
#undef set_peer_routing_id
#endif
