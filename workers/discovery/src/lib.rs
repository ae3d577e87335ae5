//! Being found: the announcer that tells catalogs about a broker, and `kvcatalog`,
//! a small CCTools-compatible catalog for sites without one.
//!
//! In reading order: [`schedule`] decides when to tell one catalog what (pure),
//! [`send`] does it, [`announcer`] holds the threads, [`status`] is what others see.

pub mod announcer;
pub mod schedule;
pub mod send;
pub mod status;

pub use announcer::{Announcer, AnnouncerConfig};
pub use send::Reach;
pub use status::{CatalogState, CatalogStatus};
