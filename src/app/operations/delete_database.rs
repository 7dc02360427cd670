//! Drops a database and the role that was made for it.

mod elsewhere;
mod usage;

use serde::{Deserialize, Serialize};

use self::elsewhere::Elsewhere;
use super::{
    super::admin::execute,
    context::Context,
    create_database::{connect, owns_database, owns_role},
    plan::{self, End, Plan, Step, commit, nothing},
};
use crate::{
    domain::{
        Error, Reason, Result,
        database::{Database, State},
        operation::{Failure, Outcome},
    },
    failpoint,
    pg::sql::quote_identifier,
};

/// Longest run of a drop. It waits for every session of the server, also for one that is
/// only logging in; it is tried again later, and its worker is free meanwhile.
const DROP_LIMIT: &str = "set statement_timeout = '30s'";

/// What the operation is accepted with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct DeleteDatabaseParameters {
    /// End the sessions and slots that use it.
    pub(crate) force: bool,
}

pub(crate) const PLAN: Plan = Plan {
    kind: "database.delete",
    version: 1,
    verb: "delete",
    after_children: false,
    tries: plan::TRIES,
    steps: &[
        Step {
            name: "database",
            title: "Drop the database",
            act: |context| Box::pin(drop_database(context)),
            undo: None,
            failpoints: &["database.delete.database.after_sql"],
        },
        Step {
            name: "role",
            title: "Drop the owner role",
            act: |context| Box::pin(drop_role(context)),
            undo: None,
            failpoints: &["database.delete.role.after_sql"],
        },
    ],
    outcome: |_, _| Box::pin(std::future::ready(Ok(Outcome::Empty))),
    // A refused deletion leaves the database as it was. Past the first step it is gone,
    // and a drop that was broken off may have left a half of it: it can be deleted again.
    abandon: |tx, claim, why| {
        let state = match claim.position {
            0 if was_refused(why) => State::Ready,
            _ => State::Failed,
        };
        Box::pin(tx.set_database_state(claim.target_uid, state))
    },
};

/// Whether the last try was refused before it began to drop anything.
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
    let role = context.app.parts.store.owner_role(database.uid).await?;
    let client = connect(context).await?;
    let name = database.postgresql_name.as_str();
    match owns_database(&client, &database, &role).await? {
        None => return Ok(nothing()),
        Some(false) => return Err(lost(&format!("database `{name}`"), &database)),
        Some(true) => {}
    }
    let elsewhere = Elsewhere::of(&client, &role.postgresql_name, name).await?;
    // Before anything is dropped: past this the role must be able to go.
    usage::refuse(&client, &database, parameters.force).await?;
    elsewhere.refuse(&database, parameters.force)?;
    if parameters.force {
        usage::end(context, &client, &database).await?;
        elsewhere.drop_owned(context).await?;
    }
    execute(&client, DROP_LIMIT).await?;
    let force = if parameters.force {
        " with (force)"
    } else {
        ""
    };
    let drop = format!("drop database {}{force}", quote_identifier(name));
    execute(&client, &drop).await?;
    failpoint::hit("database.delete.database.after_sql");
    Ok(nothing())
}

/// What Howdah made has become somebody else's: it stays, and so does the record.
fn lost(what: &str, database: &Database) -> Error {
    let message = format!("the {what} is not recognisable as the one that was made here");
    Error::new(Reason::OwnershipLost, message).with_resource(database.name.to_string())
}

async fn drop_role(context: &Context) -> Result<End> {
    let uid = context.claim.target_uid;
    let role = context.app.parts.store.owner_role(uid).await?;
    let client = connect(context).await?;
    let name = &role.postgresql_name;
    match owns_role(&client, &role).await? {
        None => {}
        Some(false) => return Err(lost(&format!("role `{name}`"), &context.database().await?)),
        Some(true) => {
            let parameters: DeleteDatabaseParameters = context.parameters()?;
            let database = context.database().await?;
            // What came after the database was looked at.
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
