//! How far an item has come, and how far somebody waits for it.

/// Where an item is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// The next pull may get it.
    Ready,
    /// Its delay is not over.
    Delayed,
    /// A consumer has it.
    Leased,
    /// It was set aside, or moved to the queue for what is dead.
    Dead,
    /// It was acknowledged, or removed as it was handed out.
    Done,
    /// Its deadline passed before anybody took it.
    Expired,
    /// It was purged, or made room for another one.
    Removed,
    /// It is not there any more, and how it ended is not known any more: only the last ends are kept, and none over a restart.
    Gone,
}

impl Progress {
    /// All of them.
    pub const ALL: [Progress; 8] = [
        Progress::Ready,
        Progress::Delayed,
        Progress::Leased,
        Progress::Dead,
        Progress::Done,
        Progress::Expired,
        Progress::Removed,
        Progress::Gone,
    ];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Progress::Ready => "ready",
            Progress::Delayed => "delayed",
            Progress::Leased => "leased",
            Progress::Dead => "dead",
            Progress::Done => "done",
            Progress::Expired => "expired",
            Progress::Removed => "removed",
            Progress::Gone => "gone",
        }
    }

    /// What a name means; exact.
    pub fn from_name(name: &str) -> Option<Progress> {
        Progress::ALL.into_iter().find(|progress| progress.name() == name)
    }

    /// True if nothing more becomes of the item by itself.
    pub const fn is_end(self) -> bool {
        !matches!(self, Progress::Ready | Progress::Delayed | Progress::Leased)
    }
}

/// How far to wait for an item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// Until a consumer has it, or had it.
    Delivered,
    /// Until it has ended.
    #[default]
    Done,
}

impl Until {
    /// Both.
    pub const ALL: [Until; 2] = [Until::Delivered, Until::Done];

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Until::Delivered => "delivered",
            Until::Done => "done",
        }
    }

    /// What a name means; exact.
    pub fn from_name(name: &str) -> Option<Until> {
        Until::ALL.into_iter().find(|until| until.name() == name)
    }

    /// True if an item has come so far that nobody need wait any longer: also where it has ended in another way.
    pub const fn is_reached(self, tracked: Tracked) -> bool {
        tracked.progress.is_end() || matches!(self, Until::Delivered) && tracked.deliveries > 0
    }
}

/// How far an item has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Where it is, or how it ended.
    pub progress: Progress,
    /// How often it was handed out; 0 of one that is not there any more.
    pub deliveries: u32,
}
