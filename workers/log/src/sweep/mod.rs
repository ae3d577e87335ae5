//! The crash sweep.

/// Errors that can be planted in the log to show that the sweep notices them. Only the sweep can plant one, and it owns its
/// simulated disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// `always` mode hands out proofs without syncing.
    ReplyBeforeSync,
    /// New names are never synced.
    NoDirectorySync,
    /// A segment gets its name before its header is synced.
    RenameBeforeSync,
    /// A batch whose payload was torn is taken for a whole one.
    TornTailTaken,
    /// Recovery trusts the page cache: it doesn't write the unvouched batches again.
    NoRewrite,
    /// An unclean stop in a weaker mode keeps the epoch.
    EpochKept,
}
