//! Which key is next, where any of a client's keys will do.
//!
//! - **Uniform**: each as often as any other.
//! - **Zipfian**: the k-th most popular one is drawn in proportion to k^-theta. Which keys are popular has nothing to do with their
//!   order: popularity is scattered over them, as YCSB does it.
//! - **Latest**: the same by age, the newest key being the most popular one.
//! - Draws depend on a seed and on nothing else, and are exact, not approximated: by rejection-inversion (Hörmann and Derflinger,
//!   "Rejection-inversion to generate variates from monotone discrete distributions", 1996), in constant time and space.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::keyspace::{Dice, KEYS_MAX};

/// What YCSB takes.
const THETA_DEFAULT: f64 = 0.99;
/// Beyond, next to nothing but one key is drawn.
const THETA_MAX: f64 = 5.0;
/// Scatters ranks over numbers: a prime, so that no two ranks meet.
const SCATTER: u64 = 2_654_435_761;

const _: () = assert!(SCATTER > KEYS_MAX, "no multiple of a number of keys");

/// How often each key is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) enum Distribution {
    /// As often as any other.
    Uniform,
    /// In proportion to its rank to the power of minus this.
    Zipfian(f64),
    /// The newer, the more often, as with [`Distribution::Zipfian`] of 0.99.
    Latest,
}

impl Distribution {
    /// What YCSB means by zipfian.
    pub(crate) const ZIPFIAN: Distribution = Distribution::Zipfian(THETA_DEFAULT);
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipfian(theta) => write!(f, "zipfian:{theta}"),
            Distribution::Latest => f.write_str("latest"),
        }
    }
}

impl From<Distribution> for String {
    fn from(distribution: Distribution) -> String {
        distribution.to_string()
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let theta = match text {
            "uniform" => return Ok(Distribution::Uniform),
            "latest" => return Ok(Distribution::Latest),
            "zipfian" => return Ok(Distribution::ZIPFIAN),
            _ => text.strip_prefix("zipfian:").ok_or("one of uniform, zipfian, zipfian:THETA, latest")?,
        };
        let theta = theta.parse::<f64>().ok().filter(|theta| *theta > 0.0 && *theta <= THETA_MAX);
        theta.map(Distribution::Zipfian).ok_or_else(|| format!("zipfian takes a number above 0 and up to {THETA_MAX}"))
    }
}

impl TryFrom<String> for Distribution {
    type Error = String;

    fn try_from(text: String) -> Result<Distribution, String> {
        text.parse()
    }
}

/// Draws keys.
#[derive(Debug)]
pub(crate) struct Chooser {
    distribution: Distribution,
    ranks: Ranks,
    /// Keys over which popularity is scattered.
    scattered: u64,
}

impl Chooser {
    pub(crate) fn new(distribution: Distribution) -> Chooser {
        let theta = if let Distribution::Zipfian(theta) = distribution { theta } else { THETA_DEFAULT };
        Chooser { distribution, ranks: Ranks::new(theta), scattered: 0 }
    }

    /// From now on popularity is scattered over so many keys; keys that are made later are not popular.
    pub(crate) fn scatter(&mut self, keys: u64) {
        self.scattered = keys;
    }

    /// A number below `keys`, of which the highest is the newest; 0 if that is 0.
    pub(crate) fn choose(&mut self, keys: u64, dice: &mut Dice) -> u64 {
        match self.distribution {
            Distribution::Uniform => dice.below(keys),
            Distribution::Zipfian(_) => {
                let keys = if self.scattered == 0 { keys } else { keys.min(self.scattered) };
                scattered(self.ranks.draw(keys, dice), keys)
            }
            Distribution::Latest => keys.saturating_sub(1 + self.ranks.draw(keys, dice)),
        }
    }
}

/// The number below `keys` that has this rank. Each has one.
fn scattered(rank: u64, keys: u64) -> u64 {
    // Both are below 2^32: the product fits.
    (rank + 1).wrapping_mul(SCATTER) % keys.max(1)
}

/// Ranks from 0 on, drawn in proportion to (rank + 1)^-theta.
#[derive(Debug)]
struct Ranks {
    theta: f64,
    count: u64,
    /// The integral at the ends: 1.5 less the first column, and count + 0.5.
    first: f64,
    last: f64,
    /// So far from its column's middle a point is accepted without a look at the column.
    quick: f64,
}

impl Ranks {
    fn new(theta: f64) -> Ranks {
        let mut ranks = Ranks { theta, count: 0, first: 0.0, last: 0.0, quick: 0.0 };
        ranks.first = ranks.integral(1.5) - 1.0;
        ranks.quick = 2.0 - ranks.inverse(ranks.integral(2.5) - ranks.height(2.0));
        ranks
    }

    fn draw(&mut self, count: u64, dice: &mut Dice) -> u64 {
        if count < 2 {
            return 0;
        }
        if count != self.count {
            self.count = count;
            self.last = self.integral(count as f64 + 0.5);
        }
        loop {
            let area = self.last + dice.fraction() * (self.first - self.last);
            let place = self.inverse(area);
            let rank = (place + 0.5).floor().clamp(1.0, count as f64);
            if rank - place <= self.quick || area >= self.integral(rank + 0.5) - self.height(rank) {
                return rank as u64 - 1;
            }
        }
    }

    /// x^-theta.
    fn height(&self, x: f64) -> f64 {
        (-self.theta * x.ln()).exp()
    }

    /// The area below it, from 1 on: (x^(1-theta) - 1) / (1 - theta), and ln x where theta is 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let exponent = (1.0 - self.theta) * log;
        // (e^t - 1) / t, which is 1 at 0.
        let slope = if exponent.abs() > 1e-8 { exponent.exp_m1() / exponent } else { 1.0 + exponent / 2.0 };
        slope * log
    }

    /// Where the area is that large.
    fn inverse(&self, area: f64) -> f64 {
        // Rounding must not lead out of the logarithm's domain.
        let scaled = (area * (1.0 - self.theta)).max(-1.0);
        // ln(1 + t) / t, which is 1 at 0.
        let slope = if scaled.abs() > 1e-8 { scaled.ln_1p() / scaled } else { 1.0 - scaled / 2.0 };
        (slope * area).exp()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DRAWS: u64 = 300_000;
    const KEYS: u64 = 1_000;

    fn counts(distribution: Distribution, keys: u64) -> Vec<u64> {
        let (mut chooser, mut dice) = (Chooser::new(distribution), Dice::new(42));
        let mut counts = vec![0; keys as usize];
        (0..DRAWS).for_each(|_| counts[chooser.choose(keys, &mut dice) as usize] += 1);
        counts
    }

    /// Pearson's chi-squared of counts by rank against the distribution: twenty single ranks, then groups that double.
    fn chi_squared(by_rank: &[u64], theta: f64) -> (f64, usize) {
        let weight = |rank: usize| ((rank + 1) as f64).powf(-theta);
        let all: f64 = (0..by_rank.len()).map(weight).sum();
        let (mut sum, mut groups, mut first) = (0.0, 0, 0);
        while first < by_rank.len() {
            let end = if first < 20 { first + 1 } else { (first * 2).min(by_rank.len()) };
            let expected = (first..end).map(weight).sum::<f64>() / all * DRAWS as f64;
            let found: u64 = by_rank[first..end].iter().sum();
            sum += (found as f64 - expected).powi(2) / expected;
            (groups, first) = (groups + 1, end);
        }
        (sum, groups)
    }

    /// Counts in the order of their keys' ranks.
    fn by_rank(counts: &[u64]) -> Vec<u64> {
        (0..counts.len() as u64).map(|rank| counts[scattered(rank, counts.len() as u64) as usize]).collect()
    }

    #[test]
    fn every_key_has_one_rank() {
        for keys in [1, 2, 7, 1_000, 10_007] {
            let mut numbers: Vec<u64> = (0..keys).map(|rank| scattered(rank, keys)).collect();
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..keys), "{keys}");
        }
        let neighbours = (0..100).filter(|rank| scattered(*rank, KEYS).abs_diff(scattered(rank + 1, KEYS)) < 5).count();
        assert_eq!(neighbours, 0, "popular keys are no neighbours");
        assert!(scattered(KEYS_MAX - 1, KEYS_MAX) < KEYS_MAX);
    }

    #[test]
    fn zipfian_draws_have_their_shape_and_no_other() {
        for theta in [0.5, THETA_DEFAULT, 1.0, 1.5] {
            let found = by_rank(&counts(Distribution::Zipfian(theta), KEYS));
            let (right, groups) = chi_squared(&found, theta);
            // With 26 groups, a right one exceeds 60 once in ten thousand seeds.
            assert_eq!(groups, 26);
            assert!(right < 60.0, "theta {theta}: {right}");
            let (wrong, _) = chi_squared(&found, theta - 0.03);
            assert!(wrong > 300.0, "theta {theta} looks like {}: {wrong}", theta - 0.03);
        }
    }

    #[test]
    fn uniform_draws_meet_every_key_alike() {
        let (even, _) = chi_squared(&counts(Distribution::Uniform, KEYS), 0.0);
        assert!(even < 60.0, "{even}");
    }

    #[test]
    fn the_latest_key_is_the_most_popular_one() {
        let mut newest_first = counts(Distribution::Latest, KEYS);
        newest_first.reverse();
        let (right, _) = chi_squared(&newest_first, THETA_DEFAULT);
        assert!(right < 60.0, "{right}");
    }

    #[test]
    fn keys_that_are_made_meanwhile_are_latest_and_not_popular() {
        let (mut zipfian, mut latest) = (Chooser::new(Distribution::ZIPFIAN), Chooser::new(Distribution::Latest));
        let mut dice = Dice::new(7);
        zipfian.scatter(100);
        let drawn: Vec<(u64, u64)> =
            (100..5_000).map(|keys| (zipfian.choose(keys, &mut dice), keys - 1 - latest.choose(keys, &mut dice))).collect();
        assert!(drawn.iter().all(|(number, _)| *number < 100));
        let newest = drawn.iter().filter(|(_, age)| *age == 0).count();
        assert!((300..1_200).contains(&newest), "{newest}");
        assert_eq!((zipfian.choose(1, &mut dice), latest.choose(1, &mut dice), latest.choose(0, &mut dice)), (0, 0, 0));
    }

    #[test]
    fn a_seed_gives_the_same_draws_again() {
        assert_eq!(counts(Distribution::ZIPFIAN, 50), counts(Distribution::ZIPFIAN, 50));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["uniform", "latest", "zipfian:0.8"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        assert_eq!("zipfian".parse(), Ok(Distribution::ZIPFIAN));
        for text in ["", "zipf", "zipfian:", "zipfian:0", "zipfian:-1", "zipfian:NaN", "zipfian:6", "uniform:1"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }
}
