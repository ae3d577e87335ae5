//! Values through serde: any type that can be (de)serialized is a value.
//!
//! - Structs are stored as MessagePack maps with their fields' names, so that every client in
//!   every language reads them, and `query` finds their fields.
//! - A value that somebody wrote as JSON is read just as well.

use kvbroker_protocol::Stored;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ClientError;
use super::handle::Client;

impl Client {
    /// Stores a value of any serializable type. Gives the revision.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let zoo = broker.client()?;
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Animal { weight: u32 }
    ///
    /// zoo.put_as("zebra", &Animal { weight: 100 })?;
    /// let zebra: Option<Animal> = zoo.get_as("zebra")?;
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`]; [`ClientError::Encode`] for a type that has no MessagePack form.
    pub fn put_as<T: Serialize + ?Sized>(&self, key: impl AsRef<[u8]>, value: &T) -> Result<u64, ClientError> {
        self.put(key, stored_as(value)?)
    }

    /// Reads a value as a type; None: there is no such key.
    ///
    /// # Errors
    /// As [`Client::get`]; [`ClientError::Decode`] for a value of another type.
    pub fn get_as<T: DeserializeOwned>(&self, key: impl AsRef<[u8]>) -> Result<Option<T>, ClientError> {
        let key = key.as_ref();
        self.get(key)?.map(|entry| decoded_as(key, &entry.value)).transpose()
    }
}

pub(super) fn stored_as<T: Serialize + ?Sized>(value: &T) -> Result<Stored, ClientError> {
    let document = rmp_serde::to_vec_named(value)?;
    // Checked again: a type may serialize to a map with one key twice, for example.
    Stored::from_msgpack(&document).map_err(ClientError::Failed)
}

pub(super) fn decoded_as<T: DeserializeOwned>(key: &[u8], value: &Stored) -> Result<T, ClientError> {
    let mut document = Vec::new();
    value.write_msgpack(&mut document);
    rmp_serde::from_slice(&document)
        .map_err(|source| ClientError::Decode { key: String::from_utf8_lossy(key).into_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kvbroker_protocol::{Scalar, field_equals};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Animal {
        weight: u32,
        name: Option<String>,
    }

    #[test]
    fn structs_are_maps_with_names_that_queries_find() {
        let zebra = Animal { weight: 100, name: Some("Zoe".into()) };
        let stored = stored_as(&zebra).unwrap();
        assert!(field_equals(stored.as_bytes(), "weight", &Scalar::Int(100)));
        assert_eq!(decoded_as::<Animal>(b"k", &stored).unwrap(), zebra);
        let json = Stored::from_json(br#"{"name":null,"weight":7}"#).unwrap();
        assert_eq!(decoded_as::<Animal>(b"k", &json).unwrap(), Animal { weight: 7, name: None });
    }

    #[test]
    fn another_type_is_named_with_its_key() {
        let error = decoded_as::<Animal>(b"zebra", &Stored::text("x").unwrap()).unwrap_err();
        assert!(error.to_string().contains("\"zebra\""), "{error}");
        assert!(stored_as(&std::collections::BTreeMap::from([(1.5_f32.to_bits(), 1)])).is_ok());
    }
}
