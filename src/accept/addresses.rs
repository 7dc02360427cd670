//! Limits the connections of each address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::auth::peer::PeerAddress;

/// Bits of an IPv6 address that name a network. One machine can choose any address within a /64
/// (RFC 4291, section 2.5.4).
const IPV6_NETWORK: u8 = 64;

/// The network that is counted as one caller: an IPv4 address, or the /64 of an IPv6 address.
#[must_use]
pub fn network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::from(address).into(),
        IpAddr::V6(address) => Ipv6Net::new(address, IPV6_NETWORK)
            .map_or_else(|_| Ipv6Net::from(address), |network| network.trunc())
            .into(),
    }
}

/// Whether an address belongs to one of these networks.
#[must_use]
pub fn is_within(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

type Open = Mutex<HashMap<IpNet, usize>>;

/// Counts the open connections of each address. Connections of a Unix socket are not counted:
/// they have no address, and the mode of its file admits one user only.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    open: Arc<Open>,
    proxies: Arc<[IpNet]>,
    most: usize,
}

impl Addresses {
    /// Allows at most `most` connections for each address, except for `proxies`.
    pub(super) fn new(most: usize, proxies: &[IpNet]) -> Self {
        Self {
            open: Arc::default(),
            proxies: proxies.into(),
            most,
        }
    }

    /// Counts a connection until the returned value is dropped. None if the address has the most
    /// connections that it may have.
    pub(super) fn enter(&self, address: &PeerAddress) -> Option<Entered> {
        let address = match address {
            PeerAddress::Tcp(address) if !is_within(address.ip(), &self.proxies) => address.ip(),
            PeerAddress::Tcp(_) | PeerAddress::Unix { .. } => return Some(Entered(None)),
        };
        let network = network(address);
        let mut open = lock(&self.open);
        let count = open.get(&network).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        open.insert(network, count + 1);
        Some(Entered(Some((network, Arc::clone(&self.open)))))
    }
}

fn lock(open: &Open) -> MutexGuard<'_, HashMap<IpNet, usize>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counted connection.
#[derive(Debug)]
pub(super) struct Entered(Option<(IpNet, Arc<Open>)>);

impl Drop for Entered {
    fn drop(&mut self) {
        let Some((network, open)) = &self.0 else {
            return;
        };
        if let Entry::Occupied(mut entry) = lock(open).entry(*network) {
            if *entry.get() <= 1 {
                entry.remove();
            } else {
                *entry.get_mut() -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_share_and_is_forgotten() {
        let addresses = Addresses::new(2, &["10.0.0.0/8".parse().unwrap()]);
        let enter = |address: &str| {
            let address = address.parse::<IpAddr>().unwrap();
            addresses.enter(&PeerAddress::Tcp((address, 1).into()))
        };
        let held = [enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        let many: Vec<_> = (0..5).map(|_| enter("10.0.0.1")).collect();
        assert!(many.iter().all(Option::is_some));
        let unix = PeerAddress::Unix { uid: 1 };
        let many: Vec<_> = (0..5).map(|_| addresses.enter(&unix)).collect();
        assert!(many.iter().all(Option::is_some));
        let [first, second] = held;
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop(second);
        assert!(lock(&addresses.open).is_empty());
    }
}
