//! One catalog record: what a broker says about itself, and what a reader makes of
//! a record that anybody may have written.
//!
//! - [`CatalogRecord`] is what a broker announces. It is ASCII without escapes:
//!   CCTools' server drops `\u00e9` and mangles `é`.
//! - [`SeenRecord`] is such a record as read from a catalog, with what the catalog
//!   added: the sender's address and when it was last heard.
//! - A reader takes only text that is safe to print on a terminal, and numbers in
//!   their ranges; everything else is a [`RecordError`].

use std::net::IpAddr;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::fields::{FieldError, Fields};
use crate::project::ProjectName;

/// The `type` by which brokers are told apart from everything else in a catalog.
pub const RECORD_TYPE: &str = "hashtable";

/// How long a catalog should keep our record without hearing again: three refreshes.
pub const RECORD_LIFETIME_S: u32 = 180;

/// The lifetime of the last update of a broker that stops: catalogs have no message
/// for removal, so it asks to be forgotten after a second.
pub const FAREWELL_LIFETIME_S: u32 = 1;

/// Longest record that is read; ours have about 700 bytes.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Longest `owner`, `version`, `durability` and `name`.
pub const TEXT_BYTES_MAX: usize = 128;
/// Longest advertised endpoint.
pub const ENDPOINT_BYTES_MAX: usize = 256;
/// Most advertised endpoints in one record.
pub const ENDPOINTS_MAX: usize = 8;
/// How the text of a public key starts.
const PUBLIC_KEY_PREFIX: &str = "kvpub1";

/// What a broker announces about itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CatalogRecord {
    /// The project's name.
    pub project: ProjectName,
    /// Who runs the broker: a login name unless told otherwise.
    pub owner: String,
    /// TCP port of the ROUTER endpoint.
    pub port: u16,
    /// Version of the broker program.
    pub version: String,
    /// Names the log; shared by an active broker and its standbys.
    pub uuid: Uuid,
    /// Names this run of the process.
    pub instance: Uuid,
    /// The log's epoch; compared for equality only. Hexadecimal in the record,
    /// because JSON readers round integers past 2^53.
    pub epoch: u64,
    /// When the process started, in seconds since 1970.
    pub starttime: u64,
    /// How many seconds a catalog should keep the record without hearing again.
    pub lifetime_s: u32,
    /// TCP port of the PUB endpoint, when there is one.
    pub pub_port: Option<u16>,
    /// The project's public key as text (`kvpub1…`); `None` only for a broker
    /// that was told to serve without encryption.
    pub public_key: Option<String>,
    /// Which shard of the project this is, from 0.
    pub shard: u32,
    /// What an acknowledgement is worth: `always`, a pause such as `100ms`, or `never`.
    pub durability: String,
    /// Endpoints (`tcp://HOST:PORT`) to try besides the address that the catalog saw.
    pub endpoints: Vec<String>,
}

/// A record as a catalog listed it: a candidate, not yet a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRecord {
    /// What the sender said about itself.
    pub record: CatalogRecord,
    /// Where the catalog received it from.
    pub address: IpAddr,
    /// The sender's host name as the catalog knows it; for people only.
    pub name: String,
    /// When the catalog last received it, in seconds since 1970 by *its* clock.
    pub lastheardfrom: u64,
    /// The catalog that listed it, as `HOST:PORT`.
    pub catalog: String,
}

/// Why a record is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is not a JSON object.
    #[error("it is not a JSON object: {0}")]
    NotAnObject(String),
    /// It is longer than [`RECORD_BYTES_MAX`].
    #[error("it has {bytes} bytes, more than {RECORD_BYTES_MAX}")]
    TooLong {
        /// The record's length.
        bytes: usize,
    },
    /// A field is absent or of another kind.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A field's value is outside its range or form.
    #[error("its `{field}` is not {wanted}")]
    BadValue {
        /// The field's name.
        field: &'static str,
        /// What it should have been, with its article.
        wanted: &'static str,
    },
    /// It announces a hash table of another program.
    #[error("it announces a hash table, but not a kvbroker (it has no `{0}`)")]
    NotABroker(&'static str),
}

/// True for text that may be printed on a terminal and survives every catalog:
/// printable ASCII, at most `bytes_max` long, not empty.
pub fn is_plain_text(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

fn is_public_key(text: &str) -> bool {
    text.starts_with(PUBLIC_KEY_PREFIX) && is_plain_text(text, TEXT_BYTES_MAX) && !text.contains(' ')
}

/// `tcp://HOST:PORT` with a host of harmless characters and a real port.
pub fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')) else {
        return false;
    };
    let host_good = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'));
    host_good && !host.is_empty() && text.len() <= ENDPOINT_BYTES_MAX && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl CatalogRecord {
    /// Checks that every reader will accept this record; worth asking before the
    /// first announcement, for example for an owner's name with an umlaut.
    ///
    /// # Errors
    /// Names the first field that a reader would refuse.
    pub fn check(&self) -> Result<(), RecordError> {
        let plain = |field, text: &str| {
            if is_plain_text(text, TEXT_BYTES_MAX) {
                Ok(())
            } else {
                Err(RecordError::BadValue { field, wanted: "printable ASCII of 1 to 128 characters" })
            }
        };
        plain("owner", &self.owner)?;
        plain("version", &self.version)?;
        plain("durability", &self.durability)?;
        if self.port == 0 {
            return Err(bad_port("port"));
        }
        if self.pub_port == Some(0) {
            return Err(bad_port("pub_port"));
        }
        if self.public_key.as_deref().is_some_and(|key| !is_public_key(key)) {
            return Err(BAD_KEY);
        }
        let endpoints_good = self.endpoints.len() <= ENDPOINTS_MAX && self.endpoints.iter().all(|e| is_endpoint(e));
        if endpoints_good { Ok(()) } else { Err(BAD_ENDPOINTS) }
    }

    /// The record as the JSON that is sent to a catalog.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("text and integers always have a JSON form")
    }

    /// Reads what a sender said about itself.
    ///
    /// # Errors
    /// When a field is missing, of the wrong kind or out of its range.
    pub fn from_fields(fields: &Fields<'_>) -> Result<Self, RecordError> {
        // A student's server has the first few fields only; say so in one sentence
        // instead of complaining about a field that it never heard of.
        for field in ["uuid", "instance", "epoch"] {
            if fields.raw(field).is_none() {
                return Err(RecordError::NotABroker(field));
            }
        }
        let public_key = match fields.raw("public_key") {
            None | Some("null") => None,
            Some(_) => Some(fields.need_text("public_key")?),
        };
        let pub_port = match fields.raw("pub_port") {
            None | Some("null") => None,
            Some(_) => Some(port(fields, "pub_port")?),
        };
        let record = CatalogRecord {
            project: ProjectName::new(&fields.need_text("project")?).map_err(|_| BAD_PROJECT)?,
            owner: fields.need_text("owner")?,
            port: port(fields, "port")?,
            version: fields.need_text("version")?,
            uuid: uuid(fields, "uuid")?,
            instance: uuid(fields, "instance")?,
            epoch: epoch(fields)?,
            starttime: fields.number("starttime")?.unwrap_or(0),
            lifetime_s: small_number(fields, "lifetime", RECORD_LIFETIME_S)?,
            pub_port,
            public_key,
            shard: small_number(fields, "shard", 0)?,
            durability: fields.need_text("durability")?,
            endpoints: endpoints(fields)?,
        };
        record.check()?;
        Ok(record)
    }
}

/// The wire form. Field names are the catalog's; the order is for people who read it.
impl Serialize for CatalogRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire<'a> {
            r#type: &'static str,
            project: &'a str,
            owner: &'a str,
            port: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub_port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            public_key: Option<&'a str>,
            uuid: String,
            instance: String,
            epoch: String,
            starttime: u64,
            lifetime: u32,
            shard: u32,
            durability: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            endpoints: &'a [String],
            version: &'a str,
        }
        Wire {
            r#type: RECORD_TYPE,
            project: self.project.as_str(),
            owner: &self.owner,
            port: self.port,
            pub_port: self.pub_port,
            public_key: self.public_key.as_deref(),
            uuid: self.uuid.to_string(),
            instance: self.instance.to_string(),
            epoch: format!("{:016x}", self.epoch),
            starttime: self.starttime,
            lifetime: self.lifetime_s,
            shard: self.shard,
            durability: &self.durability,
            endpoints: &self.endpoints,
            version: &self.version,
        }
        .serialize(serializer)
    }
}

impl SeenRecord {
    /// Reads one element of a catalog's listing.
    ///
    /// `Ok(None)` is a record of another `type`: none of our business, no error.
    ///
    /// # Errors
    /// When it claims our type and can't be used; see [`RecordError`].
    pub fn parse(text: &str, catalog: &str) -> Result<Option<Self>, RecordError> {
        if text.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong { bytes: text.len() });
        }
        let fields = Fields::parse(text).map_err(|error| RecordError::NotAnObject(error.to_string()))?;
        if fields.text("type").as_deref() != Some(RECORD_TYPE) {
            return Ok(None);
        }
        let address = fields
            .need_text("address")?
            .parse::<IpAddr>()
            .map_err(|_| RecordError::BadValue { field: "address", wanted: "an IP address" })?;
        let name = fields.text("name").filter(|name| is_plain_text(name, TEXT_BYTES_MAX)).unwrap_or_else(|| address.to_string());
        Ok(Some(SeenRecord {
            record: CatalogRecord::from_fields(&fields)?,
            address: address.to_canonical(),
            name,
            lastheardfrom: fields.number("lastheardfrom")?.unwrap_or(0),
            catalog: catalog.to_owned(),
        }))
    }

    /// True when the broker has said that it stopped. Only a hint, like everything
    /// here: try it last, don't leave it out.
    pub fn has_left(&self) -> bool {
        self.record.lifetime_s <= FAREWELL_LIFETIME_S
    }

    /// Where to try this broker, in order and without repeats: at the address that
    /// the catalog saw, then at each advertised endpoint.
    pub fn tcp_endpoints(&self) -> Vec<String> {
        let seen = std::net::SocketAddr::new(self.address, self.record.port);
        let mut all = vec![format!("tcp://{seen}")];
        for endpoint in &self.record.endpoints {
            if !all.contains(endpoint) {
                all.push(endpoint.clone());
            }
        }
        all
    }
}

const BAD_PROJECT: RecordError =
    RecordError::BadValue { field: "project", wanted: "a project name (1 to 48 of A-Z a-z 0-9 . _ -, not starting with . or -)" };
const BAD_KEY: RecordError = RecordError::BadValue { field: "public_key", wanted: "a public key (kvpub1…)" };
const BAD_ENDPOINTS: RecordError =
    RecordError::BadValue { field: "endpoints", wanted: "a list of at most 8 endpoints of the form tcp://HOST:PORT" };

fn bad_port(field: &'static str) -> RecordError {
    RecordError::BadValue { field, wanted: "a port from 1 to 65535" }
}

fn port(fields: &Fields<'_>, field: &'static str) -> Result<u16, RecordError> {
    u16::try_from(fields.need_number(field)?).ok().filter(|port| *port > 0).ok_or_else(|| bad_port(field))
}

fn small_number(fields: &Fields<'_>, field: &'static str, absent: u32) -> Result<u32, RecordError> {
    let number = fields.number(field)?.unwrap_or(u64::from(absent));
    u32::try_from(number).map_err(|_| RecordError::BadValue { field, wanted: "a number below 2^32" })
}

fn uuid(fields: &Fields<'_>, field: &'static str) -> Result<Uuid, RecordError> {
    Uuid::try_parse(&fields.need_text(field)?).map_err(|_| RecordError::BadValue { field, wanted: "a UUID" })
}

fn epoch(fields: &Fields<'_>) -> Result<u64, RecordError> {
    let text = fields.need_text("epoch")?;
    // `from_str_radix` alone would take a sign.
    let digits_only = text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(&text, 16)
        .ok()
        .filter(|_| digits_only)
        .ok_or(RecordError::BadValue { field: "epoch", wanted: "a hexadecimal number of at most 16 digits" })
}

fn endpoints(fields: &Fields<'_>) -> Result<Vec<String>, RecordError> {
    match fields.raw("endpoints") {
        None => Ok(Vec::new()),
        Some(raw) => serde_json::from_str(raw).map_err(|_| BAD_ENDPOINTS),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn sample() -> CatalogRecord {
        CatalogRecord {
            project: "NETID-a5".parse().unwrap(),
            owner: "netid".into(),
            port: 9123,
            version: "0.1.0".into(),
            uuid: Uuid::from_u128(1),
            instance: Uuid::from_u128(2),
            epoch: u64::MAX - 1,
            starttime: 1_700_000_000,
            lifetime_s: RECORD_LIFETIME_S,
            pub_port: Some(9124),
            public_key: Some("kvpub1abcDEF-_".into()),
            shard: 0,
            durability: "always".into(),
            endpoints: vec!["tcp://10.0.0.5:9123".into()],
        }
    }

    /// The record as a catalog would list it.
    fn listed(record_json: &str) -> String {
        format!(
            r#"{{"name":"localhost","lastheardfrom":1795255198,"address":"127.0.0.1",{}"#,
            record_json.strip_prefix('{').unwrap()
        )
    }

    fn with(field: &str, json: &str) -> Result<Option<SeenRecord>, RecordError> {
        let mut value: serde_json::Value = serde_json::from_str(&sample().to_json()).unwrap();
        value[field] = serde_json::from_str(json).unwrap();
        SeenRecord::parse(&listed(&value.to_string()), "c:9097")
    }

    #[test]
    fn what_is_announced_is_read_back() {
        let seen = SeenRecord::parse(&listed(&sample().to_json()), "c:9097").unwrap().unwrap();
        assert_eq!(seen.record, sample());
        assert_eq!(seen.lastheardfrom, 1_795_255_198);
        assert_eq!(seen.tcp_endpoints(), ["tcp://127.0.0.1:9123", "tcp://10.0.0.5:9123"]);
    }

    #[test]
    fn the_record_starts_with_the_fields_of_the_course() {
        assert!(sample().to_json().starts_with(r#"{"type":"hashtable","project":"NETID-a5","owner":"netid","port":9123"#));
        assert!(sample().to_json().is_ascii());
    }

    #[test]
    fn a_senders_own_address_does_not_count() {
        let lie = sample().to_json().replace(r#""owner""#, r#""address":"9.9.9.9","lastheardfrom":9,"owner""#);
        let seen = SeenRecord::parse(&listed(&lie), "c").unwrap().unwrap();
        assert_eq!(seen.address.to_string(), "127.0.0.1");
        assert_eq!(seen.lastheardfrom, 1_795_255_198);
    }

    #[test]
    fn other_types_are_no_error() {
        assert_eq!(with("type", r#""catalog""#), Ok(None));
        assert_eq!(with("type", "7"), Ok(None));
    }

    #[test]
    fn numbers_may_be_text() {
        let seen = with("port", r#""9200""#).unwrap().unwrap();
        assert_eq!(seen.record.port, 9200);
    }

    #[test]
    fn hostile_values_are_refused_with_the_fields_name() {
        let cases: &[(&str, &str)] = &[
            ("port", "0"),
            ("port", "65536"),
            ("port", "-1"),
            ("port", "[]"),
            ("pub_port", "70000"),
            ("project", r#""../../etc""#),
            ("project", r#""""#),
            ("project", "7"),
            ("owner", r#""a\u001b[31mb""#),
            ("owner", r#""a\nb""#),
            ("owner", "\"\u{202e}evil\""),
            ("uuid", r#""not-a-uuid""#),
            ("instance", "{}"),
            ("epoch", r#""+1""#),
            ("epoch", r#""12345678123456789""#),
            ("epoch", "12"),
            ("public_key", r#""rsa""#),
            ("public_key", "1"),
            ("lifetime", r#""soon""#),
            ("lifetime", "4294967296"),
            ("shard", "-3"),
            ("durability", r#""\u0000""#),
            ("endpoints", r#"["tcp://a b:1"]"#),
            ("endpoints", r#"["ipc:///tmp/x"]"#),
            ("endpoints", r#"["tcp://h:0"]"#),
            ("endpoints", r#""tcp://h:1""#),
            (
                "endpoints",
                r#"["tcp://h:1","tcp://h:1","tcp://h:1","tcp://h:1","tcp://h:1","tcp://h:1","tcp://h:1","tcp://h:1","tcp://h:1"]"#,
            ),
        ];
        for (field, json) in cases {
            let error = with(field, json).unwrap_err();
            assert!(error.to_string().contains(&format!("`{field}`")), "{field}={json}: {error}");
        }
        let long = format!("\"{}\"", "o".repeat(TEXT_BYTES_MAX + 1));
        assert!(with("owner", &long).is_err());
        let huge = format!("\"{}\"", "o".repeat(RECORD_BYTES_MAX));
        assert!(matches!(with("owner", &huge), Err(RecordError::TooLong { .. })));
    }

    #[test]
    fn a_course_server_is_named_as_such() {
        let text = listed(r#"{"type":"hashtable","owner":"someone","port":9000,"project":"x-a4"}"#);
        let error = SeenRecord::parse(&text, "c").unwrap_err();
        assert!(error.to_string().contains("not a kvbroker"), "{error}");
    }

    #[test]
    fn without_encryption_there_is_no_key_and_that_shows() {
        let mut open = sample();
        open.public_key = None;
        open.pub_port = None;
        let seen = SeenRecord::parse(&listed(&open.to_json()), "c").unwrap().unwrap();
        assert_eq!(seen.record, open);
    }

    #[test]
    fn check_refuses_what_readers_would_refuse() {
        let mut record = sample();
        record.owner = "Jörg".into();
        assert!(record.check().is_err());
        assert!(sample().check().is_ok());
    }
}
