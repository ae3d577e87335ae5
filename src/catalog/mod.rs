//! Finding brokers through CCTools catalogs: what a record says, which catalogs
//! are asked, and what they answered.
//!
//! A catalog is a notice board without locks: anybody may pin a record to it, and
//! it hands every record to everybody. So this module holds to three rules:
//!
//! - nothing that a catalog says is trusted: a record is a *candidate*, and only
//!   the Hello with the expected key makes it a broker;
//! - a hostile or broken record is left out with a reason and never hides a good
//!   one, although one record can make a catalog's whole listing invalid JSON;
//! - everything is bounded: catalogs in a list, bytes of a listing, fields and
//!   characters of a record, time spent on each catalog.
//!
//! The rooms: [`record`] is one record, [`listing`] is a catalog's array of them,
//! [`hosts`] says which catalogs there are, [`query()`] asks them over HTTP.

mod fields;
pub mod hosts;
pub mod listing;
pub mod query;
pub mod record;

pub use fields::{FieldError, Fields, compact_json};
pub use hosts::{CATALOG_HOST_DEFAULT, CATALOG_PORT_DEFAULT, CATALOGS_MAX};
pub use hosts::{CatalogAddr, CatalogList, CatalogListError, CatalogOrigin};
pub use listing::{LISTING_BYTES_MAX, Listing, ListingError, RefusedRecord};
pub use query::{Answers, CatalogAnswer, CatalogError};
pub use query::{ask, group_by_uuid, merge, query, query_all};
pub use record::{CatalogRecord, FAREWELL_LIFETIME_S, RECORD_LIFETIME_S, RECORD_TYPE, RecordError, SeenRecord, TEXT_BYTES_MAX};
pub use record::{ENDPOINTS_MAX, is_endpoint, is_plain_text};
