//! Limits the number of connections, in total and per address. A connection above the limit is
//! refused at once, so that its client can try another replica.

use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::peer::PeerAddress;

use super::addresses::{Addresses, Entered};

/// The limits and the open connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Doors {
    free: Arc<Semaphore>,
    addresses: Addresses,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Its address has too many connections.
    Address,
    /// The process has too many connections.
    Process,
}

/// An admitted connection. Dropping it admits another one.
#[derive(Debug)]
pub struct Entry {
    _entered: Entered,
    _permit: OwnedSemaphorePermit,
}

impl Doors {
    /// Allows at most `most` connections in total, and `most_of_address` per address that is not
    /// a proxy.
    #[must_use]
    pub fn new(most: usize, most_of_address: usize, proxies: &[IpNet]) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            addresses: Addresses::new(most_of_address, proxies),
        }
    }

    /// Admits a connection from that address.
    ///
    /// # Errors
    /// The limit that was reached.
    pub fn enter(&self, address: &PeerAddress) -> Result<Entry, Full> {
        let entered = self.addresses.enter(address).ok_or(Full::Address)?;
        let permit = Arc::clone(&self.free).try_acquire_owned();
        Ok(Entry {
            _entered: entered,
            _permit: permit.map_err(|_| Full::Process)?,
        })
    }
}
