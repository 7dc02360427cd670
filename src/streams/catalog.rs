//! What the system catalogs say about tables, at one moment.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::{fault, preflight::get, session::Session};
use crate::{
    domain::{Result, postgres::TableName},
    pg::pgoutput::Name,
};

/// A table, or a partition without partitions of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// As an SQL name, for people.
    pub(super) name: String,
    /// Whether it has a replica identity with which its updates and deletes can be published.
    pub(super) identified: bool,
    /// `pg_class.relfilenode`: another one after all rows were written anew.
    pub(super) file: u32,
    /// Changes with each change of a column, and not with TRUNCATE, VACUUM FULL or CLUSTER.
    pub(super) columns: String,
    /// Columns with a value for the rows that are older than the column, by number.
    pub(super) missing: Vec<i16>,
    /// Of a partition: another one after it was detached and attached again.
    pub(super) since: String,
}

/// A table that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Its columns, in their order; none of a table that is not partitioned.
    pub(super) columns: Vec<String>,
    /// `relkind` is `p`.
    pub(super) partitioned: bool,
    /// `relpersistence` is `p`, and it is an ordinary or a partitioned table.
    pub(super) followable: bool,
    pub(super) storage: Storage,
    /// The partitions that hold its rows, by oid. Foreign and unlogged ones are left out: they
    /// are not in the log.
    pub(super) leaves: BTreeMap<u32, Storage>,
}

impl Table {
    /// What holds its rows: itself, or its partitions.
    pub(super) fn stores(&self) -> impl Iterator<Item = &Storage> {
        let own = (!self.partitioned).then_some(&self.storage);
        own.into_iter().chain(self.leaves.values())
    }

    /// Whether all of its updates and deletes can be published.
    pub(super) fn identified(&self) -> bool {
        self.stores().all(|store| store.identified)
    }
}

/// The SQL type in which names are read: any bytes in a SQL_ASCII database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding(pub(super) &'static str);

impl Encoding {
    /// An expression for a name as bytes.
    pub(super) fn bytes(self, name: &str) -> String {
        format!("convert_to({name}::text, '{}')", self.0)
    }
}

/// A name that was read by [`Encoding::bytes`].
pub(super) fn name(row: &Row, at: usize) -> Result<String> {
    let bytes: Option<&[u8]> = get(row, at)?;
    Ok(Name(bytes.unwrap_or_default()).to_string())
}

/// Names that were read by [`Encoding::bytes`] into an array.
pub(super) fn names(row: &Row, at: usize) -> Result<Vec<String>> {
    let names: Vec<&[u8]> = get(row, at)?;
    let names = names.into_iter();
    Ok(names.map(|name| Name(name).to_string()).collect())
}

/// The columns of [`Storage`], of `pg_class` as `c`.
///
/// Updates of a table with REPLICA IDENTITY FULL fail while it is published and has a virtual
/// generated column (PostgreSQL 18). A deferrable primary key is no replica identity.
fn storage(encoding: Encoding) -> String {
    let name = encoding.bytes("format('%I.%I', n.nspname, c.relname)");
    format!(
        "{name},
         case c.relreplident
            when 'f' then not exists (select from pg_attribute a
                where a.attrelid = c.oid and a.attgenerated = 'v' and not a.attisdropped)
            when 'd' then exists (select from pg_index x
                where x.indrelid = c.oid and x.indisprimary and x.indimmediate)
            when 'i' then exists (select from pg_index x
                where x.indrelid = c.oid and x.indisreplident and x.indisvalid)
            else false end,
         c.relfilenode,
         (select coalesce(md5(string_agg(a.xmin::text, ' ' order by a.attnum)), '')
            from pg_attribute a where a.attrelid = c.oid and a.attnum > 0),
         array(select a.attnum from pg_attribute a where a.attrelid = c.oid and a.atthasmissing)"
    )
}

/// Reads [`Storage`] from the columns from `at` on.
fn stored(row: &Row, at: usize) -> Result<Storage> {
    Ok(Storage {
        name: name(row, at)?,
        identified: get(row, at + 1)?,
        file: get(row, at + 2)?,
        columns: get(row, at + 3)?,
        missing: get(row, at + 4)?,
        since: String::new(),
    })
}

/// The oids of tables by their names; none for a table that does not exist.
pub(super) async fn oids(session: &mut Session, names: &[TableName]) -> Result<Vec<Option<u32>>> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.table.as_str()).collect();
    let rows = session
        .query(
            "select c.oid from unnest($1::text[], $2::text[]) with ordinality as u (s, t, n)
             left join pg_namespace p on p.nspname = u.s
             left join pg_class c on c.relnamespace = p.oid and c.relname = u.t
             order by u.n",
            &[&schemas, &tables],
        )
        .await
        .map_err(fault::of_setup)?;
    rows.iter().map(|row| get(row, 0)).collect()
}

/// Those of the tables that exist, by oid.
pub(super) async fn tables(
    session: &mut Session,
    encoding: Encoding,
    oids: &[u32],
) -> Result<BTreeMap<u32, Table>> {
    let (namespace, table) = (encoding.bytes("n.nspname"), encoding.bytes("c.relname"));
    let (storage, column) = (storage(encoding), encoding.bytes("a.attname"));
    let query = format!(
        "select c.oid, {namespace}, {table}, c.relkind = 'p',
            c.relkind in ('r', 'p') and c.relpersistence = 'p', {storage},
            array(select {column} from pg_attribute a where c.relkind = 'p' and a.attrelid = c.oid
                and a.attnum > 0 and not a.attisdropped order by a.attnum)
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.oid = any($1)"
    );
    let rows = session.query(&query, &[&oids]).await;
    let mut found = BTreeMap::new();
    for row in rows.map_err(fault::of_setup)? {
        let table = Table {
            namespace: name(&row, 1)?,
            name: name(&row, 2)?,
            columns: names(&row, 10)?,
            partitioned: get(&row, 3)?,
            followable: get(&row, 4)?,
            storage: stored(&row, 5)?,
            leaves: BTreeMap::new(),
        };
        found.insert(get(&row, 0)?, table);
    }
    // `pg_partition_tree` would lock each partition: a lock on one of them would blind the watch.
    let query = format!(
        "with recursive tree (root, oid, since) as (
            select i.inhparent, i.inhrelid, i.xmin::text from pg_inherits i
            where i.inhparent = any ($1)
            union all
            select t.root, i.inhrelid, t.since || ' ' || i.xmin::text
            from tree t join pg_inherits i on i.inhparent = t.oid)
         select t.root, c.oid, {storage}, t.since
         from tree t join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace
         where c.relispartition and c.relkind = 'r' and c.relpersistence = 'p'"
    );
    let roots: Vec<u32> = found
        .iter()
        .filter_map(|(oid, table)| table.partitioned.then_some(*oid))
        .collect();
    if roots.is_empty() {
        return Ok(found);
    }
    let rows = session.query(&query, &[&roots]).await;
    for row in rows.map_err(fault::of_setup)? {
        if let Some(root) = found.get_mut(&get(&row, 0)?) {
            let leaf = Storage {
                since: get(&row, 7)?,
                ..stored(&row, 2)?
            };
            root.leaves.insert(get(&row, 1)?, leaf);
        }
    }
    Ok(found)
}
