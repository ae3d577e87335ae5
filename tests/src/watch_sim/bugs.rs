//! Errors that are planted where parts meet, to show that the simulation notices them.

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedBug {
    /// A message says that it is complete from one revision earlier on than it is.
    PrevOffByOne,
    /// The publisher takes a batch whose changes were dropped for one without any.
    FloorForgotten,
    /// A bookmark names the table's revision instead of the last one that was published.
    BookmarkTooNew,
    /// A new stream's first bookmark claims that nothing ever happened before.
    StreamFromZero,
    /// A revision of several keys leaves in two messages.
    MessageSplitsRevision,
    /// Changes are published before the log has them.
    PublishedBeforeLogged,
    /// An answer to `events` ends in the middle of a revision.
    RefillCutInRevision,
    /// An answer to `events` begins one revision too late.
    RefillOneTooLate,
    /// What is not known any more is passed over.
    CompactedUnsaid,
    /// A snapshot counts as taken one revision later than it was.
    SnapshotOneTooLate,
    /// The client does not look at the epoch.
    EpochIgnored,
    /// The broker keeps its epoch over a start that has lost released revisions.
    EpochKept,
    /// The client takes an answer of a lower revision for one without changes.
    RollbackIgnored,
    /// A mirror keeps what a snapshot does not have any more.
    SnapshotKeepsMissing,
    /// The position for the next run is taken before what it covers was told.
    KeptTooEarly,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [PlantedBug; 15] = [
        PlantedBug::PrevOffByOne,
        PlantedBug::FloorForgotten,
        PlantedBug::BookmarkTooNew,
        PlantedBug::StreamFromZero,
        PlantedBug::MessageSplitsRevision,
        PlantedBug::PublishedBeforeLogged,
        PlantedBug::RefillCutInRevision,
        PlantedBug::RefillOneTooLate,
        PlantedBug::CompactedUnsaid,
        PlantedBug::SnapshotOneTooLate,
        PlantedBug::EpochIgnored,
        PlantedBug::EpochKept,
        PlantedBug::RollbackIgnored,
        PlantedBug::SnapshotKeepsMissing,
        PlantedBug::KeptTooEarly,
    ];
}
