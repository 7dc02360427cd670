//! Distributes notifications about operations to the dispatcher and to waiting calls.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};
use uuid::Uuid;

use super::{operations::Agenda, tasks::Tasks};
use crate::{domain::Error, store::Store};

/// Pause before another attempt to connect for notifications.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Distributes notifications within this process. Cheap to clone.
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

    /// The time of the dispatcher's next query.
    pub(super) fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// Makes the dispatcher ask the metadata now.
    pub(super) fn look_now(&self) {
        self.agenda.look_now();
    }

    /// Notifies those who wait in this process that an operation has changed.
    pub(super) fn announce(&self, operation: Uuid) {
        // Sending fails if nobody waits.
        let _ = self.changed.send(operation);
    }

    /// Receives the ids of operations that change from now on.
    pub(super) fn subscribe(&self) -> Receiver<Uuid> {
        self.changed.subscribe()
    }

    /// Receives the notifications of all processes, and distributes them here.
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
        // Notifications may have been missed before, so the dispatcher asks the metadata.
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

/// Returns when the operation has changed, or may have because notifications were dropped.
pub(super) async fn changed(changes: &mut Receiver<Uuid>, id: Uuid) {
    loop {
        match changes.recv().await {
            Ok(changed) if changed != id => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}
