//! Messages as JSON, by protobuf's JSON mapping: names in lowerCamelCase, 64-bit numbers as
//! strings, fields with default values omitted.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage};
use prost_types::Any;

use crate::{
    cli::{
        arguments::Output,
        exit::{Exit, Failure},
        output::data,
    },
    pb::DESCRIPTORS,
};

static POOL: LazyLock<Result<DescriptorPool, DescriptorError>> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS));

/// Formats a message of the type with that full name, on several lines.
pub(in crate::cli) fn render<M: Message>(
    full_name: &str,
    message: &M,
    output: Output,
) -> Result<String, Failure> {
    of_bytes(full_name, &message.encode_to_vec(), output)
}

/// Formats a packed message without the name of its type.
pub(in crate::cli) fn render_any(any: &Any, output: Output) -> Result<String, Failure> {
    let full_name = any.type_url.rsplit('/').next().unwrap_or_default();
    of_bytes(full_name, &any.value, output)
}

/// The field `name` of a message; none if it has no such field.
pub(in crate::cli) fn name_of<M: Message>(
    full_name: &str,
    message: &M,
) -> Result<Option<String>, Failure> {
    let value = value(full_name, &message.encode_to_vec())?;
    let name = value.get("name").and_then(serde_json::Value::as_str);
    Ok(name.map(str::to_owned))
}

fn of_bytes(full_name: &str, bytes: &[u8], output: Output) -> Result<String, Failure> {
    data(&value(full_name, bytes)?, output)
}

fn value(full_name: &str, bytes: &[u8]) -> Result<serde_json::Value, Failure> {
    let fail = |error: String| {
        Failure::new(
            Exit::Failed,
            format!("cannot print {full_name} as JSON: {error}"),
        )
    };
    let pool = POOL.as_ref().map_err(|error| fail(error.to_string()))?;
    let descriptor = pool
        .get_message_by_name(full_name)
        .ok_or_else(|| fail("its type is unknown".into()))?;
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|e| fail(e.to_string()))?;
    serde_json::to_value(&message).map_err(|error| fail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{
        google::longrunning::{Operation, operation},
        v1::{Instance, Server, instance},
    };

    #[test]
    fn messages_follow_the_protobuf_mapping() {
        let instance = Instance {
            name: "projects/default/instances/orders".into(),
            state: instance::State::Ready.into(),
            epoch: 1,
            server_version: "15.18".into(),
            create_time: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 0,
            }),
            servers: vec![Server {
                system_identifier: u64::MAX,
                ..Server::default()
            }],
            ..Instance::default()
        };
        let packed = Any {
            type_url: "type.googleapis.com/howdah.v1.Instance".into(),
            value: instance.encode_to_vec(),
        };
        let expected = serde_json::json!({
            "name": "projects/default/instances/orders",
            "state": "READY",
            "epoch": "1",
            "serverVersion": "15.18",
            "createTime": "1970-01-01T00:00:01Z",
            "servers": [{"systemIdentifier": u64::MAX.to_string()}],
        });
        let read = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert_eq!(
            read(render("howdah.v1.Instance", &instance, Output::Json).unwrap()),
            expected
        );
        assert_eq!(read(render_any(&packed, Output::Json).unwrap()), expected);

        let operation = Operation {
            done: true,
            result: Some(operation::Result::Response(packed)),
            ..Operation::default()
        };
        let shown = read(render("google.longrunning.Operation", &operation, Output::Json).unwrap());
        assert_eq!(
            shown["response"]["@type"],
            "type.googleapis.com/howdah.v1.Instance"
        );
        assert_eq!(shown["response"]["state"], "READY");
    }
}
