//! The client of a connection, as its calls see it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::{api::ending::Ending, auth::Peer};

use super::{
    account::{Account, Accounts},
    take,
    unfinished::{Purse, UnfinishedBytes},
};

/// The client of a connection, and what its calls use. Each request of the connection has it in
/// its extensions.
#[derive(Debug)]
pub(in crate::api) struct Caller {
    /// Address and certificate of the client.
    pub(in crate::api) peer: Peer,
    account: Arc<Account>,
    /// Bytes of unfinished requests of this connection.
    unfinished: UnfinishedBytes,
    /// State of the connection's end.
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

    /// Reserves bytes for unfinished requests, up to `most` on this connection.
    pub(super) fn take_unfinished(&self, purse: Purse, bytes: usize, most: usize) -> bool {
        take(purse.count(&self.unfinished), bytes, most)
    }

    pub(super) fn give_back_unfinished(&self, purse: Purse, bytes: usize) {
        purse.count(&self.unfinished).fetch_sub(bytes, Relaxed);
    }
}
