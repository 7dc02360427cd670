//! The publications of a temporary subscription.
//!
//! A table without replica identity must not be in a publication that carries
//! updates: production's UPDATEs would fail at once. Such tables go into a second
//! publication, of inserts and truncates alone.

use std::collections::HashSet;

use super::{
    Request, Source,
    catalog::Catalog,
    fault,
    preflight::{Database, Table, get},
};
use crate::{
    domain::{Error, Reason, Result},
    pg::sql::quote_identifier,
};

/// CREATE PUBLICATION blocks vacuum and index builds, not writes, while it waits.
const LOCK_TIMEOUT: &str = "2s";

/// What to read, once it is there.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// Names for START_REPLICATION.
    pub(super) names: Vec<String>,
    /// Only these relations are wanted; none: all that come.
    pub(super) wanted: Option<HashSet<u32>>,
    /// Whether the publications are ours, so that their tables are to be watched.
    pub(super) ours: bool,
}

/// Finds or makes the publications for a request.
pub(super) async fn prepare(
    catalog: &mut Catalog,
    request: &Request,
    source: &Source,
    database: &Database,
) -> Result<Published> {
    if let Some(publication) = &request.publication {
        let names = vec![publication.to_string()];
        return Ok(Published {
            names,
            wanted: None,
            ours: false,
        });
    }
    if let Some(name) = covering(catalog, &database.tables).await? {
        let wanted = database.tables.iter().map(|table| table.oid).collect();
        return Ok(Published {
            names: vec![name],
            wanted: Some(wanted),
            ours: false,
        });
    }
    create(catalog, source, &database.tables).await?;
    let names = vec![
        source.publication.clone(),
        source.insert_publication.clone(),
    ];
    Ok(Published {
        names,
        wanted: None,
        ours: true,
    })
}

/// Checks that what is to be read was there when the slot was made: from here on a
/// publication that goes away ends the stream.
pub(super) async fn check(catalog: &mut Catalog, published: &Published) -> Result<()> {
    let query = "select 1 from pg_publication where pubname = any($1)";
    let found = catalog.query(query, &[&published.names]).await;
    if found.map_err(fault::of_setup)?.len() == published.names.len() {
        return Ok(());
    }
    let message = "a publication was dropped while the subscription was made";
    Err(Error::new(Reason::PublicationLost, message))
}

/// A publication that exists and carries all of the tables, whole. Rows of partitions
/// may come as their root's, or not: only a publication of ours is sure.
async fn covering(catalog: &mut Catalog, tables: &[Table]) -> Result<Option<String>> {
    if tables.iter().any(|table| table.partitioned) {
        return Ok(None);
    }
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let found = catalog
        .query(
            "select p.pubname::text from pg_publication p
             where p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate
             and p.pubname !~ '^howdah_tmp_'
             and (p.puballtables or not exists (
                select from unnest($1::oid[]) as w (oid) where not exists (
                    select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = w.oid
                    and r.prqual is null and r.prattrs is null)))
             order by p.puballtables, p.pubname limit 1",
            &[&oids],
        )
        .await
        .map_err(fault::of_setup)?;
    found.first().map(|row| get(row, 0)).transpose()
}

async fn create(catalog: &mut Catalog, source: &Source, tables: &[Table]) -> Result<()> {
    let (whole, inserts): (Vec<&Table>, Vec<&Table>) =
        tables.iter().partition(|table| table.identified);
    let statements = [
        format!("begin; set local lock_timeout = '{LOCK_TIMEOUT}'"),
        statement(
            &source.publication,
            &whole,
            "insert, update, delete, truncate",
        ),
        statement(&source.insert_publication, &inserts, "insert, truncate"),
        "commit".to_owned(),
    ];
    // A publication whose making is given up is rolled back with its connection.
    let made = catalog.run(&statements.join(";\n")).await;
    made.map_err(fault::of_setup)
}

fn statement(name: &str, tables: &[&Table], publish: &str) -> String {
    let mut sql = format!("create publication {}", quote_identifier(name));
    if !tables.is_empty() {
        let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
        sql.push_str(" for table only ");
        sql.push_str(&names.join(", only "));
    }
    sql.push_str(&format!(
        " with (publish = '{publish}', publish_via_partition_root = true)"
    ));
    sql
}

/// Moves a table that has lost its replica identity to the publication of inserts; as
/// when they were made, without the tables that inherit from it.
pub(super) async fn downgrade(catalog: &mut Catalog, source: &Source, table: &str) -> Result<()> {
    let (whole, inserts) = (
        quote_identifier(&source.publication),
        quote_identifier(&source.insert_publication),
    );
    let sql = format!(
        "begin; set local lock_timeout = '{LOCK_TIMEOUT}';
         alter publication {whole} drop table only {table};
         alter publication {inserts} add table only {table}; commit"
    );
    catalog.run(&sql).await.map_err(fault::of_setup)
}
