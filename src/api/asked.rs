//! Converts requests for the audit: to JSON, bounded and without secrets.

use prost::Name;
use prost_reflect::{DynamicMessage, ExtensionDescriptor, MapKey, Value};

use super::method;
use crate::domain::{Error, Reason, Result};

/// Most bytes of a request in an audit record.
const MOST: usize = 4096;

/// The request as JSON.
///
/// # Errors
/// FIELD_INVALID when a value has no JSON form, such as a time that is out of range. INTERNAL
/// when the descriptors cannot be read.
pub(super) fn asked<T: Name>(request: &T) -> Result<String> {
    let (pool, secret) = method::pool()?;
    let descriptor = pool
        .get_message_by_name(&T::full_name())
        .ok_or_else(|| Error::internal(format!("no descriptor of {}", T::full_name())))?;
    let bytes = request.encode_to_vec();
    let mut message = DynamicMessage::decode(descriptor, bytes.as_slice()).map_err(broken)?;
    redact(&mut message, secret);
    let json = serde_json::to_string(&message);
    Ok(cut(json.map_err(out_of_range)?))
}

fn out_of_range(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let message = "the request has a time or a duration that is out of range";
    Error::new(Reason::FieldInvalid, message).with_source(error)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("a request for the audit").with_source(error)
}

/// Removes fields that hold secrets, at any depth.
fn redact(message: &mut DynamicMessage, secret: &ExtensionDescriptor) {
    let secrets: Vec<_> = message
        .fields()
        .map(|(field, _)| field)
        .filter(|field| *field.options().get_extension(secret) == Value::Bool(true))
        .collect();
    for field in secrets {
        message.clear_field(&field);
    }
    for (_, value) in message.fields_mut() {
        match value {
            Value::Message(inner) => redact(inner, secret),
            Value::List(items) => {
                for item in items {
                    if let Value::Message(inner) = item {
                        redact(inner, secret);
                    }
                }
            }
            Value::Map(entries) => redact_entries(entries.iter_mut(), secret),
            _ => {}
        }
    }
}

fn redact_entries<'a>(
    entries: impl Iterator<Item = (&'a MapKey, &'a mut Value)>,
    secret: &ExtensionDescriptor,
) {
    for (_, value) in entries {
        if let Value::Message(inner) = value {
            redact(inner, secret);
        }
    }
}

fn cut(mut json: String) -> String {
    const MARK: char = '…';
    if json.len() > MOST {
        json.truncate(json.floor_char_boundary(MOST - MARK.len_utf8()));
        json.push(MARK);
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1;

    #[test]
    fn a_request_is_kept_in_json() {
        let request = v1::DeleteInstanceRequest {
            name: "projects/a/instances/b".into(),
            force: true,
            ..Default::default()
        };
        let kept = asked(&request).unwrap();
        assert_eq!(kept, r#"{"name":"projects/a/instances/b","force":true}"#);
    }

    /// Also in a field that Howdah does not read.
    #[test]
    fn a_time_out_of_range_is_the_callers_fault() {
        let request = v1::CreateDatabaseRequest {
            database: Some(v1::Database {
                create_time: Some(prost_types::Timestamp {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let refusal = asked(&request).unwrap_err();
        assert_eq!(refusal.reason(), Reason::FieldInvalid);
    }

    #[test]
    fn a_secret_is_left_out() {
        let connection = v1::Connection {
            user: "shop".into(),
            password: "hunter2-canary".into(),
            environment: [("PGPASSWORD".to_owned(), "hunter2-canary".to_owned())].into(),
            ..Default::default()
        };
        let kept = asked(&connection).unwrap();
        assert!(kept.contains("shop"), "{kept}");
        assert!(!kept.contains("canary"), "{kept}");
    }

    #[test]
    fn a_long_request_is_cut_between_characters() {
        let request = v1::DeleteInstanceRequest {
            name: "ä".repeat(MOST),
            ..Default::default()
        };
        let kept = asked(&request).unwrap();
        assert!(
            kept.len() <= MOST && kept.len() > MOST - 4,
            "{}",
            kept.len()
        );
        assert!(kept.ends_with("ä…"), "{kept}");
    }
}
