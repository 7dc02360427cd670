//! Paging and order of lists (AIP-132, AIP-158).

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike as _, Utc};
use serde::{Deserialize, Serialize};

use super::{Error, Reason, Result};

/// Page size when none was asked for.
pub const DEFAULT_PAGE: i32 = 50;

/// Largest page size; larger ones are lowered to it.
pub const MAX_PAGE: i32 = 1000;

/// The page size to use for the one asked for.
///
/// # Errors
/// PAGE_SIZE_NEGATIVE.
pub fn page_size(asked: i32) -> Result<usize> {
    let size = match asked {
        ..0 => {
            let message = "`page_size` must not be negative";
            return Err(Error::new(Reason::PageSizeNegative, message).with_field("page_size"));
        }
        0 => DEFAULT_PAGE,
        _ => asked.min(MAX_PAGE),
    };
    usize::try_from(size).map_err(|_| Error::internal("page size out of range"))
}

/// By what a list is ordered; the id breaks ties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    /// The resource id.
    #[default]
    Id,
    /// `create_time`.
    CreateTime,
    /// `update_time`.
    UpdateTime,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// By what.
    pub by: SortBy,
    /// Largest first.
    pub descending: bool,
}

impl Order {
    /// Reads `order_by`; `id_field` is the field name of the id.
    ///
    /// # Errors
    /// ORDER_BY_INVALID.
    pub fn parse(text: &str, id_field: &str) -> Result<Self> {
        let wrong = || {
            let message = format!(
                "`order_by` must be one of `{id_field}`, `create_time`, `update_time`, \
                 optionally followed by ` desc`"
            );
            Error::new(Reason::OrderByInvalid, message).with_field("order_by")
        };
        let mut words = text.split_whitespace();
        let by = match words.next() {
            None => return Ok(Self::default()),
            Some("create_time") => SortBy::CreateTime,
            Some("update_time") => SortBy::UpdateTime,
            Some(field) if field == id_field => SortBy::Id,
            Some(_) => return Err(wrong()),
        };
        let descending = match words.next() {
            None | Some("asc") => false,
            Some("desc") => true,
            Some(_) => return Err(wrong()),
        };
        if words.next().is_some() {
            return Err(wrong());
        }
        Ok(Self { by, descending })
    }
}

/// The position of a record in an ordered list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The time sorted by; the epoch when sorted by id.
    #[serde(rename = "t")]
    pub time: DateTime<Utc>,
    /// The id.
    #[serde(rename = "i")]
    pub id: String,
}

impl Position {
    /// Whether PostgreSQL can compare with it. A token may have been changed by a client.
    /// PostgreSQL's timestamps begin in the year -4713.
    fn is_storable(&self) -> bool {
        self.time.year() > -4713 && !self.id.contains('\0')
    }
}

#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "q")]
    query: String,
    #[serde(flatten)]
    position: Position,
}

/// Fingerprint of the arguments of a list, to which its tokens are bound.
fn fingerprint(arguments: &[&str]) -> String {
    let joined = arguments.join("\0");
    let hash = digest(&SHA256, joined.as_bytes());
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..12).unwrap_or_default())
}

/// The token of the page that begins after `position`.
///
/// # Errors
/// INTERNAL when it cannot be written.
pub fn page_token(position: &Position, arguments: &[&str]) -> Result<String> {
    let token = Token {
        query: fingerprint(arguments),
        position: position.clone(),
    };
    let json = serde_json::to_vec(&token)
        .map_err(|error| Error::internal("page token").with_source(error))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

/// The position that a token says, none for an empty one.
///
/// # Errors
/// PAGE_TOKEN_INVALID when it is damaged or belongs to other arguments.
pub fn parse_page_token(token: &str, arguments: &[&str]) -> Result<Option<Position>> {
    let wrong = |message: &str| {
        Error::new(Reason::PageTokenInvalid, message.to_owned()).with_field("page_token")
    };
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|_| wrong("the page token is damaged"))?;
    let token: Token =
        serde_json::from_slice(&bytes).map_err(|_| wrong("the page token is damaged"))?;
    if token.query != fingerprint(arguments) {
        return Err(wrong(
            "the page token belongs to a list with other arguments",
        ));
    }
    if !token.position.is_storable() {
        return Err(wrong("the page token is damaged"));
    }
    Ok(Some(token.position))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_read_back_for_their_query_alone(id in "[^\\x00]{0,63}", seconds in 0i64..4_000_000_000) {
            let position = Position { time: DateTime::from_timestamp(seconds, 0).unwrap(), id };
            let token = page_token(&position, &["a", "b"]).unwrap();
            prop_assert_eq!(parse_page_token(&token, &["a", "b"]).unwrap(), Some(position));
            let other = parse_page_token(&token, &["ab", ""]).unwrap_err();
            prop_assert_eq!(other.reason(), Reason::PageTokenInvalid);
        }

        #[test]
        fn garbage_never_panics(token in ".{1,200}") {
            prop_assert!(parse_page_token(&token, &["a"]).is_err());
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(page_size(0).unwrap(), 50);
        assert_eq!(page_size(5000).unwrap(), 1000);
        assert_eq!(
            page_size(-1).unwrap_err().reason(),
            Reason::PageSizeNegative
        );
    }

    #[test]
    fn orders_know_their_fields() {
        let order = Order::parse("create_time desc", "instance_id").unwrap();
        assert_eq!(
            order,
            Order {
                by: SortBy::CreateTime,
                descending: true
            }
        );
        for bad in [
            "name",
            "create_time down",
            "create_time desc x",
            "instance_id,create_time",
        ] {
            let error = Order::parse(bad, "instance_id").unwrap_err();
            assert_eq!(error.reason(), Reason::OrderByInvalid, "{bad}");
        }
    }
}
