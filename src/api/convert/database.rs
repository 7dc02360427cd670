//! Databases and connections.

use std::collections::BTreeMap;

use secrecy::ExposeSecret;

use super::{refuse_large, refuse_nul, refuse_nul_in, timestamp};
use crate::{
    app::CreateDatabase,
    domain::{
        Reason, Result,
        database::{Connection, Database, State},
        name::{DatabaseName, Id},
        recorded::Recorded,
    },
    pb::v1,
};

/// Converts a database to its message.
pub(in crate::api) fn to_wire(database: Database) -> v1::Database {
    let state = match database.state {
        State::Creating => v1::database::State::Creating,
        State::Ready => v1::database::State::Ready,
        State::Deleting => v1::database::State::Deleting,
        State::Failed => v1::database::State::Failed,
    };
    v1::Database {
        etag: database.etag(),
        name: database.name.to_string(),
        uid: database.uid.to_string(),
        labels: database.labels,
        annotations: database.annotations,
        display_name: database.display_name,
        create_time: Some(timestamp(database.create_time)),
        update_time: Some(timestamp(database.update_time)),
        state: state.into(),
        reconciling: database.reconciling,
        postgresql_name: database.postgresql_name.to_string(),
        owner: database.owner.to_string(),
        encoding: database.encoding,
        locale_provider: database.locale_provider,
        locale: database.locale,
        connection_limit: database.connection_limit,
        deletion_protection: database.deletion_protection,
    }
}

/// Converts a database to its message; of an unreadable one, the part that is known.
pub(in crate::api) fn recorded_to_wire(database: Recorded<Database>) -> v1::Database {
    match database {
        Recorded::Whole(database) => to_wire(database),
        Recorded::Unreadable(unreadable) => v1::Database {
            name: unreadable.name,
            uid: unreadable.uid.to_string(),
            create_time: Some(timestamp(unreadable.create_time)),
            update_time: Some(timestamp(unreadable.update_time)),
            ..v1::Database::default()
        },
    }
}

/// Converts a request to create a database.
///
/// # Errors
/// NAME_MALFORMED, NAME_TOO_LONG, FIELD_INVALID, LABEL_INVALID.
pub(in crate::api) fn create(request: v1::CreateDatabaseRequest) -> Result<CreateDatabase> {
    let database = request.database.unwrap_or_default();
    for (text, field) in [
        (&database.display_name, "display_name"),
        (&database.encoding, "encoding"),
        (&database.locale_provider, "locale_provider"),
        (&database.locale, "locale"),
    ] {
        refuse_nul(text, &format!("database.{field}"), Reason::FieldInvalid)?;
    }
    for (map, field) in [
        (&database.labels, "labels"),
        (&database.annotations, "annotations"),
    ] {
        refuse_nul_in(map, &format!("database.{field}"), Reason::LabelInvalid)?;
    }
    refuse_large(&[&database.labels, &database.annotations], "database")?;
    Ok(CreateDatabase {
        name: DatabaseName {
            instance: request.parent.parse()?,
            database: Id::parse(&request.database_id, "database_id")?,
        },
        display_name: database.display_name,
        labels: database.labels,
        annotations: database.annotations,
        postgresql_name: database.postgresql_name,
        owner: database.owner,
        encoding: database.encoding,
        locale_provider: database.locale_provider,
        locale: database.locale,
        connection_limit: database.connection_limit,
        deletion_protection: database.deletion_protection,
    })
}

/// Converts a connection to its message, in all the forms that programs use.
pub(in crate::api) fn connection_to_wire(connection: &Connection) -> v1::Connection {
    let password = connection.password.expose_secret().to_owned();
    let (user, database) = (connection.user.to_string(), connection.database.to_string());
    let uri = uri(connection, &password);
    let environment = BTreeMap::from([
        ("DATABASE_URL".to_owned(), uri.clone()),
        ("JDBC_DATABASE_URL".to_owned(), jdbc(connection, &password)),
        ("PGHOST".to_owned(), connection.host.clone()),
        ("PGPORT".to_owned(), connection.port.to_string()),
        ("PGDATABASE".to_owned(), database.clone()),
        ("PGUSER".to_owned(), user.clone()),
        ("PGPASSWORD".to_owned(), password.clone()),
        ("PGSSLMODE".to_owned(), connection.sslmode.to_owned()),
        ("DB_HOST".to_owned(), connection.host.clone()),
        ("DB_PORT".to_owned(), connection.port.to_string()),
        ("DB_NAME".to_owned(), database.clone()),
        ("DB_USER".to_owned(), user.clone()),
        ("DB_PASSWORD".to_owned(), password.clone()),
    ]);
    v1::Connection {
        host: connection.host.clone(),
        port: connection.port.into(),
        database,
        user,
        password,
        uri,
        sslmode: connection.sslmode.to_owned(),
        environment,
    }
}

/// The URL for the JDBC driver, which takes the login as parameters.
fn jdbc(connection: &Connection, password: &str) -> String {
    format!(
        "jdbc:postgresql://{}:{}/{}?user={}&password={}&sslmode={}",
        host(connection),
        connection.port,
        percent(connection.database.as_str()),
        percent(connection.user.as_str()),
        percent(password),
        connection.sslmode,
    )
}

/// The host as URLs write it, with brackets around an IPv6 address.
fn host(connection: &Connection) -> String {
    match connection.host.contains(':') {
        true => format!("[{}]", connection.host),
        false => connection.host.clone(),
    }
}

fn uri(connection: &Connection, password: &str) -> String {
    let host = host(connection);
    format!(
        "postgresql://{}:{}@{host}:{}/{}?sslmode={}",
        percent(connection.user.as_str()),
        percent(password),
        connection.port,
        percent(connection.database.as_str()),
        connection.sslmode,
    )
}

/// Percent-encodes all characters except the unreserved ones (RFC 3986).
fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::postgres::PostgresName;

    #[test]
    fn uris_survive_odd_names() {
        let connection = Connection {
            host: "::1".into(),
            port: 5432,
            database: PostgresName::parse("a/b?c", "d").unwrap(),
            user: PostgresName::parse("ü@x", "u").unwrap(),
            password: "p:w".into(),
            sslmode: "disable",
        };
        let wire = connection_to_wire(&connection);
        assert_eq!(
            wire.uri,
            "postgresql://%C3%BC%40x:p%3Aw@[::1]:5432/a%2Fb%3Fc?sslmode=disable"
        );
        assert_eq!(
            wire.environment["JDBC_DATABASE_URL"],
            "jdbc:postgresql://[::1]:5432/a%2Fb%3Fc?user=%C3%BC%40x&password=p%3Aw&sslmode=disable"
        );
        assert_eq!(wire.environment["PGUSER"], "ü@x");
        assert_eq!(wire.environment["DB_PASSWORD"], "p:w");
        assert!(!format!("{wire:?}").contains("p:w"));
        assert!(!format!("{wire:?}").contains("p%3Aw"));
    }
}
