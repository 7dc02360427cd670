//! The bodies of the few server messages that we look into.

use super::cursor::{Cursor, Malformed};
use crate::pg::ServerError;

/// ErrorResponse and NoticeResponse. Before a session's encoding is settled
/// their text may be in any encoding: what is no UTF-8 is replaced.
pub fn notice(body: &[u8]) -> Result<ServerError, Malformed> {
    let mut cursor = Cursor::new(body);
    let mut error = ServerError::default();
    let mut localized = String::new();
    loop {
        let field = cursor.u8()?;
        if field == 0 {
            break;
        }
        let value = String::from_utf8_lossy(cursor.cstr()?).into_owned();
        match field {
            b'S' => localized = value,
            b'V' => error.severity = value,
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            b's' => error.schema = Some(value),
            b't' => error.table = Some(value),
            b'n' => error.constraint = Some(value),
            // Fields that we do not know must be ignored, says the protocol.
            _ => {}
        }
    }
    if error.severity.is_empty() {
        error.severity = localized;
    }
    Ok(error)
}

/// ParameterStatus: a setting's name and value.
pub fn parameter(body: &[u8]) -> Result<(String, String), Malformed> {
    let mut cursor = Cursor::new(body);
    let name = String::from_utf8_lossy(cursor.cstr()?).into_owned();
    let value = String::from_utf8_lossy(cursor.cstr()?).into_owned();
    cursor.end()?;
    Ok((name, value))
}

/// RowDescription: the names of the columns.
pub fn columns(body: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut cursor = Cursor::new(body);
    let count = cursor.count()?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(String::from_utf8_lossy(cursor.cstr()?).into_owned());
        // Table, attribute, type, size, modifier, format.
        cursor.take(4 + 2 + 4 + 2 + 4 + 2)?;
    }
    cursor.end()?;
    Ok(names)
}

/// DataRow in text format.
pub fn row(body: &[u8]) -> Result<Vec<Option<String>>, Malformed> {
    let mut cursor = Cursor::new(body);
    let count = cursor.count()?;
    let mut values = Vec::new();
    for _ in 0..count {
        let null = cursor.rest().starts_with(&(-1i32).to_be_bytes());
        values.push(if null {
            cursor.take(4)?;
            None
        } else {
            Some(String::from_utf8_lossy(cursor.sized()?).into_owned())
        });
    }
    cursor.end()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_an_error() {
        let body = b"SFEHLER\0VERROR\0C42P01\0Mno \xff table\0Dsecret\0Ffile.c\0\0";
        let error = notice(body).unwrap();
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.code, "42P01");
        assert_eq!(error.message, "no \u{fffd} table");
        assert!(!format!("{error:?} {error}").contains("secret"));
        assert!(notice(b"SERROR\0").is_err());
    }

    #[test]
    fn reads_rows() {
        assert_eq!(
            row(b"\0\x02\xff\xff\xff\xff\0\0\0\x01a").unwrap(),
            vec![None, Some("a".to_owned())]
        );
        assert!(row(b"\0\x01\xff\xff\xff\xfe").is_err());
        assert!(row(b"\xff\xff").is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = (notice(&bytes), parameter(&bytes), columns(&bytes), row(&bytes));
        }
    }
}
