// Included by the compiler in front of every file of libzmq: what peers say of themselves in their handshake.
//
// Their routing ids are not heard. A ROUTER knows its peers by the property `Identity` of their handshake, or by a counter where
// that is empty. Both are open to every peer that is let in: who names itself as another one did, whose connection has ended, is
// sent the replies to that one's requests; and who takes an id that the counter comes to later ends the process (`zmq_assert (ok)`
// in `routing_socket_base_t::add_out_pipe`). The counter begins at the same number in every process, since nobody seeds rand(3).
// So each peer gets an id of the counter, which nobody has had before: `mechanism_t` gets an overload that fits the one call which
// passes a peer's id on better than the real function does, and does nothing.
//
// All properties of a handshake together are bounded. libzmq keeps them, twice, for as long as the connection lives, and they could
// be as large as a message. `mechanism_t` gets a member that hides the function by which the length of a property is read, and
// counts: beyond the bound a length is larger than anything, and libzmq refuses the handshake as one that was cut short.
//
// libzmq's sources stay as they are. If a later one does it in another way, tests/tests/libzmq_effects.rs fails.
#ifdef __cplusplus
#include "precompiled.hpp"
#include "wire.hpp"
#define set_peer_routing_id(id, size)                                                                                          \
    set_peer_routing_id (id, size);                                                                                            \
    void set_peer_routing_id (const unsigned char *, size_t) {}                                                                \
    size_t _property_bytes = 0;                                                                                                \
    uint32_t get_uint32 (const unsigned char *length_)                                                                         \
    {                                                                                                                          \
        const uint32_t property_bytes = zmq::get_uint32 (length_);                                                             \
        /* A name has at most 255 bytes. */                                                                                    \
        _property_bytes += static_cast<size_t> (255) + property_bytes;                                                         \
        return _property_bytes > 16384 ? 0xFFFFFFFF : property_bytes;                                                          \
    }
#include "mechanism.hpp"
#undef set_peer_routing_id
#endif
