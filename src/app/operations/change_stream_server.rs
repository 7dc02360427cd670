//! The way of an operation to the server that the slot of a change stream is on.

use std::time::Duration;

use super::{
    super::admin::{Session, sqlstate},
    context::Context,
    plan::End,
};
use crate::domain::{
    Error, Reason, Result,
    change_stream::ChangeStream,
    instance::{Instance, Server},
    provider::Wait,
};

/// Pause before a server that is away is looked at again. The operation is woken when the
/// server comes back.
const PAUSE: Duration = Duration::from_secs(30);

/// What was found on the way.
pub(super) enum Reached {
    /// A session in the stream's database that has the stream to itself.
    There(Box<Session>),
    /// The server or the database is gone, and the slot and the publications with it.
    Gone,
    /// The server is stopped or does not answer.
    Away(End),
}

/// A session in the stream's database, to make something there.
///
/// # Errors
/// DATABASE_NOT_FOUND, SERVER_UNAVAILABLE.
pub(super) async fn connect(context: &Context, stream: &ChangeStream) -> Result<Session> {
    let instance = context.instance().await?;
    let server = stream.server_uid.and_then(|uid| instance.server(uid));
    let Some(server) = server else {
        let message = "the server of the change stream is gone";
        return Err(Error::new(Reason::ServerUnavailable, message));
    };
    let session = session(context, stream, &instance, server).await;
    session.map_err(|error| match sqlstate(&error) {
        Some(DATABASE_MISSING) => {
            let message = format!("the database `{}` does not exist", stream.database);
            Error::new(Reason::DatabaseNotFound, message).with_field("change_stream.database")
        }
        _ => error,
    })
}

/// A session in the stream's database, to take away what was made there.
pub(super) async fn reach(context: &Context, stream: &ChangeStream) -> Result<Reached> {
    let instance = context.instance().await?;
    let server = stream.server_uid.and_then(|uid| instance.server(uid));
    let Some(server) = server else {
        return Ok(Reached::Gone);
    };
    if !instance.is_to_run(server) {
        let state = instance.state.as_str();
        return Ok(away(format!(
            "the instance to be started, which is {state}"
        )));
    }
    match session(context, stream, &instance, server).await {
        Ok(session) => Ok(Reached::There(Box::new(session))),
        Err(error) if sqlstate(&error) == Some(DATABASE_MISSING) => Ok(Reached::Gone),
        Err(error) if error.reason() == Reason::ServerUnavailable => {
            Ok(away("the instance's server to take connections".to_owned()))
        }
        Err(error) => Err(error),
    }
}

/// SQLSTATE of a connection to a database that does not exist.
const DATABASE_MISSING: &str = "3D000";

async fn session(
    context: &Context,
    stream: &ChangeStream,
    instance: &Instance,
    server: &Server,
) -> Result<Session> {
    let servers = &context.engine.servers;
    let database = stream.database.as_str();
    servers
        .exclusive_connection_to(instance, server, database, &context.claim)
        .await
}

fn away(waits_for: String) -> Reached {
    let wait = Wait {
        at_most: PAUSE,
        percent: 0,
        waits_for: waits_for.into(),
        pursued: true,
    };
    Reached::Away(End::Later(None, wait))
}
