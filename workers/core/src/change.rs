//! A change: put or delete one record.

/// The space that a record belongs to: the first byte of its key in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Patterns of subjects that queues are bound to.
    Binding = b'b',
    /// Rules by which values are converted.
    Rule = b'c',
    /// By owner: the birth of the youngest session that was forgotten.
    Floor = b'f',
    /// How many messages were published: one record.
    Messages = b'm',
    /// Queues.
    Queue = b'q',
    /// Sessions.
    Session = b's',
    /// Keys of the table.
    Table = b't',
    /// Replies that sessions remember. Its byte is above that of the sessions: records read in the order of their keys give each
    /// session before its replies.
    Window = b'w',
    /// Items of queues: their values. Its byte is above that of the queues, and below that of the items' states: records read in the order
    /// of their keys give each queue before its items, and each item before its state.
    Item = b'x',
    /// What has become of an item, where it is not as it was pushed.
    ItemState = b'y',
}

impl Space {
    /// All of them, in the order of their bytes.
    pub(crate) const ALL: [Space; 10] = [
        Space::Binding,
        Space::Rule,
        Space::Floor,
        Space::Messages,
        Space::Queue,
        Space::Session,
        Space::Table,
        Space::Window,
        Space::Item,
        Space::ItemState,
    ];

    /// The space of a record key's first byte.
    pub fn from_byte(byte: u8) -> Option<Space> {
        Space::ALL.into_iter().find(|space| *space as u8 == byte)
    }
}

/// One record put or deleted. What a transaction, a batch and the log are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The record's space.
    pub space: Space,
    /// The key inside its space.
    pub key: Vec<u8>,
    /// The new value, or None: the record is deleted.
    pub value: Option<Vec<u8>>,
}

/// A logged record that this program does not know how to apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The space byte is not known.
    #[error("the log holds records of space {0:#04x}, which this version does not know; use the version that wrote them")]
    UnknownSpace(u8),
    /// The record key is empty.
    #[error("the log holds a record without a key")]
    NoKey,
    /// The key or the value is not one of its space.
    #[error("the log holds a record of space {:?} that is not one", char::from(*.0 as u8))]
    NotOfItsSpace(Space),
}

impl Change {
    /// Appends the record key as the log has it: space byte, then key.
    pub fn write_record_key(&self, out: &mut Vec<u8>) {
        out.push(self.space as u8);
        out.extend_from_slice(&self.key);
    }

    /// Reads a change from the log's record key and value.
    ///
    /// # Errors
    /// [`ChangeError`] for what another version wrote.
    pub fn from_record(record_key: &[u8], value: Option<&[u8]>) -> Result<Change, ChangeError> {
        let (space, key) = Change::check_record(record_key, value)?;
        Ok(Change { space, key: key.to_vec(), value: value.map(<[u8]>::to_vec) })
    }

    /// The space and the key in it of a record that is one.
    pub(crate) fn check_record<'k>(record_key: &'k [u8], value: Option<&[u8]>) -> Result<(Space, &'k [u8]), ChangeError> {
        let (&space, key) = record_key.split_first().ok_or(ChangeError::NoKey)?;
        let space = Space::from_byte(space).ok_or(ChangeError::UnknownSpace(space))?;
        let is_record = |value| match space {
            Space::Table => crate::record::split_table_record(value).is_some(),
            Space::Rule => crate::conversions::is_record(key, value),
            Space::Floor | Space::Session | Space::Window => crate::sessions::is_record(space, key, value),
            Space::Queue | Space::Item | Space::ItemState => crate::queues::is_record(space, key, value),
            Space::Binding | Space::Messages => crate::routing::is_record(space, key, value),
        };
        if !value.is_none_or(is_record) {
            return Err(ChangeError::NotOfItsSpace(space));
        }
        Ok((space, key))
    }
}
