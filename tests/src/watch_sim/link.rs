//! A connection to the publisher.

use std::collections::VecDeque;

use super::process::LinkId;

/// What a subscriber sends.
#[derive(Clone, Debug)]
pub enum Up {
    /// A subscription to a prefix's stream.
    Subscribe(Vec<u8>),
    /// Its end.
    Unsubscribe(Vec<u8>),
}

/// What a publisher sends.
#[derive(Clone, Debug)]
pub enum Down {
    /// Topic and body.
    Message(Vec<u8>, Vec<u8>),
    /// It is there.
    Heartbeat,
}

/// A connection to the publisher.
#[derive(Debug)]
pub struct Link {
    /// Its name at the broker.
    pub id: LinkId,
    /// To the broker.
    pub up: VecDeque<Up>,
    /// To the program.
    pub down: VecDeque<Down>,
    /// False once the broker or the network has ended it; what is on its way down still arrives.
    pub is_open: bool,
}
