//! How many connections are let in, of all addresses and of each. The next one is refused
//! at once: its client can try another replica, which it could not while it waits here.

use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::peer::PeerAddress;

use super::addresses::{Addresses, Entered};

/// The number of connections that may be open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Doors {
    free: Arc<Semaphore>,
    addresses: Addresses,
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Its address has its share.
    Address,
    /// There are too many.
    Process,
}

/// An open connection among those that may be. Dropping it lets another one in.
#[derive(Debug)]
pub struct Entry {
    _entered: Entered,
    _permit: OwnedSemaphorePermit,
}

impl Doors {
    /// At most so many connections in all, and of one address that is no proxy.
    #[must_use]
    pub fn new(most: usize, most_of_address: usize, proxies: &[IpNet]) -> Self {
        Self {
            free: Arc::new(Semaphore::new(most)),
            addresses: Addresses::new(most_of_address, proxies),
        }
    }

    /// Lets a connection from that address in.
    ///
    /// # Errors
    /// Which bound was reached.
    pub fn enter(&self, address: &PeerAddress) -> Result<Entry, Full> {
        let entered = self.addresses.enter(address).ok_or(Full::Address)?;
        let permit = Arc::clone(&self.free).try_acquire_owned();
        Ok(Entry {
            _entered: entered,
            _permit: permit.map_err(|_| Full::Process)?,
        })
    }
}
