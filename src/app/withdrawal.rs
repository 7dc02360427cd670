//! Withdraws operations that wait for their turn and have not begun: a stop or a restart that
//! waits for operations on the instance's databases.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Operations, Origin};
use crate::{
    domain::{
        Error, Reason, Result,
        instance::{Condition, Instance, ServerGoal, State, Status},
        name::OperationName,
        operation::{self, Failure},
    },
    store::{Tx, queued::Queued},
};

/// Parameters of an operation that can be withdrawn.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Withdrawable {
    /// The values that the acceptance has changed. SQL in the store refers to this field by
    /// name.
    former: Former,
}

#[derive(Debug, Serialize, Deserialize)]
struct Former {
    state: String,
    wanted: String,
    available: Option<Condition>,
}

impl Withdrawable {
    /// The present values of an instance, before an operation on it is accepted.
    pub(super) fn of(instance: &Instance) -> Result<Self> {
        let mut conditions = instance.conditions.iter();
        let former = Former {
            state: instance.state.as_str().to_owned(),
            wanted: instance.active()?.wanted.as_str().to_owned(),
            available: conditions.find(|known| known.is_available()).cloned(),
        };
        Ok(Self { former })
    }
}

impl Operations {
    /// Withdraws an operation that waits for its turn. Returns `false` if it does not wait.
    pub(super) async fn withdraw(&self, origin: &Origin, name: &OperationName) -> Result<bool> {
        let id = name.operation;
        let mut tx = self.store.begin().await?;
        let Some(queued) = tx.lock_queued(id).await? else {
            return Ok(false);
        };
        take_back(&mut tx, queued, "cancelled by request", self.clock.now()).await?;
        self.write_down(&mut tx, origin, name).await?;
        tx.commit().await?;
        self.notifier.announce(id);
        self.notifier.look_now();
        Ok(true)
    }
}

/// Ends an operation that waits for its turn, and restores the former values of the instance.
pub(super) async fn take_back(
    tx: &mut Tx,
    queued: Queued,
    why: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let parameters = serde_json::from_value(queued.parameters);
    let Withdrawable { former } = parameters
        .map_err(|error| Error::internal("parameters of an operation").with_source(error))?;
    let uid = queued.target_uid;
    if tx.lock_instance_by_uid(uid).await?.is_some() {
        let (state, available) = match (State::parse(&former.state)?, former.available) {
            (state @ (State::Ready | State::Stopped | State::Failed), Some(available)) => {
                (state, available)
            }
            // Accepting this operation has ended a start that was under way. The supervisor will
            // find out the state of the server.
            _ => (State::Failed, unseen(now)),
        };
        tx.set_instance_state(uid, state).await?;
        tx.set_instance_condition(uid, &available).await?;
        tx.want(uid, ServerGoal::parse(&former.wanted)?).await?;
    }
    let why = Failure {
        reason: Reason::OperationCancelled.as_str().to_owned(),
        message: why.to_owned(),
    };
    tx.fail_operation(queued.id, operation::State::Cancelled, &why)
        .await
}

fn unseen(now: DateTime<Utc>) -> Condition {
    let message = "its start has ended for another operation, which was withdrawn; the server \
         is looked at again";
    Condition::available(Status::False, "OPERATION_WITHDRAWN", message, now)
}
