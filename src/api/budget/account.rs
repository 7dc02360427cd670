//! The share of one caller, over all of its connections.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use ipnet::IpNet;

use crate::{
    accept::{is_within, network},
    auth::{Peer, peer::PeerAddress, principal},
    domain::principal::Principal,
};

use super::{
    CLASSES, Class, take,
    unfinished::{Purse, UnfinishedBytes},
};

/// Who is counted as one caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::api) enum Key {
    /// A known principal.
    Principal(Principal),
    /// All anonymous callers from one network.
    Network(IpNet),
    /// A proxy, which forwards anonymous callers.
    Proxy(IpAddr),
}

impl Key {
    fn of(peer: &Peer, proxies: &[IpNet]) -> Self {
        let address = match (principal::identify(peer), peer.address) {
            (Principal::Anonymous, PeerAddress::Tcp(address)) => address.ip(),
            (principal, _) => return Self::Principal(principal),
        };
        match is_within(address, proxies) {
            true => Self::Proxy(address.to_canonical()),
            false => Self::Network(network(address)),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Principal(principal) => principal.fmt(formatter),
            Self::Network(IpNet::V4(network)) => write!(formatter, "anonymous@{}", network.addr()),
            Self::Network(IpNet::V6(network)) => write!(formatter, "anonymous@{network}"),
            Self::Proxy(address) => write!(formatter, "proxy@{address}"),
        }
    }
}

type Open = Mutex<HashMap<Key, Weak<Account>>>;

/// The accounts of callers with open connections: at most one per connection.
#[derive(Clone, Debug)]
pub(in crate::api) struct Accounts {
    open: Arc<Open>,
    proxies: Arc<[IpNet]>,
}

impl Accounts {
    /// Anonymous callers from one of the `proxies` have no limit, because many callers share a
    /// proxy's address.
    pub(in crate::api) fn new(proxies: &[IpNet]) -> Self {
        Self {
            open: Arc::default(),
            proxies: proxies.into(),
        }
    }

    /// The account of a connection's client. All of its connections share it.
    pub(super) fn of(&self, peer: &Peer) -> Arc<Account> {
        let key = Key::of(peer, &self.proxies);
        let mut open = lock(&self.open);
        if let Some(account) = open.get(&key).and_then(Weak::upgrade) {
            return account;
        }
        let account = Arc::new(Account {
            key: key.clone(),
            used: Default::default(),
            unfinished: UnfinishedBytes::default(),
            open: Arc::clone(&self.open),
        });
        open.insert(key, Arc::downgrade(&account));
        account
    }
}

fn lock(open: &Open) -> MutexGuard<'_, HashMap<Key, Weak<Account>>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one caller uses. Removed when its last connection and call have ended.
#[derive(Debug)]
pub(in crate::api) struct Account {
    key: Key,
    used: [AtomicUsize; CLASSES],
    unfinished: UnfinishedBytes,
    open: Arc<Open>,
}

impl Account {
    /// The caller; none for a proxy, which has no limit.
    pub(in crate::api) fn bounded(&self) -> Option<&Key> {
        (!self.is_exempt()).then_some(&self.key)
    }

    /// Takes a permit if fewer than `most` are taken.
    pub(super) fn take(&self, class: Class, most: usize) -> bool {
        take(class.count(&self.used), 1, self.bound(most))
    }

    pub(super) fn give_back(&self, class: Class) {
        class.count(&self.used).fetch_sub(1, Relaxed);
    }

    /// Reserves bytes for unfinished requests, up to `most`.
    pub(super) fn take_unfinished(&self, purse: Purse, bytes: usize, most: usize) -> bool {
        take(purse.count(&self.unfinished), bytes, self.bound(most))
    }

    pub(super) fn give_back_unfinished(&self, purse: Purse, bytes: usize) {
        purse.count(&self.unfinished).fetch_sub(bytes, Relaxed);
    }

    const fn is_exempt(&self) -> bool {
        matches!(self.key, Key::Proxy(_))
    }

    const fn bound(&self, most: usize) -> usize {
        if self.is_exempt() { usize::MAX } else { most }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(formatter)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        // Another account with this key may exist since the last holder of this one has gone.
        if open
            .get(&self.key)
            .is_some_and(|account| account.strong_count() == 0)
        {
            open.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::certificate::Identity;

    fn peer(address: &str) -> Peer {
        Peer {
            address: PeerAddress::Tcp((address.parse::<IpAddr>().unwrap(), 1).into()),
            certificate: None,
        }
    }

    fn known(address: &str, identity: &str) -> Peer {
        Peer {
            certificate: Some(Identity::Of(identity.to_owned())),
            ..peer(address)
        }
    }

    #[test]
    fn callers_are_counted_by_who_they_are_and_else_by_where_they_come_from() {
        let accounts = Accounts::new(&["10.0.0.0/8".parse().unwrap()]);
        let same = |one: &Peer, other: &Peer| {
            let (one, other) = (accounts.of(one), accounts.of(other));
            Arc::ptr_eq(&one, &other)
        };
        assert!(same(&peer("192.0.2.1"), &peer("::ffff:192.0.2.1")));
        assert!(!same(&peer("192.0.2.1"), &peer("192.0.2.2")));
        assert!(same(&peer("2001:db8::1"), &peer("2001:db8::ffff:2")));
        assert!(!same(&peer("2001:db8::1"), &peer("2001:db8:0:1::1")));
        assert!(same(&known("192.0.2.1", "a"), &known("192.0.2.2", "a")));
        assert!(!same(&known("192.0.2.1", "a"), &known("192.0.2.1", "b")));
        assert!(!same(&known("192.0.2.1", "a"), &peer("192.0.2.1")));
        assert!(accounts.of(&peer("10.1.2.3")).bounded().is_none());
        assert!(accounts.of(&known("10.1.2.3", "a")).bounded().is_some());
    }

    #[test]
    fn a_proxy_is_exempt_and_its_neighbours_are_not() {
        let accounts = || Accounts::new(&["2001:db8::1/128".parse().unwrap()]);
        let is_bounded = |account: &Account| account.bounded().is_some();
        let (one, other) = (peer("2001:db8::1"), peer("2001:db8::2"));
        let open = accounts();
        let (proxy, neighbour) = (open.of(&one), open.of(&other));
        assert!(!is_bounded(&proxy) && is_bounded(&neighbour));
        let open = accounts();
        let (neighbour, proxy) = (open.of(&other), open.of(&one));
        assert!(!is_bounded(&proxy) && is_bounded(&neighbour));
    }

    #[test]
    fn an_account_goes_with_its_last_holder() {
        let accounts = Accounts::new(&[]);
        let (one, two) = (
            accounts.of(&peer("192.0.2.1")),
            accounts.of(&peer("192.0.2.1")),
        );
        assert!(one.take(Class::Call, 1));
        assert!(!two.take(Class::Call, 1));
        assert!(two.take(Class::Wait, 1));
        drop(one);
        assert_eq!(lock(&accounts.open).len(), 1);
        drop(two);
        assert!(lock(&accounts.open).is_empty());
        assert!(accounts.of(&peer("192.0.2.1")).take(Class::Call, 1));
    }
}
