//! How a mutation is accepted: the resource's new state, the operation and the
//! record of the request commit in one transaction.

use serde_json::Value;
use uuid::Uuid;

use super::{App, operations::Plan};
use crate::{
    domain::{
        Result,
        name::Id,
        operation::{Operation, Outcome, StageState, State},
        principal::Principal,
    },
    store::{Tx, operations::NewOperation, requests::RequestKey},
};

/// Who asks for a mutation, and how it is known again.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// Who asks.
    pub principal: Principal,
    /// Full method name, `howdah.v1.InstanceService/CreateInstance`.
    pub method: &'static str,
    /// The caller's id of the request, if it gave one.
    pub request_id: Option<Uuid>,
    /// Hash of the request's content without its id.
    pub fingerprint: Vec<u8>,
    /// Check everything and change nothing.
    pub validate_only: bool,
}

/// A mutation that is being accepted.
pub(super) struct Accepting {
    app: App,
    mutation: Mutation,
    id: Uuid,
    /// The transaction that everything about it commits in.
    pub(super) tx: Tx,
}

/// Where a mutation stands when its transaction has begun.
pub(super) enum Accept {
    /// It was accepted before; this is its operation.
    Replay(Box<Operation>),
    /// It is new.
    Fresh(Box<Accepting>),
}

/// What a mutation works on.
pub(super) struct Target {
    /// Project of the resource.
    pub(super) project: Id,
    /// Its name.
    pub(super) name: String,
    /// Its identity.
    pub(super) uid: Uuid,
    /// Its instance, when it is a child of one.
    pub(super) parent: Option<Uuid>,
    /// The host that must do the work.
    pub(super) host: Option<Uuid>,
}

impl App {
    pub(super) async fn accept(&self, mutation: Mutation) -> Result<Accept> {
        let mut tx = self.parts.store.begin().await?;
        let id = self.parts.random.uuid()?;
        if let Some(request_id) = mutation.request_id.filter(|_| !mutation.validate_only) {
            let key = RequestKey {
                principal: mutation.principal.to_string(),
                method: mutation.method.to_owned(),
                request_id,
                fingerprint: mutation.fingerprint.clone(),
            };
            if let Some(former) = tx.claim_request(&key, id).await? {
                let operation = self.operation_located(tx.operation(former).await?);
                return Ok(Accept::Replay(Box::new(operation)));
            }
        }
        Ok(Accept::Fresh(Box::new(Accepting {
            app: self.clone(),
            mutation,
            id,
            tx,
        })))
    }
}

impl Accepting {
    /// Commits, with an operation that carries out `plan`.
    pub(super) async fn enqueue(
        mut self,
        plan: &'static Plan,
        target: Target,
        parameters: Value,
    ) -> Result<Operation> {
        let uid = target.uid;
        let new = self.operation(plan, target, parameters);
        self.tx.insert_operation(&new).await?;
        let operation = self.tx.operation(self.id).await?;
        if self.mutation.validate_only {
            let outcome = (plan.outcome)(&mut self.tx, uid).await?;
            self.tx.rollback().await?;
            return Ok(self.app.operation_located(as_if_done(operation, outcome)));
        }
        self.tx.commit().await?;
        self.app.wake.notify_one();
        Ok(operation)
    }

    /// Commits, with an operation that is done: nothing is left to do.
    pub(super) async fn done(
        mut self,
        plan: &'static Plan,
        target: Target,
        outcome: Outcome,
    ) -> Result<Operation> {
        let new = self.operation(plan, target, Value::Null);
        self.tx.insert_done_operation(&new, &outcome).await?;
        let operation = self.tx.operation(self.id).await?;
        if self.mutation.validate_only {
            self.tx.rollback().await?;
            return Ok(self.app.operation_located(as_if_done(operation, outcome)));
        }
        self.tx.commit().await?;
        Ok(self.app.operation_located(operation))
    }

    fn operation(&self, plan: &'static Plan, target: Target, parameters: Value) -> NewOperation {
        NewOperation {
            id: self.id,
            project: target.project,
            kind: plan.kind,
            plan_version: plan.version,
            verb: plan.verb,
            target: target.name,
            target_uid: target.uid,
            parent_uid: target.parent,
            principal: self.mutation.principal.to_string(),
            parameters,
            required_host: target.host,
            cancellable: plan.cancellable(),
            stages: plan
                .steps
                .iter()
                .map(|step| (step.name, step.title))
                .collect(),
        }
    }
}

/// The picture of an operation that was only checked: done, and without an id that
/// could be asked for.
fn as_if_done(mut operation: Operation, outcome: Outcome) -> Operation {
    operation.name.operation = Uuid::nil();
    operation.state = State::Succeeded;
    operation.cancellable = false;
    operation.outcome = Some(outcome);
    for stage in &mut operation.stages {
        stage.state = StageState::Pending;
    }
    operation
}
