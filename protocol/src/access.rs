//! Who may do what: roles, the keys they reach, and the one rule that both decide by.
//!
//! - [`Access::check`] is the only place that says which role an operation needs. Its match names every operation, so that a new
//!   one has to choose before it compiles.
//! - Whoever is restricted to prefixes is refused an operation that *names* a key outside of them. Operations on a range of keys
//!   (pages, lists, counts, `del_prefix`) are never refused for their range: they are answered as by a table that has only this
//!   user's keys. The worker sees to that with [`Scope`].
//! - A refusal says nothing about the table: not whether a key exists, and no name that the request did not give or that the user
//!   was not given with the role.
//! - An admin has the whole table. A restricted one could grant itself the rest, so there is none.
//!
//! Caveat: a transaction is judged by both of its lists, also by the one that would not be done.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::conversion::{ConversionOperation, Rule, Source};
use crate::error::{ErrorCode, Failure};
use crate::limits::{GRANT_COMMENT_BYTES_MAX, GRANT_PREFIXES_MAX, KEY_BYTES_MAX};
use crate::operation::Operation;
use crate::routing::{RoutingOperation, pattern_prefix, retained_key};
use crate::txn::Txn;
use crate::value::{Key, key_to_line_text};

/// What a user may do with the keys in its scope. A later role includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Read.
    Read,
    /// Read and change.
    Write,
    /// Also say who may come in.
    Admin,
}

impl Role {
    /// Every role, the least one first.
    pub const ALL: [Role; 3] = [Role::Read, Role::Write, Role::Admin];

    /// The stable name, on the wire and in files.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }

    /// The role of a name; exact.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which keys: all of them, or those that start with one of some prefixes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(
    /// None: everything. Otherwise never empty, sorted, and no prefix starts with another one.
    Option<Arc<[Key]>>,
);

impl Scope {
    /// Every key.
    pub const fn all() -> Scope {
        Scope(None)
    }

    /// The keys that start with one of these. Those that another one covers are left out; an empty prefix covers everything.
    ///
    /// # Errors
    /// `invalid` without any, `limit` with too many or one that is longer than a key.
    pub fn prefixes(mut prefixes: Vec<Key>) -> Result<Scope, Failure> {
        if prefixes.is_empty() {
            return Err(Failure::invalid("a list of key prefixes has at least one; for every key leave the list out"));
        }
        if prefixes.len() > GRANT_PREFIXES_MAX {
            let message = format!("{} key prefixes; at most {GRANT_PREFIXES_MAX} are taken", prefixes.len());
            return Err(Failure::limit(message));
        }
        if let Some(long) = prefixes.iter().find(|prefix| prefix.len() > KEY_BYTES_MAX) {
            let message = format!("a key prefix has {} bytes; at most {KEY_BYTES_MAX} are taken, as of a key", long.len());
            return Err(Failure::limit(message));
        }
        prefixes.sort_unstable();
        // In this order whatever starts with a prefix stands right behind it.
        prefixes.dedup_by(|later, kept| later.starts_with(kept));
        if prefixes[0].is_empty() {
            return Ok(Scope::all());
        }
        Ok(Scope(Some(prefixes.into())))
    }

    /// True if no key is outside.
    pub const fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// True if the key is inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        let Some(prefixes) = &self.0 else { return true };
        // All texts between a prefix and a key that starts with it start with it, too: only the last prefix before the key can be one
        // of its own.
        let behind = prefixes.partition_point(|prefix| prefix.as_slice() <= key);
        prefixes[..behind].last().is_some_and(|prefix| key.starts_with(prefix))
    }

    /// The prefixes in order; empty: everything.
    pub fn list(&self) -> &[Key] {
        self.0.as_deref().unwrap_or_default()
    }

    /// What the keys that start with `prefix` and the scope have in common, as prefixes of which none covers another, in key order.
    pub fn below<'a>(&'a self, prefix: &'a [u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        let whole = self.contains(prefix).then_some(prefix);
        let list = if whole.is_some() { &[] } else { self.list() };
        let from = list.partition_point(|own| own.as_slice() < prefix);
        let own = list[from..].partition_point(|own| own.starts_with(prefix));
        whole.into_iter().chain(list[from..from + own].iter().map(Vec::as_slice))
    }
}

/// What one user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// With the keys in its scope.
    pub role: Role,
    /// Which keys.
    pub scope: Scope,
}

/// Which keys an operation reaches.
enum Reach<'a> {
    /// None by itself.
    Nothing,
    /// This one.
    Key(&'a Key),
    /// Both of these.
    Both(&'a Key, &'a Key),
    /// The subject, and the key of its retained value if there shall be one.
    Subject(&'a Key, bool),
    /// The queue, and every subject of the pattern.
    Bound(&'a Key, &'a Key),
    /// Each of these.
    Keys(&'a [Key]),
    /// A rule: its name, its source, and the queue of its program.
    Rule(&'a Rule),
    /// Those of a range that the user has.
    Own,
    /// What its parts reach.
    Txn(&'a Txn),
    /// The table as a whole.
    Whole,
}

impl Access {
    /// What the broker's owner may do: everything.
    pub const fn owner() -> Access {
        Access { role: Role::Admin, scope: Scope::all() }
    }

    /// A role with these key prefixes; none: every key.
    ///
    /// # Errors
    /// Those of [`Scope::prefixes`], and `invalid` for an admin with prefixes and for an empty prefix: whoever gives one has rather lost
    /// it on the way than meant every key.
    pub fn new(role: Role, prefixes: Vec<Key>) -> Result<Access, Failure> {
        if prefixes.iter().any(Vec::is_empty) {
            return Err(Failure::invalid("an empty key prefix would be every key; leave the prefixes out if that is meant"));
        }
        let scope = if prefixes.is_empty() { Scope::all() } else { Scope::prefixes(prefixes)? };
        if role == Role::Admin && !scope.is_all() {
            return Err(Failure::invalid(
                "an admin has every key, as it could grant itself the rest; leave the prefixes out, or take the role write",
            ));
        }
        Ok(Access { role, scope })
    }

    /// Whether this user may do this.
    ///
    /// # Errors
    /// `refused`, with a sentence that says which role it needs, or which keys the user has.
    pub fn check(&self, operation: &Operation) -> Result<(), Failure> {
        let (role, reach) = needs(operation);
        self.check_role(operation, role)?;
        // The owner's path: nothing to look at.
        if self.scope.is_all() {
            return match reach {
                Reach::Txn(txn) => txn.operations().try_for_each(|part| self.check(part)),
                _ => Ok(()),
            };
        }
        match reach {
            Reach::Nothing | Reach::Own => Ok(()),
            Reach::Key(key) => self.check_key(key),
            Reach::Both(one, other) => self.check_key(one).and_then(|()| self.check_key(other)),
            Reach::Subject(subject, retain) => {
                self.check_key(subject)?;
                if retain { self.check_key(&retained_key(subject)) } else { Ok(()) }
            }
            Reach::Bound(queue, pattern) => {
                self.check_key(queue)?;
                self.check_key(pattern_prefix(pattern)).map_err(|_| self.not_all_subjects(pattern))
            }
            Reach::Keys(keys) => keys.iter().try_for_each(|key| self.check_key(key)),
            Reach::Rule(rule) => {
                self.check_key(&rule.name)?;
                self.check_key(rule.source.reach()).map_err(|failure| match &rule.source {
                    Source::Subject(pattern) => self.not_all_subjects(pattern.as_bytes()),
                    Source::Prefix(_) | Source::Queue(_) => failure,
                })?;
                rule.program.iter().try_for_each(|program| self.check_key(&program.into))
            }
            Reach::Txn(txn) => {
                txn.compares.iter().try_for_each(|compare| self.check_key(&compare.key))?;
                txn.operations().try_for_each(|part| self.check(part))
            }
            Reach::Whole => Err(refused(format!(
                "`{}` tells about the whole table, and this client may use only {}",
                operation.verb(),
                own_keys(&self.scope)
            ))),
        }
    }

    fn check_role(&self, operation: &Operation, needed: Role) -> Result<(), Failure> {
        if self.role >= needed {
            return Ok(());
        }
        Err(refused(format!(
            "`{}` needs the role {needed}, and this client has the role {}; an admin of the broker can grant it with `authorize`",
            operation.verb(),
            self.role
        )))
    }

    fn not_all_subjects(&self, pattern: &[u8]) -> Failure {
        refused(format!(
            "the pattern {} has subjects that are not this client's: it may use only {}; an admin of the broker can grant more with `authorize`",
            shown(pattern),
            own_keys(&self.scope)
        ))
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Failure> {
        if self.scope.contains(key) {
            return Ok(());
        }
        Err(refused(format!(
            "the key {} is not this client's to use: it may use only {}; an admin of the broker can grant more with `authorize`",
            shown(key),
            own_keys(&self.scope)
        )))
    }
}

/// The role that an operation needs, and what it reaches. A transaction needs at least this role; each of its parts is asked, too.
fn needs(operation: &Operation) -> (Role, Reach<'_>) {
    match operation {
        Operation::Hello { .. } | Operation::Ping => (Role::Read, Reach::Nothing),
        // Sessions are their user's own: another user's is not known to it.
        Operation::Result { settle: false, .. } => (Role::Read, Reach::Nothing),
        Operation::Result { settle: true, .. } | Operation::Noop | Operation::End => (Role::Write, Reach::Nothing),
        Operation::Get { key } | Operation::Exists { key } | Operation::Ttl { key } | Operation::History { key, .. } => {
            (Role::Read, Reach::Key(key))
        }
        Operation::Mget { keys } => (Role::Read, Reach::Keys(keys)),
        Operation::Size | Operation::Scan(_) | Operation::Query { .. } | Operation::List(_) | Operation::Events(_) => {
            (Role::Read, Reach::Own)
        }
        Operation::Put { key, .. }
        | Operation::Del { key, .. }
        | Operation::Incr { key, .. }
        | Operation::Expire { key, .. }
        | Operation::Persist { key } => (Role::Write, Reach::Key(key)),
        Operation::DelPrefix { .. } => (Role::Write, Reach::Own),
        Operation::Txn(txn) => (Role::Read, Reach::Txn(txn)),
        Operation::Queue(queue) => {
            let role = if queue.is_read() { Role::Read } else { Role::Write };
            let dead = queue.names_besides();
            (role, queue.queue().map_or(Reach::Own, |queue| dead.map_or(Reach::Key(queue), |dead| Reach::Both(queue, dead))))
        }
        Operation::Routing(routing) => match routing.as_ref() {
            RoutingOperation::Bind { queue, pattern, .. } => (Role::Write, Reach::Bound(queue, pattern)),
            RoutingOperation::Unbind { queue, .. } => (Role::Write, Reach::Key(queue)),
            RoutingOperation::Bindings { queue, .. } => (Role::Read, queue.as_ref().map_or(Reach::Own, Reach::Key)),
            RoutingOperation::Publish(publish) => (Role::Write, Reach::Subject(&publish.subject, publish.retain)),
        },
        Operation::Conversion(conversion) => match conversion.as_ref() {
            ConversionOperation::Declare(rule) => (Role::Write, Reach::Rule(rule)),
            ConversionOperation::Drop { rule } => (Role::Write, Reach::Key(rule)),
            ConversionOperation::Rules { rule, .. } => (Role::Read, rule.as_ref().map_or(Reach::Own, Reach::Key)),
            ConversionOperation::Convert { rule, .. } => (Role::Read, rule.as_ref().map_or(Reach::Nothing, Reach::Key)),
        },
        Operation::Converted(converted) => needs(&converted.operation),
        Operation::Stats => (Role::Read, Reach::Whole),
        Operation::Authorize { .. } | Operation::Revoke { .. } | Operation::Who => (Role::Admin, Reach::Whole),
    }
}

fn refused(message: String) -> Failure {
    Failure::new(ErrorCode::Refused, message)
}

/// Prefixes that a refusal names.
const NAMED_MAX: usize = 8;
/// Bytes of a key that a refusal shows.
const SHOWN_BYTES: usize = 64;

fn own_keys(scope: &Scope) -> String {
    let list = scope.list();
    let named: Vec<String> = list.iter().take(NAMED_MAX).map(|prefix| shown(prefix)).collect();
    let more = if list.len() > NAMED_MAX { format!(" and {} more prefixes", list.len() - NAMED_MAX) } else { String::new() };
    format!("keys that start with {}{more}", named.join(" or "))
}

/// A key in a sentence: quoted, and shortened where it is long.
fn shown(key: &[u8]) -> String {
    let mut text = Vec::new();
    key_to_line_text(&mut text, key.get(..SHOWN_BYTES).unwrap_or(key));
    let more = if key.len() > SHOWN_BYTES { "…" } else { "" };
    format!("'{}{more}'", String::from_utf8_lossy(&text))
}

/// One user that may come in, as `who` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantInfo {
    /// Its public key.
    pub key: UserKey,
    /// Its role.
    pub role: Role,
    /// The prefixes of the keys it may use; empty: every key.
    pub prefixes: Vec<Key>,
    /// Whose key it is, for people; may be empty.
    pub comment: String,
}

/// Checks a grant's comment and takes white space off its ends.
///
/// # Errors
/// `limit` or `invalid`: it is one line of printable text.
pub fn grant_comment(comment: &str) -> Result<String, Failure> {
    let comment = comment.trim();
    if comment.len() > GRANT_COMMENT_BYTES_MAX {
        let message = format!("the comment has {} bytes; at most {GRANT_COMMENT_BYTES_MAX} are taken", comment.len());
        return Err(Failure::limit(message));
    }
    if comment.chars().any(char::is_control) {
        return Err(Failure::invalid("the comment is one line of text without control characters"));
    }
    Ok(comment.to_owned())
}

/// What stands in front of the hexadecimal digits of a public key.
const PUBLIC_KEY_PREFIX: &str = "kvpub1";
/// What a text is searched for before anything is said about it.
const SECRET_KEY_PREFIX: &str = "kvsec1";

/// A user's CURVE public key. Its text form is `kvpub1` and 64 hexadecimal digits, lower case: also the user's name towards the
/// worker and in logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey([u8; 32]);

/// Why a text is no public key. The text is never repeated: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserKeyError {
    /// It is, or holds, a secret key.
    #[error(
        "this is a secret key (kvsec1…), and now others may have seen it: replace it by a new one, and give the public key that \
         `kvclient id` prints (kvpub1…)"
    )]
    Secret,
    /// Something else.
    #[error("a user's key is `kvpub1` and 64 hexadecimal digits, as `kvclient id` prints it; this text has {0} characters")]
    Text(usize),
    /// All its bytes are zero, which is how an absent key looks to CURVE.
    #[error("a key of zeros is nobody's key; give the one that `kvclient id` prints")]
    Zero,
}

impl UserKey {
    /// The key of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> UserKey {
        UserKey(bytes)
    }

    /// Its bytes, as CURVE and ZAP use them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for UserKey {
    type Err = UserKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.to_ascii_lowercase().contains(SECRET_KEY_PREFIX) {
            return Err(UserKeyError::Secret);
        }
        let wrong = || UserKeyError::Text(text.chars().count());
        let mut digits = text.strip_prefix(PUBLIC_KEY_PREFIX).ok_or_else(wrong)?.chars();
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            let mut digit = || digits.next().and_then(|digit| digit.to_digit(16)).ok_or_else(wrong);
            *byte = (digit()? << 4 | digit()?) as u8;
        }
        match digits.next() {
            Some(_) => Err(wrong()),
            None if bytes == [0; 32] => Err(UserKeyError::Zero),
            None => Ok(UserKey(bytes)),
        }
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PUBLIC_KEY_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::conversion::{ContentType, Converted, Program, Steps, Wanted};
    use crate::header::SessionId;
    use crate::operation::{Condition, Events, List, Scan};
    use crate::predicate::Scalar;
    use crate::queue::{Declaration, ItemId, ItemState, QueueOperation, Until};
    use crate::routing::Publish;
    use crate::txn::Compare;
    use crate::value::Stored;

    fn scope(prefixes: &[&str]) -> Scope {
        Scope::prefixes(prefixes.iter().map(|prefix| prefix.as_bytes().to_vec()).collect()).unwrap()
    }

    #[test]
    fn a_scope_is_sorted_and_says_nothing_twice() {
        assert_eq!(scope(&["b", "a/x", "a/", "b", "a", "c/"]).list(), [b"a".to_vec(), b"b".to_vec(), b"c/".to_vec()]);
        assert!(scope(&["a", ""]).is_all());
        assert_eq!(scope(&["b", "a"]), scope(&["a", "b", "ab"]));
        assert!(Scope::all().list().is_empty());
        assert_eq!(Scope::prefixes(vec![]).unwrap_err().code, ErrorCode::Invalid);
        let many = (0..=GRANT_PREFIXES_MAX).map(|at| at.to_string().into_bytes()).collect();
        assert_eq!(Scope::prefixes(many).unwrap_err().code, ErrorCode::Limit);
        assert_eq!(Scope::prefixes(vec![vec![0; KEY_BYTES_MAX + 1]]).unwrap_err().code, ErrorCode::Limit);
    }

    /// Every text of up to three of these bytes, against the plain definition.
    #[test]
    fn a_scope_contains_what_starts_with_one_of_its_prefixes() {
        let bytes = [0u8, b'a', b'b', 0xff];
        let mut texts = vec![vec![]];
        for at in 0..1 + 4 + 16 {
            texts.extend(bytes.map(|byte| [texts[at].as_slice(), &[byte]].concat()));
        }
        let prefixes: [&[&[u8]]; 5] =
            [&[b"a"], &[b"ab", b"b", b"\xff\xff"], &[b"\0", b"aa", b"ab", b"b\0"], &[b"\xff"], &[b"a", b"a\xff", b"bb", b"ba"]];
        for list in prefixes {
            let scope = Scope::prefixes(list.iter().map(|prefix| prefix.to_vec()).collect()).unwrap();
            let plain = |key: &[u8]| list.iter().any(|prefix| key.starts_with(prefix));
            for prefix in &texts {
                let below: Vec<&[u8]> = scope.below(prefix).collect();
                assert!(below.is_sorted() && below.iter().all(|own| own.starts_with(prefix)));
                for key in &texts {
                    assert_eq!(scope.contains(key), plain(key), "{list:?} {key:?}");
                    assert_eq!(Scope::all().below(prefix).collect::<Vec<_>>(), [prefix.as_slice()]);
                    let covering = below.iter().filter(|own| key.starts_with(own)).count();
                    assert_eq!(covering, usize::from(key.starts_with(prefix) && plain(key)), "{list:?} {prefix:?} {key:?}");
                }
            }
        }
    }

    /// Operations of each kind with the least role that may do them, and whether they name a key (here: this one) or the whole table.
    fn samples(key: &[u8]) -> Vec<(Role, bool, Operation)> {
        let key = key.to_vec();
        let session = SessionId([7; 16]);
        let user = UserKey::from_bytes([7; 32]);
        let authorize = Operation::Authorize { key: user, role: Role::Read, prefixes: vec![key.clone()], comment: String::new() };
        let value = Stored::integer(1);
        let compare = |key: &Key| vec![Compare { key: key.clone(), condition: Condition::Absent }];
        let txn = |compares, then, otherwise| Operation::Txn(Box::new(Txn { compares, then, otherwise }));
        let get = Operation::Get { key: key.clone() };
        let put = Operation::Put { key: key.clone(), value, condition: None, ttl_ms: None };
        let scan = Scan { prefix: key.clone(), ..Scan::default() };
        let list = List { prefix: key.clone(), delimiter: b"/".to_vec(), cursor: None, limit: None };
        let peek = |key: &Key| {
            let state = ItemState::Dead;
            Operation::Queue(Box::new(QueueOperation::Peek { queue: key.clone(), state, limit: None, cursor: None }))
        };
        let track = QueueOperation::Track { queue: key.clone(), item: ItemId::MIN, until: Until::Done, wait_ms: 0 };
        let queues = QueueOperation::Queues { queue: None, prefix: key.clone(), cursor: None, limit: None };
        let options = Declaration { dead: Some(key.clone()), ..Declaration::default() };
        let declare = QueueOperation::Declare { queue: b"own/q".to_vec(), options };
        let routing = |operation| Operation::Routing(Box::new(operation));
        let publish = |subject: Key| Publish {
            subject,
            value: Stored::text("v").unwrap(),
            priority: 0,
            ttl_ms: None,
            content_type: None,
            retain: false,
            must_route: false,
        };
        let rule = |operation| Operation::Conversion(Box::new(operation));
        let declared = |name: &[u8], queue: &[u8], into: &[u8]| Rule {
            name: name.to_vec(),
            source: Source::Queue(queue.to_vec()),
            from: None,
            to: None,
            consumer: None,
            steps: Steps::new(),
            program: Some(Program { into: into.to_vec(), time_limit_ms: 1_000 }),
        };
        let about = |pattern: &[u8]| Rule {
            source: Source::Subject(String::from_utf8(pattern.to_vec()).unwrap()),
            to: Some(ContentType::Csv),
            program: None,
            ..declared(b"own/r", b"own/", b"own/q")
        };
        let convert = |rule| ConversionOperation::Convert { value: Stored::integer(1), rule, from: None, to: None };
        let query = Operation::Query { subkey: "s".into(), subvalue: Scalar::Int(1), scan: scan.clone() };
        vec![
            (Role::Read, false, Operation::Hello { project: None }),
            (Role::Read, false, Operation::Ping),
            (Role::Read, false, Operation::Result { session, seq: 1, settle: false }),
            (Role::Write, false, Operation::Result { session, seq: 1, settle: true }),
            (Role::Write, false, Operation::Noop),
            (Role::Write, false, Operation::End),
            (Role::Read, false, Operation::Size),
            (Role::Read, false, Operation::Scan(scan)),
            (Role::Read, false, query),
            (Role::Read, false, Operation::List(list)),
            (Role::Read, false, Operation::Events(Events { prefix: key.clone(), ..Events::default() })),
            (Role::Write, false, Operation::DelPrefix { prefix: key.clone(), limit: None }),
            (Role::Read, true, get.clone()),
            (Role::Read, true, Operation::Exists { key: key.clone() }),
            (Role::Read, true, Operation::Ttl { key: key.clone() }),
            (Role::Read, true, Operation::History { key: key.clone(), limit: None, before: None }),
            (Role::Read, true, Operation::Mget { keys: vec![b"own/x".to_vec(), key.clone()] }),
            (Role::Write, true, put.clone()),
            (Role::Write, true, Operation::Del { key: key.clone(), return_old: true, condition: None }),
            (Role::Write, true, Operation::Incr { key: key.clone(), by: 1 }),
            (Role::Write, true, Operation::Expire { key: key.clone(), ttl_ms: 1 }),
            (Role::Write, true, Operation::Persist { key: key.clone() }),
            (Role::Read, true, txn(compare(&key), vec![Operation::Size], vec![])),
            (Role::Read, true, txn(vec![], vec![], vec![get.clone()])),
            (Role::Write, true, txn(vec![], vec![get], vec![put])),
            (Role::Read, false, txn(vec![], vec![Operation::Size], vec![])),
            (Role::Read, true, Operation::Stats),
            (Role::Write, true, Operation::Queue(Box::new(QueueOperation::Drop { queue: key.clone() }))),
            (Role::Read, true, peek(&key)),
            (Role::Read, false, Operation::Queue(Box::new(queues))),
            (Role::Read, true, Operation::Queue(Box::new(track))),
            (Role::Write, true, Operation::Queue(Box::new(declare))),
            (Role::Read, true, txn(vec![], vec![], vec![peek(&key)])),
            (Role::Write, true, routing(RoutingOperation::Unbind { queue: key.clone(), pattern: b"own/a".to_vec() })),
            (Role::Write, true, routing(RoutingOperation::Bind { queue: key.clone(), pattern: b"own/a".to_vec(), where_: None })),
            (Role::Write, true, routing(RoutingOperation::Bind { queue: b"own/q".to_vec(), pattern: key.clone(), where_: None })),
            (Role::Read, true, routing(RoutingOperation::Bindings { queue: Some(key.clone()), cursor: None, limit: None })),
            (Role::Read, false, routing(RoutingOperation::Bindings { queue: None, cursor: None, limit: None })),
            (Role::Write, true, routing(RoutingOperation::Publish(publish(key.clone())))),
            (Role::Write, true, rule(ConversionOperation::Drop { rule: key.clone() })),
            (Role::Write, true, rule(ConversionOperation::Declare(declared(b"own/r", &key, b"own/q")))),
            (Role::Write, true, rule(ConversionOperation::Declare(declared(&key, b"own/", b"own/q")))),
            (Role::Write, true, rule(ConversionOperation::Declare(declared(b"own/r", b"own/", &key)))),
            (Role::Write, true, rule(ConversionOperation::Declare(about(&key)))),
            (Role::Read, false, rule(ConversionOperation::Rules { rule: None, prefix: key.clone(), cursor: None, limit: None })),
            (Role::Read, false, rule(convert(None))),
            (Role::Read, true, rule(convert(Some(key.clone())))),
            (Role::Read, true, Operation::Converted(Box::new(Converted { operation: peek(&key), wanted: Wanted::default() }))),
            (Role::Admin, true, authorize),
            (Role::Admin, true, Operation::Revoke { key: user }),
            (Role::Admin, true, Operation::Who),
        ]
    }

    /// Fails to compile when an operation is added, and fails when it has no sample.
    fn kind(operation: &Operation) -> usize {
        match operation {
            Operation::Hello { .. } => 0,
            Operation::Ping => 1,
            Operation::Stats => 2,
            Operation::Put { .. } => 3,
            Operation::Get { .. } => 4,
            Operation::Mget { .. } => 5,
            Operation::Exists { .. } => 6,
            Operation::Del { .. } => 7,
            Operation::Incr { .. } => 8,
            Operation::Expire { .. } => 9,
            Operation::Persist { .. } => 10,
            Operation::Ttl { .. } => 11,
            Operation::DelPrefix { .. } => 12,
            Operation::Txn(_) => 13,
            Operation::Noop => 14,
            Operation::Result { .. } => 15,
            Operation::End => 16,
            Operation::Size => 17,
            Operation::Scan(_) => 18,
            Operation::Query { .. } => 19,
            Operation::List(_) => 20,
            Operation::History { .. } => 21,
            Operation::Events(_) => 22,
            Operation::Authorize { .. } => 23,
            Operation::Revoke { .. } => 24,
            Operation::Who => 25,
            Operation::Queue(_) => 26,
            Operation::Routing(_) => 27,
            Operation::Conversion(_) => 28,
            Operation::Converted(_) => 29,
        }
    }
    const KINDS: usize = 30;

    #[test]
    fn every_role_and_scope_may_do_exactly_what_the_matrix_says() {
        let mut kinds: Vec<usize> = samples(b"own/k").iter().map(|(_, _, operation)| kind(operation)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), KINDS, "every operation has a sample");
        for inside in [true, false] {
            for (least, names_a_key, operation) in samples(if inside { b"own/k" } else { b"other/k" }) {
                for role in Role::ALL {
                    let everywhere = Access::new(role, vec![]).unwrap();
                    assert_eq!(everywhere.check(&operation).is_ok(), role >= least, "{role} {operation:?}");
                    let Ok(restricted) = Access::new(role, vec![b"own/".to_vec(), b"mine".to_vec()]) else {
                        assert_eq!(role, Role::Admin);
                        continue;
                    };
                    let reached = !matches!(operation, Operation::Stats) && (inside || !names_a_key);
                    let code = restricted.check(&operation).err().map(|failure| failure.code);
                    let expected = (role < least || !reached).then_some(ErrorCode::Refused);
                    assert_eq!(code, expected, "{role} {operation:?}");
                }
            }
        }
        assert!(samples(b"any").iter().all(|(_, _, operation)| Access::owner().check(operation).is_ok()));
    }

    #[test]
    fn a_refusal_says_what_to_do_and_is_short() {
        let reader = Access::new(Role::Read, vec![b"own/".to_vec(), vec![0xff]]).unwrap();
        let role = reader.check(&Operation::Persist { key: b"own/k".to_vec() }).unwrap_err().message;
        assert!(role.contains("`persist` needs the role write") && role.contains("authorize"), "{role}");
        let key = reader.check(&Operation::Get { key: vec![b'x'; KEY_BYTES_MAX] }).unwrap_err().message;
        assert!(key.contains("'own/'") && key.contains("$bytes") && key.len() < 512, "{key}");
        let many = (0..64).map(|at| format!("team-{at}/").into_bytes()).collect();
        let stats = Access::new(Role::Write, many).unwrap().check(&Operation::Stats).unwrap_err().message;
        assert!(stats.contains("and 56 more prefixes") && stats.len() < 512, "{stats}");
    }

    #[test]
    fn keys_read_back_and_secrets_are_never_repeated() {
        let key = UserKey::from_bytes([0xa5; 32]);
        let text = key.to_string();
        assert_eq!(text, format!("kvpub1{}", "a5".repeat(32)));
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().replace("KVPUB", "kvpub").parse(), Ok(key));
        for wrong in ["", "kvpub1", &text[..69], &format!("{text}0"), &text[6..], &text.replace("a5a5a", "a5g5a"), "kvpub1é"] {
            assert_eq!(wrong.parse::<UserKey>(), Err(UserKeyError::Text(wrong.chars().count())), "{wrong}");
        }
        assert_eq!(UserKey::from_bytes([0; 32]).to_string().parse::<UserKey>(), Err(UserKeyError::Zero));
        for secret in
            [text.replace("pub", "sec"), format!(" {}", text.replace("pub", "sec")), text.to_uppercase().replace("PUB", "SEC")]
        {
            let error = secret.parse::<UserKey>().unwrap_err();
            assert_eq!(error, UserKeyError::Secret);
            assert!(!error.to_string().contains("a5a5"));
        }
    }

    #[test]
    fn a_grant_says_every_key_by_saying_no_prefix() {
        assert!(Access::new(Role::Read, vec![]).unwrap().scope.is_all());
        assert_eq!(Access::new(Role::Read, vec![b"a".to_vec(), vec![]]).unwrap_err().code, ErrorCode::Invalid);
    }

    #[test]
    fn a_comment_is_one_line() {
        assert_eq!(grant_comment("  Ada's laptop ").unwrap(), "Ada's laptop");
        assert_eq!(grant_comment("a\nb").unwrap_err().code, ErrorCode::Invalid);
        assert_eq!(grant_comment(&"x".repeat(GRANT_COMMENT_BYTES_MAX + 1)).unwrap_err().code, ErrorCode::Limit);
    }

    #[test]
    fn roles_are_ordered_and_read_back() {
        assert!(Role::ALL.is_sorted());
        assert!(Role::ALL.iter().all(|role| Role::from_name(role.name()) == Some(*role)));
        assert_eq!(Role::from_name("owner"), None);
    }
}
