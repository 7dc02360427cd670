//! Reserves the TCP ports of local servers.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    domain::{
        Error, Reason, Result,
        provider::{Placement, ServerSpec},
        random::Random,
    },
    store::{self, Store, Tx, lease::Claim},
};

/// Reserves ports for local servers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Ports {
    store: Store,
    random: Arc<dyn Random>,
    here: Uuid,
}

impl Ports {
    pub(super) fn new(store: Store, random: Arc<dyn Random>, here: Uuid) -> Self {
        Self {
            store,
            random,
            here,
        }
    }

    /// Reserves a free port on a host.
    pub(super) async fn reserve(&self, tx: &mut Tx, host: Uuid) -> Result<Placement> {
        let ports = tx.lock_ports(host).await?;
        let port = self.free(host, &ports)?;
        Ok(Placement { host, port })
    }

    /// Finds a port in the host's range that is not reserved. On this host it must not be used
    /// by another program either. The search starts at a random port, so that two programs
    /// rarely try the same one.
    fn free(&self, host: Uuid, ports: &store::servers::Ports) -> Result<u16> {
        let range = &ports.range;
        let count = usize::from(range.end().saturating_sub(*range.start())) + 1;
        let mut random = [0; 8];
        self.random.fill(&mut random)?;
        let begin = usize::from_le_bytes(random) % count;
        let rotated = range.clone().cycle().skip(begin).take(count);
        let bindable = |port: &u16| {
            host != self.here || std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()
        };
        let mut free = rotated
            .filter(|port| !ports.reserved.contains(port))
            .filter(bindable);
        free.next().ok_or_else(|| {
            let message = format!("no port from {} to {} is free", range.start(), range.end());
            Error::new(Reason::PortsExhausted, message)
        })
    }

    /// Gives a new server another port, because another program has taken its port since it was
    /// reserved.
    pub(super) async fn move_port(&self, claim: &Claim, server: &ServerSpec) -> Result<()> {
        let mut tx = self.store.begin().await?;
        tx.check_token(claim.id, claim.token).await?;
        let unplaced = || Error::internal("a server without a placement has no port");
        let host = server.placement.ok_or_else(unplaced)?.host;
        let ports = tx.lock_ports(host).await?;
        let port = self.free(host, &ports)?;
        tx.set_port(server.uid, port).await?;
        tx.commit().await
    }
}
