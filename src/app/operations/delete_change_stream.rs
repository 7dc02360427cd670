//! Deletes a change stream: ends its subscriber, drops its slot, then its publications. A server
//! that is away is waited for.

use serde::{Deserialize, Serialize};

use super::{
    super::change_streams::{objects, slot},
    change_stream_server::{Reached, reach},
    context::Context,
    plan::{self, End, Plan, Step, commit, nothing},
};
use crate::{
    domain::{
        Error, Reason, Result,
        change_stream::State,
        operation::{GivesWay, Outcome},
    },
    failpoint,
};

/// What the operation is accepted with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DeleteChangeStreamParameters {
    /// Drop an adopted slot too.
    pub(crate) force: bool,
}

pub(crate) const PLAN: Plan = Plan {
    kind: "change_stream.delete",
    version: 1,
    verb: "delete",
    after_children: false,
    gives_way: GivesWay::Never,
    tries: plan::WITHOUT_END,
    steps: &[
        Step {
            name: "slot",
            title: "Drop the replication slot",
            act: |context| Box::pin(drop_slot(context)),
            undo: None,
            goal: None,
            undo_goal: None,
            failpoints: &["change_stream.delete.slot.after_sql"],
        },
        Step {
            name: "publications",
            title: "Drop the publications",
            act: |context| Box::pin(drop_publications(context)),
            undo: None,
            goal: None,
            undo_goal: None,
            failpoints: &["change_stream.delete.publications.after_sql"],
        },
    ],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    // It can be deleted again.
    abandon: |tx, claim, _| Box::pin(tx.set_change_stream_state(claim.target_uid, State::Failed)),
};

async fn drop_slot(context: &Context) -> Result<End> {
    let parameters: DeleteChangeStreamParameters = context.parameters()?;
    let stream = context.change_stream().await?;
    // A subscriber that connects again finds the stream DELETING.
    context.engine.store.end_lease(stream.uid).await?;
    let client = match reach(context, &stream).await? {
        Reached::There(client) => client,
        Reached::Gone => return Ok(nothing()),
        Reached::Away(later) => return Ok(later),
    };
    if !objects::end_makers(&client, stream.uid).await? {
        let message = "a session that works for the change stream does not end";
        return Err(Error::new(Reason::LockTimeout, message));
    }
    let name = stream.slot.as_str();
    match stream.slot_adopted && !parameters.force {
        true => slot::end_reader(&client, name, false).await?,
        false => slot::drop(&client, name, true).await?,
    }
    failpoint::hit("change_stream.delete.slot.after_sql");
    Ok(nothing())
}

async fn drop_publications(context: &Context) -> Result<End> {
    let stream = context.change_stream().await?;
    match reach(context, &stream).await? {
        Reached::There(client) => {
            objects::drop_publications(&client, stream.uid).await?;
            failpoint::hit("change_stream.delete.publications.after_sql");
        }
        Reached::Gone => {}
        Reached::Away(later) => return Ok(later),
    }
    let uid = stream.uid;
    Ok(commit(move |tx| Box::pin(tx.remove_change_stream(uid))))
}
