//! Element ids: table and key in one string.
//!
//! Two rows never have the same one. So a backslash stands before each character that could be
//! taken for a separator: `\`, `.` and `:` in a name, `\` and `_` in a value. Ids of plain names
//! and numbers have none.

use super::plain;
use crate::pg::pgoutput::Value;

/// The part of the id before the key: `users:`, and with another schema than `public`
/// `sales.users:`.
pub(super) fn prefix(namespace: &str, table: &str) -> String {
    let mut prefix = String::new();
    if namespace != "public" {
        escape(&mut prefix, namespace, &['\\', '.', ':']);
        prefix.push('.');
    }
    escape(&mut prefix, table, &['\\', '.', ':']);
    prefix.push(':');
    prefix
}

fn escape(out: &mut String, text: &str, special: &[char]) {
    for char in text.chars() {
        if special.contains(&char) {
            out.push('\\');
        }
        out.push(char);
    }
}

/// Writes the id of a row whose key has these values, with their types, to `out`. It is empty
/// without a key, and when a value is NULL or not known, or binary and of a type whose text is
/// not known here.
pub(super) fn write<'a>(
    out: &mut String,
    prefix: &str,
    key: impl Iterator<Item = (Value<'a>, u32)>,
) {
    out.clear();
    let mut first = true;
    for (value, type_oid) in key {
        out.push_str(if first { prefix } else { "_" });
        first = false;
        if !add(out, value, type_oid) {
            out.clear();
            return;
        }
    }
}

fn add(out: &mut String, value: Value<'_>, type_oid: u32) -> bool {
    let special = ['\\', '_'];
    match value {
        Value::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if text.contains(special) => escape(out, text, &special),
            Ok(text) => out.push_str(text),
            Err(_) => return false,
        },
        Value::Binary(bytes) => {
            let mut text = String::new();
            if !plain::write(&mut text, type_oid, bytes) {
                return false;
            }
            escape(out, &text, &special);
        }
        Value::Null | Value::Unchanged => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn id(namespace: &str, table: &str, key: &[&str]) -> String {
        let mut out = String::new();
        let values = key.iter().map(|text| (Value::Text(text.as_bytes()), 25));
        write(&mut out, &prefix(namespace, table), values);
        out
    }

    #[test]
    fn simple_ids_are_plain() {
        assert_eq!(id("public", "users", &["12345"]), "users:12345");
        assert_eq!(
            id("public", "order_items", &["1001", "5"]),
            "order_items:1001_5"
        );
        assert_eq!(id("s1", "users", &["7"]), "s1.users:7");
        let binary = Value::Binary(&[0, 0, 0, 5]);
        let mut out = String::new();
        write(&mut out, "t:", [(binary, 23)].into_iter());
        assert_eq!(out, "t:5");
        write(&mut out, "t:", [(Value::Null, 23)].into_iter());
        assert_eq!(out, "");
    }

    proptest! {
        #[test]
        fn ids_are_injective(rows in prop::collection::vec((
            "[a.:\\\\_]{1,3}", "[a.:\\\\_]{1,3}", prop::collection::vec("[a.:\\\\_]{0,3}", 1..4)
        ), 1..200)) {
            let mut seen = HashMap::new();
            for (namespace, table, key) in rows {
                let parts: Vec<&str> = key.iter().map(String::as_str).collect();
                let id = id(&namespace, &table, &parts);
                let row = (namespace, table, key);
                let before = seen.insert(id, row.clone());
                prop_assert!(before.is_none_or(|before| before == row));
            }
        }
    }
}
