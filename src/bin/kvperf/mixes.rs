//! What the stage `mixed` is made of: the core workloads of YCSB (Cooper et al., "Benchmarking cloud serving systems with YCSB",
//! SoCC 2010).

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;
use crate::keyspace::Dice;

/// A core workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mix {
    /// Half reads, half updates.
    A,
    /// 95 in a hundred reads, the rest updates.
    B,
    /// Only reads.
    C,
    /// 95 in a hundred reads, mostly of what the rest inserted last.
    D,
    /// 95 in a hundred scans of up to a page, the rest inserts.
    E,
    /// Half reads, half read-modify-writes.
    F,
}

/// One of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    /// A key is read.
    Read,
    /// A key that is there gets another value.
    Update,
    /// A new key is made.
    Insert,
    /// A page from some key on, of some length.
    Scan,
    /// A key is read and gets another value: two requests, one operation.
    ReadModifyWrite,
}

impl Mix {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Mix::A => "a",
            Mix::B => "b",
            Mix::C => "c",
            Mix::D => "d",
            Mix::E => "e",
            Mix::F => "f",
        }
    }

    /// How many of a hundred operations are what.
    const fn shares(self) -> &'static [(Act, u64)] {
        match self {
            Mix::A => &[(Act::Read, 50), (Act::Update, 50)],
            Mix::B => &[(Act::Read, 95), (Act::Update, 5)],
            Mix::C => &[(Act::Read, 100)],
            Mix::D => &[(Act::Read, 95), (Act::Insert, 5)],
            Mix::E => &[(Act::Scan, 95), (Act::Insert, 5)],
            Mix::F => &[(Act::Read, 50), (Act::ReadModifyWrite, 50)],
        }
    }

    /// Which keys it chooses, unless told otherwise.
    pub(crate) const fn distribution(self) -> Distribution {
        match self {
            Mix::D => Distribution::Latest,
            _ => Distribution::ZIPFIAN,
        }
    }

    /// True if its operations can share a request: none is bounded by itself, or needs an answer on its way.
    pub(crate) const fn takes_arrays(self) -> bool {
        !matches!(self, Mix::E | Mix::F)
    }

    /// What the next operation is.
    pub(crate) fn draw(self, dice: &mut Dice) -> Act {
        let mut left = dice.below(100);
        for (act, share) in self.shares() {
            match left.checked_sub(*share) {
                None => return *act,
                Some(rest) => left = rest,
            }
        }
        Act::Read
    }
}

impl Act {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Act::Read => "read",
            Act::Update => "update",
            Act::Insert => "insert",
            Act::Scan => "scan",
            Act::ReadModifyWrite => "read-modify-write",
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_in_the_shares_of_the_mix() {
        for mix in [Mix::A, Mix::B, Mix::C, Mix::D, Mix::E, Mix::F] {
            assert_eq!(mix.shares().iter().map(|(_, share)| share).sum::<u64>(), 100, "{mix}");
            let mut dice = Dice::new(3);
            let drawn: Vec<Act> = (0..100_000).map(|_| mix.draw(&mut dice)).collect();
            for (act, share) in mix.shares() {
                let found = drawn.iter().filter(|drawn| *drawn == act).count() as f64 / 1_000.0;
                // Half a percent is three standard deviations of the widest one.
                assert!((found - *share as f64).abs() < 0.5, "{mix}: {found} of {}", act.name());
            }
        }
    }
}
