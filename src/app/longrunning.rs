//! Use cases of `google.longrunning.Operations`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Origin, Page,
    hosts::{Hosts, host_gone},
    notifier::{Notifier, changed},
    shutting_down,
    tasks::Tasks,
};
use crate::{
    domain::{
        Error, Reason, Result,
        access::Scope,
        audit,
        clock::Clock,
        list::{page_size, page_token, parse_page_token},
        name::{OperationName, ProjectName},
        operation::{Operation, State},
        random::Random,
    },
    store::{Store, Tx},
};

/// How often a waiting call reads the operation, in case a notification was lost.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Arguments of ListOperations.
#[derive(Clone, Debug, Default)]
pub struct ListOperations {
    /// Most operations in a response; 0 for the default.
    pub page_size: i32,
    /// Token of the previous response; empty for the first page.
    pub page_token: String,
    /// Empty, `done = true` or `done = false`.
    pub filter: String,
}

/// Use cases of operations. Cheap to clone.
#[derive(Clone)]
pub struct Operations {
    pub(super) store: Store,
    pub(super) random: Arc<dyn Random>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hosts: Hosts,
    pub(super) notifier: Notifier,
    pub(super) tasks: Tasks,
}

impl Operations {
    /// Gets an operation.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND.
    pub async fn get(&self, name: &OperationName) -> Result<Operation> {
        let operation = self.store.operation(name).await?;
        Ok(self.shown(operation))
    }

    /// The resource that an operation works on, for a permission check; none if there is no such
    /// operation.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn target(&self, name: &OperationName) -> Result<Option<Scope>> {
        match self.store.operation(name).await {
            Ok(operation) => Ok(Scope::parse(&operation.target)),
            Err(error) if error.reason() == Reason::OperationNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Completes an operation: if its host is silent, shows that it waits for that host. This
    /// process's own host is not silent.
    fn shown(&self, mut operation: Operation) -> Operation {
        let own = self.hosts.here();
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
    pub async fn list(
        &self,
        project: &ProjectName,
        list: ListOperations,
    ) -> Result<Page<Operation>> {
        let size = page_size(list.page_size)?;
        let parent = project.to_string();
        let arguments = [parent.as_str(), "operations", list.filter.as_str()];
        let after = parse_page_token(&list.page_token, &arguments)?;
        let done = done_filter(&list.filter)?;
        let store = &self.store;
        let part = store
            .operations(&project.project, done, after.as_ref(), size)
            .await?;
        if part.records.is_empty() {
            store.require_project(&project.project).await?;
        }
        let token = part.next.map(|position| page_token(&position, &arguments));
        Ok(Page {
            items: part
                .records
                .into_iter()
                .map(|item| self.shown(item))
                .collect(),
            next_page_token: token.transpose()?.unwrap_or_default(),
        })
    }

    /// Waits until an operation has ended, at most for `limit`, and returns it.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND; SHUTTING_DOWN.
    pub async fn wait(&self, name: &OperationName, limit: Duration) -> Result<Operation> {
        let end = Instant::now() + limit;
        let mut changes = self.notifier.subscribe();
        let draining = self.tasks.draining();
        loop {
            let operation = self.get(name).await?;
            if operation.is_done() || Instant::now() >= end {
                return Ok(operation);
            }
            let look_again = end.min(Instant::now() + LOOK_AGAIN);
            tokio::select! {
                () = draining.cancelled() => return Err(shutting_down()),
                () = changed(&mut changes, name.operation) => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }

    /// Requests the cancellation of an operation: its finished steps are undone. A stop or a
    /// restart that still waits for its turn is withdrawn.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND, OPERATION_NOT_CANCELLABLE, HOST_UNAVAILABLE.
    pub async fn cancel(&self, origin: Origin, name: &OperationName) -> Result<()> {
        let (operations, name) = (self.clone(), name.clone());
        let cancelled = async move { operations.accept_cancel(&origin, &name).await };
        self.tasks.detached(cancelled).await
    }

    async fn accept_cancel(&self, origin: &Origin, name: &OperationName) -> Result<()> {
        let (store, host) = (&self.store, self.hosts.here());
        let before = self.get(name).await?;
        if before.is_done() {
            return Ok(());
        }
        // Nothing has begun, so the operation's host is not needed.
        let waits = before.cancellable && before.state == Some(State::Pending);
        if waits && self.withdraw(origin, name).await? {
            return Ok(());
        }
        // Checked even if the cancellation was requested before, because the host may be gone
        // since.
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
            self.notifier.look_now();
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

    /// Hides an operation that has ended.
    ///
    /// # Errors
    /// OPERATION_NOT_FOUND, OPERATION_NOT_DONE.
    pub async fn delete(&self, origin: Origin, name: &OperationName) -> Result<()> {
        let (operations, name) = (self.clone(), name.clone());
        let hidden = async move {
            operations.store.operation(&name).await?;
            let mut tx = operations.store.begin().await?;
            if tx.hide_operation(name.operation).await? {
                operations.write_down(&mut tx, &origin, &name).await?;
                return tx.commit().await;
            }
            let message = "the operation is under way; cancel it first";
            Err(Error::new(Reason::OperationNotDone, message).with_resource(name.to_string()))
        };
        self.tasks.detached(hidden).await
    }

    /// Writes the audit record of a change to an operation, in the transaction of the change.
    pub(super) async fn write_down(
        &self,
        tx: &mut Tx,
        origin: &Origin,
        name: &OperationName,
    ) -> Result<()> {
        let resource = name.to_string();
        let record = origin.record(&name.project, &resource, audit::Outcome::Done);
        tx.insert_audit_record(self.random.uuid()?, &record).await
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
