//! Creates a change stream: its publications, then its replication slot.
//!
//! A slot decodes what commits after it is there, by publications that were there before: a
//! server fails, or loses changes in silence, where a publication is younger than the log that
//! is read. What is made has the stream's unique id in its name.

mod slot;

use super::{
    super::change_streams::{objects, slot::log},
    change_stream_server::{Reached, connect, reach},
    context::Context,
    plan::{self, End, Plan, Step, commit, nothing},
};
use crate::{
    domain::{
        Error, Reason, Result,
        change_stream::{ChangeStream, Position, Publish, Source, own_name},
        operation::{GivesWay, Outcome},
        postgres::TableName,
    },
    failpoint,
    store::{Tx, change_streams::Made},
    streams,
};
use uuid::Uuid;

pub(crate) const PLAN: Plan = Plan {
    kind: "change_stream.create",
    version: 1,
    verb: "create",
    after_children: false,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[
        Step {
            name: "publications",
            title: "Create the publications",
            act: |context| Box::pin(create_publications(context)),
            undo: Some(|context| Box::pin(drop_publications(context))),
            goal: None,
            undo_goal: None,
            failpoints: &["change_stream.create.publications.after_sql"],
        },
        Step {
            name: "slot",
            title: "Create the replication slot",
            act: |context| Box::pin(slot::create(context)),
            undo: Some(|context| Box::pin(slot::drop(context))),
            goal: None,
            undo_goal: None,
            failpoints: &[
                "change_stream.create.slot.connected",
                "change_stream.create.slot.begun",
            ],
        },
        Step {
            name: "check",
            title: "Check them, and record the position",
            act: |context| Box::pin(check(context)),
            undo: Some(|_| Box::pin(async { Ok(nothing()) })),
            goal: None,
            undo_goal: None,
            failpoints: &[],
        },
    ],
    outcome: |tx, uid| Box::pin(outcome(tx, uid)),
    // Everything was taken back: the id is free again.
    abandon: |tx, claim, _| Box::pin(tx.remove_change_stream(claim.target_uid)),
};

async fn create_publications(context: &Context) -> Result<End> {
    let stream = context.change_stream().await?;
    let client = connect(context, &stream).await?;
    let names = match &stream.source {
        Source::Publication(name) => {
            objects::require_publication(&client, name.as_str()).await?;
            vec![name.to_string()]
        }
        Source::Tables(tables) => {
            let tables: Result<Vec<TableName>> = tables.iter().map(|it| it.parse()).collect();
            publish_tables(context, &stream, &tables?).await?;
            failpoint::hit("change_stream.create.publications.after_sql");
            objects::own_publications(&client, stream.uid).await?
        }
    };
    let uid = stream.uid;
    Ok(commit(move |tx| {
        Box::pin(async move { tx.set_publications(uid, &names).await })
    }))
}

async fn publish_tables(
    context: &Context,
    stream: &ChangeStream,
    tables: &[TableName],
) -> Result<()> {
    let instance = context.instance().await?;
    let server = stream.server_uid.and_then(|uid| instance.server(uid));
    let server = server.ok_or_else(|| Error::internal("the server of a change stream"))?;
    let servers = &context.engine.servers;
    let database = stream.database.as_str();
    let access = servers.access_to(&instance, server, database).await?;
    let source = streams::Source {
        uid: stream.uid,
        // It is not watched here: no notes are written.
        secret: stream.uid,
        target: access.target,
        login: access.login,
        slot: own_name(stream.uid),
    };
    let publish = match stream.publish {
        Publish::All => streams::Publish::All,
        Publish::Inserts => streams::Publish::Inserts,
    };
    streams::publish(&source, tables, publish).await
}

async fn drop_publications(context: &Context) -> Result<End> {
    let stream = context.change_stream().await?;
    match reach(context, &stream).await? {
        Reached::There(client) => objects::drop_publications(&client, stream.uid).await?,
        Reached::Gone => {}
        Reached::Away(later) => return Ok(later),
    }
    Ok(nothing())
}

/// The position is recorded in the last commit: from then on it only rises.
async fn check(context: &Context) -> Result<End> {
    let stream = context.change_stream().await?;
    let client = connect(context, &stream).await?;
    objects::require_publications(&client, &stream.publications).await?;
    let slot = slot::require(&client, &stream).await?;
    let confirmed = slot.confirmed().ok_or_else(|| {
        let message = format!("the replication slot `{}` is not usable yet", stream.slot);
        Error::new(Reason::ServerUnavailable, message)
    })?;
    let made = Made {
        log: log(&client, context.instance().await?.epoch).await?,
        position: Position {
            lsn: confirmed.get(),
            events: 0,
        },
    };
    let uid = stream.uid;
    Ok(commit(move |tx| {
        Box::pin(tx.mark_change_stream_ready(uid, made))
    }))
}

async fn outcome(tx: &mut Tx, uid: Uuid) -> Result<Outcome> {
    let found = tx.lock_change_stream_by_uid(uid).await?;
    let found = found.ok_or_else(|| Error::internal(format!("change stream {uid} is gone")))?;
    Ok(Outcome::ChangeStream(Box::new(found)))
}
