//! The key of a table.

use super::facts::Facts;
use crate::{
    pb::v1::schema::{self, KeySource},
    pg::pgoutput::ReplicaIdentity,
};

/// What decides on the key.
pub(super) struct Table<'a> {
    /// The key columns of the request.
    pub(super) asked: &'a [String],
    pub(super) identity: ReplicaIdentity,
    pub(super) columns: &'a [schema::Column],
    /// Columns of the table that its rows do not have.
    pub(super) omitted: &'a [String],
    /// Whether no updates and deletes are published.
    pub(super) inserts_only: bool,
    pub(super) facts: &'a Facts,
}

/// The positions of the key's columns, and where they come from.
///
/// Insert, update and delete of one row must have the same key. So it has only columns that the
/// image of an old row has: those of the replica identity, which is any with REPLICA IDENTITY
/// FULL, and any where no old rows are published.
pub(super) fn of(table: &Table<'_>) -> (Vec<usize>, KeySource) {
    if let Some(key) = asked(table) {
        return (key, KeySource::Request);
    }
    let marked = table.identity != ReplicaIdentity::Full;
    let identity: Vec<usize> = table
        .columns
        .iter()
        .enumerate()
        .filter(|(_, column)| marked && column.identity)
        .map(|(at, _)| at)
        .collect();
    if !identity.is_empty() {
        // Without one of its columns an identity is not unique.
        let generated = &table.facts.generated_identity;
        let whole = !table.omitted.iter().any(|name| generated.contains(name));
        return match whole {
            true => (identity, KeySource::Identity),
            false => (Vec::new(), KeySource::Unspecified),
        };
    }
    match positions(table.columns, &table.facts.primary_key) {
        Some(key) => (key, KeySource::Catalog),
        None => (Vec::new(), KeySource::Unspecified),
    }
}

/// The key columns of the request, if the table has them all in each image of a row.
fn asked(table: &Table<'_>) -> Option<Vec<usize>> {
    let key = positions(table.columns, table.asked)?;
    let everywhere = table.identity == ReplicaIdentity::Full || table.inserts_only;
    let identity = |at: &usize| table.columns.get(*at).is_some_and(|it| it.identity);
    (everywhere || key.iter().all(identity)).then_some(key)
}

/// The positions of these columns, if there are some and all are there.
fn positions(columns: &[schema::Column], names: &[String]) -> Option<Vec<usize>> {
    let position = |name: &String| columns.iter().position(|column| column.name == *name);
    let positions: Option<Vec<usize>> = names.iter().map(position).collect();
    positions.filter(|positions| !positions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Vec<schema::Column> {
        let column = |name: &&str| schema::Column {
            name: name.trim_end_matches('*').to_owned(),
            identity: name.ends_with('*'),
            ..schema::Column::default()
        };
        names.iter().map(column).collect()
    }

    /// The key with these columns of the request and of the primary key.
    fn key(names: &[&str], identity: ReplicaIdentity, asked: &[&str]) -> (Vec<usize>, KeySource) {
        let facts = Facts {
            primary_key: vec!["b".into()],
            ..Facts::default()
        };
        let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
        of(&Table {
            asked: &asked,
            identity,
            columns: &columns(names),
            omitted: &[],
            inserts_only: false,
            facts: &facts,
        })
    }

    #[test]
    fn a_key_has_only_columns_that_old_rows_have() {
        use ReplicaIdentity::{Default, Full, Nothing};
        assert_eq!(
            key(&["a", "b*"], Default, &[]),
            (vec![1], KeySource::Identity)
        );
        assert_eq!(
            key(&["a", "b*"], Default, &["a"]),
            (vec![1], KeySource::Identity)
        );
        assert_eq!(
            key(&["a*", "b*"], Default, &["b", "a"]),
            (vec![1, 0], KeySource::Request)
        );
        assert_eq!(
            key(&["a*", "b*"], Full, &["a"]),
            (vec![0], KeySource::Request)
        );
        assert_eq!(key(&["a*", "b*"], Full, &[]), (vec![1], KeySource::Catalog));
        assert_eq!(
            key(&["a", "b"], Nothing, &[]),
            (vec![1], KeySource::Catalog)
        );
        assert_eq!(key(&["a"], Nothing, &[]), (vec![], KeySource::Unspecified));
    }

    #[test]
    fn an_identity_without_one_of_its_columns_is_no_key() {
        let facts = Facts {
            generated_identity: vec!["generated".into()],
            ..Facts::default()
        };
        let (key, source) = of(&Table {
            asked: &[],
            identity: ReplicaIdentity::Default,
            columns: &columns(&["a*", "b"]),
            omitted: &["generated".into()],
            inserts_only: false,
            facts: &facts,
        });
        assert_eq!((key, source), (vec![], KeySource::Unspecified));
    }
}
