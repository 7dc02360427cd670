//! The connections of the admin listener: a bounded number, and the newest is let in.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Most connections at once: scrapers and probes are few.
const MOST: usize = 64;

/// Most connections at once from one address.
const MOST_OF_ADDRESS: usize = 32;

/// The connections that are open. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, Sitter>,
}

#[derive(Debug)]
struct Sitter {
    address: IpAddr,
    /// When it came, or last asked for something.
    used: Instant,
    lost: CancellationToken,
}

impl Seats {
    /// A seat for a connection from there. If there is none, the idlest connection loses
    /// its own: of the same address if that has its share, else of the address that has
    /// most.
    pub(super) fn take(&self, address: IpAddr) -> Seat {
        let mut taken = self.lock();
        let loser = match taken.of(address) {
            MOST_OF_ADDRESS.. => taken.idlest(|sitter| sitter.address == address),
            _ if taken.seats.len() >= MOST => {
                let greatest = taken.greatest();
                taken.idlest(|sitter| Some(sitter.address) == greatest)
            }
            _ => None,
        };
        if let Some(loser) = loser.and_then(|loser| taken.seats.remove(&loser)) {
            loser.lost.cancel();
        }
        let number = taken.next;
        taken.next += 1;
        let lost = CancellationToken::new();
        let sitter = Sitter {
            address,
            used: Instant::now(),
            lost: lost.clone(),
        };
        taken.seats.insert(number, sitter);
        Seat {
            number,
            lost,
            seats: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of(&self, address: IpAddr) -> usize {
        let seats = self.seats.values();
        seats.filter(|sitter| sitter.address == address).count()
    }

    fn greatest(&self) -> Option<IpAddr> {
        let addresses = self.seats.values().map(|sitter| sitter.address);
        addresses.max_by_key(|address| self.of(*address))
    }

    fn idlest(&self, among: impl Fn(&Sitter) -> bool) -> Option<u64> {
        let seats = self.seats.iter().filter(|(_, sitter)| among(sitter));
        let idlest = seats.min_by_key(|(number, sitter)| (sitter.used, **number));
        idlest.map(|(number, _)| *number)
    }
}

/// The seat of an open connection.
#[derive(Debug)]
pub(super) struct Seat {
    number: u64,
    lost: CancellationToken,
    seats: Seats,
}

impl Seat {
    /// The connection has asked for something.
    pub(super) fn used(&self) {
        if let Some(sitter) = self.seats.lock().seats.get_mut(&self.number) {
            sitter.used = Instant::now();
        }
    }

    /// Waits until another connection needs the seat.
    pub(super) fn lost(&self) -> WaitForCancellationFuture<'_> {
        self.lost.cancelled()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idlest_goes_of_whoever_has_most() {
        let seats = Seats::default();
        let take = |last: u8| seats.take([127, 0, 0, last].into());
        let is_lost = |seat: &Seat| seat.lost.is_cancelled();
        let mut first = Vec::new();
        for _ in 0..MOST_OF_ADDRESS {
            first.push(take(1));
        }
        let [oldest, next, ..] = &first[..] else {
            panic!("there are more")
        };
        oldest.used();
        let _more = take(1);
        assert!(is_lost(next) && !is_lost(oldest));
        let mut second = Vec::new();
        for _ in 0..MOST - MOST_OF_ADDRESS {
            second.push(take(2));
        }
        assert_eq!(seats.lock().seats.len(), MOST);
        let third = take(3);
        let gone = first.iter().chain(&second).filter(|seat| is_lost(seat));
        assert_eq!(gone.count(), 2);
        assert!(!is_lost(&third));
        drop((first, second, third));
        assert_eq!(seats.lock().seats.len(), 1);
    }
}
