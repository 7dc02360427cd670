//! Drops a database and its owner role.

mod elsewhere;
mod usage;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::elsewhere::Elsewhere;
use super::{
    super::admin::{Session, execute},
    context::Context,
    create_database::{connect, owns_database, owns_role},
    plan::{self, End, Plan, Step, commit},
};
use crate::{
    domain::{
        Error, Reason, Result, change_stream,
        database::{Database, State},
        operation::{Failure, GivesWay, Outcome},
        provider::Wait,
    },
    failpoint,
    pg::sql::quote_identifier,
    store::{Tx, lease::Claim},
};

/// Longest run of DROP DATABASE. It waits for all sessions of the server, even for one that is
/// still logging in. A drop that times out is retried later, and occupies no worker until then.
const DROP_LIMIT: &str = "set statement_timeout = '30s'";

/// Parameters of the operation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DeleteDatabaseParameters {
    /// Whether to end the sessions and slots that use the database.
    pub(crate) force: bool,
}

pub(crate) const PLAN: Plan = Plan {
    kind: "database.delete",
    version: 1,
    verb: "delete",
    after_children: false,
    gives_way: GivesWay::Never,
    tries: plan::TRIES,
    steps: &[
        Step {
            name: "database",
            title: "Drop the database",
            act: |context| Box::pin(drop_database(context)),
            undo: None,
            goal: None,
            undo_goal: None,
            failpoints: &["database.delete.database.after_sql"],
        },
        Step {
            name: "role",
            title: "Drop the owner role",
            act: |context| Box::pin(drop_role(context)),
            undo: None,
            goal: None,
            undo_goal: None,
            failpoints: &["database.delete.role.after_sql"],
        },
    ],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    abandon: |tx, claim, why| Box::pin(abandon(tx, claim, why)),
};

/// Sets the state of a database that was not deleted. It is READY if the deletion was refused or
/// never sent DROP DATABASE. Otherwise it is FAILED: the database is gone, or an interrupted
/// drop has left a part of it. A FAILED database can be deleted again.
async fn abandon(tx: &mut Tx, claim: &Claim, why: &Failure) -> Result<()> {
    let whole = claim.position == 0 && (was_refused(why) || !drop_was_sent(tx, claim).await?);
    let state = if whole { State::Ready } else { State::Failed };
    tx.set_database_state(claim.target_uid, state).await
}

/// Records that DROP DATABASE is about to be sent, for [`drop_was_sent`]. Committed before the
/// statement, because a crash may follow at any time.
async fn record_drop_sent(context: &Context) -> Result<()> {
    let claim = &context.claim;
    let mut tx = context.engine.store.begin().await?;
    tx.check_token(claim.id, claim.token).await?;
    let wait = Wait {
        at_most: Duration::ZERO,
        percent: 50,
        waits_for: "the server to drop the database".into(),
        pursued: true,
    };
    tx.show_wait(claim.id, claim.position, &wait).await?;
    tx.commit().await
}

/// Whether any attempt has sent DROP DATABASE. [`record_drop_sent`] sets the stage's percentage.
async fn drop_was_sent(tx: &mut Tx, claim: &Claim) -> Result<bool> {
    let operation = tx.operation(claim.id).await?;
    let stage = operation.stages.first();
    Ok(stage.is_none_or(|stage| stage.progress_percent > 0))
}

/// Whether the last attempt was refused before it dropped anything.
fn was_refused(why: &Failure) -> bool {
    let refusals = [
        Reason::DatabaseInUse,
        Reason::RoleInUse,
        Reason::OwnershipLost,
        Reason::PostgresqlRefused,
        Reason::RightMissing,
    ];
    refusals.iter().any(|reason| reason.as_str() == why.reason)
}

async fn drop_database(context: &Context) -> Result<End> {
    let parameters: DeleteDatabaseParameters = context.parameters()?;
    let database = context.database().await?;
    let role = context.engine.store.owner_role(database.uid).await?;
    let client = connect(context).await?;
    let name = database.postgresql_name.as_str();
    match owns_database(&client, &database, &role).await? {
        None => return Ok(dropped(database)),
        Some(false) => return Err(lost(&format!("database `{name}`"), &database)),
        Some(true) => {}
    }
    if !parameters.force {
        refuse_followed(context, &database).await?;
    }
    let elsewhere = Elsewhere::of(&client, &role.postgresql_name, name).await?;
    // All checks come before the first change. From here on the role must be droppable too.
    usage::refuse(&client, &database, parameters.force).await?;
    elsewhere.refuse(&database, parameters.force)?;
    if parameters.force {
        usage::end(context, &client, &database).await?;
        elsewhere.drop_owned(context).await?;
    }
    record_drop_sent(context).await?;
    drop_in_time(&client, &database, parameters.force).await?;
    failpoint::hit("database.delete.database.after_sql");
    Ok(dropped(database))
}

/// The end of a step after which the database is gone, and with it the slots of its change
/// streams.
fn dropped(database: Database) -> End {
    commit(move |tx| {
        Box::pin(async move {
            let message = "the database was deleted, and the replication slot with it";
            let (instance, name) = (database.instance_uid, database.postgresql_name);
            tx.lose_change_streams_of(instance, name.as_str(), "DATABASE_DELETED", message)
                .await
        })
    })
}

/// Most change streams that a refusal names.
const NAMED: usize = 5;

/// Refuses to drop a database whose changes are followed, and names by which streams.
async fn refuse_followed(context: &Context, database: &Database) -> Result<()> {
    let name = database.postgresql_name.as_str();
    let store = &context.engine.store;
    let mut streams = store.change_streams_of(database.instance_uid, name).await?;
    streams.retain(|stream| stream.state != change_stream::State::Lost);
    if streams.is_empty() {
        return Ok(());
    }
    let named = streams.iter().take(NAMED);
    let named: Vec<String> = named.map(|it| format!("`{}`", it.name.stream)).collect();
    let more = match streams.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "the database is used by change streams: {}{more}",
        named.join(", ")
    );
    Err(Error::new(Reason::DatabaseInUse, message).with_resource(database.name.to_string()))
}

/// Drops a database within [`DROP_LIMIT`]; `force` also ends the sessions that use it.
pub(super) async fn drop_in_time(client: &Session, database: &Database, force: bool) -> Result<()> {
    // Set for the session: DROP DATABASE cannot run in a transaction, so `set local` has no
    // effect.
    execute(client, DROP_LIMIT).await?;
    let force = if force { " with (force)" } else { "" };
    let name = quote_identifier(database.postgresql_name.as_str());
    execute(client, &format!("drop database {name}{force}")).await
}

/// The error for an object that is no longer recognised as Howdah's. The object and the record
/// are kept.
fn lost(what: &str, database: &Database) -> Error {
    let message = format!("the {what} is not recognisable as the one that was made here");
    Error::new(Reason::OwnershipLost, message).with_resource(database.name.to_string())
}

async fn drop_role(context: &Context) -> Result<End> {
    let uid = context.claim.target_uid;
    let role = context.engine.store.owner_role(uid).await?;
    let client = connect(context).await?;
    let name = &role.postgresql_name;
    match owns_role(&client, &role).await? {
        None => {}
        Some(false) => return Err(lost(&format!("role `{name}`"), &context.database().await?)),
        Some(true) => {
            let parameters: DeleteDatabaseParameters = context.parameters()?;
            let database = context.database().await?;
            // The role may have got objects since the first check.
            let elsewhere = Elsewhere::of(&client, name, database.postgresql_name.as_str()).await?;
            elsewhere.refuse(&database, parameters.force)?;
            if parameters.force {
                elsewhere.drop_owned(context).await?;
            }
            execute(&client, &format!("drop role {}", quote_identifier(name))).await?;
            failpoint::hit("database.delete.role.after_sql");
        }
    }
    Ok(commit(move |tx| Box::pin(tx.remove_database(uid))))
}
