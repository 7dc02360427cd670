//! What the catalogs say about a relation of the log.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::super::{
    catalog::{self, Encoding},
    fault,
    note::Root,
    preflight::get,
    session::Session,
};
use crate::{domain::Result, pb::v1::schema};

/// A type's name.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    /// Of a domain the type that it is based on; else empty.
    pub(super) base: String,
}

/// What the catalogs say now. Empty for a relation that was dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The table that was asked for, of a partition of it.
    pub(super) root: Option<Root>,
    /// Names of the columns.
    pub(super) columns: Vec<String>,
    /// Columns of the primary key, in the order of the table's columns.
    pub(super) primary_key: Vec<String>,
    /// Generated columns of the table.
    pub(super) generated: Vec<String>,
    /// Generated columns of the index that is the replica identity.
    pub(super) generated_identity: Vec<String>,
    pub(super) types: HashMap<u32, Named>,
}

impl Facts {
    /// Columns that the table has and the log's rows have not. Without a column list these are
    /// generated ones alone: another one was added or renamed after the rows were written.
    pub(super) fn omitted(&self, columns: &[schema::Column], column_lists: bool) -> Vec<String> {
        let candidates = match column_lists {
            true => &self.columns,
            false => &self.generated,
        };
        let missing = candidates.iter().filter(|name| {
            let mut known = columns.iter();
            !known.any(|column| column.name == **name)
        });
        missing.cloned().collect()
    }
}

/// Looks at the catalogs. `followed` are the oids of the tables that were asked for.
pub(super) async fn read(
    session: &mut Session,
    encoding: Encoding,
    oid: u32,
    followed: &[u32],
    types: Vec<u32>,
) -> Result<Facts> {
    let (namespace, table) = (encoding.bytes("n.nspname"), encoding.bytes("c.relname"));
    let column = encoding.bytes("a.attname");
    let key = |index: &str| {
        format!(
            "array(select {column} from pg_index x join pg_attribute a on a.attrelid = x.indrelid
                and a.attnum = any ((x.indkey::int2[])[0:x.indnkeyatts - 1])
             where x.indrelid = own.oid and {index} order by a.attnum)"
        )
    };
    let (primary, identity) = (
        key("x.indisprimary"),
        key(
            "a.attgenerated <> '' and case own.relreplident when 'i' then x.indisreplident
            when 'd' then x.indisprimary and x.indimmediate else false end",
        ),
    );
    let query = format!(
        "select c.oid, {namespace}, {table},
            array(select {column} from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
            {primary}, {identity},
            array(select {column} from pg_attribute a where a.attrelid = own.oid
                and a.attnum > 0 and a.attgenerated <> '' and not a.attisdropped),
            array(select {column} from pg_attribute a where a.attrelid = own.oid
                and a.attnum > 0 and not a.attisdropped order by a.attnum)
         from pg_class own
         join pg_class c on c.oid = coalesce((select a.relid from pg_partition_ancestors(own.oid) a
            where a.relid = any($2) and a.relid <> own.oid limit 1), own.oid)
         join pg_namespace n on n.oid = c.relnamespace
         where own.oid = $1"
    );
    let rows = session.query(&query, &[&oid, &followed]).await;
    let rows = rows.map_err(fault::of_stream)?;
    let Some(row) = rows.first() else {
        return Ok(Facts::default());
    };
    let of: u32 = get(row, 0)?;
    let root = Root {
        oid: of,
        namespace: catalog::name(row, 1)?,
        name: catalog::name(row, 2)?,
        columns: catalog::names(row, 3)?,
    };
    Ok(Facts {
        columns: catalog::names(row, 7)?,
        root: (of != oid).then_some(root),
        primary_key: catalog::names(row, 4)?,
        generated_identity: catalog::names(row, 5)?,
        generated: catalog::names(row, 6)?,
        types: read_types(session, encoding, types).await?,
    })
}

async fn read_types(
    session: &mut Session,
    encoding: Encoding,
    types: Vec<u32>,
) -> Result<HashMap<u32, Named>> {
    let (name, base) = (
        encoding.bytes("format_type(t.oid, null)"),
        encoding.bytes("case t.typtype when 'd' then format_type(t.typbasetype, null) else '' end"),
    );
    let query = format!("select t.oid, {name}, {base} from pg_type t where t.oid = any($1)");
    let rows = session.query(&query, &[&types]).await;
    let rows = rows.map_err(fault::of_stream)?;
    let named = |row: &Row| {
        let named = Named {
            name: catalog::name(row, 1)?,
            base: catalog::name(row, 2)?,
        };
        Ok((get(row, 0)?, named))
    };
    rows.iter().map(named).collect()
}
