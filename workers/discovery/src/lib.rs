//! Being found: the announcer that tells catalogs about a broker, and `kvcatalog`,
//! a small CCTools-compatible catalog for sites without one.
//!
//! In reading order, the announcer: [`schedule`] decides when to tell one catalog
//! what (pure), [`send`] does it, [`announcer`] holds the threads, [`status`] is
//! what others see. The catalog: [`update`] reads what senders say, [`store`] keeps
//! it (both pure), [`http`] and [`page`] are what readers get, [`conn`] is one
//! connection, [`catalog_server`] the loop around them.

pub mod announcer;
pub mod catalog_server;
pub mod conn;
pub mod http;
pub mod page;
pub mod schedule;
pub mod send;
pub mod status;
pub mod store;
pub mod update;

pub use announcer::{Announcer, AnnouncerConfig};
pub use catalog_server::{CatalogConfig, CatalogServer, StartError, StopHandle};
pub use send::Reach;
pub use status::{CatalogState, CatalogStatus};
