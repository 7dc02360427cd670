//! An SQL session on the server of a stream, beside the replication connection.

use std::time::Duration;

use tokio_postgres::{Row, types::ToSql};

use super::Source;
use crate::pg::{self, Client, Login, Target};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Longest run of one statement.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// An SQL connection that is replaced when it is lost.
#[derive(Debug)]
pub(super) struct Session {
    target: Target,
    login: Login,
    name: String,
    client: Option<Client>,
}

impl Session {
    /// Connects with the slot's name as `application_name`, by which the sweep of dead
    /// subscriptions finds what is left on the server.
    pub(super) async fn connect(source: &Source) -> Result<Self, pg::Error> {
        let mut session = Self {
            target: source.target.clone(),
            login: source.login.clone(),
            name: source.slot.clone(),
            client: None,
        };
        session.client().await?;
        Ok(session)
    }

    /// The connection; a new one if the last one is known to be closed.
    pub(super) async fn client(&mut self) -> Result<&Client, pg::Error> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let (target, login) = (&self.target, &self.login);
                pg::client::administer(target, login, &self.name, CONNECT_LIMIT, STATEMENT_LIMIT)
                    .await?
            }
        };
        Ok(self.client.insert(client))
    }

    /// Runs a query. Runs it once more if the connection was lost.
    pub(super) async fn query(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, pg::Error> {
        let first = self.client().await?.query(sql, parameters).await;
        match first.map_err(pg::Error::from) {
            Err(error) if error.is_connection() => {
                self.client = None;
                Ok(self.client().await?.query(sql, parameters).await?)
            }
            ended => ended,
        }
    }

    /// Runs statements in one transaction.
    pub(super) async fn run(&mut self, statements: &str) -> Result<(), pg::Error> {
        let ended = self.client().await?.batch_execute(statements).await;
        if ended.is_err() {
            // The connection may still be in the failed transaction.
            self.client = None;
        }
        Ok(ended?)
    }
}
