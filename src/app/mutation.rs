//! Accepts mutations: the resource's new state, the operation, the audit record and the record
//! of the request are committed in one transaction.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Origin, hosts::Answers, notifier::Notifier, operations::Plan, tasks::Tasks};
use crate::{
    domain::{
        Error, Result, audit,
        instance::{Instance, Server},
        name::Id,
        operation::{Operation, Outcome, Response, StageState, State},
        random::Random,
    },
    store::{Store, Tx, audit::NewAuditRecord, operations::NewOperation, requests::RequestKey},
    telemetry::spans,
};

/// A mutation: its caller, and what identifies a repetition.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// Caller, method and address.
    pub origin: Origin,
    /// The id that the caller gave to the request; none if it gave none.
    pub request_id: Option<Uuid>,
    /// Hash of the request's contents without the id.
    pub fingerprint: Vec<u8>,
    /// Whether to check everything and change nothing.
    pub validate_only: bool,
}

/// Accepts mutations. Cheap to clone.
#[derive(Clone)]
pub(super) struct Mutations {
    pub(super) store: Store,
    pub(super) random: Arc<dyn Random>,
    pub(super) answers: Answers,
    pub(super) notifier: Notifier,
    pub(super) tasks: Tasks,
}

/// A mutation that is being accepted.
pub(super) struct Accepting {
    mutations: Mutations,
    mutation: Mutation,
    id: Uuid,
    /// The transaction of the acceptance.
    pub(super) tx: Tx,
}

/// Result of looking the request up.
enum Accept {
    /// The request was accepted before, with this operation.
    Replay(Box<Operation>),
    /// The request is new.
    Fresh(Box<Accepting>),
}

/// The resource that an operation works on.
pub(super) struct ResourceRef {
    /// Project of the resource.
    pub(super) project: Id,
    /// Resource name.
    pub(super) name: String,
    /// Unique id.
    pub(super) uid: Uuid,
    /// Unique id of its instance, if it is a child of one.
    pub(super) parent: Option<Uuid>,
    /// The host that must execute the operation; none for any host.
    pub(super) host: Option<Uuid>,
}

impl Mutations {
    /// Accepts a mutation with `work`, or returns the operation of its first call. Continues to
    /// its end if the caller goes away.
    pub(super) async fn accept<F>(
        &self,
        mutation: Mutation,
        work: impl FnOnce(Accepting) -> F + Send + 'static,
    ) -> Result<Operation>
    where
        F: Future<Output = Result<Operation>> + Send,
    {
        let mutations = self.clone();
        let accepted = async move {
            match mutations.claim(mutation).await? {
                Accept::Replay(operation) => Ok(*operation),
                Accept::Fresh(accepting) => Box::pin(work(*accepting)).await,
            }
        };
        self.tasks.detached(accepted).await
    }

    /// The operation that this request has created before; none if it is new.
    pub(super) async fn replayed(&self, mutation: &Mutation) -> Result<Option<Operation>> {
        let Some(key) = mutation.key() else {
            return Ok(None);
        };
        let store = &self.store;
        let Some(former) = store.former_operation(&key).await? else {
            return Ok(None);
        };
        store.begin().await?.operation(former).await.map(Some)
    }

    /// Begins a mutation that Howdah makes by itself.
    pub(super) async fn own(&self, method: &'static str) -> Result<Accepting> {
        let mutation = Mutation {
            origin: Origin::own(method),
            request_id: None,
            fingerprint: Vec::new(),
            validate_only: false,
        };
        self.begin(mutation).await
    }

    async fn claim(&self, mutation: Mutation) -> Result<Accept> {
        let mut accepting = self.begin(mutation).await?;
        if let Some(key) = accepting.mutation.key()
            && let Some(former) = accepting.tx.claim_request(&key, accepting.id).await?
        {
            let operation = accepting.tx.operation(former).await?;
            return Ok(Accept::Replay(Box::new(operation)));
        }
        Ok(Accept::Fresh(Box::new(accepting)))
    }

    async fn begin(&self, mutation: Mutation) -> Result<Accepting> {
        Ok(Accepting {
            mutations: self.clone(),
            mutation,
            id: self.random.uuid()?,
            tx: self.store.begin().await?,
        })
    }
}

impl Mutation {
    /// What identifies a repetition; none if the caller gave no id, or only wants a check.
    fn key(&self) -> Option<RequestKey> {
        let request_id = self.request_id.filter(|_| !self.validate_only)?;
        Some(RequestKey {
            principal: self.origin.principal.to_string(),
            method: self.origin.method.to_string(),
            request_id,
            fingerprint: self.fingerprint.clone(),
        })
    }
}

impl ResourceRef {
    /// An instance. Its operations run on the host of its servers.
    pub(super) fn of(instance: &Instance) -> Self {
        Self {
            project: instance.name.project.clone(),
            name: instance.name.to_string(),
            uid: instance.uid,
            parent: None,
            host: instance.host(),
        }
    }

    /// A server of an instance. Its operations run on its host.
    pub(super) fn of_server(instance: &Instance, server: &Server) -> Self {
        Self {
            project: instance.name.project.clone(),
            name: instance.server_name(server),
            uid: server.uid,
            parent: Some(instance.uid),
            host: server.host(),
        }
    }
}

impl Accepting {
    /// Commits, with an operation that executes `plan`.
    pub(super) async fn enqueue(
        mut self,
        plan: &'static Plan,
        target: ResourceRef,
        parameters: Value,
    ) -> Result<Operation> {
        let uid = target.uid;
        let new = self.operation(plan, target, parameters);
        self.tx.insert_operation(&new).await?;
        let operation = self.tx.operation(self.id).await?;
        if self.mutation.validate_only {
            let outcome = (plan.outcome)(&mut self.tx, uid).await?;
            self.tx.rollback().await?;
            return Ok(as_if_done(
                operation,
                self.mutations.answers.response(outcome)?,
            ));
        }
        self.write_down(&operation, audit::Outcome::Accepted)
            .await?;
        self.tx.commit().await?;
        self.mutations.notifier.look_now();
        Ok(operation)
    }

    /// Commits, with an operation that has ended already, because there is nothing to do.
    pub(super) async fn done(
        mut self,
        plan: &'static Plan,
        target: ResourceRef,
        outcome: Outcome,
    ) -> Result<Operation> {
        let new = self.operation(plan, target, Value::Null);
        let response = self.mutations.answers.response(outcome)?;
        self.tx.insert_done_operation(&new, &response).await?;
        let operation = self.tx.operation(self.id).await?;
        if self.mutation.validate_only {
            self.tx.rollback().await?;
            return Ok(as_if_done(operation, response));
        }
        self.write_down(&operation, audit::Outcome::Done).await?;
        self.tx.commit().await?;
        Ok(operation)
    }

    /// Writes the audit record of the mutation, in the same transaction.
    async fn write_down(&mut self, operation: &Operation, outcome: audit::Outcome) -> Result<()> {
        let (origin, name) = (&self.mutation.origin, &operation.name);
        let record = NewAuditRecord {
            request_id: self.mutation.request_id,
            operation: Some(name.to_string()),
            ..origin.record(&name.project, &operation.target, outcome)
        };
        let uid = self.mutations.random.uuid()?;
        self.tx.insert_audit_record(uid, &record).await
    }

    fn operation(
        &self,
        plan: &'static Plan,
        target: ResourceRef,
        parameters: Value,
    ) -> NewOperation {
        NewOperation {
            id: self.id,
            project: target.project,
            kind: plan.kind,
            plan_version: plan.version,
            verb: plan.verb,
            target: target.name,
            target_uid: target.uid,
            parent_uid: target.parent,
            principal: self.mutation.origin.principal.to_string(),
            parameters,
            required_host: target.host,
            cancellable: plan.cancellable(),
            after_children: plan.after_children,
            gives_way: plan.gives_way,
            traceparent: spans::traceparent(),
            stages: plan
                .steps
                .iter()
                .map(|step| (step.name, step.title))
                .collect(),
        }
    }
}

/// Converts the parameters of an operation to JSON, for the metadata.
pub(super) fn parameters(of: impl Serialize) -> Result<Value> {
    serde_json::to_value(of).map_err(|error| Error::internal("parameters").with_source(error))
}

/// The response to `validate_only`: an operation that has ended, with a nil id that nobody can
/// ask for.
fn as_if_done(mut operation: Operation, response: Response) -> Operation {
    operation.name.operation = Uuid::nil();
    operation.state = Some(State::Succeeded);
    operation.cancellable = false;
    operation.response = Some(response);
    for stage in &mut operation.stages {
        stage.state = Some(StageState::Pending);
    }
    operation
}
