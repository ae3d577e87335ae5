//! Which catalogs there are: `--catalog`, `CATALOG_HOST` and `CATALOG_PORT`.
//!
//! - The list is a comma list of `HOST[:PORT]`, as for the CCTools programs;
//!   `none` stays private. The flag wins over `CATALOG_HOST`, which wins over
//!   [`CATALOG_HOST_DEFAULT`]. `CATALOG_PORT` is the port of hosts without one.
//! - A list is checked as a whole: one bad host refuses it, because a typing error
//!   that silently announces to fewer catalogs is found by nobody.
//! - Resolving names can block for seconds: only [`CatalogAddr::resolve`] and
//!   [`CatalogAddr::is_loopback`] do it, and no thread that serves data calls them.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// The catalog of the Cooperative Computing Lab at Notre Dame, used when nothing is set.
pub const CATALOG_HOST_DEFAULT: &str = "catalog.cse.nd.edu";
/// The port of a catalog's queries (TCP) and updates (UDP); TCP updates go to the next one.
pub const CATALOG_PORT_DEFAULT: u16 = 9097;
/// Most catalogs in one list.
pub const CATALOGS_MAX: usize = 16;
/// Longest host name of the DNS.
const HOST_BYTES_MAX: usize = 253;
/// Most addresses of one catalog that are tried.
const ADDRESSES_MAX: usize = 8;
/// The list that names no catalog.
const NONE: &str = "none";

/// One catalog: a host and the port of its queries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CatalogAddr {
    host: String,
    port: u16,
}

/// Where a [`CatalogList`] comes from; `config` and error messages tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogOrigin {
    /// The command line (or its `KVBROKER_CATALOG`).
    Flag,
    /// The environment variable `CATALOG_HOST`.
    Environment,
    /// Nothing was set.
    Default,
}

/// The catalogs to announce to and to ask; may be empty (`none`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogList {
    catalogs: Vec<CatalogAddr>,
    origin: CatalogOrigin,
}

/// Why a list of catalogs is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogListError {
    /// A flag (or its variable) without content: it would fall back to a public catalog unasked.
    #[error("--catalog (KVBROKER_CATALOG) is empty; write HOST or HOST:PORT, or `none` to ask and tell no catalog")]
    Empty,
    /// A host that can't be one.
    #[error("{origin}: {host:?} is not a catalog; write HOST or HOST:PORT, several with commas between, or `none`")]
    BadHost {
        /// What was written, cut to 80 characters.
        host: String,
        /// Where it was written.
        origin: CatalogOrigin,
    },
    /// A port that can't be a catalog's.
    #[error("{origin}: {port:?} is not a catalog's port; it is a number from 1 to 65534 (TCP updates use the next one)")]
    BadPort {
        /// What was written, cut to 80 characters.
        port: String,
        /// Where it was written; `Environment` also stands for `CATALOG_PORT`.
        origin: CatalogOrigin,
    },
    /// More than [`CATALOGS_MAX`].
    #[error("{origin}: {count} catalogs are too many; at most {CATALOGS_MAX} are asked")]
    TooMany {
        /// How many were written.
        count: usize,
        /// Where they were written.
        origin: CatalogOrigin,
    },
}

impl CatalogAddr {
    /// The host as it was written, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port of queries (TCP) and updates (UDP).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of TCP updates: the next one.
    pub fn tcp_update_port(&self) -> u16 {
        // Ports are checked to be below 65535 where a `CatalogAddr` is made.
        self.port.saturating_add(1)
    }

    /// The URL of a page of this catalog; `path` starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{self}{path}")
    }

    /// The catalog's addresses, IPv4 first (CCTools servers often listen there
    /// only), at most eight. May block for as long as the resolver likes.
    ///
    /// # Errors
    /// When the name can't be resolved.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let mut all: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        all.sort_by_key(SocketAddr::is_ipv6);
        all.dedup();
        all.truncate(ADDRESSES_MAX);
        if all.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(all)
    }

    /// True when every address of this catalog is on the loopback interface. May
    /// block as [`CatalogAddr::resolve`] does.
    ///
    /// # Errors
    /// When the name can't be resolved.
    pub fn is_loopback(&self) -> io::Result<bool> {
        Ok(self.resolve()?.iter().all(is_loopback_addr))
    }

    fn parse(text: &str, port_default: u16, origin: CatalogOrigin) -> Result<Self, CatalogListError> {
        let bad_host = || CatalogListError::BadHost { host: excerpt(text), origin };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (inside, rest) = rest.split_once(']').ok_or_else(bad_host)?;
            inside.parse::<Ipv6Addr>().map_err(|_| bad_host())?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(bad_host)?),
            };
            (inside, port)
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let characters_good = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !characters_good {
            return Err(bad_host());
        }
        let port = match port {
            Some(port) => parse_port(port, origin)?,
            None => port_default,
        };
        Ok(CatalogAddr { host: host.to_owned(), port })
    }
}

fn is_loopback_addr(addr: &SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

fn parse_port(text: &str, origin: CatalogOrigin) -> Result<u16, CatalogListError> {
    text.parse::<u16>()
        .ok()
        .filter(|port| (1..u16::MAX).contains(port))
        .ok_or_else(|| CatalogListError::BadPort { port: excerpt(text), origin })
}

/// What is shown of a text that was refused.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for CatalogAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `HOST` or `HOST:PORT`, for one catalog without any settings around it.
impl FromStr for CatalogAddr {
    type Err = CatalogListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        CatalogAddr::parse(text.trim(), CATALOG_PORT_DEFAULT, CatalogOrigin::Flag)
    }
}

impl CatalogList {
    /// The list that these settings mean; each is `None` when it is not set. An
    /// empty text in the environment counts as not set, as in CCTools; an empty flag is refused:
    /// whoever writes it hardly means a public catalog.
    ///
    /// # Errors
    /// When any part of the setting that wins is no catalog; see [`CatalogListError`].
    pub fn from_settings(
        flag: Option<&str>,
        catalog_host: Option<&str>,
        catalog_port: Option<&str>,
    ) -> Result<Self, CatalogListError> {
        let set = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        if flag.is_some_and(|flag| flag.trim().is_empty()) {
            return Err(CatalogListError::Empty);
        }
        let port_default = match set(catalog_port) {
            Some(port) => parse_port(&port, CatalogOrigin::Environment)?,
            None => CATALOG_PORT_DEFAULT,
        };
        let (text, origin) = if let Some(text) = set(flag) {
            (text, CatalogOrigin::Flag)
        } else if let Some(text) = set(catalog_host) {
            (text, CatalogOrigin::Environment)
        } else {
            (CATALOG_HOST_DEFAULT.to_owned(), CatalogOrigin::Default)
        };
        if text == NONE {
            return Ok(CatalogList { catalogs: Vec::new(), origin });
        }
        let mut catalogs = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let catalog = CatalogAddr::parse(part, port_default, origin)?;
            if !catalogs.contains(&catalog) {
                catalogs.push(catalog);
            }
        }
        if catalogs.is_empty() {
            return Err(CatalogListError::BadHost { host: excerpt(&text), origin });
        }
        if catalogs.len() > CATALOGS_MAX {
            return Err(CatalogListError::TooMany { count: catalogs.len(), origin });
        }
        Ok(CatalogList { catalogs, origin })
    }

    /// [`CatalogList::from_settings`] with this process's environment.
    ///
    /// # Errors
    /// As there.
    pub fn from_env(flag: Option<&str>) -> Result<Self, CatalogListError> {
        let variable = |name| std::env::var(name).ok();
        Self::from_settings(flag, variable("CATALOG_HOST").as_deref(), variable("CATALOG_PORT").as_deref())
    }

    /// The empty list: nothing is announced, nobody is asked.
    pub fn none() -> Self {
        CatalogList { catalogs: Vec::new(), origin: CatalogOrigin::Flag }
    }

    /// The catalogs in the order in which they were written, without repeats.
    pub fn catalogs(&self) -> &[CatalogAddr] {
        &self.catalogs
    }

    /// True for `none`.
    pub fn is_empty(&self) -> bool {
        self.catalogs.is_empty()
    }

    /// Where the list comes from.
    pub fn origin(&self) -> CatalogOrigin {
        self.origin
    }
}

impl fmt::Display for CatalogList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.catalogs.is_empty() {
            return f.write_str(NONE);
        }
        for (i, catalog) in self.catalogs.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{catalog}")?;
        }
        Ok(())
    }
}

impl fmt::Display for CatalogOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CatalogOrigin::Flag => "--catalog",
            CatalogOrigin::Environment => "CATALOG_HOST or CATALOG_PORT",
            CatalogOrigin::Default => "the default catalog",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(flag: Option<&str>, host: Option<&str>, port: Option<&str>) -> String {
        CatalogList::from_settings(flag, host, port).unwrap().to_string()
    }

    #[test]
    fn the_flag_wins_then_the_environment_then_the_default() {
        assert_eq!(list(None, None, None), "catalog.cse.nd.edu:9097");
        assert_eq!(list(None, Some("a"), None), "a:9097");
        assert_eq!(list(Some("b"), Some("a"), None), "b:9097");
        assert_eq!(list(None, Some(" "), Some("")), "catalog.cse.nd.edu:9097");
        let default = CatalogList::from_settings(None, None, None).unwrap();
        assert_eq!(default.origin(), CatalogOrigin::Default);
    }

    #[test]
    fn lists_ports_and_brackets() {
        assert_eq!(list(Some("a, b:1 ,[::1]:2,::1,a"), None, Some("77")), "a:77,b:1,[::1]:2,[::1]:77");
        assert_eq!(list(None, Some("a:5,b"), Some("6")), "a:5,b:6");
    }

    #[test]
    fn none_stays_private() {
        assert!(CatalogList::from_settings(Some("none"), Some("a"), None).unwrap().is_empty());
        assert_eq!(list(None, Some("none"), None), "none");
    }

    #[test]
    fn what_is_no_catalog_is_refused_with_its_origin() {
        for bad in [
            "a b",
            "a/b",
            "user@host",
            "a:b:c",
            "a:",
            "a:0",
            "a:65535",
            "a:99999",
            ":1",
            "[::1",
            "[::1]x",
            "[host]:1",
            ",",
            "\u{e9}",
            "a\n",
            "http://a",
            "a,,b c",
        ] {
            let result = CatalogList::from_settings(Some(bad), None, None);
            let bad_list = result.is_err();
            // Trailing white space is trimmed, so `a\n` is `a`.
            assert_eq!(bad_list, bad != "a\n", "{bad:?}");
        }
        for empty in ["", " "] {
            let error = CatalogList::from_settings(Some(empty), Some("a"), None).unwrap_err();
            assert!(error.to_string().contains("`none`"), "{error}");
        }
        let error = CatalogList::from_settings(None, None, Some("x")).unwrap_err();
        assert!(error.to_string().contains("CATALOG_PORT"));
        let many: Vec<String> = (0..=CATALOGS_MAX).map(|i| format!("h{i}")).collect();
        assert!(matches!(CatalogList::from_settings(Some(&many.join(",")), None, None), Err(CatalogListError::TooMany { .. })));
        assert!(CatalogList::from_settings(Some(&"h".repeat(300)), None, None).is_err());
    }

    #[test]
    fn loopback_is_known_by_resolving() {
        for (host, expected) in
            [("127.0.0.1", true), ("localhost", true), ("[::1]:5", true), ("[::ffff:127.0.0.1]", true), ("192.0.2.1", false)]
        {
            let catalog: CatalogAddr = host.parse().unwrap();
            assert_eq!(catalog.is_loopback().unwrap(), expected, "{host}");
        }
    }

    #[test]
    fn urls_have_brackets_where_needed() {
        let catalog: CatalogAddr = "::1".parse().unwrap();
        assert_eq!(catalog.url("/query.json"), "http://[::1]:9097/query.json");
        assert_eq!(catalog.tcp_update_port(), 9098);
    }
}
