//! Who may do what, asked of every method that is served.

use std::collections::BTreeSet;

use bytes::Bytes;
use howdah::pb::{self, v1::GetConnectionRequest};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, Value,
};
use tempfile::NamedTempFile;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use super::rig::serve;
use crate::support::howdah::{
    Howdah, Options, PROJECT, create_database, create_instance, instance_name, reason, succeeded,
};

/// Callers that say nothing of themselves are admins, of a project where nothing is.
const ELSEWHERE: &str = r#"
[auth]
anonymous_role = "none"

[[auth.bindings]]
principal = "anonymous"
role = "admin"
scope = "projects/elsewhere"
"#;

/// Sends bytes as they are, and takes any answer.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(target, item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        bytes::Buf::advance(source, bytes::Buf::remaining(source));
        Ok(Some(()))
    }
}

/// The status that a call ends with, of a unary method or a stream.
async fn code(howdah: &Howdah, method: &MethodDescriptor, message: &DynamicMessage) -> Status {
    let mut client = Grpc::new(howdah.channel().await);
    client.ready().await.unwrap();
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let request = Request::new(message.encode_to_vec().into());
    let answer = client
        .server_streaming(request, path.parse().unwrap(), Raw)
        .await;
    let mut stream = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return status,
    };
    loop {
        match stream.message().await {
            Ok(Some(())) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}

/// The name of the resource that a request of this method asks about, in a project.
fn resource(method: &MethodDescriptor, field: &FieldDescriptor, project: &str) -> String {
    let operation = "00000000-0000-4000-8000-000000000000";
    let instance = format!("projects/{project}/instances/missing");
    match (method.parent_service().name(), field.name(), method.name()) {
        ("Operations", _, "ListOperations") | ("InstanceService" | "AuditService", "parent", _) => {
            format!("projects/{project}")
        }
        ("Operations", ..) => format!("projects/{project}/operations/{operation}"),
        ("DatabaseService", "name", _) => format!("{instance}/databases/missing"),
        ("ChangeStreamService", "name" | "change_stream", _) => {
            format!("{instance}/changeStreams/missing")
        }
        ("DatabaseService" | "InstanceService" | "ChangeStreamService", ..) => instance,
        (service, ..) => panic!("say what requests of {service} are about"),
    }
}

/// The field that names the resource.
fn naming(method: &MethodDescriptor) -> FieldDescriptor {
    let input = method.input();
    let mut fields = input.fields();
    let names = |field: &FieldDescriptor| {
        matches!(
            field.name(),
            "name" | "parent" | "instance" | "change_stream"
        ) && field.kind() == Kind::String
    };
    let found = fields.find(names);
    found.unwrap_or_else(|| panic!("{} names no resource", method.full_name()))
}

/// A request for that resource, all of whose other fields break their rules.
fn request(method: &MethodDescriptor, resource: &str) -> DynamicMessage {
    let naming = naming(method);
    let mut message = DynamicMessage::new(method.input());
    for field in method.input().fields() {
        let value = match field.kind() {
            // The other field of `Subscribe` that could name the resource.
            Kind::String if field.name() == "change_stream" && field != naming => continue,
            Kind::String if field == naming => Value::String(resource.to_owned()),
            Kind::String if field.is_list() => Value::List(vec![Value::String("\u{1}".into())]),
            Kind::String if !field.is_map() => Value::String("\u{1}".repeat(5000)),
            Kind::Int32 | Kind::Int64 if !field.is_list() => match field.kind() {
                Kind::Int32 => Value::I32(-1),
                _ => Value::I64(-1),
            },
            _ => continue,
        };
        message.set_field(&field, value);
    }
    message
}

/// Every method that Howdah serves beside health and reflection.
fn methods() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
    let methods = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods
    });
    methods.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_anything_where_it_may_nothing() {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ELSEWHERE).unwrap();
    let options = Options::external().await;
    let options = options.with("HOWDAH_CONFIG", file.path().display().to_string());
    let (stranger, admin) = (Howdah::serve(options).await, serve().await);
    let mut called = BTreeSet::new();
    for method in methods() {
        let name = method.full_name().to_owned();
        let field = naming(&method);
        let there = resource(&method, &field, "default");
        for asked in [
            there.as_str(),
            "no name",
            "",
            "*",
            &format!("{there}/"),
            "projects/elsewher",
        ] {
            let message = request(&method, asked);
            let status = code(&stranger, &method, &message).await;
            assert_eq!(
                status.code(),
                Code::PermissionDenied,
                "{name} {asked:?}: {status:?}"
            );
            assert_eq!(reason(&status), "PERMISSION_MISSING", "{name}: {status:?}");
            // Else it would not be the permission that is missing.
            let status = code(&admin, &method, &message).await;
            assert_ne!(
                status.code(),
                Code::PermissionDenied,
                "{name} {asked:?}: {status:?}"
            );
            assert_ne!(
                status.code(),
                Code::Internal,
                "{name} {asked:?}: {status:?}"
            );
        }
        let message = request(&method, &resource(&method, &field, "elsewhere"));
        let status = code(&stranger, &method, &message).await;
        assert_ne!(status.code(), Code::PermissionDenied, "{name}: {status:?}");
        called.insert(name);
    }
    assert!(called.len() > 19, "{called:?}");

    let log = stranger.log();
    let denials = log.lines().filter(|line| line.contains("call was denied"));
    let denials: Vec<serde_json::Value> = denials
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        denials.iter().any(|denial| {
            denial["principal"] == "anonymous"
                && denial["resource"] == "projects/default/instances/missing/databases/missing"
        }),
        "{denials:?}"
    );
}

/// Where bindings are given, other principals have no role.
#[tokio::test(flavor = "multi_thread")]
async fn anonymous_callers_have_the_role_that_the_setting_gives() {
    use howdah::pb::v1::ListInstancesRequest;

    let with_role = async |role: &str| {
        let options = Options::external().await;
        Howdah::serve(options.with("HOWDAH_AUTH_ANONYMOUS_ROLE", role)).await
    };
    let list = || ListInstancesRequest {
        parent: "projects/default".into(),
        ..Default::default()
    };
    let connect = || GetConnectionRequest {
        name: "projects/default/instances/a/databases/b".into(),
    };
    let viewer = with_role("viewer").await;
    viewer
        .instances()
        .await
        .list_instances(list())
        .await
        .unwrap();
    let refused = viewer.databases().await.get_connection(connect()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(
        refused.message().contains("databases.connect"),
        "{refused:?}"
    );

    let connector = with_role("connector").await;
    let refused = connector.instances().await.list_instances(list()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let missing = connector.databases().await.get_connection(connect()).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);

    let nobody = with_role("none").await;
    let refused = nobody.instances().await.list_instances(list()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
}

/// Where a role holds is where its binding says, and below.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_on_one_resource_is_none_on_another() {
    use howdah::pb::v1::{GetInstanceRequest, ListDatabasesRequest, ListInstancesRequest};

    let mut howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    howdah.database("orders", "other").await;
    assert!(howdah.stop().await.success());
    let file = NamedTempFile::new().unwrap();
    let bindings = r#"
        [auth]
        anonymous_role = "none"
        [[auth.bindings]]
        principal = "anonymous"
        role = "connector"
        scope = "projects/default/instances/orders/databases/shop"
        [[auth.bindings]]
        principal = "anonymous"
        role = "viewer"
        scope = "projects/default/instances/orders"
    "#;
    std::fs::write(file.path(), bindings).unwrap();
    let config = file.path().display().to_string();
    howdah.options = howdah.options.clone().with("HOWDAH_CONFIG", config);
    howdah.start("").await;

    assert_eq!(howdah.connection("orders", "shop").await.user, "shop_user");
    let denied = |status: Status, permission: &str| {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains(permission), "{status:?}");
    };
    let mut databases = howdah.databases().await;
    let other = GetConnectionRequest {
        name: format!("{}/databases/other", instance_name("orders")),
    };
    let answer = databases.get_connection(other).await;
    denied(answer.unwrap_err(), "databases.connect");
    let create = create_database("orders", "third");
    let answer = databases.create_database(create).await;
    denied(answer.unwrap_err(), "databases.create");
    let list = ListDatabasesRequest {
        parent: instance_name("orders"),
        ..Default::default()
    };
    let found = databases.list_databases(list).await.unwrap().into_inner();
    assert_eq!(found.databases.len(), 2);
    let mut instances = howdah.instances().await;
    let name = instance_name("orders");
    let get = |name| GetInstanceRequest { name };
    instances.get_instance(get(name)).await.unwrap();
    let answer = instances.get_instance(get(instance_name("order"))).await;
    denied(answer.unwrap_err(), "instances.get");
    let list = ListInstancesRequest {
        parent: PROJECT.into(),
        ..Default::default()
    };
    let answer = instances.list_instances(list).await;
    denied(answer.unwrap_err(), "instances.list");
}

/// Who may change an instance may wait for what is done to it, and for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_ruled_by_what_it_works_on() {
    use howdah::pb::{
        google::longrunning::{
            CancelOperationRequest, DeleteOperationRequest, GetOperationRequest,
            ListOperationsRequest,
        },
        v1::{Database, Instance},
    };

    let admin = serve().await;
    admin.instance("orders").await;
    let file = NamedTempFile::new().unwrap();
    let bindings = r#"
        [auth]
        anonymous_role = "none"
        [[auth.bindings]]
        principal = "anonymous"
        role = "operator"
        scope = "projects/default/instances/orders"
    "#;
    std::fs::write(file.path(), bindings).unwrap();
    let config = file.path().display().to_string();
    let operator = Howdah::serve(admin.options.clone().with("HOWDAH_CONFIG", config)).await;

    let create = create_database("orders", "shop");
    let accepted = operator.databases().await.create_database(create).await;
    let accepted = accepted.unwrap().into_inner();
    let done = operator.wait(&accepted).await;
    let _: Database = succeeded(&done);
    assert_eq!(operator.operation(&done.name).await, done);
    let mut operations = operator.operations().await;
    let cancel = |name: &str| CancelOperationRequest { name: name.into() };
    operations
        .cancel_operation(cancel(&done.name))
        .await
        .unwrap();

    let other = create_instance(
        "billing",
        Instance {
            ephemeral: true,
            ..Default::default()
        },
    );
    let other = admin.instances().await.create_instance(other).await;
    let other = admin.wait(other.unwrap().get_ref()).await;
    let nothing = format!("{PROJECT}/operations/00000000-0000-4000-8000-000000000000");
    let mut messages = BTreeSet::new();
    for name in [
        other.name.as_str(),
        &nothing,
        "projects/default/operations/x",
    ] {
        let get = GetOperationRequest { name: name.into() };
        let status = operations.get_operation(get).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{name} {status:?}");
        messages.insert(status.message().to_owned());
        let status = operations.cancel_operation(cancel(name)).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{name} {status:?}");
    }
    assert_eq!(messages.len(), 1, "{messages:?}");
    // No permission of that role.
    let delete = DeleteOperationRequest { name: done.name };
    let status = operations.delete_operation(delete).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let list = ListOperationsRequest {
        name: PROJECT.into(),
        ..Default::default()
    };
    let status = operations.list_operations(list).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}
