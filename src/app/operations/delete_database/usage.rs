//! Finds what uses a database that is to be dropped.

use super::super::{
    super::admin::{Session, execute, fetch},
    context::Context,
};
use crate::{
    domain::{Error, Reason, Result, database::Database},
    pg::sql::quote_literal,
};

/// Possible users of a database: their name in messages, the query that counts them, and whether
/// `force` ends them.
const USERS: [(&str, &str, bool); 4] = [
    (
        "sessions",
        "select count(*) from pg_stat_activity where datname = $1
            and backend_type in ('client backend', 'walsender')
            and (usename, application_name) is distinct from ('howdah_admin', 'howdah-look')",
        true,
    ),
    (
        "prepared transactions",
        "select count(*) from pg_prepared_xacts where database = $1",
        true,
    ),
    (
        "replication slots",
        "select count(*) from pg_replication_slots where database = $1",
        true,
    ),
    (
        "subscriptions of logical replication",
        "select count(*) from pg_subscription s join pg_database d on d.oid = s.subdbid
            where d.datname = $1",
        false,
    ),
];

/// Refuses to drop a database that is used; the message names the users.
pub(super) async fn refuse(client: &Session, database: &Database, force: bool) -> Result<()> {
    let mut users = Vec::new();
    for (what, count, ended_by_force) in USERS {
        if force && ended_by_force {
            continue;
        }
        let name = database.postgresql_name.as_str();
        let number: Option<i64> = fetch(client, count, &[&name]).await?;
        let number = number.unwrap_or_default();
        if number > 0 {
            users.push(format!("{number} {what}"));
        }
    }
    if users.is_empty() {
        return Ok(());
    }
    let message = format!("the database is used by {}", users.join(", "));
    Err(Error::new(Reason::DatabaseInUse, message).with_resource(database.name.to_string()))
}

/// Ends what blocks even DROP DATABASE WITH (FORCE): active slots and prepared transactions.
pub(super) async fn end(context: &Context, client: &Session, database: &Database) -> Result<()> {
    let name = database.postgresql_name.as_str();
    let ended = "select count(pg_terminate_backend(active_pid, 2000)) from pg_replication_slots
         where database = $1 and active_pid is not null";
    let _: Option<i64> = fetch(client, ended, &[&name]).await?;
    let prepared = "select array_agg(gid) from pg_prepared_xacts where database = $1";
    let prepared: Option<Option<Vec<String>>> = fetch(client, prepared, &[&name]).await?;
    let Some(prepared) = prepared.flatten() else {
        return Ok(());
    };
    // A prepared transaction can only be ended in its own database.
    let instance = context.instance().await?;
    let inside = context
        .engine
        .servers
        .impatient_connection(&instance, name)
        .await?;
    for id in prepared {
        execute(
            &inside,
            &format!("rollback prepared {}", quote_literal(&id)),
        )
        .await?;
    }
    Ok(())
}
