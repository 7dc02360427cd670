//! Lists: pages of filtered records.

use std::collections::BTreeMap;

use crate::{
    domain::{
        Result,
        filter::{Filter, Value},
        list::{Order, Position, page_size, page_token, parse_page_token},
        recorded::Recorded,
    },
    store::listing::{Part, Slice},
};

/// Arguments of a list, as the caller gave them.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Most records in an answer; 0 for the default.
    pub page_size: i32,
    /// Token of the former answer; empty for the first page.
    pub page_token: String,
    /// Filter by AIP-160.
    pub filter: String,
    /// Order by AIP-132.
    pub order_by: String,
    /// Also deleted records.
    pub show_deleted: bool,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// Its records; fewer than asked for, or none, where few match.
    pub items: Vec<T>,
    /// Token of the next page; empty on the last one.
    pub next_page_token: String,
}

/// A list whose arguments were read.
pub(super) struct Query {
    arguments: [String; 4],
    size: usize,
    order: Order,
    filter: Filter,
    show_deleted: bool,
    after: Option<Position>,
}

impl Query {
    /// Reads the arguments of a list below `parent`.
    pub(super) fn new(parent: &str, list: List, order: Order, filter: Filter) -> Result<Self> {
        let deleted = if list.show_deleted { "deleted" } else { "" };
        let arguments = [
            parent.to_owned(),
            list.filter,
            list.order_by,
            deleted.to_owned(),
        ];
        let after = parse_page_token(&list.page_token, &arguments.each_ref().map(String::as_str))?;
        Ok(Self {
            arguments,
            size: page_size(list.page_size)?,
            order,
            filter,
            show_deleted: list.show_deleted,
            after,
        })
    }

    /// The part to read.
    pub(super) fn slice(&self) -> Slice<'_> {
        Slice {
            order: self.order,
            after: self.after.as_ref(),
            limit: self.size,
            filter: &self.filter,
            show_deleted: self.show_deleted,
        }
    }

    /// The page of what was read. What the metadata took for a match is looked at again:
    /// it does not know which records this release is able to read, and a record may have
    /// changed since it was found.
    pub(super) fn page<T: Listed>(&self, part: Part<T>) -> Result<Page<T>> {
        let mut items = part.records;
        items.retain(|item| self.filter.matches(|field| value(item, field)));
        let arguments = self.arguments.each_ref().map(String::as_str);
        let token = part.next.map(|position| page_token(&position, &arguments));
        Ok(Page {
            items,
            next_page_token: token.transpose()?.unwrap_or_default(),
        })
    }
}

/// A record that can be listed.
pub(super) trait Listed {
    /// Its labels; none where they cannot be read.
    fn labels(&self) -> Option<&BTreeMap<String, String>>;

    /// The value of a field that filters know; none for a label.
    fn field(&self, name: &str) -> Option<Value>;
}

/// A value that cannot be read equals no other.
impl<T: Listed> Listed for Recorded<T> {
    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Whole(record) => record.labels(),
            Self::Unreadable(_) => None,
        }
    }

    fn field(&self, name: &str) -> Option<Value> {
        match self {
            Self::Whole(record) => record.field(name),
            Self::Unreadable(record) => match name {
                "instance_id" | "database_id" => Some(Value::Text(record.id.clone())),
                "create_time" => Some(Value::Time(record.create_time)),
                _ => None,
            },
        }
    }
}

/// The value of a field or label.
fn value(item: &impl Listed, name: &str) -> Value {
    item.field(name).unwrap_or_else(|| {
        let label = name.strip_prefix("labels.");
        let label = label.and_then(|key| item.labels()?.get(key));
        label.map_or(Value::Missing, |label| Value::Text(label.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{audit, databases, instances};
    use crate::store::listing;

    #[test]
    fn each_field_of_a_filter_has_a_column() {
        let names = [instances::FIELDS, databases::FIELDS, audit::FIELDS]
            .map(|fields| fields.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert_eq!(names, listing::fields());
    }
}
