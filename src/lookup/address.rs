//! Addresses that stand in place of a project's name: `kv://HOST:PORT/PROJECT?key=kvpub1…`.
//!
//! - The key is what makes an address safe to pass on: who has the address knows whom to
//!   expect. Without one, only the user's own broker of that name is accepted.
//! - `ipc:///PATH/router.sock` names a unix socket (in `KVBROKER_ENDPOINT`); its directory must
//!   be the user's own and closed to others, as everywhere.
//! - Where the project is given beside the address, both must be the same.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::keys::{KeyTextError, PublicKey};
use crate::project::{ProjectName, ProjectNameError};

/// What an address starts with.
pub const ADDRESS_SCHEME: &str = "kv://";

/// Longest host name.
const HOST_BYTES_MAX: usize = 253;

/// Where a broker is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `kv://HOST:PORT[/PROJECT][?key=KEY]`
    Network {
        /// A name or an address, without brackets.
        host: String,
        /// The ROUTER's port.
        port: u16,
        /// The project.
        project: Option<ProjectName>,
        /// The key that the broker has to prove; None: the key of the user's own project.
        key: Option<PublicKey>,
    },
    /// `ipc:///PATH`
    Socket(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither of the two forms.
    #[error("{0:?} is no address; write kv://HOST:PORT/PROJECT?key=kvpub1… (as `kvbroker PROJECT link` prints it)")]
    Form(String),
    /// No port, or none that can be.
    #[error("the address {0:?} needs a port from 1 to 65535 behind its host: kv://HOST:PORT/PROJECT")]
    Port(String),
    /// A host that can't be one.
    #[error("the address {0:?} has no usable host: kv://HOST:PORT/PROJECT")]
    Host(String),
    /// A project that can't be one.
    #[error(transparent)]
    Project(#[from] ProjectNameError),
    /// A key that can't be one.
    #[error("the key in the address can't be used: {0}")]
    Key(#[from] KeyTextError),
    /// A parameter that is not known.
    #[error("the address has the parameter {0:?}; only key=kvpub1… is known")]
    Parameter(String),
    /// No project at all.
    #[error("the address names no project: kv://HOST:PORT/PROJECT")]
    NoProject,
    /// Two different projects.
    #[error("the address is that of the project {address}, not of {asked}")]
    OtherProject {
        /// In the address.
        address: ProjectName,
        /// On the command line.
        asked: ProjectName,
    },
}

fn excerpt(text: &str) -> String {
    text.chars().take(120).collect()
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("ipc://") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Address::Socket(path)) } else { Err(AddressError::Form(excerpt(text))) };
        }
        let rest = text.strip_prefix(ADDRESS_SCHEME).ok_or_else(|| AddressError::Form(excerpt(text)))?;
        let (rest, parameters) = rest.split_once('?').map_or((rest, None), |(rest, parameters)| (rest, Some(parameters)));
        let (authority, project) = rest.split_once('/').map_or((rest, ""), |(authority, project)| (authority, project));
        let (host, port) = authority.rsplit_once(':').ok_or_else(|| AddressError::Port(excerpt(text)))?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| AddressError::Port(excerpt(text)))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_good = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
        };
        let host = bare.unwrap_or(host);
        if !host_good || host.is_empty() || host.len() > HOST_BYTES_MAX {
            return Err(AddressError::Host(excerpt(text)));
        }
        let project = if project.is_empty() { None } else { Some(project.parse()?) };
        let mut key = None;
        for parameter in parameters.into_iter().flat_map(|parameters| parameters.split('&')).filter(|p| !p.is_empty()) {
            match parameter.split_once('=') {
                Some(("key", text)) => key = Some(text.parse()?),
                _ => return Err(AddressError::Parameter(excerpt(parameter))),
            }
        }
        Ok(Address::Network { host: host.to_owned(), port, project, key })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Socket(path) => write!(f, "ipc://{}", path.display()),
            Address::Network { host, port, project, key } => {
                if host.contains(':') {
                    write!(f, "{ADDRESS_SCHEME}[{host}]:{port}")?;
                } else {
                    write!(f, "{ADDRESS_SCHEME}{host}:{port}")?;
                }
                if let Some(project) = project {
                    write!(f, "/{project}")?;
                }
                key.map_or(Ok(()), |key| write!(f, "?key={key}"))
            }
        }
    }
}

/// What a user writes in place of PROJECT: a name, or an address that contains one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The project.
    pub project: ProjectName,
    /// Where it is, if that was given.
    pub address: Option<Address>,
}

impl Target {
    /// Joins a project and an address that was given beside it (`--endpoint`, `KVBROKER_ENDPOINT`).
    ///
    /// # Errors
    /// They name different projects.
    pub fn new(project: ProjectName, address: Option<Address>) -> Result<Self, AddressError> {
        if let Some(Address::Network { project: Some(its), .. }) = &address
            && *its != project
        {
            return Err(AddressError::OtherProject { address: its.clone(), asked: project });
        }
        Ok(Target { project, address })
    }
}

impl FromStr for Target {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.starts_with(ADDRESS_SCHEME) {
            return Ok(Target { project: text.parse()?, address: None });
        }
        match text.parse()? {
            Address::Network { project: None, .. } => Err(AddressError::NoProject),
            Address::Network { host, port, project: Some(project), key } => {
                let address = Address::Network { host, port, project: Some(project.clone()), key };
                Ok(Target { project, address: Some(address) })
            }
            Address::Socket(_) => Err(AddressError::Form(excerpt(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_read_back() {
        let key = PublicKey::from_bytes([0xab; 32]);
        for text in [
            format!("kv://lab3.example.org:4711/NETID-a5?key={key}"),
            "kv://127.0.0.1:4711/NETID-a5".to_owned(),
            "kv://[::1]:4711".to_owned(),
            "ipc:///run/user/1000/kvbroker/a/router.sock".to_owned(),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        let target: Target = "kv://h:1/p".parse().unwrap();
        assert_eq!(target.project.as_str(), "p");
        let target: Target = "p".parse().unwrap();
        assert_eq!(target.address, None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            ("http://h:1/p", "is no address"),
            ("kv://h/p", "needs a port"),
            ("kv://h:0/p", "needs a port"),
            ("kv://h:65536/p", "needs a port"),
            ("kv://:1/p", "no usable host"),
            ("kv://a b:1/p", "no usable host"),
            ("kv://[::zz]:1/p", "no usable host"),
            ("kv://::1:1/p", "no usable host"),
            ("kv://h:1/../p", "project name"),
            ("kv://h:1/p?key=kvpub1ff", "key in the address"),
            ("kv://h:1/p?secret=1", "only key="),
            ("ipc://router.sock", "is no address"),
        ];
        for (text, part) in cases {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!("kv://h:1".parse::<Target>().unwrap_err().to_string().contains("names no project"));
        let address = "kv://h:1/q".parse().unwrap();
        assert!(Target::new("p".parse().unwrap(), Some(address)).unwrap_err().to_string().contains("not of p"));
    }
}
