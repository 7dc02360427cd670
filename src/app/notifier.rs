//! News of operations: they wake the dispatcher and the calls that wait here.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};
use uuid::Uuid;

use super::{operations::Agenda, tasks::Tasks};
use crate::{domain::Error, store::Store};

/// Pause before the connection for notifications is made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Passes news of operations on within this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Notifier {
    store: Store,
    tasks: Tasks,
    agenda: Arc<Agenda>,
    changed: Sender<Uuid>,
}

impl Notifier {
    pub(super) fn new(store: Store, tasks: Tasks) -> Self {
        Self {
            store,
            tasks,
            agenda: Arc::default(),
            changed: channel(1024).0,
        }
    }

    /// When this process looks for operations to work on.
    pub(super) fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// Has the dispatcher look for operations now.
    pub(super) fn look_now(&self) {
        self.agenda.look_now();
    }

    /// Tells those who wait here that an operation has changed.
    pub(super) fn announce(&self, operation: Uuid) {
        // It fails where no waiter is registered.
        let _ = self.changed.send(operation);
    }

    /// Ids of operations that change from now on.
    pub(super) fn subscribe(&self) -> Receiver<Uuid> {
        self.changed.subscribe()
    }

    /// Passes notifications of other processes on to those who wait here.
    pub(super) async fn listen(self) {
        loop {
            tokio::select! {
                () = self.tasks.stopping() => return,
                error = self.hear() => tracing::warn!(%error, "not listening for notifications"),
            }
            if self.tasks.stops_within(RECONNECT_PAUSE).await {
                return;
            }
        }
    }

    async fn hear(&self) -> Error {
        let mut changes = match self.store.operation_changes().await {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        // Notifications that were sent before are made up for by a look.
        self.look_now();
        loop {
            match changes.next().await {
                Ok(changed) => {
                    self.look_now();
                    if let Some(id) = changed {
                        self.announce(id);
                    }
                }
                Err(error) => return error,
            }
        }
    }
}

/// Returns when the operation has changed, or may have.
pub(super) async fn changed(changes: &mut Receiver<Uuid>, id: Uuid) {
    loop {
        match changes.recv().await {
            Ok(changed) if changed != id => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
