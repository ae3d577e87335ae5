//! Which catalogs list this broker: for the ready block, `stats` and the log.

use std::fmt;

use serde::Serialize;

use crate::schedule::{Standing, Via};

/// What one catalog knows of this broker. The names are part of `stats --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogStatus {
    /// The catalog, as `HOST:PORT`.
    pub catalog: String,
    /// The verdict.
    pub state: CatalogState,
    /// How updates reach it (`udp` or `tcp`), once it lists the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<&'static str>,
    /// When the catalog last heard the broker, in seconds since 1970 by the
    /// catalog's clock, at the last check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lastheardfrom: Option<u64>,
    /// Why it doesn't list the broker, as a sentence without its full stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The verdict on one catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CatalogState {
    /// The first check is under way.
    Trying,
    /// It lists the broker.
    Listed,
    /// It answers, and doesn't list the broker.
    Unlisted,
    /// It doesn't answer.
    Silent,
    /// It is deliberately not told.
    Skipped,
}

impl CatalogStatus {
    pub(crate) fn new(catalog: &str, standing: &Standing) -> Self {
        let mut status =
            CatalogStatus { catalog: catalog.to_owned(), state: CatalogState::Trying, via: None, lastheardfrom: None, why: None };
        match standing {
            Standing::Trying => {}
            Standing::Listed { via, lastheardfrom } => {
                status.state = CatalogState::Listed;
                status.via = Some(match via {
                    Via::Udp => "udp",
                    Via::Tcp => "tcp",
                });
                status.lastheardfrom = Some(*lastheardfrom);
            }
            Standing::Unlisted(why) => {
                status.state = CatalogState::Unlisted;
                status.why = Some(why.clone());
            }
            Standing::Silent(why) => {
                status.state = CatalogState::Silent;
                status.why = Some(why.clone());
            }
            Standing::Skipped(why) => {
                status.state = CatalogState::Skipped;
                status.why = Some(why.clone());
            }
        }
        status
    }

    /// True once there is a verdict.
    pub fn is_settled(&self) -> bool {
        self.state != CatalogState::Trying
    }
}

/// One line: `HOST:PORT: lists this broker (by UDP)`.
impl fmt::Display for CatalogStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.catalog)?;
        f.write_str(match self.state {
            CatalogState::Trying => "being told",
            CatalogState::Listed => "lists this broker",
            CatalogState::Unlisted => "does NOT list this broker",
            CatalogState::Silent => "does not answer (tried again by itself)",
            CatalogState::Skipped => "not told",
        })?;
        match (self.via, &self.why) {
            (Some("tcp"), _) => f.write_str(" (by TCP)"),
            (Some(_), _) => f.write_str(" (by UDP)"),
            (None, Some(why)) => write!(f, ": {why}"),
            (None, None) => Ok(()),
        }
    }
}
