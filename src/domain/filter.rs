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
    /// `:`, of texts that hold the operand somewhere
    Has,
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
        let text = text.trim_end();
        Self::read(text, fields).map_err(|wrong| wrong.in_filter(text))
    }

    fn read(text: &str, fields: Fields) -> std::result::Result<Self, Wrong<'_>> {
        let mut comparisons = Vec::new();
        let mut rest = text.trim_start();
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

    /// Whether a record matches. `value` returns the value of a field.
    pub fn matches(&self, value: impl Fn(&str) -> Value) -> bool {
        self.0
            .iter()
            .all(|comparison| comparison.holds(&value(&comparison.field)))
    }
}

impl Comparison {
    fn holds(&self, value: &Value) -> bool {
        let order = match (value, &self.operand) {
            (Value::Text(left), Value::Text(right)) if self.operator == Operator::Has => {
                return left.contains(right.as_str());
            }
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
            // Only texts hold something.
            Operator::Has => false,
        }
    }
}

/// What cannot be read, and from where on.
struct Wrong<'a> {
    /// The rest of the filter, which begins with what is wrong.
    rest: &'a str,
    why: String,
}

impl<'a> Wrong<'a> {
    fn new(rest: &'a str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { rest, why }
    }

    /// Adds the position in the whole filter.
    fn in_filter(&self, filter: &str) -> Error {
        const SHOWN: usize = 32;
        let before = filter.strip_suffix(self.rest).unwrap_or_default();
        let place = match self.rest.is_empty() {
            true => "at its end".to_owned(),
            false => {
                let shown: String = self.rest.chars().take(SHOWN).collect();
                let more = if shown.len() < self.rest.len() {
                    "..."
                } else {
                    ""
                };
                format!(
                    "at character {}, `{shown}{more}`",
                    before.chars().count() + 1
                )
            }
        };
        let message = format!("the filter cannot be read {place}: {}", self.why);
        Error::new(Reason::FilterInvalid, message).with_field("filter")
    }
}

type Read<'a, T> = std::result::Result<(T, &'a str), Wrong<'a>>;

/// Reads `AND`, and returns what comes after it.
fn conjunction(text: &str) -> std::result::Result<&str, Wrong<'_>> {
    let after = text.strip_prefix("AND");
    match after {
        Some("") => Err(Wrong::new("", "a comparison is missing after `AND`")),
        Some(rest) if rest.starts_with(char::is_whitespace) => Ok(rest.trim_start()),
        _ => {
            let why = "comparisons are joined by `AND`, in capital letters; there is no `OR`, and \
                 there are no parentheses";
            Err(Wrong::new(text, why))
        }
    }
}

fn comparison(text: &str, fields: Fields) -> Read<'_, Comparison> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    let end = text.find(|c| !inner(c)).unwrap_or(text.len());
    let (field, rest) = text.split_at(end);
    let kind = kind(field, fields).map_err(|why| Wrong::new(text, why))?;
    let sign = rest.trim_start();
    let (operator, rest) = operator(sign)?;
    if operator == Operator::Has && kind != Type::Text {
        let why = format!("`{field}` is no text that `:` could look into; compare it with `=`");
        return Err(Wrong::new(sign, why));
    }
    let place = rest.trim_start();
    let (operand, rest) = operand(place)?;
    let operand = typed(&operand, kind, field).map_err(|why| Wrong::new(place, why))?;
    Ok((
        Comparison {
            field: field.to_owned(),
            operator,
            operand,
        },
        rest,
    ))
}

/// The kind of a field, or why it has none.
fn kind(field: &str, fields: Fields) -> std::result::Result<Type, String> {
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
        let names = names.join(", ");
        match field {
            "" => format!(
                "a comparison begins with a field, one of {names}, labels.KEY; there are no \
                 parentheses"
            ),
            _ => {
                let shown: String = field.chars().take(64).collect();
                format!("`{shown}` is none of {names}, labels.KEY")
            }
        }
    })
}

fn operator(text: &str) -> Read<'_, Operator> {
    const OPERATORS: [(&str, Operator); 7] = [
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("=", Operator::Equal),
        ("<", Operator::Less),
        (">", Operator::Greater),
        (":", Operator::Has),
    ];
    let inner = |c: char| matches!(c, '=' | '!' | '<' | '>' | '~' | ':');
    let end = text.find(|c| !inner(c)).unwrap_or(text.len());
    let (sign, rest) = text.split_at(end);
    let mut known = OPERATORS.iter().filter(|(name, _)| *name == sign);
    match known.next() {
        Some((_, operator)) => Ok((*operator, rest)),
        None => {
            let why = "a comparison is `field = value`, with one of =, !=, <, <=, >, >=, :";
            Err(Wrong::new(text, why))
        }
    }
}

/// A word, or a text in quotes where a backslash takes the next character as it is.
fn operand(text: &str) -> Read<'_, String> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        return match word.chars().next() {
            None => Err(Wrong::new(text, "a comparison lacks its value")),
            Some('\'') => {
                let why = "strings are quoted with double quotes, such as \"a b\"";
                Err(Wrong::new(text, why))
            }
            Some('(') => Err(Wrong::new(text, "there are no parentheses")),
            Some(_) => Ok((word.to_owned(), rest)),
        };
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
    Err(Wrong::new(text, "the double quote is not closed"))
}

/// An operand as a value of the field's kind, or why it is none.
fn typed(operand: &str, kind: Type, field: &str) -> std::result::Result<Value, String> {
    match kind {
        Type::Text => Ok(Value::Text(operand.to_owned())),
        Type::Word(words) if words.contains(&operand) => Ok(Value::Text(operand.to_owned())),
        Type::Word(words) => Err(format!("`{field}` is one of {}", words.join(", "))),
        Type::Bool => match operand {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(format!("`{field}` is `true` or `false`")),
        },
        Type::Time => DateTime::parse_from_rfc3339(operand)
            .map(|time| Value::Time(time.with_timezone(&Utc)))
            .map_err(|_| format!("`{field}` is a time such as 2026-11-21T12:00:00Z")),
    }
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
        assert!(matches(r#"version : 5 AND labels.team:"a \"""#));
        assert!(!matches("version : 6"));
        assert!(!matches("labels.none : x"));
    }

    /// A bad filter, its position in the message, and a part of the explanation.
    const BAD: [(&str, &str, &str); 22] = [
        (
            "(state = READY)",
            "at character 1, `(state = READY)`",
            "no parentheses",
        ),
        (
            "state = (READY)",
            "at character 9, `(READY)`",
            "no parentheses",
        ),
        (
            "state = READY OR state = STOPPED",
            "at character 15, `OR state = STOPPED`",
            "no `OR`",
        ),
        (
            "state = READY and version = 15",
            "at character 15, `and ver",
            "capital letters",
        ),
        (
            "state = READY version = 15",
            "at character 15, `version = 15`",
            "`AND`",
        ),
        ("state = READY AND", "at its end", "missing after `AND`"),
        ("  state = READY AND  ", "at its end", "missing after `AND`"),
        (
            "AND state = READY",
            "at character 1, `AND",
            "`AND` is none of state, version",
        ),
        (
            "= READY",
            "at character 1, `= READY`",
            "begins with a field, one of state, version",
        ),
        (
            " name = x",
            "at character 2, `name = x`",
            "`name` is none of state, version",
        ),
        ("labels. = x", "at character 1, ", "labels.KEY"),
        ("state", "at its end", "`field = value`"),
        ("state =", "at its end", "lacks its value"),
        (
            "state == READY",
            "at character 7, `== READY`",
            "one of =, !=, <, <=, >, >=, :",
        ),
        (
            "state ~ READY",
            "at character 7, `~ READY`",
            "one of =, !=, <, <=, >, >=, :",
        ),
        (
            "state: READY",
            "at character 6, `: READY`",
            "`state` is no text",
        ),
        (
            "state = GONE",
            "at character 9, `GONE`",
            "`state` is one of READY, STOPPED",
        ),
        (
            "state = 'READY'",
            "at character 9, `'READY'`",
            "double quotes",
        ),
        ("labels.é = x", "at character 1, ", "labels.KEY"),
        ("ephemeral = 1", "at character 13, `1`", "`true` or `false`"),
        (
            "create_time > yesterday",
            "at character 15, `yesterday`",
            "2026-11-21T12:00:00Z",
        ),
        (
            "labels.a = \"é\" AND version = \"open",
            "at character 30, `\"open`",
            "not closed",
        ),
    ];

    #[test]
    fn refuses_what_it_does_not_know_and_says_where() {
        for (bad, place, why) in BAD {
            let error = Filter::parse(bad, FIELDS).unwrap_err();
            assert_eq!(error.reason(), Reason::FilterInvalid, "{bad}");
            let message = error.message();
            let begin = format!("the filter cannot be read {place}");
            assert!(message.starts_with(&begin), "{bad}: {message}");
            assert!(message.contains(why), "{bad}: {message}");
        }
        let long = format!("{}!", "x".repeat(1000));
        let error = Filter::parse(&long, FIELDS).unwrap_err();
        assert!(error.message().len() < 300, "{}", error.message());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}") {
            let _ = Filter::parse(&text, FIELDS);
        }
    }
}
