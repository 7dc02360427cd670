//! Brings servers of an instance to a goal, for a step.

use uuid::Uuid;

use super::{
    context::Context,
    plan::{Commit, End, commit},
};
use crate::{
    domain::{
        Error, Reason, Result, operation,
        provider::{Advance, Goal, Learnt, Next, ServerSpec, Wait, Waited},
    },
    store::Tx,
};

/// Result of one look at the servers.
pub(super) struct Pursued {
    /// What the look has found out about each server.
    learnt: Vec<(Uuid, Learnt)>,
    /// What to wait for; none if all servers have reached the goal.
    wait: Option<Wait>,
}

/// Like [`pursue`], for a goal that a user asked for. The history of recoveries is forgotten:
/// the next recovery of these servers starts without a pause.
pub(super) async fn pursue_anew(
    context: &Context,
    servers: Vec<ServerSpec>,
    goal: Goal,
) -> Result<Pursued> {
    for server in &servers {
        context.engine.supervisor.forget(server.uid);
    }
    pursue(context, servers, goal).await
}

/// Looks at all servers concurrently, so that a slow one delays no other. An error is returned
/// only after all looks have ended, so that no look is aborted in the middle of an effect.
pub(super) async fn pursue(
    context: &Context,
    servers: Vec<ServerSpec>,
    goal: Goal,
) -> Result<Pursued> {
    refuse_unnamed(context, &goal)?;
    let looks = servers.iter().map(|server| look(context, server, goal));
    let looks = futures::future::join_all(looks).await;
    let mut pursued = Pursued {
        learnt: Vec::new(),
        wait: None,
    };
    for (server, advance) in servers.iter().zip(looks) {
        let advance = advance?;
        if advance.learnt != Learnt::default() {
            pursued.learnt.push((server.uid, advance.learnt));
        }
        // The shortest pause wins. After it all servers are looked at again.
        if let Next::Later(wait) = advance.next
            && pursued
                .wait
                .as_ref()
                .is_none_or(|sooner| wait.at_most < sooner.at_most)
        {
            pursued.wait = Some(wait);
        }
    }
    Ok(pursued)
}

async fn look(context: &Context, server: &ServerSpec, goal: Goal) -> Result<Advance> {
    let (here, host) = (
        context.engine.hosts.here(),
        server.placement.map(|place| place.host),
    );
    if host.is_some_and(|host| host != here) {
        // The data directory is not on this machine. Without this check it would look deleted.
        let message = "a server of the instance is on another host";
        return Err(Error::new(Reason::HostElsewhere, message));
    }
    let provider = context.engine.servers.provider_of(&server.provider)?;
    let waited = Waited {
        all: context.claim.waited,
        pursued: context.claim.pursued,
    };
    provider.advance(server, goal, waited).await
}

impl Pursued {
    /// The end of the step. It waits, or has the end `then` if the servers have reached the goal.
    /// What has become known is committed in both cases.
    pub(super) async fn and_then(self, then: impl Future<Output = Result<End>>) -> Result<End> {
        let learnt = self.learnt;
        if let Some(wait) = self.wait {
            let learn: Option<Commit> = match learnt.is_empty() {
                true => None,
                false => Some(Box::new(move |tx| Box::pin(learn(tx, learnt)))),
            };
            return Ok(End::Later(learn, wait));
        }
        Ok(match then.await? {
            End::Done(work) => commit(move |tx| {
                Box::pin(async move {
                    learn(tx, learnt).await?;
                    work(tx).await
                })
            }),
            waits => waits,
        })
    }
}

/// Stores what has become known of servers.
async fn learn(tx: &mut Tx, learnt: Vec<(Uuid, Learnt)>) -> Result<()> {
    for (server, learnt) in learnt {
        tx.learn(server, &learnt).await?;
    }
    Ok(())
}

/// Refuses a goal that the step's plan does not name. The crash tests are generated from the
/// plans, and would not cover it.
fn refuse_unnamed(context: &Context, goal: &Goal) -> Result<()> {
    let named = context.step().and_then(|step| match context.claim.state {
        operation::State::Undoing => step.undo_goal,
        _ => step.goal,
    });
    match named {
        Some(named) if named.is_of(goal) => Ok(()),
        _ => Err(Error::internal(format!(
            "a step of {} pursues {goal:?}, and names {named:?}",
            context.claim.kind
        ))),
    }
}
