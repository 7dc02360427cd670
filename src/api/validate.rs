//! Checks the field rules of the protos (`buf.validate`).
//!
//! The conversions check requests again. This check comes early and reports everything: all
//! violations in `BadRequest`, the reason of the first one in `ErrorInfo`.

use prost_protovalidate::{Validate, Violation};
use tonic::Status;

use crate::domain::{Error, Reason};

use super::status;

/// Checks a request against its field rules.
///
/// # Errors
/// INVALID_ARGUMENT with the reason of the first broken rule.
pub fn check(request: &impl Validate) -> Result<(), Status> {
    let Err(broken) = request.validate() else {
        return Ok(());
    };
    let violations = broken.into_violations();
    let Some(first) = violations.first() else {
        return Ok(());
    };
    let field = first.field_path();
    let error = Error::new(reason(first), format!("{field}: {}", phrase(first)));
    let all = violations
        .iter()
        .map(|violation| (violation.field_path(), phrase(violation)))
        .collect();
    Err(status::with_violations(&error, all))
}

/// Patterns of the protos, and the words that messages show instead.
const IN_WORDS: [(&str, &str); 2] = [
    (
        "^[a-z]([a-z0-9-]*[a-z0-9])?$",
        "must begin with a lower-case letter, hold lower-case letters, digits and hyphens, and \
         not end with a hyphen",
    ),
    (
        "^[a-z0-9]([a-z0-9_./-]{0,61}[a-z0-9])?$",
        "a key has 1 to 63 lower-case letters, digits and `_`, `.`, `/`, `-`, and begins and \
         ends with a letter or digit",
    ),
];

/// Describes a violation for people.
fn phrase(violation: &Violation) -> String {
    let message = violation.message();
    let mut known = IN_WORDS.iter();
    let in_words = known.find(|(pattern, _)| message.contains(&format!("`{pattern}`")));
    match (message, in_words) {
        (_, Some((_, words))) => (*words).to_owned(),
        ("", None) => format!("breaks the rule {}", violation.rule_id()),
        (message, None) => message.to_owned(),
    }
}

fn reason(violation: &Violation) -> Reason {
    let path = violation.field_path();
    let rule = violation.rule_id();
    match field_of(&path) {
        "name" | "parent" | "instance_id" | "database_id" => name_reason(rule),
        // In some requests this field is the resource itself, not its name.
        "instance" | "database" if rule.starts_with("string.") => name_reason(rule),
        "postgresql_name" | "owner" | "publication" => name_reason(rule),
        "page_size" => Reason::PageSizeNegative,
        "page_token" => Reason::PageTokenInvalid,
        "filter" => Reason::FilterInvalid,
        "order_by" => Reason::OrderByInvalid,
        "request_id" => Reason::RequestIdMalformed,
        "labels" | "annotations" => Reason::LabelInvalid,
        "tables" => Reason::TableNameMalformed,
        "version" => Reason::VersionMalformed,
        "parameters" => Reason::ParameterInvalid,
        _ => Reason::FieldInvalid,
    }
}

fn name_reason(rule: &str) -> Reason {
    match rule {
        "string.max_len" | "string.max_bytes" => Reason::NameTooLong,
        _ => Reason::NameMalformed,
    }
}

/// Name of the field: the last segment of the path, without index or key.
fn field_of(path: &str) -> &str {
    let unkeyed = path.split_once('[').map_or(path, |(field, _)| field);
    unkeyed.rsplit('.').next().unwrap_or(unkeyed)
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use crate::pb::v1;

    use super::*;

    fn instance() -> v1::CreateInstanceRequest {
        v1::CreateInstanceRequest {
            parent: "projects/default".to_owned(),
            instance_id: "orders".to_owned(),
            instance: Some(v1::Instance::default()),
            ..Default::default()
        }
    }

    #[track_caller]
    fn refused(request: &impl Validate) -> Reason {
        let status = check(request).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        status::reason(&status).unwrap()
    }

    #[test]
    fn good_request_passes() {
        check(&instance()).unwrap();
    }

    #[test]
    fn names_have_their_reasons() {
        let mut request = instance();
        request.instance_id = "Orders".to_owned();
        assert_eq!(refused(&request), Reason::NameMalformed);
        request.instance_id = "o".repeat(64);
        assert_eq!(refused(&request), Reason::NameTooLong);
        let request = v1::GetInstanceRequest::default();
        assert_eq!(refused(&request), Reason::NameMalformed);
    }

    #[test]
    fn missing_message_is_no_malformed_name() {
        let mut request = instance();
        request.instance = None;
        assert_eq!(refused(&request), Reason::FieldInvalid);
    }

    #[test]
    fn nested_fields_have_their_reasons() {
        let mut request = instance();
        let inner = request.instance.as_mut().unwrap();
        inner.version = "1".repeat(17);
        assert_eq!(refused(&request), Reason::VersionMalformed);
        let mut request = instance();
        let inner = request.instance.as_mut().unwrap();
        inner.labels.insert("No.Dots[".to_owned(), String::new());
        assert_eq!(refused(&request), Reason::LabelInvalid);
    }

    #[test]
    fn lists_have_their_reasons() {
        let list = |page_size, filter: &str| v1::ListInstancesRequest {
            parent: "projects/default".to_owned(),
            page_size,
            filter: filter.to_owned(),
            ..Default::default()
        };
        assert_eq!(refused(&list(-1, "")), Reason::PageSizeNegative);
        assert_eq!(refused(&list(0, &"f".repeat(1025))), Reason::FilterInvalid);
    }

    #[test]
    fn rules_are_said_in_words() {
        let protos = [
            include_str!("../../proto/howdah/v1/instance_service.proto"),
            include_str!("../../proto/howdah/v1/database_service.proto"),
            include_str!("../../proto/howdah/v1/change_stream_service.proto"),
        ];
        let rules = protos.iter().flat_map(|proto| {
            let patterns = proto.split("pattern: \"").skip(1);
            patterns.filter_map(|rest| rest.split('"').next().filter(|it| it.starts_with('^')))
        });
        let rules: std::collections::BTreeSet<&str> = rules.collect();
        let known = IN_WORDS.iter().map(|(pattern, _)| *pattern);
        assert_eq!(rules, known.collect());

        let mut request = instance();
        request.instance_id = "Orders".to_owned();
        let inner = request.instance.as_mut().unwrap();
        inner.labels.insert("No.Dots[".to_owned(), String::new());
        inner
            .annotations
            .insert("No.Dots[".to_owned(), String::new());
        let status = check(&request).unwrap_err();
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 3);
        let said = violations
            .into_iter()
            .map(|violation| violation.description);
        for text in said.chain([status.message().to_owned()]) {
            assert!(!text.contains('^') && text.contains("lower-case"), "{text}");
        }
    }

    #[test]
    fn request_id_and_tables_have_their_reasons() {
        let mut request = instance();
        request.request_id = "no-uuid".to_owned();
        assert_eq!(refused(&request), Reason::RequestIdMalformed);
        let request = v1::SubscribeRequest {
            instance: "projects/default/instances/orders".to_owned(),
            database: "shop".to_owned(),
            tables: vec![String::new()],
            ..Default::default()
        };
        assert_eq!(refused(&request), Reason::TableNameMalformed);
    }

    #[test]
    fn lists_every_violation() {
        let request = v1::CreateInstanceRequest {
            request_id: "x".to_owned(),
            ..Default::default()
        };
        let status = check(&request).unwrap_err();
        let violations = status.get_details_bad_request().unwrap().field_violations;
        let fields: Vec<_> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        for field in ["parent", "instance_id", "instance", "request_id"] {
            assert!(fields.contains(&field), "{field} in {fields:?}");
        }
    }
}
