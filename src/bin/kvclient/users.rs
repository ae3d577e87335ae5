//! `authorize`, `revoke` and `who`: who may use the table.
//!
//! - A key on the command line that is wrong is never repeated: it may be a secret.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use kvbroker::client::Client;
use kvbroker::exit::Exit;
use kvbroker_protocol::{Access, GrantInfo, Key, Operation, Role, UserKey, grant_comment};

use crate::args::Global;
use crate::output::{Output, columns, keys_of, printable};
use crate::verb_parts::GrantArgs;
use crate::{Trouble, remark, verbs};

/// The request to let a user in. What can't be one needs no broker to say so.
pub(crate) fn authorize(key: &OsStr, grant: GrantArgs) -> Result<Operation, Trouble> {
    let key = user_key(key)?;
    let prefixes = grant.prefix.iter().map(|prefix| prefix.as_bytes().to_vec()).collect();
    let checked = Access::new(grant.role, prefixes).and_then(|access| Ok((access, grant_comment(&grant.comment)?)));
    let (access, comment) = checked.map_err(|failure| Trouble::misuse(failure.message))?;
    Ok(Operation::Authorize { key, role: access.role, prefixes: access.scope.list().to_vec(), comment })
}

/// The request to let a user in no more.
pub(crate) fn revoke(key: &OsStr) -> Result<Operation, Trouble> {
    Ok(Operation::Revoke { key: user_key(key)? })
}

fn user_key(text: &OsStr) -> Result<UserKey, Trouble> {
    text.to_string_lossy().parse().map_err(|error: kvbroker_protocol::UserKeyError| Trouble::misuse(error.to_string()))
}

/// Asks, and says what is so now.
pub(crate) fn change(client: &Client, operation: Operation, out: &mut Output, global: &Global) -> Result<Exit, Trouble> {
    let done = match &operation {
        Operation::Authorize { key, role, prefixes, .. } => Some(format!("{key} may {} now", may(*role, prefixes))),
        Operation::Revoke { key } => Some(format!("{key} may do nothing any more")),
        _ => None,
    };
    let exit = verbs::one(client, operation, out)?;
    if exit == Exit::Ok
        && let Some(done) = done
    {
        remark(global, &done);
    }
    Ok(exit)
}

fn may(role: Role, prefixes: &[Key]) -> String {
    let what = match role {
        Role::Read => "read",
        Role::Write => "read and change",
        Role::Admin => return "do everything, and let others in,".to_owned(),
    };
    if prefixes.is_empty() { format!("{what} every key") } else { format!("{what} keys that start with {}", keys_of(prefixes)) }
}

/// Everybody who may use the table, the owner first: who isn't in the broker's list because it always may.
pub(crate) fn table(users: &[GrantInfo]) -> Vec<String> {
    let head = ["KEY", "ROLE", "KEYS", "COMMENT"].map(str::to_owned);
    let owner = ["owner", Role::Admin.name(), "every key", ""].map(str::to_owned);
    let user = |user: &GrantInfo| {
        [user.key.to_string(), user.role.name().to_owned(), printable(&keys_of(&user.prefixes)), printable(&user.comment)]
    };
    let rows: Vec<[String; 4]> = [head, owner].into_iter().chain(users.iter().map(user)).collect();
    columns(&rows)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn grant(role: Role, prefixes: &[&str]) -> GrantArgs {
        GrantArgs { role, prefix: prefixes.iter().map(|prefix| (*prefix).into()).collect(), comment: " Ada ".into() }
    }

    #[test]
    fn a_grant_is_checked_before_it_is_sent() {
        let key = UserKey::from_bytes([0xa5; 32]);
        let text = key.to_string();
        let sent = authorize(text.as_ref(), grant(Role::Write, &["b/", "a/", "a/x"])).unwrap();
        let prefixes = vec![b"a/".to_vec(), b"b/".to_vec()];
        assert_eq!(sent, Operation::Authorize { key, role: Role::Write, prefixes, comment: "Ada".into() });
        let restricted_admin = authorize(text.as_ref(), grant(Role::Admin, &["a/"])).unwrap_err();
        assert!(restricted_admin.to_string().contains("every key") && restricted_admin.exit() == Exit::Usage);
        for wrong in [revoke(text.replace("pub", "sec").as_ref()), authorize(text[6..].as_ref(), grant(Role::Read, &[]))] {
            let wrong = wrong.unwrap_err();
            assert!(wrong.exit() == Exit::Usage && !wrong.to_string().contains("a5a5"), "{wrong}");
        }
    }

    #[test]
    fn users_stand_below_the_owner() {
        let user = |byte, role, prefixes: &[&[u8]], comment: &str| GrantInfo {
            key: UserKey::from_bytes([byte; 32]),
            role,
            prefixes: prefixes.iter().map(|prefix| prefix.to_vec()).collect(),
            comment: comment.into(),
        };
        let lines = table(&[user(1, Role::Write, &[b"a/", b"\xff"], "Ada\u{1b}"), user(2, Role::Read, &[], "")]);
        let ones = format!("kvpub1{}", "01".repeat(32));
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["KEY", "ROLE", "KEYS", "COMMENT"]);
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["owner", "admin", "every", "key"]);
        assert_eq!(lines[2], format!("{ones}  write  a/, {{\"$bytes\":\"/w==\"}}  Ada\u{fffd}"));
        assert!(lines[3].ends_with("read   every key"), "no white space behind: {:?}", lines[3]);
    }
}
