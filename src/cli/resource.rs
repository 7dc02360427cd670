//! What commands of instances and of databases have in common.

use std::{future::Future, time::Duration};

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    mutation::Mutation,
    names::Names,
    output::Sheet,
    session::Session,
    watch::{self, Named, until},
};
use crate::{
    client::{self, Client},
    domain::Reason,
};

/// State of a resource that is deleted or does not exist.
pub(super) const DELETED: &str = "DELETED";

/// A resource that can be shown and waited for by its name.
pub(super) trait Resource: Named {
    /// Its word in messages.
    const WORD: &'static str;

    /// Reason of the error for one that does not exist.
    const NOT_FOUND: Reason;

    /// Reads the resource of that name.
    fn get(client: &Client, name: String) -> impl Future<Output = client::Result<Self>>;

    /// One resource as a table for people.
    fn sheet(&self, names: &Names) -> Sheet;

    /// Several resources as a table for people.
    fn rows(items: &[Self], names: &Names, output: Output) -> Sheet;
}

/// Reads a resource; none if it does not exist.
pub(super) async fn find<R: Resource>(session: &Session, name: &str) -> Result<Option<R>, Failure> {
    match R::get(&session.client, name.to_owned()).await {
        Err(error) if error.has_reason(R::NOT_FOUND.as_str()) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// Prints a resource, and with `watched` prints it again whenever it has changed.
pub(super) async fn get<R: Resource>(
    session: &Session,
    name: String,
    watched: bool,
) -> Result<(), Failure> {
    // A resource that does not exist is an error, even for `--watch`.
    let found = R::get(&session.client, name.clone()).await?;
    if !watched {
        return print(session, &found);
    }
    let look = async || Ok(find(session, &name).await?.into_iter().collect());
    let rows = |items: &[R]| R::rows(items, &session.names, session.output);
    watch::watch(session, look, rows).await
}

/// Waits until a resource is in a state, and prints it.
pub(super) async fn wait<R: Resource>(
    session: &Session,
    name: &str,
    wanted: &str,
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    match until(session, wanted, timeout, || find::<R>(session, name)).await? {
        Some(found) => print(session, &found),
        None if wanted == DELETED => Ok(()),
        None => {
            let message = format!("there is no {} {name}", R::WORD);
            Err(Failure::new(Exit::NotFound, message))
        }
    }
}

/// Prints a resource that existed before its creation. With `--wait`, waits until it is READY
/// first.
pub(super) async fn print_present<R: Resource>(
    session: &Session,
    name: &str,
    mutation: &Mutation,
) -> Result<(), Failure> {
    session.hint("it exists already");
    let look = || find::<R>(session, name);
    let found = match mutation.wait {
        true => until(session, "READY", mutation.timeout, look).await?,
        false => look().await?,
    };
    let gone = || Failure::new(Exit::NotFound, format!("{name} was deleted meanwhile"));
    print(session, &found.ok_or_else(gone)?)
}

fn print<R: Resource>(session: &Session, found: &R) -> Result<(), Failure> {
    session.print(R::TYPE, found, R::sheet)
}
