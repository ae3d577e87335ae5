//! What became of a mutation whose outcome is unknown.

use kvbroker_protocol::{Answer, Fate, Operation};

use super::error::ClientError;
use super::handle::Client;
use super::session::RequestId;
use super::table::unexpected;

impl Client {
    /// What became of a mutation, by the name that [`ClientError::Unknown`] gives it. Any client of the same user may ask, until
    /// the one that began it has begun half a window more, or the broker is short of room for its replies:
    /// after that it may be [`Fate::Acknowledged`].
    ///
    /// ```
    /// # let broker = kvbroker_practice::Broker::start()?;
    /// # let lab = broker.client()?;
    /// use kvbroker::client::ClientError;
    ///
    /// if let Err(ClientError::Unknown { request, .. }) = lab.put_text("greeting", "hello") {
    ///     println!("{:?}", lab.result(request)?);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    /// See [`ClientError`]; `session_expired` if nothing can be said any more.
    pub fn result(&self, request: RequestId) -> Result<Fate, ClientError> {
        self.fate(request, false)
    }

    /// As [`Client::result`], and if the mutation has not arrived, it never shall: the answer is not [`Fate::Undecided`].
    ///
    /// # Errors
    /// As there; `out_of_order` while an earlier mutation of its session is undecided.
    pub fn settle(&self, request: RequestId) -> Result<Fate, ClientError> {
        self.fate(request, true)
    }

    fn fate(&self, RequestId { session, seq }: RequestId, settle: bool) -> Result<Fate, ClientError> {
        match self.one(Operation::Result { session, seq, settle })?.0 {
            Answer::Result(fate) => Ok(fate),
            _ => Err(unexpected()),
        }
    }
}
