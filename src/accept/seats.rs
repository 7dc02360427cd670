//! Limits the number of connections, and always admits a new one by closing the idlest. So idle
//! and slow clients cannot prevent a probe from being answered.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// The open connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seats {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_of_address: usize,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, Sitter>,
}

#[derive(Debug)]
struct Sitter {
    address: IpAddr,
    /// Time of the connection's beginning or of its last request.
    used: Instant,
    lost: CancellationToken,
}

impl Seats {
    /// Allows `most` connections in total, and `most_of_address` from one address.
    #[must_use]
    pub fn new(most: usize, most_of_address: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
            most_of_address,
        }
    }

    /// A seat for a connection from that address. If none is free the idlest connection loses
    /// its seat. If the address is at its limit that is one of its own connections, otherwise
    /// one of the address with the most connections.
    #[must_use]
    pub fn take(&self, address: IpAddr) -> Seat {
        let mut taken = self.lock();
        let loser = if taken.of(address) >= self.most_of_address {
            taken.idlest(|sitter| sitter.address == address)
        } else if taken.seats.len() >= self.most {
            let greatest = taken.greatest();
            taken.idlest(|sitter| Some(sitter.address) == greatest)
        } else {
            None
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
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of(&self, address: IpAddr) -> usize {
        let seats = self.seats.values();
        seats.filter(|sitter| sitter.address == address).count()
    }

    fn greatest(&self) -> Option<IpAddr> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for sitter in self.seats.values() {
            *counts.entry(sitter.address).or_default() += 1;
        }
        let greatest = counts.into_iter().max_by_key(|(_, count)| *count);
        greatest.map(|(address, _)| address)
    }

    fn idlest(&self, among: impl Fn(&Sitter) -> bool) -> Option<u64> {
        let seats = self.seats.iter().filter(|(_, sitter)| among(sitter));
        let idlest = seats.min_by_key(|(number, sitter)| (sitter.used, **number));
        idlest.map(|(number, _)| *number)
    }
}

/// The seat of an open connection. Dropping it frees the seat.
#[derive(Debug)]
pub struct Seat {
    number: u64,
    lost: CancellationToken,
    seats: Seats,
}

impl Seat {
    /// Notes that the connection has sent a request.
    pub fn used(&self) {
        if let Some(sitter) = self.seats.lock().seats.get_mut(&self.number) {
            sitter.used = Instant::now();
        }
    }

    /// Waits until another connection needs the seat.
    pub fn lost(&self) -> WaitForCancellationFuture<'_> {
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
        const MOST: usize = 64;
        const MOST_OF_ADDRESS: usize = 32;
        let seats = Seats::new(MOST, MOST_OF_ADDRESS);
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
