//! The tables of a stream and their schemas, as announced to the subscriber.

use std::collections::{HashMap, HashSet};

use super::{fault, session::Session};
use crate::{
    domain::Result,
    pb::v1::{Schema, schema},
    pg::{
        pgoutput::{self, Relation},
        sql::quote_identifier,
    },
};

/// A table with the schema that was announced to the subscriber.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) schema: Schema,
    /// Positions of the key's columns, in the key's order.
    pub(super) key: Vec<usize>,
}

/// A relation of the stream.
#[derive(Debug, Default)]
struct Entry {
    known: Option<Known>,
    /// A newer schema that was not announced yet. It has no schema id and no key.
    fresh: Option<Schema>,
}

/// The tables of a stream.
#[derive(Debug)]
pub(super) struct Relations {
    entries: HashMap<u32, Entry>,
    last_id: u32,
    wanted: Option<HashSet<u32>>,
    key_columns: Vec<String>,
}

impl Relations {
    /// For a subscriber of these relations, or of all.
    pub(super) fn new(wanted: Option<HashSet<u32>>, key_columns: Vec<String>) -> Self {
        Self {
            entries: HashMap::new(),
            last_id: 0,
            wanted,
            key_columns,
        }
    }

    /// Whether changes of that relation are for this subscriber.
    pub(super) fn wants(&self, oid: u32) -> bool {
        self.wanted
            .as_ref()
            .is_none_or(|wanted| wanted.contains(&oid))
    }

    /// The table of that oid. [`Relations::settle`] must have been called for its newest schema.
    pub(super) fn get(&self, oid: u32) -> Result<&Known> {
        let entry = self.entries.get(&oid);
        let known = entry.and_then(|entry| entry.known.as_ref());
        known.ok_or_else(|| fault::malformed(format_args!("row of unknown relation {oid}")))
    }

    /// The SQL name of the table that was announced with this schema id.
    pub(super) fn name(&self, schema_id: u32) -> Option<String> {
        let mut known = self
            .entries
            .values()
            .filter_map(|entry| entry.known.as_ref());
        let schema = &known
            .find(|known| known.schema.schema_id == schema_id)?
            .schema;
        let (namespace, table) = (&schema.namespace, &schema.table);
        Some(format!(
            "{}.{}",
            quote_identifier(namespace),
            quote_identifier(table)
        ))
    }

    /// Whether the relation's newest schema was announced.
    pub(super) fn is_announced(&self, oid: u32) -> bool {
        let entry = self.entries.get(&oid);
        entry.is_some_and(|entry| entry.fresh.is_none())
    }

    /// Records a relation's schema. The server sends it again whenever the relation may have
    /// changed, and also for partitions whose rows are published as their root's.
    pub(super) fn learn(&mut self, relation: &Relation<'_>) {
        if self.wants(relation.oid) {
            self.entries.entry(relation.oid).or_default().fresh = Some(schema_of(relation));
        }
    }

    /// Determines the key of a relation's newest schema. Returns the schema if it has to be
    /// announced: it differs from the one that was announced before.
    pub(super) async fn settle(
        &mut self,
        oid: u32,
        session: &mut Session,
    ) -> Result<Option<Schema>> {
        let fresh = self.entries.get(&oid).and_then(|entry| entry.fresh.clone());
        let Some(mut schema) = fresh else {
            return Ok(None);
        };
        let key = self.key(&schema, session).await?;
        let name = |at: &usize| schema.columns.get(*at).map(|column| column.name.clone());
        schema.key_columns = key.iter().filter_map(name).collect();
        let entry = self.entries.entry(oid).or_default();
        entry.fresh = None;
        if let Some(known) = &entry.known {
            schema.schema_id = known.schema.schema_id;
            if known.schema == schema {
                return Ok(None);
            }
        }
        self.last_id += 1;
        schema.schema_id = self.last_id;
        let announced = schema.clone();
        entry.known = Some(Known { schema, key });
        Ok(Some(announced))
    }

    /// The key: from the request where the table has all its columns, else the
    /// primary key, else the replica identity where that is an index.
    async fn key(&self, schema: &Schema, session: &mut Session) -> Result<Vec<usize>> {
        let columns = &schema.columns;
        let position = |name: &String| columns.iter().position(|column| column.name == *name);
        let all = |names: &[String]| -> Option<Vec<usize>> {
            let positions: Option<Vec<usize>> = names.iter().map(position).collect();
            positions.filter(|positions| !positions.is_empty())
        };
        if let Some(key) = all(&self.key_columns) {
            return Ok(key);
        }
        if let Some(key) = all(&primary_key(session, schema.relation_oid).await?) {
            return Ok(key);
        }
        let marked = columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.identity);
        Ok(match schema.replica_identity() {
            schema::ReplicaIdentity::Default | schema::ReplicaIdentity::Index => {
                marked.map(|(at, _)| at).collect()
            }
            _ => Vec::new(),
        })
    }
}

async fn primary_key(session: &mut Session, oid: u32) -> Result<Vec<String>> {
    let rows = session
        .query(
            "select a.attname::text from pg_index x
             cross join unnest(x.indkey::int2[]) with ordinality as k (attnum, n)
             join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.attnum
             where x.indrelid = $1 and x.indisprimary and k.n <= x.indnkeyatts order by k.n",
            &[&oid],
        )
        .await
        .map_err(fault::of_stream)?;
    let name = |row| super::preflight::get(row, 0);
    rows.iter().map(name).collect()
}

fn schema_of(relation: &Relation<'_>) -> Schema {
    let columns = relation.columns().map(|column| schema::Column {
        name: column.name.to_owned(),
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
        identity: column.key,
        ..schema::Column::default()
    });
    // pgoutput sends pg_catalog as an empty name.
    let namespace = match relation.schema {
        "" => "pg_catalog",
        named => named,
    };
    Schema {
        schema_id: 0,
        relation_oid: relation.oid,
        namespace: namespace.to_owned(),
        table: relation.name.to_owned(),
        columns: columns.collect(),
        replica_identity: replica_identity(relation.identity).into(),
        ..Schema::default()
    }
}

fn replica_identity(identity: pgoutput::ReplicaIdentity) -> schema::ReplicaIdentity {
    match identity {
        pgoutput::ReplicaIdentity::Default => schema::ReplicaIdentity::Default,
        pgoutput::ReplicaIdentity::Nothing => schema::ReplicaIdentity::Nothing,
        pgoutput::ReplicaIdentity::Full => schema::ReplicaIdentity::Full,
        pgoutput::ReplicaIdentity::Index => schema::ReplicaIdentity::Index,
    }
}
