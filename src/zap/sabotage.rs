//! Doors that are broken on purpose, in builds for tests only: they must stay shut.
//!
//! - A build without debug assertions, such as a release, knows none of this.
//! - Whatever is asked for here can only keep peers out.

/// What is wrong with the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// Nothing.
    None,
    /// Nobody answers libzmq's questions.
    NoHandler,
    /// Peers are admitted as nobody: without a `User-Id`.
    NoUserId,
}

impl Sabotage {
    /// What the environment asks for.
    #[cfg(debug_assertions)]
    pub(super) fn asked() -> Sabotage {
        let sabotage = match std::env::var("KVBROKER_TEST_DOOR").as_deref() {
            Ok("no-handler") => Sabotage::NoHandler,
            Ok("no-user-id") => Sabotage::NoUserId,
            _ => return Sabotage::None,
        };
        tracing::warn!(?sabotage, "this broker's door is broken, for a test: nobody is let in");
        sabotage
    }

    /// Nothing.
    #[cfg(not(debug_assertions))]
    pub(super) fn asked() -> Sabotage {
        Sabotage::None
    }
}
