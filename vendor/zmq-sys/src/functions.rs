//! The types and functions of `zmq.h` 4.3.5, in the header's order.
//!
//! - Pointers and return values mean what libzmq's manual pages say; nothing is
//!   checked on this side.
//! - Functions of the draft API are left out: the library is built without them.

#![allow(missing_docs, reason = "described in libzmq's manual pages")]
#![allow(non_camel_case_types, reason = "the names are libzmq's")]

use std::ffi::{c_char, c_int, c_long, c_short, c_uchar, c_ulong, c_void};

use crate::RawFd;

/// A message: 64 opaque bytes, aligned like a pointer.
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(8)))]
#[cfg_attr(target_pointer_width = "32", repr(align(4)))]
#[derive(Clone, Copy)]
pub struct zmq_msg_t {
    bytes: [c_uchar; 64],
}

impl Default for zmq_msg_t {
    /// All zeros: room for a message, to be made one by `zmq_msg_init` and its kin.
    fn default() -> Self {
        Self { bytes: [0; 64] }
    }
}

/// Frees the data of a message made by `zmq_msg_init_data`; may run on any thread.
pub type zmq_free_fn = Option<unsafe extern "C" fn(data: *mut c_void, hint: *mut c_void)>;

/// One entry of `zmq_poll`: a socket, or a descriptor when `socket` is null.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct zmq_pollitem_t {
    pub socket: *mut c_void,
    pub fd: RawFd,
    pub events: c_short,
    pub revents: c_short,
}

impl Default for zmq_pollitem_t {
    fn default() -> Self {
        Self { socket: std::ptr::null_mut(), fd: 0, events: 0, revents: 0 }
    }
}

/// The C library's `struct iovec`, used through pointers only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iovec {
    opaque: [u8; 0],
}

pub type zmq_timer_fn = Option<unsafe extern "C" fn(timer_id: c_int, arg: *mut c_void)>;
pub type zmq_thread_fn = Option<unsafe extern "C" fn(arg: *mut c_void)>;

unsafe extern "C" {
    // Errors and version.
    pub fn zmq_errno() -> c_int;
    pub fn zmq_strerror(errnum: c_int) -> *const c_char;
    pub fn zmq_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int);

    // Contexts.
    pub fn zmq_ctx_new() -> *mut c_void;
    pub fn zmq_ctx_term(context: *mut c_void) -> c_int;
    pub fn zmq_ctx_shutdown(context: *mut c_void) -> c_int;
    pub fn zmq_ctx_set(context: *mut c_void, option: c_int, optval: c_int) -> c_int;
    pub fn zmq_ctx_get(context: *mut c_void, option: c_int) -> c_int;
    pub fn zmq_init(io_threads: c_int) -> *mut c_void;
    pub fn zmq_term(context: *mut c_void) -> c_int;
    pub fn zmq_ctx_destroy(context: *mut c_void) -> c_int;

    // Messages.
    pub fn zmq_msg_init(msg: *mut zmq_msg_t) -> c_int;
    pub fn zmq_msg_init_size(msg: *mut zmq_msg_t, size: usize) -> c_int;
    pub fn zmq_msg_init_data(msg: *mut zmq_msg_t, data: *mut c_void, size: usize, ffn: zmq_free_fn, hint: *mut c_void) -> c_int;
    pub fn zmq_msg_send(msg: *mut zmq_msg_t, socket: *mut c_void, flags: c_int) -> c_int;
    pub fn zmq_msg_recv(msg: *mut zmq_msg_t, socket: *mut c_void, flags: c_int) -> c_int;
    pub fn zmq_msg_close(msg: *mut zmq_msg_t) -> c_int;
    pub fn zmq_msg_move(dest: *mut zmq_msg_t, src: *mut zmq_msg_t) -> c_int;
    pub fn zmq_msg_copy(dest: *mut zmq_msg_t, src: *mut zmq_msg_t) -> c_int;
    pub fn zmq_msg_data(msg: *mut zmq_msg_t) -> *mut c_void;
    pub fn zmq_msg_size(msg: *const zmq_msg_t) -> usize;
    pub fn zmq_msg_more(msg: *const zmq_msg_t) -> c_int;
    pub fn zmq_msg_get(msg: *const zmq_msg_t, property: c_int) -> c_int;
    pub fn zmq_msg_set(msg: *mut zmq_msg_t, property: c_int, optval: c_int) -> c_int;
    pub fn zmq_msg_gets(msg: *const zmq_msg_t, property: *const c_char) -> *const c_char;

    // Sockets.
    pub fn zmq_socket(context: *mut c_void, kind: c_int) -> *mut c_void;
    pub fn zmq_close(socket: *mut c_void) -> c_int;
    pub fn zmq_setsockopt(socket: *mut c_void, option: c_int, optval: *const c_void, optvallen: usize) -> c_int;
    pub fn zmq_getsockopt(socket: *mut c_void, option: c_int, optval: *mut c_void, optvallen: *mut usize) -> c_int;
    pub fn zmq_bind(socket: *mut c_void, addr: *const c_char) -> c_int;
    pub fn zmq_connect(socket: *mut c_void, addr: *const c_char) -> c_int;
    pub fn zmq_unbind(socket: *mut c_void, addr: *const c_char) -> c_int;
    pub fn zmq_disconnect(socket: *mut c_void, addr: *const c_char) -> c_int;
    pub fn zmq_send(socket: *mut c_void, buf: *const c_void, len: usize, flags: c_int) -> c_int;
    pub fn zmq_send_const(socket: *mut c_void, buf: *const c_void, len: usize, flags: c_int) -> c_int;
    pub fn zmq_recv(socket: *mut c_void, buf: *mut c_void, len: usize, flags: c_int) -> c_int;
    pub fn zmq_socket_monitor(socket: *mut c_void, addr: *const c_char, events: c_int) -> c_int;

    // Polling and proxies.
    pub fn zmq_poll(items: *mut zmq_pollitem_t, nitems: c_int, timeout_ms: c_long) -> c_int;
    pub fn zmq_proxy(frontend: *mut c_void, backend: *mut c_void, capture: *mut c_void) -> c_int;
    pub fn zmq_proxy_steerable(frontend: *mut c_void, backend: *mut c_void, capture: *mut c_void, control: *mut c_void) -> c_int;
    pub fn zmq_has(capability: *const c_char) -> c_int;
    pub fn zmq_device(kind: c_int, frontend: *mut c_void, backend: *mut c_void) -> c_int;
    pub fn zmq_sendmsg(socket: *mut c_void, msg: *mut zmq_msg_t, flags: c_int) -> c_int;
    pub fn zmq_recvmsg(socket: *mut c_void, msg: *mut zmq_msg_t, flags: c_int) -> c_int;
    pub fn zmq_sendiov(socket: *mut c_void, iov: *mut iovec, count: usize, flags: c_int) -> c_int;
    pub fn zmq_recviov(socket: *mut c_void, iov: *mut iovec, count: *mut usize, flags: c_int) -> c_int;

    // Keys and their printable form.
    pub fn zmq_z85_encode(dest: *mut c_char, data: *const u8, size: usize) -> *mut c_char;
    pub fn zmq_z85_decode(dest: *mut u8, string: *const c_char) -> *mut u8;
    pub fn zmq_curve_keypair(z85_public_key: *mut c_char, z85_secret_key: *mut c_char) -> c_int;
    pub fn zmq_curve_public(z85_public_key: *mut c_char, z85_secret_key: *const c_char) -> c_int;

    // Counters, timers, stopwatch, threads.
    pub fn zmq_atomic_counter_new() -> *mut c_void;
    pub fn zmq_atomic_counter_set(counter: *mut c_void, value: c_int);
    pub fn zmq_atomic_counter_inc(counter: *mut c_void) -> c_int;
    pub fn zmq_atomic_counter_dec(counter: *mut c_void) -> c_int;
    pub fn zmq_atomic_counter_value(counter: *mut c_void) -> c_int;
    pub fn zmq_atomic_counter_destroy(counter: *mut *mut c_void);
    pub fn zmq_timers_new() -> *mut c_void;
    pub fn zmq_timers_destroy(timers: *mut *mut c_void) -> c_int;
    pub fn zmq_timers_add(timers: *mut c_void, interval_ms: usize, handler: zmq_timer_fn, arg: *mut c_void) -> c_int;
    pub fn zmq_timers_cancel(timers: *mut c_void, timer_id: c_int) -> c_int;
    pub fn zmq_timers_set_interval(timers: *mut c_void, timer_id: c_int, interval_ms: usize) -> c_int;
    pub fn zmq_timers_reset(timers: *mut c_void, timer_id: c_int) -> c_int;
    pub fn zmq_timers_timeout(timers: *mut c_void) -> c_long;
    pub fn zmq_timers_execute(timers: *mut c_void) -> c_int;
    pub fn zmq_stopwatch_start() -> *mut c_void;
    pub fn zmq_stopwatch_intermediate(watch: *mut c_void) -> c_ulong;
    pub fn zmq_stopwatch_stop(watch: *mut c_void) -> c_ulong;
    pub fn zmq_sleep(seconds: c_int);
    pub fn zmq_threadstart(func: zmq_thread_fn, arg: *mut c_void) -> *mut c_void;
    pub fn zmq_threadclose(thread: *mut c_void);
}
