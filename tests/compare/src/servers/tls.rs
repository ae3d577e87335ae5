//! A certificate for this machine, and TLS to whoever shows it (rustls).
//!
//! Behind the feature `tls`, since it brings the largest dependencies of this workspace for a few rows of one table.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use super::streams::Stream;
use crate::Failed;

/// Files that a server is given, and what its clients trust.
pub struct Identity {
    /// The certificate, which is its own authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    client: Client,
}

#[cfg(feature = "tls")]
type Client = std::sync::Arc<rustls::ClientConfig>;
#[cfg(not(feature = "tls"))]
type Client = std::convert::Infallible;

#[cfg(feature = "tls")]
impl Identity {
    /// A new one, with its files in this directory. `protocol` is what the client offers (ALPN), if anything.
    pub fn new(place: &Path, protocol: Option<&str>) -> Result<Identity, Failed> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let (certificate, key) = (place.join("certificate.pem"), place.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        let mut trusted = rustls::RootCertStore::empty();
        trusted.add(made.cert.der().clone())?;
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut client = builder.with_root_certificates(trusted).with_no_client_auth();
        client.alpn_protocols.extend(protocol.map(|name| name.as_bytes().to_vec()));
        Ok(Identity { certificate, key, client: std::sync::Arc::new(client) })
    }

    /// Encrypts a connection to the server that has it.
    pub fn encrypt(&self, stream: TcpStream) -> Result<Box<dyn Stream>, Failed> {
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        let connection = rustls::ClientConnection::new(std::sync::Arc::clone(&self.client), name)?;
        let mut stream = rustls::StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Box::new(stream))
    }
}

#[cfg(not(feature = "tls"))]
impl Identity {
    /// Says that there is none.
    pub fn new(_place: &Path, _protocol: Option<&str>) -> Result<Identity, Failed> {
        Err("built without TLS: build it with --features tls, as tests/report/compare does".into())
    }

    /// There is none.
    pub fn encrypt(&self, _stream: TcpStream) -> Result<Box<dyn Stream>, Failed> {
        match self.client {}
    }
}
