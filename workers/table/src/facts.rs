//! What the worker must know to answer Hello and stats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use kvbroker_core::State;
use kvbroker_log::LogStats;
use kvbroker_protocol::{
    Access, Answer, BrokerId, ErrorCode, Failure, HelloAnswer, PROTOCOL_VERSION, SessionId, StatValue, reported_limits,
};

/// Adds counters of other parts to the answer to `stats`.
pub type StatSource = Arc<dyn Fn(&mut Vec<(String, StatValue)>) + Send + Sync>;

/// What the worker must know to answer Hello and stats.
#[derive(Clone)]
pub struct Facts {
    /// The project.
    pub project: String,
    /// Who owns the broker.
    pub owner: String,
    /// The program's version.
    pub version: String,
    /// The log's uuid.
    pub broker: BrokerId,
    /// The log's epoch.
    pub epoch: u64,
    /// This process.
    pub instance: BrokerId,
    /// The TCP port of the notifications; 0 if there is none. It may change while the broker runs.
    pub pub_port: Arc<AtomicU16>,
    /// What an acknowledgement means here.
    pub durability: String,
    /// Counters of other parts.
    pub stats: StatSource,
}

impl Facts {
    /// The answer to Hello for a user with this access, with a session id to use; `wrong_project` if another project is wanted.
    pub(crate) fn hello(
        &self,
        project: Option<String>,
        session: SessionId,
        user: &str,
        access: &Access,
    ) -> Result<Answer, Failure> {
        if let Some(wanted) = project.filter(|wanted| *wanted != self.project) {
            let message = format!("this broker serves project {:?}, not {wanted:?}", self.project);
            return Err(Failure::new(ErrorCode::WrongProject, message));
        }
        Ok(Answer::Hello(Box::new(HelloAnswer {
            protocol: PROTOCOL_VERSION,
            version: self.version.clone(),
            project: self.project.clone(),
            owner: self.owner.clone(),
            broker: self.broker,
            epoch: self.epoch,
            instance: self.instance,
            shard: 0,
            pub_port: self.pub_port.load(Ordering::Relaxed),
            session,
            durability: self.durability.clone(),
            user: user.to_owned(),
            role: Some(access.role),
            prefixes: access.scope.list().to_vec(),
            limits: reported_limits(),
        })))
    }

    /// The answer to stats: settings, the table, the worker's own counters, the log, and the other parts.
    pub(crate) fn stats(&self, state: &State, counters: &[(&str, u64)], followers: &str, log: LogStats) -> Answer {
        let text = |name: &str, value: &str| (name.to_owned(), StatValue::Text(value.to_owned()));
        let number = |name: &str, value: u64| (name.to_owned(), StatValue::Number(value));
        let mut stats = vec![
            text("project", &self.project),
            text("owner", &self.owner),
            text("version", &self.version),
            text("broker", &self.broker.to_string()),
            text("instance", &self.instance.to_string()),
            text("epoch", &format!("{:016x}", self.epoch)),
            text("durability", &self.durability),
            number("revision", state.revision()),
            number("keys", state.keys() as u64),
            number("keys_with_deadline", state.deadlines() as u64),
            number("table_bytes", state.bytes()),
            number("sessions", state.sessions() as u64),
            number("remembered_reply_bytes", state.remembered_bytes() as u64),
        ];
        stats.extend(counters.iter().map(|(name, value)| number(name, *value)));
        stats.push(text("followers", followers));
        stats.extend([
            number("log_bytes", log.bytes),
            number("log_segments", log.segments),
            number("log_batches", log.batches),
            number("log_syncs", log.syncs),
            number("log_last_sync_us", log.last_sync_us),
        ]);
        (self.stats)(&mut stats);
        Answer::Stats(stats)
    }
}
