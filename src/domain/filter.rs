//! Filters of lists: the conjunctions of AIP-160.
//!
//! `state = READY AND labels.team = "a"`. Fields that are not known are refused when
//! the filter is read, not when it is first used.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};

use super::{Error, Reason, Result};

/// What a field of a record holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, compared as such.
    Text(String),
    /// A truth value, `true` or `false`.
    Bool(bool),
    /// A time, written by RFC 3339.
    Time(DateTime<Utc>),
    /// Not set; equal to nothing.
    Missing,
}

/// Kind of a field, which a filter's operands must fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// RFC 3339.
    Time,
}

/// The fields that a resource can be filtered by. `labels.KEY` always goes.
pub type Fields = &'static [(&'static str, Type)];

/// How a field is compared with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`, which holds for what is missing, too.
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// One of the comparisons that a filter joins.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// A known field, or `labels.KEY`.
    pub field: String,
    /// How it is compared.
    pub operator: Operator,
    /// What it is compared with; never missing.
    pub operand: Value,
}

/// A filter that was read and whose fields are known.
#[derive(Clone, Debug, Default)]
pub struct Filter(Vec<Comparison>);

impl Filter {
    /// Reads a filter over `fields`; an empty one matches everything.
    ///
    /// # Errors
    /// FILTER_INVALID.
    pub fn parse(text: &str, fields: Fields) -> Result<Self> {
        let mut comparisons = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            if !comparisons.is_empty() {
                rest = conjunction(rest)?;
            }
            let (comparison, after) = comparison(rest, fields)?;
            comparisons.push(comparison);
            rest = after.trim_start();
        }
        Ok(Self(comparisons))
    }

    /// Whether it lets everything pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The comparisons, which all have to hold.
    #[must_use]
    pub fn comparisons(&self) -> &[Comparison] {
        &self.0
    }

    /// Whether a record matches, whose fields `value` tells.
    pub fn matches(&self, value: impl Fn(&str) -> Value) -> bool {
        self.0
            .iter()
            .all(|comparison| comparison.holds(&value(&comparison.field)))
    }
}

impl Comparison {
    fn holds(&self, value: &Value) -> bool {
        let order = match (value, &self.operand) {
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Value::Time(left), Value::Time(right)) => left.cmp(right),
            _ => return self.operator == Operator::NotEqual,
        };
        match self.operator {
            Operator::Equal => order == Ordering::Equal,
            Operator::NotEqual => order != Ordering::Equal,
            Operator::Less => order == Ordering::Less,
            Operator::LessOrEqual => order != Ordering::Greater,
            Operator::Greater => order == Ordering::Greater,
            Operator::GreaterOrEqual => order != Ordering::Less,
        }
    }
}

fn conjunction(text: &str) -> Result<&str> {
    let rest = text
        .strip_prefix("AND")
        .filter(|rest| rest.starts_with(char::is_whitespace));
    rest.map(str::trim_start)
        .ok_or_else(|| wrong("comparisons are joined by `AND`"))
}

fn comparison(text: &str, fields: Fields) -> Result<(Comparison, &str)> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    let end = text.find(|c| !inner(c)).unwrap_or(text.len());
    let (field, rest) = text.split_at(end);
    let kind = kind(field, fields)?;
    let (operator, rest) = operator(rest.trim_start())?;
    let (operand, rest) = operand(rest.trim_start())?;
    let operand = typed(&operand, kind, field)?;
    Ok((
        Comparison {
            field: field.to_owned(),
            operator,
            operand,
        },
        rest,
    ))
}

fn kind(field: &str, fields: Fields) -> Result<Type> {
    if field
        .strip_prefix("labels.")
        .is_some_and(|key| !key.is_empty())
    {
        return Ok(Type::Text);
    }
    let known = fields
        .iter()
        .find(|(name, _)| *name == field)
        .map(|(_, kind)| *kind);
    known.ok_or_else(|| {
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let shown: String = field.chars().take(64).collect();
        wrong(&format!(
            "`{shown}` is none of {}, labels.KEY",
            names.join(", ")
        ))
    })
}

fn operator(text: &str) -> Result<(Operator, &str)> {
    const OPERATORS: [(&str, Operator); 6] = [
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("=", Operator::Equal),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let mut found = OPERATORS
        .iter()
        .filter_map(|(sign, operator)| text.strip_prefix(sign).map(|rest| (*operator, rest)));
    found
        .next()
        .ok_or_else(|| wrong("a comparison is `field = value`, with =, !=, <, <=, >, >="))
}

/// A word, or a text in quotes where a backslash takes the next character as it is.
fn operand(text: &str) -> Result<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if word.is_empty() {
            return Err(wrong("a comparison lacks its value"));
        }
        return Ok((word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, quoted.get(at + 1..).unwrap_or_default())),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    Err(wrong("a quote is not closed"))
}

fn typed(operand: &str, kind: Type, field: &str) -> Result<Value> {
    match kind {
        Type::Text => Ok(Value::Text(operand.to_owned())),
        Type::Word(words) if words.contains(&operand) => Ok(Value::Text(operand.to_owned())),
        Type::Word(words) => Err(wrong(&format!("`{field}` is one of {}", words.join(", ")))),
        Type::Bool => match operand {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(wrong(&format!("`{field}` is `true` or `false`"))),
        },
        Type::Time => DateTime::parse_from_rfc3339(operand)
            .map(|time| Value::Time(time.with_timezone(&Utc)))
            .map_err(|_| wrong(&format!("`{field}` is a time such as 2026-11-21T12:00:00Z"))),
    }
}

fn wrong(message: &str) -> Error {
    Error::new(
        Reason::FilterInvalid,
        format!("the filter cannot be read: {message}"),
    )
    .with_field("filter")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: Fields = &[
        ("state", Type::Word(&["READY", "STOPPED"])),
        ("version", Type::Text),
        ("ephemeral", Type::Bool),
        ("create_time", Type::Time),
    ];

    fn matches(filter: &str) -> bool {
        Filter::parse(filter, FIELDS)
            .unwrap()
            .matches(|field| match field {
                "state" => Value::Text("READY".into()),
                "version" => Value::Text("15".into()),
                "ephemeral" => Value::Bool(true),
                "create_time" => Value::Time(DateTime::from_timestamp(1_800_000_000, 0).unwrap()),
                "labels.team" => Value::Text("a \"b\"".into()),
                _ => Value::Missing,
            })
    }

    #[test]
    fn compares_what_it_names() {
        assert!(matches(""));
        assert!(matches("state = READY AND version=15"));
        assert!(matches(r#"labels.team = "a \"b\"""#));
        assert!(!matches("state != READY"));
        assert!(!matches("labels.none = x"));
        assert!(matches("labels.none != x"));
        assert!(matches(
            "create_time > 2026-01-01T00:00:00Z AND ephemeral = true"
        ));
        assert!(!matches("create_time < 2026-01-01T00:00:00Z"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in [
            "name = x",
            "state = GONE",
            "state",
            "state =",
            "state ~ READY",
            "version = 15 OR x = y",
            "ephemeral = 1",
            "create_time > yesterday",
            "labels. = x",
            "version = \"open",
            "state = READY version = 15",
            "AND state = READY",
        ] {
            let error = Filter::parse(bad, FIELDS).unwrap_err();
            assert_eq!(error.reason(), Reason::FilterInvalid, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}") {
            let _ = Filter::parse(&text, FIELDS);
        }
    }
}
