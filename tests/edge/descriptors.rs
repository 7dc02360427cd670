//! Rules that every proto must keep, found by walking the descriptors.

use std::collections::BTreeSet;

use howdah::{
    api::method::Methods,
    auth::{
        Permission,
        permission::Access,
        policy::{grants, ruled},
    },
    domain::access::Role,
    pb::{self, v1},
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, Value};

/// Stands for a secret.
const CANARY: &str = "hunter2-canary";

/// Formats a message of a type that holds secrets, from its bytes.
type Format = fn(&[u8]) -> String;

/// Every message with a secret field of its own.
const SECRET_MESSAGES: [(&str, Format); 1] = [("howdah.v1.Connection", |bytes| {
    format!("{:?}", v1::Connection::decode(bytes).unwrap())
})];

fn pool() -> DescriptorPool {
    DescriptorPool::decode(pb::DESCRIPTORS).unwrap()
}

fn is_secret(pool: &DescriptorPool, field: &FieldDescriptor) -> bool {
    let option = pool
        .get_extension_by_name("howdah.options.v1.secret")
        .unwrap();
    *field.options().get_extension(&option) == Value::Bool(true)
}

#[test]
fn every_method_asks_for_a_permission() {
    let methods = Methods::load().unwrap();
    let mut seen = 0;
    for service in pool().services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let access = methods.find(&path).access.as_ref();
            assert!(
                matches!(access, Some(Access::Permission(_))),
                "{path}: {access:?}"
            );
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen} methods");
}

/// The roles that hold a permission beside `admin`, by its verb.
fn holders(permission: &Permission) -> Vec<Role> {
    let (collection, verb) = permission.as_str().split_once('.').unwrap();
    match (collection, verb) {
        ("audit" | "bindings" | "tokens", _) => vec![],
        ("databases", "get") => vec![Role::Viewer, Role::Subscriber, Role::Operator],
        (_, "get" | "list" | "wait" | "watch") => vec![Role::Viewer, Role::Operator],
        (_, "connect") => vec![Role::Connector],
        (_, "subscribe" | "acknowledge") => vec![Role::Subscriber],
        (_, "create" | "update" | "start" | "stop" | "restart" | "cancel" | "readLogs") => {
            vec![Role::Operator]
        }
        (_, "delete" | "undelete") => vec![],
        _ => panic!("say which roles hold {permission}"),
    }
}

#[test]
fn each_permission_is_held_by_the_roles_that_should() {
    let methods = Methods::load().unwrap();
    let mut asked = BTreeSet::new();
    for method in methods.iter() {
        let Some(Access::Permission(permission)) = &method.access else {
            continue;
        };
        asked.insert(permission.as_str());
        let mut expected = holders(permission);
        expected.push(Role::Admin);
        let holds = |role: &Role| grants(*role, permission);
        let found: Vec<Role> = Role::ALL.into_iter().filter(holds).collect();
        assert_eq!(found, expected, "{permission} of {}", method.name);
    }
    // What no rule mentions would be the admins' by accident.
    assert_eq!(asked, ruled().collect());
}

#[test]
fn nothing_but_health_and_reflection_is_public() {
    let methods = Methods::load().unwrap();
    for method in methods.iter().filter(|method| method.is_public()) {
        let name = &method.name;
        assert!(
            name.starts_with("grpc.health.v1.") || name.starts_with("grpc.reflection."),
            "{name}"
        );
    }
}

/// Without one, `protoc --go_out` fails.
#[test]
fn each_proto_has_a_package_of_go() {
    let pool = pool();
    let files = pool
        .files()
        .filter(|file| !file.name().starts_with("google/protobuf/"));
    let mut ours = 0;
    for file in files {
        let options = file.file_descriptor_proto().options.as_ref();
        let package = options.map(|options| options.go_package());
        let package = package.unwrap_or_default();
        assert!(package.contains('/'), "{}: {package:?}", file.name());
        if file.name().starts_with("howdah/") {
            ours += 1;
            assert!(package.starts_with("howdah.dev/proto/"), "{package}");
        }
    }
    assert!(ours > 5, "{ours}");
}

#[test]
fn messages_with_secrets_are_all_known() {
    let pool = pool();
    let found: BTreeSet<_> = pool
        .all_messages()
        .filter(|message| message.fields().any(|field| is_secret(&pool, &field)))
        .map(|message| message.full_name().to_owned())
        .collect();
    let known = SECRET_MESSAGES.map(|(name, _)| name.to_owned());
    assert_eq!(found, BTreeSet::from(known));
}

#[test]
fn debug_prints_no_secret() {
    let pool = pool();
    for (name, format) in SECRET_MESSAGES {
        let descriptor = pool.get_message_by_name(name).unwrap();
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields().filter(|field| is_secret(&pool, field)) {
            message.set_field(&field, canary(&field));
        }
        let bytes = message.encode_to_vec();
        assert!(
            bytes
                .windows(CANARY.len())
                .any(|window| window == CANARY.as_bytes())
        );
        let text = format(&bytes);
        assert!(!text.contains(CANARY), "{text}");
    }
}

fn canary(field: &FieldDescriptor) -> Value {
    let value = Value::String(CANARY.to_owned());
    if field.is_map() {
        return Value::Map([(MapKey::String("key".to_owned()), value)].into());
    }
    assert_eq!(field.kind(), Kind::String, "{}", field.full_name());
    value
}
