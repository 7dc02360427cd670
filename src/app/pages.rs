//! Lists: pages of filtered records.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::{
    domain::{
        Error, Result,
        filter::{Filter, Value},
        list::{Order, Place, SortBy, page_size, page_token, parse_page_token},
        recorded::Recorded,
    },
    store::instances::Slice,
};

/// Records read at once while a filter looks for those that match.
const CHUNK: usize = 500;

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
    /// Its records.
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
    after: Option<Place>,
    chunk: usize,
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
        let size = page_size(list.page_size)?;
        // One more than asked for tells whether there is a next page.
        let chunk = if filter.is_empty() {
            size + 1
        } else {
            CHUNK.max(size + 1)
        };
        Ok(Self {
            arguments,
            size,
            order,
            filter,
            show_deleted: list.show_deleted,
            after,
            chunk,
        })
    }

    /// The part to read next.
    pub(super) fn slice(&self) -> Result<Slice<'_>> {
        let limit = i64::try_from(self.chunk).map_err(|_| Error::internal("page size"))?;
        let after = self.after.as_ref();
        Ok(Slice {
            order: self.order,
            after,
            limit,
            show_deleted: self.show_deleted,
        })
    }

    /// Takes what was read into `page`, and answers whether the page is complete.
    pub(super) fn take<T: Listed>(&mut self, page: &mut Page<T>, read: Vec<T>) -> Result<bool> {
        let exhausted = read.len() < self.chunk;
        for item in read {
            let matches =
                self.filter.is_empty() || self.filter.matches(|field| value(&item, field));
            if matches && page.items.len() == self.size {
                let last = page.items.last().map(|last| place(last, self.order.by));
                let last = last.ok_or_else(|| Error::internal("page without items"))?;
                page.next_page_token =
                    page_token(&last, &self.arguments.each_ref().map(String::as_str))?;
                return Ok(true);
            }
            self.after = Some(place(&item, self.order.by));
            if matches {
                page.items.push(item);
            }
        }
        Ok(exhausted)
    }
}

/// A record that can be listed.
pub(super) trait Listed {
    /// Its id, times of creation and of the last change, and labels.
    fn common(&self) -> Common<'_>;

    /// The value of a field that filters know; none for a label.
    fn field(&self, name: &str) -> Option<Value>;
}

/// What every listed record has.
pub(super) struct Common<'a> {
    pub(super) id: &'a str,
    pub(super) create_time: DateTime<Utc>,
    pub(super) update_time: DateTime<Utc>,
    /// None where they cannot be read.
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
}

/// A value that cannot be read equals no other; the row keeps its place in the order.
impl<T: Listed> Listed for Recorded<T> {
    fn common(&self) -> Common<'_> {
        match self {
            Self::Whole(record) => record.common(),
            Self::Unreadable(record) => Common {
                id: &record.id,
                create_time: record.create_time,
                update_time: record.update_time,
                labels: None,
            },
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

/// The place of a record in a list ordered by `by`.
fn place(item: &impl Listed, by: SortBy) -> Place {
    let common = item.common();
    let time = match by {
        SortBy::Id => DateTime::UNIX_EPOCH,
        SortBy::CreateTime => common.create_time,
        SortBy::UpdateTime => common.update_time,
    };
    let id = common.id.to_string();
    Place { time, id }
}

/// The value of a field or label.
fn value(item: &impl Listed, name: &str) -> Value {
    item.field(name).unwrap_or_else(|| {
        let label = name.strip_prefix("labels.");
        let label = label.and_then(|key| item.common().labels?.get(key));
        label.map_or(Value::Missing, |label| Value::Text(label.clone()))
    })
}

impl<T> Page<T> {
    /// A page with nothing on it yet.
    pub(super) fn empty() -> Self {
        Self {
            items: Vec::new(),
            next_page_token: String::new(),
        }
    }
}
