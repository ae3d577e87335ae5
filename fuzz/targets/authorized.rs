//! What must hold for any bytes in the place of `authorized_clients`.
//!
//! - Nothing panics. What is wrong is said in few and printable words, and never with a secret key in them.
//! - What is taken is written as it was read. A grant that is written is read the same again.
//! - An edit changes its own line, and no other byte.

use kvbroker::access_file::AccessFile;
use kvbroker_protocol::limits::{GRANTS_BYTES_MAX, GRANTS_MAX};
use kvbroker_protocol::{Access, GrantInfo, Role, UserKey};

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Became {
    /// It does not parse.
    Refused,
    /// It lets nobody in.
    Empty,
    /// It has grants.
    Grants,
}

/// The longest sentence about a file, in bytes.
const REASON_BYTES_MAX: usize = 600;
/// So many digits of a secret are no accident.
const SECRET_DIGITS: usize = 8;
/// A line that an edit adds has less.
const LINE_BYTES_MAX: usize = 1_000;

/// A file as somebody left it.
///
/// # Panics
/// If a rule is broken.
pub fn authorized(input: &[u8]) -> Became {
    let file = match AccessFile::parse(input) {
        Ok(file) => file,
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() <= REASON_BYTES_MAX && !said.chars().any(char::is_control), "{said:?}");
            assert!(!shows_a_secret(&said), "{said}");
            return Became::Refused;
        }
    };
    let whole = [input, if file.is_whole() { &b""[..] } else { b"\n" }].concat();
    assert_eq!(file.to_bytes(), whole, "what was read is written");
    let grants: Vec<GrantInfo> = file.grants().cloned().collect();
    for grant in &grants {
        let access = Access::new(grant.role, grant.prefixes.clone()).expect("a grant that was taken is possible");
        assert_eq!(access.scope.list(), grant.prefixes, "prefixes are told without those that say nothing");
        edited(&file, grant);
    }
    added(&file, &grants);
    if grants.is_empty() { Became::Empty } else { Became::Grants }
}

fn shows_a_secret(text: &str) -> bool {
    text.split("kvsec1").skip(1).any(|rest| rest.bytes().take_while(u8::is_ascii_hexdigit).count() >= SECRET_DIGITS)
}

fn lines(file: &AccessFile) -> Vec<Vec<u8>> {
    file.to_bytes().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// One line goes, or says something else; the others stay.
fn edited(file: &AccessFile, grant: &GrantInfo) {
    let before = lines(file);
    let mut without = file.clone();
    assert!(without.revoke(&grant.key) && !without.revoke(&grant.key));
    let after = lines(&without);
    assert_eq!(after.len() + 1, before.len());
    let at = before.iter().zip(&after).position(|(one, other)| one != other).unwrap_or(after.len());
    assert_eq!(before[at + 1..], after[at..]);
    assert!(without.grants().all(|other| other.key != grant.key));
    // Written anew it may be longer than it was, when it was written by hand.
    let Ok(_) = without.authorize(grant) else {
        assert!(file.to_bytes().len() + LINE_BYTES_MAX > GRANTS_BYTES_MAX || grant.prefixes.len() > 1, "{grant:?}");
        return;
    };
    let again = AccessFile::parse(&without.to_bytes()).expect("what was written can be read");
    assert_eq!(again.grants().last(), Some(grant));
}

fn added(file: &AccessFile, grants: &[GrantInfo]) {
    let key = UserKey::from_bytes([0xa5; 32]);
    if grants.iter().any(|grant| grant.key == key) {
        return;
    }
    let grant = GrantInfo { key, role: Role::Write, prefixes: vec![b"a b/".to_vec(), vec![0xff]], comment: "Ann".to_owned() };
    let mut more = file.clone();
    if more.authorize(&grant).is_err() {
        assert!(grants.len() >= GRANTS_MAX || file.to_bytes().len() + LINE_BYTES_MAX > GRANTS_BYTES_MAX);
        return;
    }
    assert!(more.to_bytes().starts_with(&file.to_bytes()), "the others stay as they are");
    let again = AccessFile::parse(&more.to_bytes()).expect("what was written can be read");
    assert_eq!(again.grants().last(), Some(&grant));
    assert!(more.revoke(&key));
    assert_eq!(more.to_bytes(), file.to_bytes());
}
