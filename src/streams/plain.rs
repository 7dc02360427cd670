//! The text form of binary values, for the types that are common in keys.

use std::fmt::{Display, Write};

use tokio_postgres::types::Type;
use uuid::Uuid;

/// Appends the text that the type's output function gives. Returns false, with nothing appended,
/// for types that are not known here and for malformed values.
pub(super) fn write(out: &mut String, type_oid: u32, bytes: &[u8]) -> bool {
    match Type::from_oid(type_oid) {
        Some(Type::INT2) => add(out, bytes.try_into().map(i16::from_be_bytes).ok()),
        Some(Type::INT4) => add(out, bytes.try_into().map(i32::from_be_bytes).ok()),
        Some(Type::INT8) => add(out, bytes.try_into().map(i64::from_be_bytes).ok()),
        Some(Type::OID) => add(out, bytes.try_into().map(u32::from_be_bytes).ok()),
        Some(Type::UUID) => add(out, Uuid::from_slice(bytes).ok()),
        Some(Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME) => {
            add(out, std::str::from_utf8(bytes).ok())
        }
        _ => false,
    }
}

fn add(out: &mut String, value: Option<impl Display>) -> bool {
    value.is_some_and(|value| write!(out, "{value}").is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_postgresql_writes() {
        let text = |oid: Type, bytes: &[u8]| {
            let mut out = String::new();
            write(&mut out, oid.oid(), bytes).then_some(out)
        };
        assert_eq!(text(Type::INT2, &[255, 255]).unwrap(), "-1");
        assert_eq!(text(Type::INT8, &7i64.to_be_bytes()).unwrap(), "7");
        assert_eq!(text(Type::TEXT, b"a b").unwrap(), "a b");
        let uuid = text(Type::UUID, &[0x11; 16]).unwrap();
        assert_eq!(uuid, "11111111-1111-1111-1111-111111111111");
        assert_eq!(text(Type::INT4, b"odd"), None);
        assert_eq!(text(Type::NUMERIC, &[0; 8]), None);
    }
}
