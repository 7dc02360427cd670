//! Makes the slot of a change stream, or adopts one.
//!
//! PostgreSQL makes a slot when all transactions that were open have ended, which may take for
//! ever. No worker waits for that: the statement is sent on a connection of its own, and each
//! look finds the slot made, being made, or missing. A backend that makes a slot does not
//! notice that its client has gone, so that it comes to its end after a crash of Howdah too.

use std::time::Duration;

use super::super::{
    super::{
        admin::Session,
        change_streams::{
            objects,
            slot::{self, Slot, classify_making},
        },
    },
    change_stream_server::{Reached, connect, reach},
    context::Context,
    plan::{End, nothing},
};
use crate::{
    app::admin::{execute, fetch},
    domain::{
        Error, Reason, Result,
        change_stream::{ChangeStream, own_name},
        provider::Wait,
    },
    failpoint, pg,
    pg::sql::quote_literal,
};

/// How long a look waits for a slot that it has begun: most are there at once, and a refusal of
/// the server is.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Most transactions that are named while they are waited for.
const NAMED: usize = 5;

pub(super) async fn create(context: &Context) -> Result<End> {
    let stream = context.change_stream().await?;
    let client = connect(context, &stream).await?;
    if stream.slot_adopted {
        require(&client, &stream)
            .await?
            .require_adoptable(&stream)?;
        return Ok(nothing());
    }
    let found = slot::find(&client, stream.slot.as_str()).await?;
    let is_made = |it: &Slot| it.confirmed().is_some() && it.active_pid().is_none();
    if found.as_ref().is_some_and(is_made) {
        return Ok(nothing());
    }
    let made = match found.is_some() || objects::is_being_made(&client, stream.uid).await? {
        true => false,
        false => begin(context, &stream, &client).await?,
    };
    match made {
        true => Ok(nothing()),
        false => later(&client).await,
    }
}

/// The slot of the stream.
///
/// # Errors
/// SLOT_NOT_FOUND for one that was to be adopted, SLOT_LOST for one that was made.
pub(super) async fn require(client: &Session, stream: &ChangeStream) -> Result<Slot> {
    if let Some(found) = slot::find(client, stream.slot.as_str()).await? {
        return Ok(found);
    }
    let name = &stream.slot;
    Err(match stream.slot_adopted {
        true => {
            let message = format!("the replication slot `{name}` does not exist");
            Error::new(Reason::SlotNotFound, message).with_field("change_stream.slot")
        }
        false => {
            let message = format!("the replication slot `{name}` was dropped meanwhile");
            Error::new(Reason::SlotLost, message)
        }
    })
}

/// Has the server begin, and answers whether the slot is made already.
///
/// Its connection is there before the lock of this claim is seen to be held. So a later claim,
/// which ends the lock's session first, finds the connection and can end it.
async fn begin(context: &Context, stream: &ChangeStream, client: &Session) -> Result<bool> {
    let engine = &context.engine;
    let instance = context.instance().await?;
    let server = stream.server_uid.and_then(|uid| instance.server(uid));
    let server = server.ok_or_else(|| Error::internal("the server of a change stream"))?;
    let database = stream.database.as_str();
    let access = engine
        .servers
        .access_to(&instance, server, database)
        .await?;
    let maker = access.patient(&own_name(stream.uid)).await?;
    failpoint::hit("change_stream.create.slot.connected");
    execute(client, "select 1").await?;
    let make = format!(
        "select pg_create_logical_replication_slot({}, 'pgoutput')",
        quote_literal(stream.slot.as_str())
    );
    let tasks = engine.tasks.clone();
    let making = engine.tasks.spawn(async move {
        tokio::select! {
            // The backend goes on by itself, and a later look finds what it has made.
            () = tasks.stopping() => Ok(false),
            made = maker.batch_execute(&make) => made.map(|()| true).map_err(pg::Error::from),
        }
    });
    failpoint::hit("change_stream.create.slot.begun");
    match tokio::time::timeout(FIRST_LOOK, making).await {
        // It goes on.
        Err(_) => Ok(false),
        Ok(Err(error)) => Err(Error::internal("making a slot").with_source(error)),
        Ok(Ok(made)) => made.map_err(classify_making),
    }
}

async fn later(client: &Session) -> Result<End> {
    let wait = Wait {
        at_most: PAUSE,
        percent: 0,
        waits_for: waiting_for(client).await?.into(),
        pursued: true,
    };
    Ok(End::Later(None, wait))
}

/// The open transactions of the server, which may all be waited for, the oldest first.
async fn waiting_for(client: &Session) -> Result<String> {
    let open = "select coalesce(array_agg(word order by since), '{}') from (
            select format('%s in `%s`', backend_xid, coalesce(datname, '')) as word,
                xact_start as since
            from pg_stat_activity where backend_xid is not null
            union all
            select format('%s, prepared as `%s`, in `%s`', transaction, gid, database), prepared
            from pg_prepared_xacts order by since limit 100) as open";
    let open: Vec<String> = fetch(client, open, &[]).await?.unwrap_or_default();
    if open.is_empty() {
        return Ok("the server to make the replication slot".to_owned());
    }
    let more = match open.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<&str> = open.iter().take(NAMED).map(String::as_str).collect();
    let named = named.join("; ").escape_debug().to_string();
    Ok(format!("the end of open transactions: {named}{more}"))
}

/// Takes back what was made: whoever makes it is ended first.
pub(super) async fn drop(context: &Context) -> Result<End> {
    let stream = context.change_stream().await?;
    let client = match reach(context, &stream).await? {
        Reached::There(client) => client,
        Reached::Gone => return Ok(nothing()),
        Reached::Away(later) => return Ok(later),
    };
    if !objects::end_makers(&client, stream.uid).await? {
        let message = "the session that makes the slot does not end";
        return Err(Error::new(Reason::LockTimeout, message));
    }
    if !stream.slot_adopted {
        slot::drop(&client, stream.slot.as_str(), true).await?;
    }
    Ok(nothing())
}
