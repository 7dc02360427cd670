//! The other side of a connection, as its calls see it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::{api::ending::Ending, auth::Peer};

use super::{
    account::{Account, Accounts},
    take,
    unfinished::{Purse, UnfinishedBytes},
};

/// Who is at the other end of a connection, and what its calls use. In the extensions of
/// each of the connection's requests.
#[derive(Debug)]
pub(in crate::api) struct Caller {
    /// Who it is.
    pub(in crate::api) peer: Peer,
    account: Arc<Account>,
    /// Bytes of unfinished requests of this connection.
    unfinished: UnfinishedBytes,
    /// How the connection ends.
    pub(in crate::api) ending: Ending,
}

impl Caller {
    pub(in crate::api) fn new(peer: Peer, accounts: &Accounts) -> Self {
        Self {
            account: accounts.of(&peer),
            peer,
            unfinished: UnfinishedBytes::default(),
            ending: Ending::default(),
        }
    }

    /// What the caller uses over all of its connections.
    pub(in crate::api) fn account(&self) -> &Account {
        &self.account
    }

    /// Takes bytes of unfinished requests if this connection then has no more than `most`.
    pub(super) fn take_unfinished(&self, purse: Purse, bytes: usize, most: usize) -> bool {
        take(purse.count(&self.unfinished), bytes, most)
    }

    pub(super) fn give_back_unfinished(&self, purse: Purse, bytes: usize) {
        purse.count(&self.unfinished).fetch_sub(bytes, Relaxed);
    }
}
