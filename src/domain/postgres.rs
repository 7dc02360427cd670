//! Names that PostgreSQL gives meaning to.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Error, Reason, Result};

/// Longest PostgreSQL name in bytes (NAMEDATALEN - 1).
pub const MAX_NAME: usize = 63;

/// A name in PostgreSQL: 1 to 63 bytes without NUL. Always quoted in SQL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PostgresName(String);

impl PostgresName {
    /// Reads a name; `field` names it in the error.
    ///
    /// # Errors
    /// NAME_TOO_LONG, NAME_MALFORMED.
    pub fn parse(text: &str, field: &str) -> Result<Self> {
        if text.len() > MAX_NAME {
            let message = format!("`{field}` is longer than {MAX_NAME} bytes, PostgreSQL's limit");
            return Err(Error::new(Reason::NameTooLong, message).with_field(field));
        }
        if text.is_empty() || text.contains('\0') {
            let message = format!("`{field}` must not be empty or hold a NUL");
            return Err(Error::new(Reason::NameMalformed, message).with_field(field));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name, unquoted.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PostgresName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A table as written in SQL: `items`, `public.items`, `"odd.name"."T"`.
///
/// Unquoted parts are folded to lower case as PostgreSQL does for ASCII.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Schema, `public` where none was written.
    pub schema: PostgresName,
    /// Table.
    pub table: PostgresName,
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = |name: &PostgresName| format!("\"{}\"", name.as_str().replace('"', "\"\""));
        write!(formatter, "{}.{}", quote(&self.schema), quote(&self.table))
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, rest) = part(text)?;
        let Some(rest) = rest.strip_prefix('.') else {
            return match rest {
                "" => Ok(Self {
                    schema: named("public", text)?,
                    table: named(&first, text)?,
                }),
                _ => Err(malformed(text)),
            };
        };
        let (second, rest) = part(rest)?;
        if !rest.is_empty() {
            return Err(malformed(text));
        }
        Ok(Self {
            schema: named(&first, text)?,
            table: named(&second, text)?,
        })
    }
}

/// One quoted or unquoted identifier at the start of `text`, and what follows it.
fn part(text: &str) -> Result<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !plain(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit() || c == '$') {
            return Err(malformed(text));
        }
        return Ok((name.to_ascii_lowercase(), rest));
    };
    let mut name = String::new();
    loop {
        let (before, after) = rest.split_once('"').ok_or_else(|| malformed(text))?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                name.push('"');
                rest = next;
            }
            None => return Ok((name, after)),
        }
    }
}

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

fn named(part: &str, whole: &str) -> Result<PostgresName> {
    PostgresName::parse(part, "tables").map_err(|error| match error.reason() {
        Reason::NameTooLong => error,
        _ => malformed(whole),
    })
}

fn malformed(text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(
        Reason::TableNameMalformed,
        format!("`{shown}` is no table name: write it as in SQL, `public.items` or `\"A\".\"b\"`"),
    )
    .with_field("tables")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_tables_as_sql_does() {
        let shown = |text: &str| text.parse::<TableName>().unwrap().to_string();
        assert_eq!(shown("items"), r#""public"."items""#);
        assert_eq!(shown("Public.Items"), r#""public"."items""#);
        assert_eq!(shown(r#""odd.name"."T""#), r#""odd.name"."T""#);
        assert_eq!(shown(r#"a."b""c""#), r#""a"."b""c""#);
        for bad in [
            "", ".", "a.", "a.b.c", "1a", "a b", r#""a"#, r#""""#, "a;drop",
        ] {
            let error = bad.parse::<TableName>().unwrap_err();
            assert_eq!(error.reason(), Reason::TableNameMalformed, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quoted_tables_read_back(schema in "[^\0]{1,15}", table in "[^\0]{1,15}") {
            let name = TableName {
                schema: PostgresName::parse(&schema, "s").unwrap(),
                table: PostgresName::parse(&table, "t").unwrap(),
            };
            prop_assert_eq!(name.to_string().parse::<TableName>().unwrap(), name);
        }

        #[test]
        fn garbage_never_panics(text in ".{0,100}") {
            let _ = text.parse::<TableName>();
        }
    }
}
