//! Quoting for the statements that take no parameters (DDL, replication).

/// `"name"`, with inner quotes doubled.
///
/// A zero byte stays, and is refused when the statement is sent: PostgreSQL's
/// strings cannot hold one.
pub fn quote_identifier(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// `'text'`, safe whatever `standard_conforming_strings` is: text with a
/// backslash becomes ` E'...'`, with a leading space so that it cannot grow
/// together with a keyword before it.
pub fn quote_literal(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes() {
        assert_eq!(quote_identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b'"), r" E'a\\b'''");
    }

    proptest! {
        #[test]
        fn no_quote_is_left_open(s in ".*") {
            let inner = quote_identifier(&s);
            let inner = &inner[1..inner.len() - 1];
            prop_assert_eq!(inner.replace("\"\"", "").matches('"').count(), 0);
            prop_assert_eq!(inner.replace("\"\"", "\""), s);
        }
    }
}
