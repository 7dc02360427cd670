//! The publications of a change stream, and the sessions that work for it.

use uuid::Uuid;

use super::super::admin::{Session, execute, fetch};
use crate::{
    domain::{Error, Reason, Result, change_stream::own_name},
    pg::sql::quote_identifier,
};

/// What is dropped in one statement.
const AT_ONCE: usize = 100;

/// Names of the publications that Howdah has made for a stream, in the session's database.
pub(in crate::app) async fn own_publications(
    client: &Session,
    stream: Uuid,
) -> Result<Vec<String>> {
    let pattern = format!("^{}_[0-9]", own_name(stream));
    let names = "select coalesce(array_agg(pubname::text order by oid), '{}')
        from pg_publication where pubname ~ $1";
    let names: Option<Vec<String>> = fetch(client, names, &[&pattern]).await?;
    Ok(names.unwrap_or_default())
}

/// Drops them.
pub(in crate::app) async fn drop_publications(client: &Session, stream: Uuid) -> Result<()> {
    let names = own_publications(client, stream).await?;
    for names in names.chunks(AT_ONCE) {
        let quoted: Vec<String> = names.iter().map(|name| quote_identifier(name)).collect();
        let drop = format!("drop publication if exists {}", quoted.join(", "));
        execute(client, &drop).await?;
    }
    Ok(())
}

/// Refuses a publication of a user that is not there.
///
/// # Errors
/// PUBLICATION_NOT_FOUND.
pub(in crate::app) async fn require_publication(client: &Session, name: &str) -> Result<()> {
    let there = "select 1 from pg_publication where pubname = $1";
    if fetch::<i32>(client, there, &[&name]).await?.is_some() {
        return Ok(());
    }
    let message = format!("the publication `{name}` does not exist");
    Err(Error::new(Reason::PublicationNotFound, message).with_field("change_stream.publication"))
}

/// Refuses when one of them was dropped: from the slot's position on, changes would be missing.
///
/// # Errors
/// PUBLICATION_LOST.
pub(in crate::app) async fn require_publications(client: &Session, names: &[String]) -> Result<()> {
    let missing = "select string_agg(format('`%s`', name), ', ') from unnest($1::text[]) as name
        where not exists (select from pg_publication where pubname = name)";
    let missing: Option<Option<String>> = fetch(client, missing, &[&names]).await?;
    let Some(missing) = missing.flatten() else {
        return Ok(());
    };
    let message = format!("a publication was dropped while the stream was being made: {missing}");
    Err(Error::new(Reason::PublicationLost, message))
}

/// Terminates Howdah's own sessions that make something for a stream, and answers whether all
/// of them are gone. Each is waited for up to 5 s.
pub(in crate::app) async fn end_makers(client: &Session, stream: Uuid) -> Result<bool> {
    let end = "select coalesce(bool_and(pg_terminate_backend(pid, 5000)), true)
        from pg_stat_activity where usename = current_user and application_name = $1
        and pid <> pg_backend_pid()";
    let ended: Option<bool> = fetch(client, end, &[&own_name(stream)]).await?;
    Ok(ended.unwrap_or(true))
}

/// Whether a session makes something for a stream.
pub(in crate::app) async fn is_being_made(client: &Session, stream: Uuid) -> Result<bool> {
    let makers = "select count(*) > 0 from pg_stat_activity
        where usename = current_user and application_name = $1";
    let makers: Option<bool> = fetch(client, makers, &[&own_name(stream)]).await?;
    Ok(makers.unwrap_or_default())
}
