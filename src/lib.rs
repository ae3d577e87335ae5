//! What the broker, its clients and its tools share.

pub mod catalog;
pub mod exit;
pub mod keys;
pub mod paths;
pub mod project;
pub mod transport;
