//! Error numbers that `zmq_errno` returns.
//!
//! Those without a prefix are the system's. Where a system lacks one, libzmq
//! returns a number of its own for it, named `…_ALT` here. The last group belongs
//! to libzmq alone.

#![allow(missing_docs, reason = "the names are the C library's and libzmq's")]

use crate::ZMQ_HAUSNUMERO;

pub use libc::{
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EBUSY, ECONNREFUSED, EFAULT, EHOSTUNREACH, EINPROGRESS, EINTR, EINVAL, EMFILE,
    EMSGSIZE, ENAMETOOLONG, ENETDOWN, ENOBUFS, ENODEV, ENOENT, ENOMEM, ENOTCONN, ENOTSOCK, ENOTSUP, EPROTO, EPROTONOSUPPORT,
};

const fn own(offset: u32) -> i32 {
    (ZMQ_HAUSNUMERO + offset) as i32
}

pub const ENOTSUP_ALT: i32 = own(1);
pub const EPROTONOSUPPORT_ALT: i32 = own(2);
pub const ENOBUFS_ALT: i32 = own(3);
pub const ENETDOWN_ALT: i32 = own(4);
pub const EADDRINUSE_ALT: i32 = own(5);
pub const EADDRNOTAVAIL_ALT: i32 = own(6);
pub const ECONNREFUSED_ALT: i32 = own(7);
pub const EINPROGRESS_ALT: i32 = own(8);
pub const ENOTSOCK_ALT: i32 = own(9);
pub const EMSGSIZE_ALT: i32 = own(10);
pub const EAFNOSUPPORT_ALT: i32 = own(11);
pub const ENETUNREACH_ALT: i32 = own(12);
pub const ECONNABORTED_ALT: i32 = own(13);
pub const ECONNRESET_ALT: i32 = own(14);
pub const ENOTCONN_ALT: i32 = own(15);
pub const ETIMEDOUT_ALT: i32 = own(16);
pub const EHOSTUNREACH_ALT: i32 = own(17);
pub const ENETRESET_ALT: i32 = own(18);

pub const EFSM: i32 = own(51);
pub const ENOCOMPATPROTO: i32 = own(52);
pub const ETERM: i32 = own(53);
pub const EMTHREAD: i32 = own(54);
