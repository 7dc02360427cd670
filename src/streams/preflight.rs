//! Checks the request of a subscription before anything is created for it.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::{
    catalog::{self, Encoding, Table},
    fault,
    session::Session,
};
use crate::{
    domain::{
        Error, Reason, Result,
        postgres::{PostgresName, TableName},
    },
    pg,
};

/// What was found out about the database.
#[derive(Clone, Debug)]
pub(super) struct Database {
    /// The major version of the server; 0 if it does not say one.
    pub(super) major: u32,
    /// The `client_encoding` to ask for: UTF8, or SQL_ASCII where the database has that.
    pub(super) encoding: Encoding,
    /// The tables, by oid; none with a publication. A partition of another one of them is not
    /// among them.
    pub(super) tables: BTreeMap<u32, Table>,
    /// The oids of the tables of the request, in its order.
    pub(super) asked: Vec<u32>,
}

/// First major version whose changes can be followed. The catalogs of older ones have no row
/// filters and column lists of publications, which the queries here read.
const FIRST_MAJOR: u32 = 15;

/// Checks that everything that is asked for is there.
pub(super) async fn look(
    session: &mut Session,
    tables: &[TableName],
    publication: Option<&PostgresName>,
) -> Result<Database> {
    let client = session.client().await.map_err(fault::of_setup)?;
    let major = client.server_major();
    followed(major)?;
    let settings = session
        .query(
            "select current_setting('wal_level'), pg_encoding_to_char(encoding)
             from pg_database where datname = current_database()",
            &[],
        )
        .await
        .map_err(fault::of_setup)?;
    let settings = settings
        .first()
        .ok_or_else(|| Error::internal("no row of the current database"))?;
    if text(settings, 0)? != "logical" {
        let message = "the server's wal_level is not logical";
        return Err(Error::new(Reason::LogicalDecodingOff, message));
    }
    let mut database = Database {
        major: major.unwrap_or_default(),
        encoding: Encoding(match text(settings, 1)?.as_str() {
            "SQL_ASCII" => "SQL_ASCII",
            _ => "UTF8",
        }),
        tables: BTreeMap::new(),
        asked: Vec::new(),
    };
    match publication {
        Some(publication) => exists(session, publication).await?,
        None => find(session, tables, &mut database).await?,
    }
    Ok(database)
}

/// Refuses a server that is too old; one that does not say its version is tried.
fn followed(major: Option<u32>) -> Result<()> {
    let Some(old) = major.filter(|major| *major < FIRST_MAJOR) else {
        return Ok(());
    };
    let message = format!(
        "changes of PostgreSQL {old} cannot be followed; {FIRST_MAJOR} is the first that can"
    );
    Err(Error::new(Reason::Unimplemented, message))
}

async fn exists(session: &mut Session, publication: &PostgresName) -> Result<()> {
    let query = "select 1 from pg_publication where pubname = $1";
    let found = session.query(query, &[&publication.as_str()]).await;
    if found.map_err(fault::of_setup)?.is_empty() {
        let message = format!("the publication `{publication}` does not exist");
        return Err(Error::new(Reason::PublicationNotFound, message).with_field("publication"));
    }
    Ok(())
}

async fn find(session: &mut Session, names: &[TableName], database: &mut Database) -> Result<()> {
    let oids = catalog::oids(session, names).await?;
    let known: Vec<u32> = oids.iter().flatten().copied().collect();
    let mut tables = catalog::tables(session, database.encoding, &known).await?;
    for (name, oid) in names.iter().zip(oids) {
        let (oid, table) = oid
            .and_then(|oid| Some((oid, tables.get(&oid)?)))
            .ok_or_else(|| refusal(name, "does not exist"))?;
        if !table.followable {
            let why = "is not an ordinary, logged table: it cannot be followed";
            return Err(refusal(name, why));
        }
        database.asked.push(oid);
    }
    let partitions: Vec<u32> = tables
        .values()
        .flat_map(|table| table.leaves.keys().copied())
        .collect();
    tables.retain(|oid, _| !partitions.contains(oid));
    database.tables = tables;
    Ok(())
}

fn refusal(name: &TableName, why: &str) -> Error {
    Error::new(Reason::TableNotFound, format!("the table {name} {why}"))
        .with_field("tables")
        .with_resource(name.to_string())
}

pub(super) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> Result<T> {
    row.try_get(at)
        .map_err(|error| fault::of_setup(pg::Error::from(error)))
}

fn text(row: &Row, at: usize) -> Result<String> {
    get(row, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        assert_eq!(
            followed(Some(14)).unwrap_err().reason(),
            Reason::Unimplemented
        );
        assert!(followed(Some(15)).is_ok() && followed(None).is_ok());
    }
}
