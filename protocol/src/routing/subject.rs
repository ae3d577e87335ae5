//! Subjects and the patterns that they are compared with.
//!
//! - A subject is tokens of at least one byte with dots between them. `*` and `#` stand in no subject; in a pattern each is a token of its
//!   own: `*` is any one token, `#` any number of them, none included.
//! - Two patterns are the same only if their bytes are.

use crate::error::Failure;
use crate::limits;
use crate::value::Key;

/// What stands for one token.
const ONE: &[u8] = b"*";
/// What stands for any number of tokens.
const ANY: &[u8] = b"#";
/// What retained values are kept under, in front of the subject.
pub const RETAINED_PREFIX: &[u8] = b"retained/";

/// The tokens of a subject or a pattern.
pub fn subject_tokens(subject: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    subject.split(|byte| *byte == b'.')
}

/// Checks a subject.
///
/// # Errors
/// `invalid` or `limit`.
pub fn subject_name(subject: Key) -> Result<Key, Failure> {
    check(&subject, "subject")?;
    if subject.iter().any(|byte| matches!(byte, b'*' | b'#')) {
        return Err(Failure::invalid("a subject has no `*` and no `#`; those are for the patterns that it is compared with"));
    }
    Ok(subject)
}

/// Checks a pattern.
///
/// # Errors
/// `invalid` or `limit`.
pub fn subject_pattern(pattern: Key) -> Result<Key, Failure> {
    check(&pattern, "pattern")?;
    let is_mixed = |token: &[u8]| token.len() > 1 && token.iter().any(|byte| matches!(byte, b'*' | b'#'));
    if subject_tokens(&pattern).any(is_mixed) {
        let message = "`*` and `#` are tokens of their own in a pattern, with dots around them: orders.*.new, orders.#";
        return Err(Failure::invalid(message));
    }
    Ok(pattern)
}

fn check(text: &[u8], name: &str) -> Result<(), Failure> {
    if text.len() > limits::SUBJECT_BYTES_MAX {
        let message = format!("`{name}` has {} bytes; at most {} are taken", text.len(), limits::SUBJECT_BYTES_MAX);
        return Err(Failure::limit(message));
    }
    let mut tokens = 0;
    for token in subject_tokens(text) {
        if token.is_empty() {
            let message = format!("`{name}`: each token has at least one byte; dots stand between tokens, not at the ends");
            return Err(Failure::invalid(message));
        }
        tokens += 1;
    }
    if tokens > limits::SUBJECT_TOKENS_MAX {
        let message = format!("`{name}` has {tokens} tokens; at most {} are taken", limits::SUBJECT_TOKENS_MAX);
        return Err(Failure::limit(message));
    }
    Ok(())
}

/// Whether a pattern has this subject.
pub fn subject_matches(pattern: &[u8], subject: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = subject_tokens(pattern).collect();
    let subject: Vec<&[u8]> = subject_tokens(subject).collect();
    let (mut at, mut seen) = (0, 0);
    // The last `#`, and how many tokens it has taken: if what follows does not fit, it takes one more.
    let mut last_any: Option<(usize, usize)> = None;
    while seen < subject.len() {
        let token = pattern.get(at).copied();
        if token == Some(ANY) {
            last_any = Some((at, seen));
            at += 1;
        } else if token == Some(ONE) || token == Some(subject[seen]) {
            at += 1;
            seen += 1;
        } else if let Some((any, taken)) = last_any {
            last_any = Some((any, taken + 1));
            (at, seen) = (any + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|token| *token == ANY)
}

/// What every subject of a pattern begins with. Subjects of other patterns may begin with it, too.
pub fn pattern_prefix(pattern: &[u8]) -> &[u8] {
    let mut end = 0_usize;
    for token in subject_tokens(pattern) {
        match token {
            // The dot before it is not there if it stands for no token.
            ANY => return &pattern[..end.saturating_sub(1)],
            ONE => return &pattern[..end],
            token => end += token.len() + 1,
        }
    }
    pattern
}

/// The key of the table that has a subject's retained value.
pub fn retained_key(subject: &[u8]) -> Key {
    [RETAINED_PREFIX, subject].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_have_the_subjects_that_they_should() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("orders.new", &["orders.new"], &["orders", "orders.new.eu", "orders.newer", "order.new"]),
            ("orders.*", &["orders.new", "orders.old"], &["orders", "orders.new.eu"]),
            ("*.new", &["orders.new", "jobs.new"], &["new", "a.b.new"]),
            ("orders.#", &["orders", "orders.new", "orders.new.eu"], &["ordersnew", "order.new"]),
            ("#", &["a", "a.b", "a.b.c"], &[]),
            ("#.new", &["new", "a.new", "a.b.new", "new.new"], &["new.a", "a"]),
            ("a.#.z", &["a.z", "a.b.z", "a.z.z", "a.b.c.z"], &["a", "z", "a.z.b"]),
            ("#.b.#.d", &["b.d", "a.b.c.b.d", "b.b.d.d"], &["b", "d.b", "a.b.c"]),
            ("*.#", &["a", "a.b"], &[]),
            ("#.*.*", &["a.b", "a.b.c"], &["a"]),
        ];
        for (pattern, has, has_not) in cases {
            for subject in *has {
                assert!(subject_matches(pattern.as_bytes(), subject.as_bytes()), "{pattern} {subject}");
                assert!(subject.as_bytes().starts_with(pattern_prefix(pattern.as_bytes())), "{pattern} {subject}");
            }
            for subject in *has_not {
                assert!(!subject_matches(pattern.as_bytes(), subject.as_bytes()), "{pattern} {subject}");
            }
        }
    }

    #[test]
    fn the_prefix_of_a_pattern_ends_before_what_varies() {
        let cases =
            [("a.b", "a.b"), ("a.*", "a."), ("a.*.c", "a."), ("a.#", "a"), ("*", ""), ("#", ""), ("#.a", ""), ("a.b.#.c", "a.b")];
        for (pattern, prefix) in cases {
            assert_eq!(pattern_prefix(pattern.as_bytes()), prefix.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        let long = vec![b'a'; limits::SUBJECT_BYTES_MAX + 1];
        let deep = vec!["a"; limits::SUBJECT_TOKENS_MAX + 1].join(".").into_bytes();
        for bad in [&b""[..], b".", b"a.", b".a", b"a..b", &long, &deep] {
            assert!(subject_name(bad.to_vec()).is_err() && subject_pattern(bad.to_vec()).is_err(), "{bad:?}");
        }
        for bad in [&b"*"[..], b"a.#", b"a*"] {
            assert!(subject_name(bad.to_vec()).is_err());
        }
        for bad in [&b"a*"[..], b"a.b#", b"**", b"##.a"] {
            assert!(subject_pattern(bad.to_vec()).is_err());
        }
        for good in [&b"a"[..], b"a.b", b"\xff.\0", b"with space.x/y"] {
            assert!(subject_name(good.to_vec()).is_ok() && subject_pattern(good.to_vec()).is_ok());
        }
        assert!(subject_pattern(b"*.#.a".to_vec()).is_ok());
    }
}
