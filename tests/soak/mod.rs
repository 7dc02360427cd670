//! The long tables: `make soak`.

pub mod crash;
mod floods;
mod frozen;
mod fuzz;
mod kills;
mod metadata;
mod service;
mod streams;

use std::time::{Duration, Instant};

/// When this table is to end, if it is bounded: `HOWDAH_SOAK_SECONDS` from now.
fn deadline() -> Option<Instant> {
    let seconds = std::env::var("HOWDAH_SOAK_SECONDS").ok()?;
    Some(Instant::now() + Duration::from_secs(seconds.parse().unwrap()))
}

/// `HOWDAH_SOAK_SEED`, or a new one, which is told.
fn seed() -> u64 {
    let given = std::env::var("HOWDAH_SOAK_SEED").ok();
    let seed = given.map_or_else(rand_seed, |seed| seed.parse().unwrap());
    eprintln!("HOWDAH_SOAK_SEED={seed}");
    seed
}

fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

/// A small generator of numbers that nobody needs to keep secret (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the numbers below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}
