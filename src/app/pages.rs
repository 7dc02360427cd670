//! Lists: pages of filtered records.

use crate::{
    domain::{
        Error, Result,
        filter::Filter,
        list::{Order, Place, SortBy, page_size, page_token, parse_page_token},
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
            let matches = self.filter.is_empty() || self.filter.matches(|field| item.field(field));
            if matches && page.items.len() == self.size {
                let place = page.items.last().map(|last| last.place(self.order.by));
                let place = place.ok_or_else(|| Error::internal("page without items"))?;
                page.next_page_token =
                    page_token(&place, &self.arguments.each_ref().map(String::as_str))?;
                return Ok(true);
            }
            self.after = Some(item.place(self.order.by));
            if matches {
                page.items.push(item);
            }
        }
        Ok(exhausted)
    }
}

/// A record that can be listed.
pub(super) trait Listed {
    /// Its place in a list ordered by `by`.
    fn place(&self, by: SortBy) -> Place;

    /// The value of a field that filters know.
    fn field(&self, name: &str) -> crate::domain::filter::Value;
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
