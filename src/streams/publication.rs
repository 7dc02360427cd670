//! The publications of a temporary subscription.
//!
//! A table without replica identity must not be in a publication of updates: the
//! application's UPDATEs would fail. Such tables are in a second publication, which publishes
//! inserts and truncates only.

use std::collections::HashSet;

use super::{
    Request, Source, fault,
    preflight::{Database, Table, get},
    session::Session,
};
use crate::{
    domain::{Error, Reason, Result},
    pg::sql::quote_identifier,
};

/// Longest wait for table locks. While CREATE PUBLICATION waits, it blocks vacuum and index
/// builds; writes go on.
const LOCK_TIMEOUT: &str = "2s";

/// The publications to read from.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// Names for START_REPLICATION.
    pub(super) names: Vec<String>,
    /// The relations that the subscriber asked for; none: all that are published.
    pub(super) wanted: Option<HashSet<u32>>,
    /// Whether the publications were created for this subscription, so that their tables are
    /// watched.
    pub(super) ours: bool,
}

/// Finds or creates the publications for a request.
pub(super) async fn prepare(
    session: &mut Session,
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
    if let Some(name) = covering(session, &database.tables).await? {
        let wanted = database.tables.iter().map(|table| table.oid).collect();
        return Ok(Published {
            names: vec![name],
            wanted: Some(wanted),
            ours: false,
        });
    }
    create(session, source, &database.tables).await?;
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

/// Checks that the publications existed when the slot was created. From then on, the loss of a
/// publication ends the stream.
pub(super) async fn check(session: &mut Session, published: &Published) -> Result<()> {
    let query = "select 1 from pg_publication where pubname = any($1)";
    let found = session.query(query, &[&published.names]).await;
    if found.map_err(fault::of_setup)?.len() == published.names.len() {
        return Ok(());
    }
    let message = "a publication was dropped while the subscription was being created";
    Err(Error::new(Reason::PublicationLost, message))
}

/// An existing publication that publishes everything of all of the tables. Not for partitioned
/// tables: only in a publication of our own is it certain that rows are published as the root's.
async fn covering(session: &mut Session, tables: &[Table]) -> Result<Option<String>> {
    if tables.iter().any(|table| table.partitioned) {
        return Ok(None);
    }
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let found = session
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

async fn create(session: &mut Session, source: &Source, tables: &[Table]) -> Result<()> {
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
    // If this is cancelled, the connection is closed and the server rolls back.
    let made = session.run(&statements.join(";\n")).await;
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

/// Moves a table that has lost its replica identity to the publication of inserts. Tables that
/// inherit from it stay where they are (ONLY), as when the publications were created.
pub(super) async fn downgrade(session: &mut Session, source: &Source, table: &str) -> Result<()> {
    let (whole, inserts) = (
        quote_identifier(&source.publication),
        quote_identifier(&source.insert_publication),
    );
    let sql = format!(
        "begin; set local lock_timeout = '{LOCK_TIMEOUT}';
         alter publication {whole} drop table only {table};
         alter publication {inserts} add table only {table}; commit"
    );
    session.run(&sql).await.map_err(fault::of_setup)
}
