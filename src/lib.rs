//! What the broker, its clients and its tools share.
//!
//! In reading order: who and where ([`project`], [`paths`], [`keys`], [`pins`],
//! [`access_file`], [`endpoint`]), how they talk ([`transport`], [`zap`]), and the manners that all programs have in common
//! ([`logging`], [`critical`], [`exit`], [`version`]).

pub mod access_file;
pub mod catalog;
pub mod client;
pub mod critical;
pub mod endpoint;
pub mod exit;
pub mod keys;
pub mod logging;
pub mod lookup;
pub mod paths;
pub mod pins;
pub mod project;
pub mod transport;
pub mod version;
pub mod zap;
