//! Who may use the table, and who this client is.

use kvbroker_protocol::{Access, Answer, ErrorCode, GrantInfo, Key, Operation, Role, UserKey};

use super::error::ClientError;
use super::handle::Client;
use super::table::unexpected;

/// Whom the broker takes this client for, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `owner`, the text of a public key, or `anyone` where the broker asks nobody to prove anything.
    pub user: String,
    /// What it may do. None: a role that this library doesn't know, or a broker of before there were any.
    pub role: Option<Role>,
    /// The prefixes of the keys that it may use; empty: every key.
    pub prefixes: Vec<Key>,
}

impl Client {
    /// Asks the broker whom it takes this client for, and what this client may do now.
    ///
    /// # Errors
    /// See [`ClientError`]; `refused` if it may not do anything any more.
    pub fn identity(&self) -> Result<Identity, ClientError> {
        let hello = self.hello()?;
        Ok(Identity { user: hello.user, role: hello.role, prefixes: hello.prefixes })
    }

    /// Lets a user in, or gives one that is in another role or other keys; in force when this returns. True if the user was in before.
    /// Without a comment it keeps the one that it had.
    ///
    /// Where the connection was lost meanwhile this may have been asked twice, and then it is true in any case.
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker_protocol::{Access, Role, UserKey};
    ///
    /// // What `kvclient id` prints for the colleague.
    /// let ada: UserKey = "kvpub1a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5".parse()?;
    /// lab.authorize(ada, &Access::new(Role::Write, vec![b"ada/".to_vec()])?, "Ada's laptop")?;
    /// # assert!(lab.revoke(ada)?);
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `refused` unless this client has the role admin.
    pub fn authorize(&self, key: UserKey, access: &Access, comment: &str) -> Result<bool, ClientError> {
        let prefixes = access.scope.list().to_vec();
        match self.one(Operation::Authorize { key, role: access.role, prefixes, comment: comment.to_owned() })?.0 {
            Answer::Granted { replaced } => Ok(replaced),
            _ => Err(unexpected()),
        }
    }

    /// Lets a user in no more: when this returns, nothing reaches it any more, notifications included. False if it was not in.
    ///
    /// Where the connection was lost meanwhile this may have been asked twice, and then it is false though this call did it.
    ///
    /// # Errors
    /// See [`ClientError`]; `refused` unless this client has the role admin.
    pub fn revoke(&self, key: UserKey) -> Result<bool, ClientError> {
        match self.one(Operation::Revoke { key }) {
            Ok((Answer::Done, _)) => Ok(true),
            Ok(_) => Err(unexpected()),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lists the users that were let in. The owner isn't among them: it always is.
    ///
    /// # Errors
    /// See [`ClientError`]; `refused` unless this client has the role admin.
    pub fn who(&self) -> Result<Vec<GrantInfo>, ClientError> {
        match self.one(Operation::Who)?.0 {
            Answer::Who(users) => Ok(users),
            _ => Err(unexpected()),
        }
    }
}
