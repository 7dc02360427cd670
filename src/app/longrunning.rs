//! Long-running operations, as `google.longrunning.Operations` shows them.

use std::time::Duration;

use tokio::{sync::broadcast::error::RecvError, time::Instant};
use uuid::Uuid;

use super::{App, Origin, Page};
use crate::{
    domain::{
        Error, Reason, Result, audit,
        list::{page_size, page_token, parse_page_token},
        name::{OperationName, ProjectName},
        operation::{Operation, Outcome, Response, State},
    },
    store::Tx,
};

/// A waiting call looks by itself this often, in case a notification got lost.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Pause before the connection for notifications is made again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `ListOperations`.
#[derive(Clone, Debug, Default)]
pub struct ListOperations {
    /// Most operations in an answer; 0 for the default.
    pub page_size: i32,
    /// Token of the former answer; empty for the first page.
    pub page_token: String,
    /// Empty, `done = true` or `done = false`.
    pub filter: String,
}

impl App {
    /// Gets an operation.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND.
    pub async fn operation(&self, name: &OperationName) -> Result<Operation> {
        let operation = self.parts.store.operation(name).await?;
        Ok(self.shown(operation))
    }

    /// An operation with what it waits for, if its host is silent: this process shows that
    /// its own is not.
    fn shown(&self, mut operation: Operation) -> Operation {
        let own = self.parts.host;
        operation.silent_host.take_if(|host| host.id == own);
        if let Some(host) = operation.silent_host.clone() {
            operation.wait_for_host(&host);
        }
        operation
    }

    /// Lists a project's operations, newest first.
    ///
    /// # Errors
    /// PAGE_SIZE_NEGATIVE, PAGE_TOKEN_INVALID, FILTER_INVALID.
    pub async fn list_operations(
        &self,
        project: &ProjectName,
        list: ListOperations,
    ) -> Result<Page<Operation>> {
        let size = page_size(list.page_size)?;
        let parent = project.to_string();
        let arguments = [parent.as_str(), "operations", list.filter.as_str()];
        let after = parse_page_token(&list.page_token, &arguments)?;
        let done = done_filter(&list.filter)?;
        let store = &self.parts.store;
        let part = store
            .operations(&project.project, done, after.as_ref(), size)
            .await?;
        if part.records.is_empty() {
            store.require_project(&project.project).await?;
        }
        let token = part.next.map(|place| page_token(&place, &arguments));
        Ok(Page {
            items: part
                .records
                .into_iter()
                .map(|item| self.shown(item))
                .collect(),
            next_page_token: token.transpose()?.unwrap_or_default(),
        })
    }

    /// Waits until an operation is done, or `limit` is over; answers it as it is then.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND; SHUTTING_DOWN.
    pub async fn wait_operation(&self, name: &OperationName, limit: Duration) -> Result<Operation> {
        let end = Instant::now() + limit;
        let mut changes = self.changed.subscribe();
        loop {
            let operation = self.operation(name).await?;
            if operation.is_done() || Instant::now() >= end {
                return Ok(operation);
            }
            let look_again = end.min(Instant::now() + LOOK_AGAIN);
            tokio::select! {
                () = self.draining.cancelled() => return Err(shutting_down()),
                () = changed(&mut changes, name.operation) => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }

    /// Asks for the cancellation of an operation: its finished steps are taken back. A stop
    /// or a restart is withdrawn as long as it waits for its turn.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND, OPERATION_NOT_CANCELLABLE, HOST_UNAVAILABLE.
    pub async fn cancel_operation(&self, origin: Origin, name: &OperationName) -> Result<()> {
        let app = self.clone();
        let name = name.clone();
        self.detached(async move { app.accept_cancel(&origin, &name).await })
            .await
    }

    async fn accept_cancel(&self, origin: &Origin, name: &OperationName) -> Result<()> {
        let (store, host) = (&self.parts.store, self.parts.host);
        let before = self.operation(name).await?;
        if before.is_done() {
            return Ok(());
        }
        // Its host has done nothing yet, and is not needed.
        let waits = before.cancellable && before.state == Some(State::Pending);
        if waits && self.withdraw(origin, name).await? {
            return Ok(());
        }
        // Also when it was requested before: the host may have gone since.
        let has_a_way_back = before.cancellable || before.state == Some(State::Undoing);
        if let Some(host) = before.silent_host.filter(|_| has_a_way_back) {
            let remedy = "no other host can take the steps of the operation back; only if the \
                 host is lost for good, deleting the instance with `force` and `purge` gives \
                 the operation up";
            let error = host_gone(host.id, &host.name, remedy);
            return Err(error.with_resource(name.to_string()));
        }
        let mut tx = store.begin().await?;
        if tx.request_cancel(name.operation, host).await? {
            self.write_down(&mut tx, origin, name).await?;
            tx.commit().await?;
            self.agenda.look_now();
            return Ok(());
        }
        drop(tx);
        let now = store.operation(name).await?;
        if now.is_done() || now.cancel_requested {
            return Ok(());
        }
        let message = "the operation cannot be cancelled: it has begun, and has no way back";
        let error = Error::new(Reason::OperationNotCancellable, message);
        Err(error.with_resource(name.to_string()))
    }

    /// Hides a done operation.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND, OPERATION_NOT_DONE.
    pub async fn delete_operation(&self, origin: Origin, name: &OperationName) -> Result<()> {
        let app = self.clone();
        let name = name.clone();
        self.detached(async move {
            app.parts.store.operation(&name).await?;
            let mut tx = app.parts.store.begin().await?;
            if tx.hide_operation(name.operation).await? {
                app.write_down(&mut tx, &origin, &name).await?;
                return tx.commit().await;
            }
            let message = "the operation is under way; cancel it first";
            Err(Error::new(Reason::OperationNotDone, message).with_resource(name.to_string()))
        })
        .await
    }

    /// Records what was done to an operation in the transaction that does it.
    pub(super) async fn write_down(
        &self,
        tx: &mut Tx,
        origin: &Origin,
        name: &OperationName,
    ) -> Result<()> {
        let resource = name.to_string();
        let record = origin.record(&name.project, &resource, audit::Outcome::Done);
        tx.insert_audit_record(self.audit_uid()?, &record).await
    }

    /// Tells those who wait here that an operation has changed.
    pub(super) fn announce(&self, operation: Uuid) {
        // It fails where no waiter is registered.
        let _ = self.changed.send(operation);
    }

    /// What an operation answers from now on, with the instance's endpoint filled in from the
    /// record of its active server.
    pub(super) fn response(&self, outcome: Outcome) -> Result<Response> {
        (self.parts.encode)(match outcome {
            Outcome::Instance(instance) => Outcome::Instance(Box::new(self.located(*instance))),
            other => other,
        })
    }
}

/// Returns when the operation has changed, or may have.
pub(super) async fn changed(changes: &mut tokio::sync::broadcast::Receiver<Uuid>, id: Uuid) {
    loop {
        match changes.recv().await {
            Ok(changed) if changed != id => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

fn done_filter(filter: &str) -> Result<Option<bool>> {
    let (field, value) = filter.split_once('=').unwrap_or((filter, ""));
    match (field.trim(), value.trim()) {
        ("", "") if filter.trim().is_empty() => Ok(None),
        ("done", "true") => Ok(Some(true)),
        ("done", "false") => Ok(Some(false)),
        _ => {
            let message = "the filter of operations is `done = true` or `done = false`";
            Err(Error::new(Reason::FilterInvalid, message).with_field("filter"))
        }
    }
}

/// What says that a host is gone, and what to do else than to start it there.
pub(super) fn host_gone(host: Uuid, name: &str, remedy: &str) -> Error {
    let message = format!(
        "no Howdah process has been seen for a minute on the host {name} ({host}): start it \
         there; {remedy}"
    );
    Error::new(Reason::HostUnavailable, message)
        .with_metadata("host", host.to_string())
        .with_metadata("host_name", name)
}

/// What streams and waiting calls end with at shutdown.
#[must_use]
pub fn shutting_down() -> Error {
    Error::new(Reason::ShuttingDown, "the server shuts down")
        .with_retry_after(Duration::from_secs(1))
}

/// Passes notifications of other processes on to those who wait here.
pub(super) async fn listen(app: App) {
    loop {
        tokio::select! {
            () = app.stopping.cancelled() => return,
            error = hear(&app) => tracing::warn!(%error, "not listening for notifications"),
        }
        tokio::select! {
            () = app.stopping.cancelled() => return,
            () = tokio::time::sleep(RECONNECT_PAUSE) => {}
        }
    }
}

async fn hear(app: &App) -> Error {
    let mut changes = match app.parts.store.operation_changes().await {
        Ok(changes) => changes,
        Err(error) => return error,
    };
    // What was told before is found by looking.
    app.agenda.look_now();
    loop {
        match changes.next().await {
            Ok(changed) => {
                app.agenda.look_now();
                if let Some(id) = changed {
                    app.announce(id);
                }
            }
            Err(error) => return error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_of_operations_is_exact() {
        for (filter, done) in [
            ("", None),
            ("  ", None),
            ("done=true", Some(true)),
            (" done =  false ", Some(false)),
        ] {
            assert_eq!(done_filter(filter).unwrap(), done, "{filter:?}");
        }
        for filter in [
            "do ne=tr ue",
            "done",
            "=",
            "done = tr ue",
            "done = true = true",
        ] {
            let refusal = done_filter(filter).unwrap_err();
            assert_eq!(refusal.reason(), Reason::FilterInvalid, "{filter:?}");
        }
    }
}
