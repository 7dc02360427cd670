//! Drops a database and the role that was made for it.

use serde::{Deserialize, Serialize};

use super::{
    super::admin::{execute, fetch},
    context::Context,
    create_database::{connect, owns_database, owns_role},
    plan::{Commit, Plan, Step, commit, nothing},
};
use crate::{
    domain::{
        Error, Reason, Result,
        database::{Database, State},
        operation::Outcome,
    },
    failpoint,
    pg::{Client, sql::quote_identifier},
};

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
    // and what is left of it can be deleted again.
    abandon: |tx, claim, _| {
        let state = match claim.position {
            0 => State::Ready,
            _ => State::Failed,
        };
        Box::pin(tx.set_database_state(claim.target_uid, state))
    },
};

async fn drop_database(context: &Context) -> Result<Commit> {
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
    let name = quote_identifier(name);
    if parameters.force {
        end_walsenders(&client, &database).await?;
        execute(&client, &format!("drop database {name} with (force)")).await?;
    } else {
        refuse_used(&client, &database).await?;
        execute(&client, &format!("drop database {name}")).await?;
    }
    failpoint::hit("database.delete.database.after_sql");
    Ok(nothing())
}

/// What Howdah made has become somebody else's: it stays, and so does the record.
fn lost(what: &str, database: &Database) -> Error {
    let message = format!("the {what} is not recognisable as the one that was made here");
    Error::new(Reason::OwnershipLost, message).with_resource(database.name.to_string())
}

/// Active slots stop even a forced drop.
async fn end_walsenders(client: &Client, database: &Database) -> Result<()> {
    let _: Option<i64> = fetch(
        client,
        "select count(pg_terminate_backend(active_pid, 2000)) from pg_replication_slots
         where database = $1 and active_pid is not null",
        &[&database.postgresql_name.as_str()],
    )
    .await?;
    Ok(())
}

async fn refuse_used(client: &Client, database: &Database) -> Result<()> {
    let users: Option<i64> = fetch(
        client,
        "select (select count(*) from pg_stat_activity
                where datname = $1 and backend_type in ('client backend', 'walsender'))
            + (select count(*) from pg_replication_slots where database = $1)",
        &[&database.postgresql_name.as_str()],
    )
    .await?;
    match users {
        None | Some(0) => Ok(()),
        Some(users) => {
            let message = format!("{users} sessions or replication slots use the database");
            Err(Error::new(Reason::DatabaseInUse, message).with_resource(database.name.to_string()))
        }
    }
}

async fn drop_role(context: &Context) -> Result<Commit> {
    let uid = context.claim.target_uid;
    let role = context.app.parts.store.owner_role(uid).await?;
    let client = connect(context).await?;
    let name = &role.postgresql_name;
    match owns_role(&client, &role).await? {
        None => {}
        Some(false) => return Err(lost(&format!("role `{name}`"), &context.database().await?)),
        Some(true) => {
            execute(&client, &format!("drop role {}", quote_identifier(name))).await?;
            failpoint::hit("database.delete.role.after_sql");
        }
    }
    Ok(commit(move |tx| Box::pin(tx.remove_database(uid))))
}
