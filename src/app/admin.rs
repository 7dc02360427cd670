//! Connections of Howdah to users' servers, as `howdah_admin`.

use std::{error::Error as _, ops::Deref, sync::Arc, time::Duration};

use tokio_postgres::Row;
use uuid::Uuid;

use super::hosts::Hosts;
use crate::{
    domain::{
        Error, Reason, Result,
        instance::{Instance, Server},
        provider::{Provider, Providers, ServerSpec},
        sqlstate::Meaning,
    },
    pg::{self, Client, Host, Login, Target, Tls},
    store::{Store, lease::Claim, sealing::Keyring},
};

pub(super) use crate::domain::provider::ADMIN;

/// Longest wait for a connection to a server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Longest run of one statement, for example CREATE DATABASE on a slow disk.
const STATEMENT_LIMIT: Duration = Duration::from_secs(600);

/// Longest wait for the result of a statement. By then the server should have cancelled it.
const ANSWER_LIMIT: Duration = Duration::from_secs(STATEMENT_LIMIT.as_secs() + 5);

/// How often the server is probed by another connection while a statement is running. One
/// that is frozen ends no statement.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Signs of life that may be missing in a row before the server is given up.
const MISSING_SIGNS: u32 = 2;

/// Longest wait for locks that a statement of a former worker still holds.
const FORMER_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for a lock that a user's session holds. The step is retried later: its
/// worker is free meanwhile, and no other session queues behind our lock request.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Terminates the sessions of older claims on a resource, and those of earlier attempts of this
/// claim, and returns their number. Only one operation at a time works on a resource, so any
/// other operation is older.
const END_FORMER: &str = "select count(pg_terminate_backend(pid)) from (
        select pid, string_to_array(application_name, ' ') as word from pg_stat_activity
        where usename = 'howdah_admin' and pid <> pg_backend_pid() and application_name ~ '^howdah-claim [0-9a-f]{16} [0-9a-f]{16} [0-9]{1,15}$'
    ) claims where word[2] = $1 and (word[3] <> $2 or word[4]::bigint <= $3)";

/// Application name of short connections. `delete_database::usage` repeats it, to ignore them.
const SHORT: &str = "howdah-look";

/// Writes nothing if there is nothing to revoke.
const CLOSE_TO_PUBLIC: &str = "do $$ declare name text; begin
    for name in select datname from pg_database where datname in ('postgres', 'template1')
        and has_database_privilege('public', oid, 'connect, temporary') loop
        execute format('revoke connect, temporary on database %I from public', name);
    end loop; end $$";

/// Address and login of a server for `howdah_admin`.
pub(super) struct AdminAccess {
    pub(super) target: Target,
    pub(super) login: Login,
}

impl AdminAccess {
    async fn log_in(&self, name: &str) -> std::result::Result<Client, pg::Error> {
        let (target, login) = (&self.target, &self.login);
        pg::client::administer(target, login, name, CONNECT_LIMIT, STATEMENT_LIMIT).await
    }

    /// A connection whose statements have no end of their own: they wait for transactions of
    /// users.
    pub(super) async fn patient(&self, name: &str) -> Result<Client> {
        let (target, login) = (&self.target, &self.login);
        let client = pg::client::administer(target, login, name, CONNECT_LIMIT, Duration::ZERO);
        client.await.map_err(classify)
    }

    pub(super) async fn session(self, name: &str) -> Result<Session> {
        let client = self.log_in(name).await.map_err(classify)?;
        Ok(Session {
            client,
            access: self,
        })
    }
}

/// A connection to a server as `howdah_admin`.
pub(super) struct Session {
    client: Client,
    access: AdminAccess,
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Session {
    /// Waits for the result of a statement. If the server does not answer, returns an error; the
    /// caller then drops the session, which closes the connection.
    async fn answer<T>(
        &self,
        asked: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
    ) -> Result<T> {
        let answered = tokio::select! {
            biased;
            answered = asked => answered.map_err(pg::Error::from),
            () = self.is_silent() => Err(pg::Error::Timeout),
            () = tokio::time::sleep(ANSWER_LIMIT) => Err(pg::Error::Timeout),
        };
        answered.map_err(classify)
    }

    /// Returns when the server has stopped accepting connections, or does not answer on them.
    async fn is_silent(&self) {
        let mut missing = 0;
        while missing < MISSING_SIGNS {
            tokio::time::sleep(SIGN_OF_LIFE).await;
            missing = match self.access.log_in(SHORT).await {
                Err(error) if error.server().is_none() => missing + 1,
                // Even a refusal is an answer.
                _ => 0,
            };
        }
    }
}

/// Access to the servers of instances. Cheap to clone.
#[derive(Clone)]
pub(super) struct Servers {
    store: Store,
    providers: Providers,
    keyring: Keyring,
    hosts: Hosts,
}

impl Servers {
    pub(super) fn new(store: Store, providers: Providers, keyring: Keyring, hosts: Hosts) -> Self {
        Self {
            store,
            providers,
            keyring,
            hosts,
        }
    }

    /// The provider of that name.
    pub(super) fn provider_of(&self, name: &str) -> Result<&Arc<dyn Provider>> {
        self.providers.of(name)
    }

    /// A server of an instance, in the form that its provider takes.
    pub(super) async fn server_spec(
        &self,
        instance: &Instance,
        server: &Server,
        token: i64,
    ) -> Result<ServerSpec> {
        let sealed = self.store.admin_password(server.uid).await?;
        Ok(ServerSpec {
            uid: server.uid,
            provider: server.provider.clone(),
            version: server.version,
            placement: server.placement,
            parameters: instance.parameters.clone(),
            ephemeral: instance.ephemeral,
            admin_password: self.keyring.open(&sealed, &password_label(server.uid))?,
            system_identifier: server.system_identifier,
            address: server.address.clone(),
            token,
        })
    }

    /// Returns an error if only a process of another host can reach the server.
    pub(super) async fn refuse_elsewhere(
        &self,
        instance: &Instance,
        server: &Server,
    ) -> Result<()> {
        let Some(host) = server.host().filter(|host| *host != self.hosts.here()) else {
            return Ok(());
        };
        self.hosts
            .refuse_gone((), instance, std::slice::from_ref(server))
            .await?;
        let name = self.store.host_name(host).await?;
        let message = format!(
            "the instance's server is on the host {name} ({host}): send the call to a process \
             of Howdah there"
        );
        Err(Error::new(Reason::HostElsewhere, message)
            .with_resource(instance.name.to_string())
            .with_metadata("host", host.to_string())
            .with_metadata("host_name", name))
    }

    /// Address and login of a server of the instance, for `howdah_admin`.
    pub(super) async fn access_to(
        &self,
        instance: &Instance,
        server: &Server,
        database: &str,
    ) -> Result<AdminAccess> {
        self.refuse_elsewhere(instance, server).await?;
        let spec = self.server_spec(instance, server, 0).await?;
        let provider = self.provider_of(&spec.provider)?;
        let address = provider.address(&spec);
        let host = address
            .socket_directory
            .map_or(Host::Tcp(address.host), Host::Unix);
        let login = Login {
            user: ADMIN.to_owned(),
            password: Some(spec.admin_password),
            database: database.to_owned(),
        };
        Ok(AdminAccess {
            target: Target {
                host,
                port: address.port,
                tls: Tls::Disable,
            },
            login,
        })
    }

    /// Like [`Servers::access_to`], for the active server.
    async fn admin_access(&self, instance: &Instance, database: &str) -> Result<AdminAccess> {
        self.access_to(instance, instance.active()?, database).await
    }

    /// A connection to a database on a server of the instance as `howdah_admin`.
    pub(super) async fn connection_to(
        &self,
        instance: &Instance,
        server: &Server,
        database: &str,
    ) -> Result<Session> {
        let access = self.access_to(instance, server, database).await?;
        access.session("howdah").await
    }

    /// Like [`Servers::connection_to`], for the active server.
    pub(super) async fn admin_connection(
        &self,
        instance: &Instance,
        database: &str,
    ) -> Result<Session> {
        let active = instance.active()?;
        self.connection_to(instance, active, database).await
    }

    /// Like [`Servers::admin_connection`], for a short query. It does not count as use of the
    /// database.
    pub(super) async fn short_connection(
        &self,
        instance: &Instance,
        database: &str,
    ) -> Result<Session> {
        let access = self.admin_access(instance, database).await?;
        access.session(SHORT).await
    }

    /// As [`Servers::short_connection`], to any server of the instance.
    pub(super) async fn look_at(
        &self,
        instance: &Instance,
        server: &Server,
        database: &str,
    ) -> Result<Session> {
        let access = self.access_to(instance, server, database).await?;
        access.session(SHORT).await
    }

    /// Revokes CONNECT on `postgres` and `template1` from PUBLIC: an open transaction of a
    /// database owner in them would block CREATE DATABASE and DROP DATABASE. Returns the
    /// connection to `postgres` that it used.
    pub(super) async fn close_to_public(&self, instance: &Instance) -> Result<Session> {
        let client = self.admin_connection(instance, "postgres").await?;
        execute(&client, CLOSE_TO_PUBLIC).await?;
        Ok(client)
    }

    /// As [`Servers::exclusive_connection_to`], for the active server.
    pub(super) async fn exclusive_connection(
        &self,
        instance: &Instance,
        database: &str,
        claim: &Claim,
    ) -> Result<Session> {
        let active = instance.active()?;
        self.exclusive_connection_to(instance, active, database, claim)
            .await
    }

    /// A connection that holds an advisory lock on the claim's resource, so that no
    /// statement of an older claim still runs on it. Closing it releases the lock. The lock
    /// is one of the database: all of a resource's steps name the same.
    ///
    /// A frozen process would hold the lock for ever, so the sessions of older claims are
    /// terminated first. The step then finds their finished work or does it again.
    pub(super) async fn exclusive_connection_to(
        &self,
        instance: &Instance,
        server: &Server,
        database: &str,
        claim: &Claim,
    ) -> Result<Session> {
        let access = self.access_to(instance, server, database).await?;
        let ((resource, _), (_, operation)) =
            (claim.target_uid.as_u64_pair(), claim.id.as_u64_pair());
        let (key, operation) = (format!("{resource:016x}"), format!("{operation:016x}"));
        let name = format!("howdah-claim {key} {operation} {}", claim.token);
        let client = access.session(&name).await?;
        let former = fetch(&client, END_FORMER, &[&key, &operation, &claim.token]).await?;
        let former: i64 = former.unwrap_or_default();
        if former > 0 {
            tracing::warn!(former, "sessions of a former worker were ended");
        }
        let lock = format!(
            "set lock_timeout = '{}s'; select pg_advisory_lock({}); set lock_timeout = '{}s'",
            FORMER_LIMIT.as_secs(),
            resource.cast_signed(),
            LOCK_LIMIT.as_secs(),
        );
        execute(&client, &lock).await?;
        Ok(client)
    }

    /// A connection whose statements wait at most 5 s for a lock.
    pub(super) async fn impatient_connection(
        &self,
        instance: &Instance,
        database: &str,
    ) -> Result<Session> {
        let client = self.admin_connection(instance, database).await?;
        let limit = format!("set lock_timeout = '{}s'", LOCK_LIMIT.as_secs());
        execute(&client, &limit).await?;
        Ok(client)
    }
}

/// Label that a server's sealed admin password is bound to.
pub(super) fn password_label(server: Uuid) -> String {
    format!("server {server} admin")
}

/// Label that a role's sealed password is bound to.
pub(super) fn role_password_label(role: Uuid) -> String {
    format!("role {role}")
}

/// Runs statements and ignores their results.
pub(super) async fn execute(session: &Session, sql: &str) -> Result<()> {
    session.answer(session.batch_execute(sql)).await
}

/// Runs a query and returns all rows.
pub(super) async fn rows(session: &Session, sql: &str) -> Result<Vec<Row>> {
    session.answer(session.query(sql, &[])).await
}

/// All rows of a query with parameters.
pub(super) async fn read_rows(
    session: &Session,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<Row>> {
    session.answer(session.query(sql, parameters)).await
}

/// Runs a query and returns the first column of its only row; none without a row.
pub(super) async fn fetch<T>(
    session: &Session,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Option<T>>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let row = session.answer(session.query_opt(sql, parameters)).await?;
    let value = row.map(|row| row.try_get(0)).transpose();
    value.map_err(|error| Error::internal("column of a query").with_source(error))
}

/// What the server itself said, if it was the server that said it.
pub(super) fn sqlstate(error: &Error) -> Option<&str> {
    error.source()?.downcast_ref::<pg::Error>()?.sqlstate()
}

/// Translates an error of a user's server.
pub(super) fn classify(error: pg::Error) -> Error {
    let reason = match error.sqlstate().map(Meaning::of) {
        _ if error.is_connection() => Reason::ServerUnavailable,
        None
        | Some(
            Meaning::SessionEnded
            | Meaning::ServerStarting
            | Meaning::ConnectionsExhausted
            | Meaning::ReadOnly
            | Meaning::ResourcesExhausted
            | Meaning::ServerFault,
        ) => Reason::ServerUnavailable,
        Some(Meaning::Busy) => Reason::LockTimeout,
        Some(Meaning::DiskFull) => Reason::DiskFull,
        Some(Meaning::RightMissing) => Reason::RightMissing,
        Some(
            Meaning::LoginRefused
            | Meaning::DatabaseMissing
            | Meaning::ObjectMissing
            | Meaning::Encoding
            | Meaning::Refused,
        ) => Reason::PostgresqlRefused,
    };
    let message = match (reason, error.server()) {
        (Reason::PostgresqlRefused | Reason::RightMissing, Some(server)) => {
            format!(
                "PostgreSQL refused: {} (SQLSTATE {})",
                server.message, server.code
            )
        }
        (Reason::LockTimeout, _) => "the server is busy with something that must end first".into(),
        (Reason::DiskFull, _) => "the server's disk is full".into(),
        (_, Some(server)) => format!(
            "the instance's server is not available: {} (SQLSTATE {})",
            server.message, server.code
        ),
        (_, None) => "the instance's server is not available".into(),
    };
    let answered = error.server().is_some();
    let classified = Error::new(reason, message).with_source(error);
    match answered {
        true => classified,
        false => classified.unanswered(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: &str) -> Error {
        let server = pg::ServerError {
            code: code.to_owned(),
            ..pg::ServerError::default()
        };
        classify(pg::Error::Server(Box::new(server)))
    }

    fn reason(code: &str) -> Reason {
        answer(code).reason()
    }

    #[test]
    fn a_server_that_has_refused_has_answered() {
        for code in ["58030", "XX001", "57P03", "53300"] {
            assert!(!answer(code).is_unanswered(), "{code}");
        }
        assert!(classify(pg::Error::Timeout).is_unanswered());
        assert!(classify(pg::Error::Timeout).repeated().is_unanswered());
    }

    #[test]
    fn a_server_that_recovers_is_waited_for() {
        for code in [
            "25006", "53200", "53300", "53000", "57P01", "57P03", "58030", "XX000", "08006",
        ] {
            assert_eq!(reason(code), Reason::ServerUnavailable, "{code}");
        }
        for code in ["55P03", "55006", "40P01", "40001", "57014"] {
            assert_eq!(reason(code), Reason::LockTimeout, "{code}");
        }
        for code in [
            "28P01", "28000", "3D000", "42601", "42P01", "23505", "22P05",
        ] {
            assert_eq!(reason(code), Reason::PostgresqlRefused, "{code}");
        }
        assert_eq!(reason("42501"), Reason::RightMissing);
        assert_eq!(reason("53100"), Reason::DiskFull);
    }
}
