//! What several verbs take on the command line: conditions, pages, deadlines, grants.

use std::ffi::OsString;
use std::str::FromStr;

use clap::Args;
use kvbroker_protocol::{Pattern, Predicate, Role, limits};

use crate::convert_args::AsArgs;

/// What a user may do.
#[derive(Clone, Debug, Args)]
pub(crate) struct GrantArgs {
    /// What they may do
    #[arg(value_name = "read|write|admin", value_parser = role)]
    pub(crate) role: Role,
    /// Only with keys that start with this; can be given several times
    #[arg(long, value_name = "PREFIX")]
    pub(crate) prefix: Vec<OsString>,
    /// Whose key it is: one line for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) comment: String,
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| format!("a role is one of {}", Role::ALL.map(Role::name).join(", ")))
}

/// A time to live, milliseconds; within the broker's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) u64);

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Ttl, String> {
        let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
        match u64::try_from(duration.as_millis()) {
            Ok(0) => Err("it is at least 1ms".to_owned()),
            Ok(ms) if ms <= limits::TTL_MS_MAX => Ok(Ttl(ms)),
            _ => Err(format!("it is at most {}days", limits::TTL_MS_MAX / (24 * 3_600 * 1_000))),
        }
    }
}

/// What must hold for a put to be done: nothing, or one of these.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct PutConditions {
    /// Only if there is no such key
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// Only if the key is there
    #[arg(long)]
    pub(crate) if_exists: bool,
    /// Only if the key was last changed at revision N; 0: it is not there
    #[arg(long, value_name = "N")]
    pub(crate) if_rev: Option<u64>,
    /// Only if this is the key's value
    #[arg(long, value_name = "V", allow_negative_numbers = true)]
    pub(crate) if_value: Option<OsString>,
}

/// What must hold for a del to be done: nothing, or one of these.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct DelConditions {
    /// Only if the key was last changed at revision N
    #[arg(long, value_name = "N")]
    pub(crate) if_rev: Option<u64>,
    /// Only if this is the key's value
    #[arg(long, value_name = "V", allow_negative_numbers = true)]
    pub(crate) if_value: Option<OsString>,
}

/// Which keys, and how they are fetched.
#[derive(Clone, Debug, Args)]
pub(crate) struct PageArgs {
    /// Only this key and those behind it
    #[arg(long, value_name = "KEY")]
    pub(crate) from: Option<OsString>,
    /// Only keys before this one
    #[arg(long, value_name = "KEY")]
    pub(crate) to: Option<OsString>,
    /// From the last key to the first
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Only the keys, without their values
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Only keys in which this is found (syntax of Rust's regex crate, not anchored)
    #[arg(long, value_name = "REGEX", value_parser = |text: &str| Pattern::new(text).map_err(|failure| failure.message))]
    pub(crate) regex: Option<Pattern>,
    /// Only keys and values of which this predicate holds, such as 'a.b = 1 and c > 2'
    #[arg(id = "filter", long = "where", value_name = "PREDICATE", value_parser = |text: &str| Predicate::new(text).map_err(|failure| failure.message))]
    pub(crate) filter: Option<Predicate>,
    /// All rows as of one moment, whatever is written meanwhile
    #[arg(long)]
    pub(crate) snapshot: bool,
    /// Most rows altogether
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Most rows of one page
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) page_size: Option<u64>,
    #[command(flatten)]
    pub(crate) target: AsArgs,
}
