//! The publications of a subscription: its own, or one that the request names.
//!
//! A table without replica identity must not be in a publication of updates: the application's
//! UPDATEs would fail. So each table has a publication of its own, and what it publishes can be
//! changed without a lock on the table. A partitioned table has two: when not all of its
//! partitions have a replica identity, those that have none are in the second one, which
//! publishes inserts and truncates only.
//!
//! Partitions are published as themselves (`publish_via_partition_root = false`). Rows that are
//! published as their root's would have the identity of the root, and the truncation of a
//! partition would not be published at all.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Publish, Request, Source,
    catalog::Table,
    fault,
    preflight::{self, Database, get},
    session::Session,
};
use crate::domain::{Error, Reason, Result, postgres::TableName};

/// Longest wait for table locks. While CREATE PUBLICATION waits, it blocks vacuum and index
/// builds; writes go on.
pub(super) const LOCK_TIMEOUT: &str = "2s";

/// How often a statement is tried that lost against another one in a deadlock.
const TRIES: u32 = 5;

/// Longest pause between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What a publication has to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// All events, or inserts and truncates only.
    pub(super) all: bool,
    /// Oids of its tables.
    pub(super) tables: BTreeSet<u32>,
}

/// A table to publish. Its number is a part of the names of its publications: its index in the
/// request, so that it stays when another table takes the name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbered<'a> {
    pub(super) number: usize,
    pub(super) oid: u32,
    /// None when it was dropped.
    pub(super) table: Option<&'a Table>,
}

/// The tables of a request with their numbers, each once.
pub(super) fn numbered(database: &Database) -> Vec<Numbered<'_>> {
    let mut numbered: Vec<Numbered<'_>> = Vec::new();
    for (number, oid) in database.asked.iter().copied().enumerate() {
        let table = database.tables.get(&oid);
        if table.is_some() && numbered.iter().all(|other| other.oid != oid) {
            numbered.push(Numbered { number, oid, table });
        }
    }
    numbered
}

/// The publications for tables.
pub(super) fn wanted(prefix: &str, tables: &[Numbered<'_>], publish: Publish) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for Numbered { number, oid, table } in tables {
        let Some(table) = table else { continue };
        let name = format!("{prefix}_{number}");
        let inserts = publish == Publish::Inserts;
        // Without a key of the root, a partition that is attached may have none: it must not be
        // published with its updates before that is known.
        let keyed = table.storage.identified && table.identified();
        let whole = !table.partitioned || inserts || keyed;
        let (mut tables, mut others) = (BTreeSet::from([*oid]), BTreeSet::new());
        if !whole {
            let leaf = |identified: bool| {
                let leaves = table.leaves.iter();
                leaves.filter(move |(_, leaf)| leaf.identified == identified)
            };
            tables = leaf(true).map(|(oid, _)| *oid).collect();
            others = leaf(false).map(|(oid, _)| *oid).collect();
        }
        let all = !inserts && (table.partitioned || table.identified());
        wanted.push(Wanted {
            name: name.clone(),
            all,
            tables,
        });
        if table.partitioned {
            wanted.push(Wanted {
                name: format!("{name}_inserts"),
                all: false,
                tables: others,
            });
        }
    }
    wanted
}

/// A table and its partitions by oid, and whether all of their events are published.
pub(super) fn published(
    oid: u32,
    table: &Table,
    publish: Publish,
) -> impl Iterator<Item = (u32, bool)> {
    let all = publish == Publish::All;
    let leaves = table.leaves.iter();
    let leaves = leaves.map(move |(oid, leaf)| (*oid, all && leaf.identified));
    leaves.chain([(oid, all && table.identified())])
}

/// The publications to read from.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// Names for START_REPLICATION.
    pub(super) names: Vec<String>,
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
        return Ok(Published { names });
    }
    let names = create(session, source, database, request.publish).await?;
    Ok(Published { names })
}

/// Creates the publications for tables, and answers their names.
async fn create(
    session: &mut Session,
    source: &Source,
    database: &Database,
    publish: Publish,
) -> Result<Vec<String>> {
    let wanted = wanted(&source.slot, &numbered(database), publish);
    let statements = creation(&wanted, database.major);
    let mut tries = 1;
    // If this is cancelled, the connection is closed and the server rolls back.
    while let Err(error) = session.run(&statements).await {
        if error.sqlstate() != Some("40P01") || tries == TRIES {
            return Err(fault::of_setup(error));
        }
        tries += 1;
        let [share, ..] = *source.uid.as_bytes();
        tokio::time::sleep(PAUSE * (u32::from(share) + 1) / 256).await;
    }
    Ok(wanted.into_iter().map(|it| it.name).collect())
}

/// Creates publications in one transaction. Tables are locked in the order of their oids, whatever
/// subscription they are for, so that two subscriptions do not wait for each other.
fn creation(wanted: &[Wanted], major: u32) -> String {
    let mut sql = format!("begin; set local lock_timeout = '{LOCK_TIMEOUT}'");
    for publication in wanted {
        sql.push_str(&format!(
            ";\ncreate publication {} with ({})",
            publication.name,
            options(publication.all, major)
        ));
    }
    let tables = wanted.iter().flat_map(|publication| {
        let tables = publication.tables.iter();
        tables.map(|table| (*table, publication.name.as_str()))
    });
    let mut tables: Vec<_> = tables.collect();
    tables.sort_unstable();
    for (table, publication) in tables {
        sql.push_str(";\n");
        sql.push_str(&member(publication, "add", table));
    }
    sql.push_str(";\ncommit");
    sql
}

/// The options of a publication. Generated columns are published from PostgreSQL 18 on: updates
/// of a table with REPLICA IDENTITY FULL and a generated column would fail otherwise.
fn options(all: bool, major: u32) -> String {
    let mut options = events(all).to_owned();
    if major >= 18 {
        options.push_str(", publish_generated_columns = stored");
    }
    options
}

const fn events(all: bool) -> &'static str {
    match all {
        true => "publish = 'insert, update, delete, truncate'",
        false => "publish = 'insert, truncate'",
    }
}

/// Sets the events of a publication, which takes no lock on its tables.
pub(super) fn set_events(publication: &str, all: bool) -> String {
    format!("alter publication {publication} set ({})", events(all))
}

/// Adds a table to a publication or drops it, by its oid: it may have been renamed. Tables that
/// inherit from it stay as they are (ONLY). One that does not exist any more is no member.
pub(super) fn member(publication: &str, verb: &str, table: u32) -> String {
    format!(
        "do $$ begin
            if exists (select from pg_class where oid = {table}) then
                execute 'alter publication {publication} {verb} table only ' || {table}::regclass;
            elsif '{verb}' = 'add' then
                raise 'a table was dropped' using errcode = 'undefined_table';
            end if;
         end $$"
    )
}

/// What the publications that begin with `prefix` publish now.
pub(super) async fn current(session: &mut Session, prefix: &str) -> Result<Vec<Wanted>> {
    let query = "select p.pubname::text, p.pubupdate,
            array(select r.prrelid from pg_publication_rel r where r.prpubid = p.oid)
        from pg_publication p where starts_with(p.pubname::text, $1 || '_')";
    let rows = session.query(query, &[&prefix]).await;
    let rows = rows.map_err(fault::of_setup)?;
    let wanted = rows.iter().map(|row| {
        Ok(Wanted {
            name: get(row, 0)?,
            all: get(row, 1)?,
            tables: get::<Vec<u32>>(row, 2)?.into_iter().collect(),
        })
    });
    wanted.collect()
}

/// Checks that the publications existed when the slot was created. From then on, the loss of a
/// publication ends the stream.
pub(super) async fn check(session: &mut Session, published: &Published) -> Result<()> {
    let query = "select count(*) from pg_publication where pubname = any($1)";
    let found = session.query(query, &[&published.names]).await;
    let found = found.map_err(fault::of_setup)?;
    let number = found.first().map(|row| get::<i64>(row, 0)).transpose()?;
    if number == i64::try_from(published.names.len()).ok() {
        return Ok(());
    }
    let message = "a publication was dropped while the subscription was being created";
    Err(Error::new(Reason::PublicationLost, message))
}

/// Creates the publications of a change stream, if they are not there: in one transaction, so that
/// either all are there or none. Their names begin with `source.slot`.
///
/// # Errors
/// UNIMPLEMENTED before PostgreSQL 15; LOGICAL_DECODING_OFF; TABLE_NOT_FOUND; RIGHT_MISSING;
/// LOCK_TIMEOUT; SERVER_UNAVAILABLE.
pub async fn publish(source: &Source, tables: &[TableName], publish: Publish) -> Result<()> {
    let mut session = Session::connect(source).await.map_err(fault::of_setup)?;
    let database = preflight::look(&mut session, tables, None).await?;
    let there = "select 1 from pg_publication where pubname = $1";
    let wanted = wanted(&source.slot, &numbered(&database), publish);
    let first = wanted.first().map(|it| it.name.as_str());
    let found = session.query(there, &[&first]).await;
    if found.map_err(fault::of_setup)?.is_empty() {
        create(&mut session, source, &database, publish).await?;
    }
    Ok(())
}
