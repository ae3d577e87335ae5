//! Values as somebody wants them: another type than they were written in, or what a rule makes of them for a consumer.
//!
//! - The broker converts as it hands a value out; what is stored stays as it is. docs/conversion.md has the table of all conversions.
//! - MessagePack and bytes arrive as a value of bytes; JSON, text and CSV as a text.
//! - A rule that names no type (`to`) gives a value, which is read as any other.

use std::time::Duration;

use kvbroker_protocol::{
    Answer, ContentType, ConversionAnswer, ConversionOperation, Converted, Delivery, ErrorCode, Found, ItemState, Key, Operation,
    Peeked, Pull, QueueAnswer, QueueOperation, Rule, Scalar, Scan, Stored, Wanted,
};

use super::error::ClientError;
use super::handle::Client;
use super::pages::Pages;
use super::table::{Entry, unexpected};

/// Reads whose values are converted.
///
/// ```
/// # let broker = kvbroker_practice::Broker::start()?;
/// # let lab = broker.client()?;
/// use kvbroker_protocol::ContentType;
///
/// lab.put_json("cars/1", r#"{"name":"Ford","weight":900}"#)?;
/// let lines = lab.reading_as(ContentType::Csv).get("cars/1")?;
/// assert_eq!(lines.and_then(|entry| entry.value.as_text()).as_deref(), Some("name,weight\nFord,900\n"));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone)]
pub struct Reading<'c> {
    client: &'c Client,
    wanted: Wanted,
}

/// The broker's rules for conversions.
///
/// ```
/// # let broker = kvbroker_practice::Broker::start()?;
/// # let lab = broker.client()?;
/// use kvbroker_protocol::{ContentType, Rule, Source, Steps};
///
/// lab.put_json("cars/1", r#"{"name":"Ford","weight":900,"price":20000}"#)?;
/// let rule = Rule {
///     name: b"cars-for-billing".to_vec(),
///     source: Source::Prefix(b"cars/".to_vec()),
///     from: None,
///     to: Some(ContentType::Json),
///     consumer: Some("billing".into()),
///     steps: Steps::new().pick("name")?.pick("price")?.rename("price", "amount")?,
///     program: None,
/// };
/// lab.convert().declare(rule)?;
/// let entry = lab.reading_for("billing").get("cars/1")?;
/// let bill = entry.and_then(|entry| entry.value.as_text());
/// assert_eq!(bill.as_deref(), Some(r#"{"name":"Ford","amount":20000}"#));
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Copy)]
pub struct Conversions<'c> {
    client: &'c Client,
}

impl Client {
    /// Reads whose values become this type.
    pub fn reading_as(&self, to: ContentType) -> Reading<'_> {
        self.reading(Wanted { to: Some(to), consumer: None })
    }

    /// Reads whose values become what a rule makes of them for this consumer.
    pub fn reading_for(&self, consumer: &str) -> Reading<'_> {
        self.reading(Wanted { to: None, consumer: Some(consumer.to_owned()) })
    }

    /// Reads whose values become what is wanted.
    pub fn reading(&self, wanted: Wanted) -> Reading<'_> {
        Reading { client: self, wanted }
    }

    /// The rules.
    pub fn convert(&self) -> Conversions<'_> {
        Conversions { client: self }
    }
}

/// The operation with a conversion; without one where nothing is wanted.
pub(super) fn converted(operation: Operation, wanted: &Wanted) -> Operation {
    if *wanted == Wanted::default() {
        return operation;
    }
    Operation::Converted(Box::new(Converted { operation, wanted: wanted.clone() }))
}

impl<'c> Reading<'c> {
    /// Reads a key's value; None: there is no such key.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_convertible` for a value that can't become this, as for all of these.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, ClientError> {
        match self.client.one(self.asking(Operation::Get { key: key.as_ref().to_vec() })) {
            Ok((Answer::Value { value, modified, created }, revision)) => Ok(Some(Entry { value, modified, created, revision })),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the values of several keys at one revision, in their order; None: there is no such key.
    ///
    /// # Errors
    /// As [`Reading::get`].
    pub fn mget<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Entry>>, ClientError> {
        let keys: Vec<Key> = keys.into_iter().map(|key| key.as_ref().to_vec()).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        match self.client.one(self.asking(Operation::Mget { keys }))? {
            (Answer::Values(values), revision) => {
                let entry = |Found { value, modified, created }| Entry { value, modified, created, revision };
                Ok(values.into_iter().map(|found| found.map(entry)).collect())
            }
            _ => Err(unexpected()),
        }
    }

    /// All rows of a scan; as [`Client::scan`].
    pub fn scan(&self, scan: Scan) -> Pages<'c> {
        self.client.scan(scan).converted(self.wanted.clone())
    }

    /// All dictionaries whose field equals a value; as [`Client::query`].
    pub fn query(&self, subkey: &str, subvalue: Scalar, scan: Scan) -> Pages<'c> {
        self.client.query(subkey, subvalue, scan).converted(self.wanted.clone())
    }

    /// Takes items of a queue; as [`Queue::pull_as`](super::Queue::pull_as). An item that can't become what is wanted counts as delivered, and
    /// comes back later with the reason.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_convertible` for a consumer that has a rule neither for the queue nor for any subject.
    pub fn pull(&self, pull: Pull) -> Result<(Vec<Delivery>, Duration), ClientError> {
        self.client.queue(pull.queue.clone()).pull_wanted(pull, &self.wanted)
    }

    /// Shows the first items of a state, at most so many; as [`Queue::peek`](super::Queue::peek).
    ///
    /// # Errors
    /// As [`Reading::get`]; `not_found` for a queue that is not there.
    pub fn peek(&self, queue: impl AsRef<[u8]>, state: ItemState, limit: usize) -> Result<Vec<Peeked>, ClientError> {
        let (mut all, mut cursor): (Vec<Peeked>, _) = (Vec::new(), None);
        while all.len() < limit {
            let peek = QueueOperation::Peek { queue: queue.as_ref().to_vec(), state, limit: Some(limit - all.len()), cursor };
            match self.client.one(self.asking(Operation::Queue(Box::new(peek))))?.0 {
                Answer::Queue(QueueAnswer::Peeked { items, cursor: next }) => {
                    all.extend(items);
                    cursor = next;
                }
                _ => return Err(unexpected()),
            }
            if cursor.is_none() {
                break;
            }
        }
        Ok(all)
    }

    fn asking(&self, operation: Operation) -> Operation {
        converted(operation, &self.wanted)
    }
}

impl Conversions<'_> {
    /// Makes a rule, or another one of its name. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`]; `invalid` for a rule that makes no sense.
    pub fn declare(&self, rule: Rule) -> Result<u64, ClientError> {
        let rule = rule.check().map_err(ClientError::Failed)?;
        self.tell(ConversionOperation::Declare(rule))
    }

    /// Removes a rule. Gives the revision.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` for one that is not there.
    pub fn drop_rule(&self, name: impl AsRef<[u8]>) -> Result<u64, ClientError> {
        self.tell(ConversionOperation::Drop { rule: name.as_ref().to_vec() })
    }

    /// The rules whose names start with a prefix and that this client may see, in the order of their names.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<Rule>, ClientError> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = ConversionOperation::Rules { rule: None, prefix: prefix.as_ref().to_vec(), cursor, limit: None };
            let ConversionAnswer::Rules { rules, cursor: next } = self.ask(page)? else { return Err(unexpected()) };
            all.extend(rules);
            cursor = next;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// A rule; None: there is none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn show(&self, name: impl AsRef<[u8]>) -> Result<Option<Rule>, ClientError> {
        let rule = Some(name.as_ref().to_vec());
        match self.ask(ConversionOperation::Rules { rule, prefix: Vec::new(), cursor: None, limit: None }) {
            Ok(ConversionAnswer::Rules { rules, .. }) => Ok(rules.into_iter().next()),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a rule makes of a value; nothing is stored.
    ///
    /// # Errors
    /// See [`ClientError`]; `not_found` for a rule that is not there, `not_convertible` for a value that can't become what it says.
    pub fn test(&self, name: impl AsRef<[u8]>, value: Stored) -> Result<Stored, ClientError> {
        self.made(ConversionOperation::Convert { value, rule: Some(name.as_ref().to_vec()), from: None, to: None })
    }

    /// The value as another type, and what a text or bytes value holds if that is not text or bytes; nothing is stored.
    ///
    /// # Errors
    /// As [`Conversions::test`].
    pub fn value(&self, value: Stored, from: Option<ContentType>, to: ContentType) -> Result<Stored, ClientError> {
        self.made(ConversionOperation::Convert { value, rule: None, from, to: Some(to) })
    }

    fn made(&self, operation: ConversionOperation) -> Result<Stored, ClientError> {
        match self.ask(operation)? {
            ConversionAnswer::Converted(value) => Ok(value),
            ConversionAnswer::Rules { .. } => Err(unexpected()),
        }
    }

    fn ask(&self, operation: ConversionOperation) -> Result<ConversionAnswer, ClientError> {
        match self.client.one(Operation::Conversion(Box::new(operation)))?.0 {
            Answer::Conversion(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    fn tell(&self, operation: ConversionOperation) -> Result<u64, ClientError> {
        match self.client.one(Operation::Conversion(Box::new(operation)))? {
            (Answer::Done, revision) => Ok(revision),
            _ => Err(unexpected()),
        }
    }
}
