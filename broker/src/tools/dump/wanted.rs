//! The flags of `dump`: what of all there is wanted.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use kvbroker_core::Space;
use kvbroker_log::inspect::FileKind;

use crate::tools::Common;

/// Flags of `dump`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Reads only, also while a broker runs. What can't be read is named with file, offset and reason;
the rest is shown all the same, and the exit code is 11 (13: a newer program wrote it).

Examples:
  kvbroker NETID-a5 dump | less
  kvbroker NETID-a5 dump --key greeting               every change of a key that is left
  kvbroker NETID-a5 dump --log --from 1200 --to 1210  these revisions
  kvbroker NETID-a5 dump --checkpoint --json          every record, one a line
  kvbroker p dump --data /backup/a5 --file table.txn.00000003")]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// The log only
    #[arg(long, conflicts_with = "checkpoint")]
    pub(super) log: bool,
    /// The checkpoint only
    #[arg(long)]
    pub(super) checkpoint: bool,
    /// This file of the directory only
    #[arg(long, value_name = "NAME", conflicts_with_all = ["log", "checkpoint"])]
    pub(super) file: Option<String>,
    /// Changes of this key only
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    pub(super) key: Option<OsString>,
    /// Changes of keys that begin so only
    #[arg(long, value_name = "PREFIX")]
    pub(super) prefix: Option<OsString>,
    /// Nothing before this revision
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    pub(super) from: u64,
    /// Nothing behind this revision
    #[arg(long, value_name = "REVISION", default_value_t = u64::MAX, hide_default_value = true)]
    pub(super) to: u64,
    /// Whole values, not their first 100 characters
    #[arg(long)]
    pub(super) values: bool,
}

impl DumpArgs {
    pub(super) fn wants_record(&self, record_key: &[u8]) -> bool {
        let Some(key) = record_key.strip_prefix(&[Space::Table as u8]) else { return !self.has_key_filter() };
        self.key.as_ref().is_none_or(|wanted| wanted.as_bytes() == key)
            && self.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix.as_bytes()))
    }

    pub(super) fn wants_revision(&self, revision: u64) -> bool {
        (self.from..=self.to).contains(&revision)
    }

    pub(super) fn has_key_filter(&self) -> bool {
        self.key.is_some() || self.prefix.is_some()
    }

    pub(super) fn has_filter(&self) -> bool {
        self.has_key_filter() || self.from > 0 || self.to < u64::MAX
    }

    pub(super) fn wants_file(&self, name: &str, kind: FileKind) -> bool {
        match (&self.file, kind) {
            (Some(wanted), _) => wanted == name,
            (None, FileKind::Checkpoint) => !self.log,
            (None, FileKind::Segment(_)) => !self.checkpoint,
            (None, _) => false,
        }
    }
}
