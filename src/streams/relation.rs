//! The tables of a stream and their schemas, as announced to the subscriber.
//!
//! What the log says of a relation is right for the rows that follow it: its columns, and which
//! of them identify a row. The catalogs say what it is now. They are asked only for what the log
//! does not say, when a relation is first seen or has changed.

mod facts;
mod key;

use std::collections::{HashMap, HashSet};

use self::facts::Facts;
use super::{catalog::Encoding, element, fault, note::Root, session::Session};
use crate::{
    domain::Result,
    pb::v1::{Schema, schema},
    pg::{
        pgoutput::{self, Name, Relation},
        sql::quote_identifier,
    },
};

/// A table with the schema that was announced to the subscriber.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) schema: Schema,
    /// Positions of the key's columns, in the key's order.
    pub(super) key: Vec<usize>,
    /// For each column of the schema its position in the rows of the log; none where they are
    /// the same.
    pub(super) order: Option<Vec<usize>>,
    /// What element ids begin with.
    pub(super) prefix: String,
}

/// A relation as the log describes it.
#[derive(Clone, Debug)]
struct Logged {
    namespace: String,
    name: String,
    identity: pgoutput::ReplicaIdentity,
    columns: Vec<schema::Column>,
}

/// A relation of the stream.
#[derive(Debug, Default)]
struct Entry {
    logged: Option<Logged>,
    known: Option<Known>,
    /// Whether `known` may be out of date.
    stale: bool,
}

/// The tables of a stream.
#[derive(Debug)]
pub(super) struct Relations {
    entries: HashMap<u32, Entry>,
    /// Names of types by oid, as the log has them.
    types: HashMap<u32, String>,
    last_id: u32,
    key_columns: Vec<String>,
    encoding: Encoding,
    /// Tables that were asked for, by oid. Their partitions are named as they are.
    followed: HashSet<u32>,
    /// The tables that partitions belong to.
    roots: HashMap<u32, Root>,
    /// Tables and partitions, and whether all of their events are published; none with a
    /// publication of somebody else.
    published: Option<HashMap<u32, bool>>,
}

impl Relations {
    /// For a subscriber with these key columns.
    pub(super) fn new(key_columns: Vec<String>, encoding: Encoding) -> Self {
        Self {
            entries: HashMap::new(),
            types: HashMap::new(),
            last_id: 0,
            key_columns,
            encoding,
            followed: HashSet::new(),
            roots: HashMap::new(),
            published: None,
        }
    }

    /// Follows these tables in addition.
    pub(super) fn follow(&mut self, tables: impl IntoIterator<Item = u32>) {
        self.followed.extend(tables);
    }

    /// Records which tables partitions belong to from here on.
    pub(super) fn belong(&mut self, roots: impl IntoIterator<Item = (u32, Root)>) {
        for (leaf, root) in roots {
            if let Some(entry) = self.entries.get_mut(&leaf)
                && self.roots.get(&leaf) != Some(&root)
            {
                entry.stale = true;
            }
            self.roots.insert(leaf, root);
        }
    }

    /// Records what of tables is published from here on. A table whose events change is announced
    /// again before its next row.
    pub(super) fn publish(&mut self, tables: impl IntoIterator<Item = (u32, bool)>) {
        let published = self.published.get_or_insert_default();
        for (oid, all) in tables {
            if published.insert(oid, all) != Some(all)
                && let Some(entry) = self.entries.get_mut(&oid)
            {
                entry.stale = true;
            }
        }
    }

    /// The table of that oid. [`Relations::settle`] must have been called for its newest schema.
    pub(super) fn get(&self, oid: u32) -> Result<&Known> {
        let entry = self.entries.get(&oid);
        let known = entry.and_then(|entry| entry.known.as_ref());
        known.ok_or_else(|| fault::malformed(format_args!("row of unknown relation {oid}")))
    }

    /// The SQL name of a table, if it was announced.
    pub(super) fn name(&self, oid: u32) -> Option<String> {
        let schema = &self.get(oid).ok()?.schema;
        let (namespace, table) = (&schema.namespace, &schema.table);
        Some(format!(
            "{}.{}",
            quote_identifier(namespace),
            quote_identifier(table)
        ))
    }

    /// Whether the relation's newest schema was announced.
    pub(super) fn is_announced(&self, oid: u32) -> bool {
        self.entries.get(&oid).is_some_and(|entry| !entry.stale)
    }

    /// Records a relation's schema. The server sends it again whenever the relation may have
    /// changed.
    pub(super) fn learn(&mut self, relation: &Relation<'_>) {
        let entry = self.entries.entry(relation.oid).or_default();
        entry.logged = Some(Logged::of(relation));
        entry.stale = true;
    }

    /// Records the name of a type.
    pub(super) fn learn_type(&mut self, r#type: &pgoutput::Type<'_>) {
        let name = format!(
            "{}.{}",
            quote_identifier(&namespace(r#type.schema)),
            quote_identifier(&r#type.name.to_string())
        );
        self.types.insert(r#type.oid, name);
    }

    /// Determines the newest schema of a relation. Returns it if it has to be announced: it
    /// differs from the one that was announced before.
    pub(super) async fn settle(
        &mut self,
        oid: u32,
        session: &mut Session,
    ) -> Result<Option<Schema>> {
        let entry = self.entries.get(&oid).filter(|entry| entry.stale);
        let Some(logged) = entry.and_then(|entry| entry.logged.clone()) else {
            return Ok(None);
        };
        let types = logged.columns.iter().map(|column| column.type_oid);
        let roots: Vec<u32> = self.followed.iter().copied().collect();
        let facts = facts::read(session, self.encoding, oid, &roots, types.collect()).await?;
        let mut known = self.describe(oid, logged, &facts);
        let entry = self.entries.entry(oid).or_default();
        entry.stale = false;
        if let Some(former) = &entry.known {
            known.schema.schema_id = former.schema.schema_id;
            if former.schema == known.schema {
                return Ok(None);
            }
        }
        self.last_id += 1;
        known.schema.schema_id = self.last_id;
        let announced = known.schema.clone();
        entry.known = Some(known);
        Ok(Some(announced))
    }

    /// The schema of a relation, from the log and from what the catalogs say.
    fn describe(&self, oid: u32, logged: Logged, facts: &Facts) -> Known {
        // As it was when the partition was first seen: by now it may have been detached.
        let root = self.roots.get(&oid).or(facts.root.as_ref());
        let order = root.and_then(|root| order(&logged.columns, &root.columns));
        let mut columns: Vec<schema::Column> = match &order {
            Some(order) => order
                .iter()
                .filter_map(|at| logged.columns.get(*at).cloned())
                .collect(),
            None => logged.columns,
        };
        for column in &mut columns {
            self.name_type(column, facts);
        }
        let published = self.published(oid, root.map(|root| root.oid));
        let omitted = facts.omitted(&columns, self.published.is_none());
        let (key, key_source) = key::of(&key::Table {
            asked: &self.key_columns,
            identity: logged.identity,
            columns: &columns,
            omitted: &omitted,
            inserts_only: published == schema::PublishedEvents::Inserts,
            facts,
        });
        let name = |at: &usize| columns.get(*at).map(|column| column.name.clone());
        let key_columns = key.iter().filter_map(name).collect();
        let (namespace, table, partition) = match root {
            Some(root) => (
                root.namespace.clone(),
                root.name.clone(),
                format!(
                    "{}.{}",
                    quote_identifier(&logged.namespace),
                    quote_identifier(&logged.name)
                ),
            ),
            None => (logged.namespace, logged.name, String::new()),
        };
        Known {
            prefix: element::prefix(&namespace, &table),
            schema: Schema {
                schema_id: 0,
                relation_oid: oid,
                namespace,
                table,
                columns,
                replica_identity: replica_identity(logged.identity).into(),
                key_columns,
                key_source: key_source.into(),
                published: published.into(),
                omitted_columns: omitted,
                partition,
            },
            key,
            order,
        }
    }

    fn published(&self, oid: u32, root: Option<u32>) -> schema::PublishedEvents {
        let Some(published) = &self.published else {
            return schema::PublishedEvents::Unspecified;
        };
        let of = |oid: &u32| published.get(oid);
        match of(&oid).or_else(|| of(&root?)) {
            Some(false) => schema::PublishedEvents::Inserts,
            Some(true) => schema::PublishedEvents::All,
            None => schema::PublishedEvents::Unspecified,
        }
    }

    /// A type by its name in the catalogs, else as the log has it.
    fn name_type(&self, column: &mut schema::Column, facts: &Facts) {
        let oid = column.type_oid;
        match facts.types.get(&oid) {
            Some(named) => {
                column.type_name.clone_from(&named.name);
                column.base_type_name.clone_from(&named.base);
            }
            None => {
                let name = self.types.get(&oid).cloned();
                column.type_name = name.unwrap_or_default();
            }
        }
    }
}

impl Logged {
    fn of(relation: &Relation<'_>) -> Self {
        let columns = relation.columns().map(|column| schema::Column {
            name: column.name.to_string(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            identity: column.key,
            ..schema::Column::default()
        });
        Self {
            namespace: namespace(relation.schema),
            name: relation.name.to_string(),
            identity: relation.identity,
            columns: columns.collect(),
        }
    }
}

/// pgoutput sends `pg_catalog` as an empty name.
fn namespace(name: Name<'_>) -> String {
    match name.is_empty() {
        true => "pg_catalog".to_owned(),
        false => name.to_string(),
    }
}

/// The positions of a partition's columns in the order of its root's; none if it is the same. A
/// column that the root does not have now comes last.
fn order(columns: &[schema::Column], root: &[String]) -> Option<Vec<usize>> {
    let rank = |at: &usize| {
        let name = columns.get(*at).map(|column| &column.name);
        let found = root.iter().position(|other| Some(other) == name);
        (found.unwrap_or(usize::MAX), *at)
    };
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(rank);
    (!order.is_sorted()).then_some(order)
}

fn replica_identity(identity: pgoutput::ReplicaIdentity) -> schema::ReplicaIdentity {
    match identity {
        pgoutput::ReplicaIdentity::Default => schema::ReplicaIdentity::Default,
        pgoutput::ReplicaIdentity::Nothing => schema::ReplicaIdentity::Nothing,
        pgoutput::ReplicaIdentity::Full => schema::ReplicaIdentity::Full,
        pgoutput::ReplicaIdentity::Index => schema::ReplicaIdentity::Index,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_a_partition_are_in_the_order_of_its_root() {
        let columns = |names: &[&str]| -> Vec<schema::Column> {
            let column = |name: &&str| schema::Column {
                name: (*name).to_owned(),
                ..schema::Column::default()
            };
            names.iter().map(column).collect()
        };
        let root: Vec<String> = ["id", "at", "v"].map(str::to_owned).into();
        assert_eq!(order(&columns(&["id", "at", "v"]), &root), None);
        assert_eq!(
            order(&columns(&["new", "v", "at", "id"]), &root),
            Some(vec![3, 2, 1, 0])
        );
    }
}
