//! Checks the request of a subscription before anything is created for it.

use tokio_postgres::Row;

use super::{Request, fault, session::Session};
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
    /// The `client_encoding` to ask for: UTF8, or SQL_ASCII where the database has that.
    pub(super) client_encoding: &'static str,
    /// The tables, in the order of the request; empty with a publication.
    pub(super) tables: Vec<Table>,
}

/// A table to follow.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: TableName,
    pub(super) oid: u32,
    /// Whether it is a partitioned table or a partition.
    pub(super) partitioned: bool,
    /// Whether it and all of its partitions have a replica identity, so that updates and deletes
    /// can be published.
    pub(super) identified: bool,
}

/// First major version whose changes can be followed. The catalogs of older ones have no row
/// filters and column lists of publications, which the queries here read.
const FIRST_MAJOR: u32 = 15;

/// Checks that everything that is asked for is there.
pub(super) async fn look(session: &mut Session, request: &Request) -> Result<Database> {
    let client = session.client().await.map_err(fault::of_setup)?;
    followed(client.server_major())?;
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
    let client_encoding = match text(settings, 1)?.as_str() {
        "SQL_ASCII" => "SQL_ASCII",
        _ => "UTF8",
    };
    let tables = match &request.publication {
        Some(publication) => {
            exists(session, publication).await?;
            Vec::new()
        }
        None => tables(session, &request.tables).await?,
    };
    Ok(Database {
        client_encoding,
        tables,
    })
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

/// A table is identified when it, or each of its leaves, has a replica identity.
pub(super) const IDENTIFIED: &str = "
    not exists (
        select from pg_partition_tree(c.oid) t join pg_class l on l.oid = t.relid
        where t.isleaf and not (
            l.relreplident = 'f'
            or (l.relreplident = 'd' and exists (select from pg_index x
                where x.indrelid = l.oid and x.indisprimary and x.indimmediate))
            or (l.relreplident = 'i' and exists (select from pg_index x
                where x.indrelid = l.oid and x.indisreplident and x.indisvalid))))
    and (c.relkind = 'p' or c.relreplident = 'f'
        or (c.relreplident = 'd' and exists (select from pg_index x
            where x.indrelid = c.oid and x.indisprimary and x.indimmediate))
        or (c.relreplident = 'i' and exists (select from pg_index x
            where x.indrelid = c.oid and x.indisreplident and x.indisvalid)))";

async fn tables(session: &mut Session, names: &[TableName]) -> Result<Vec<Table>> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.table.as_str()).collect();
    let query = format!(
        "select c.oid, c.relkind::text, c.relpersistence::text, {IDENTIFIED},
            c.relispartition
         from unnest($1::text[], $2::text[]) with ordinality as u (s, t, n)
         left join pg_namespace p on p.nspname = u.s
         left join pg_class c on c.relnamespace = p.oid and c.relname = u.t
         order by u.n"
    );
    let rows = session.query(&query, &[&schemas, &tables]).await;
    let rows = rows.map_err(fault::of_setup)?;
    let mut found = Vec::with_capacity(rows.len());
    for (row, name) in rows.iter().zip(names) {
        let table = table(row, name)?;
        if !found.iter().any(|other: &Table| other.oid == table.oid) {
            found.push(table);
        }
    }
    Ok(found)
}

fn table(row: &Row, name: &TableName) -> Result<Table> {
    let refuse = |message: String| {
        Err(Error::new(Reason::TableNotFound, message)
            .with_field("tables")
            .with_resource(name.to_string()))
    };
    let Some(oid) = get::<Option<u32>>(row, 0)? else {
        return refuse(format!("the table {name} does not exist"));
    };
    let (kind, persistence) = (text(row, 1)?, text(row, 2)?);
    if !matches!(kind.as_str(), "r" | "p") || persistence != "p" {
        return refuse(format!(
            "{name} is not an ordinary, logged table: it cannot be followed"
        ));
    }
    Ok(Table {
        name: name.clone(),
        oid,
        partitioned: kind == "p" || get(row, 4)?,
        identified: get(row, 3)?,
    })
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
