//! The C interface of libzmq 4.3.5, and the library itself, built static with CURVE.
//!
//! - Offers what `zmq-sys` 0.12.0 on crates.io offers, so that the `zmq` crate
//!   compiles against it unchanged; names and types must stay those.
//! - The library is compiled by `build.rs`; see there for what is switched on.
//! - README.md says why this stands in for the published crate.

#![warn(missing_docs)]

#[cfg(unix)]
pub use std::os::fd::RawFd;
#[cfg(windows)]
pub use std::os::windows::io::RawSocket as RawFd;

mod constants;
pub mod errno;
mod functions;

pub use constants::*;
pub use functions::*;
