//! Pages of lists with filters.

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

/// Arguments of a list call.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Most records in a response; 0 for the default.
    pub page_size: i32,
    /// Token of the previous response; empty for the first page.
    pub page_token: String,
    /// Filter (AIP-160).
    pub filter: String,
    /// Order (AIP-132).
    pub order_by: String,
    /// Whether to include deleted records.
    pub show_deleted: bool,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The records. There may be fewer than requested, or none, if few of those examined match.
    pub items: Vec<T>,
    /// Token of the next page; empty on the last one.
    pub next_page_token: String,
}

/// A list call with parsed arguments.
pub(super) struct Query {
    arguments: [String; 4],
    size: usize,
    order: Order,
    filter: Filter,
    show_deleted: bool,
    after: Option<Position>,
}

impl Query {
    /// Parses the arguments of a list below `parent`.
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

    /// The part of the list to read.
    pub(super) fn slice(&self) -> Slice<'_> {
        Slice {
            order: self.order,
            after: self.after.as_ref(),
            limit: self.size,
            filter: &self.filter,
            show_deleted: self.show_deleted,
        }
    }

    /// Makes the page. It applies the filter again: the metadata cannot know which records this
    /// release is able to read, and a record may have changed since it was found.
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

/// A record of a list, with the values that filters use.
pub(super) trait Listed {
    /// Its labels; none where they cannot be read.
    fn labels(&self) -> Option<&BTreeMap<String, String>>;

    /// Value of a field that filters can use; none for a label.
    fn field(&self, name: &str) -> Option<Value>;
}

/// A value that cannot be read is not equal to any other.
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

/// Value of a field or of a label.
fn value(item: &impl Listed, name: &str) -> Value {
    item.field(name).unwrap_or_else(|| {
        let label = name.strip_prefix("labels.");
        let label = label.and_then(|key| item.labels()?.get(key));
        label.map_or(Value::Missing, |label| Value::Text(label.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{audit, change_streams, databases, instances};
    use crate::store::listing;

    #[test]
    fn each_field_of_a_filter_has_a_column() {
        let all = [
            instances::FIELDS,
            databases::FIELDS,
            change_streams::FIELDS,
            audit::FIELDS,
        ];
        let names = all.map(|fields| fields.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert_eq!(names, listing::fields());
    }
}
