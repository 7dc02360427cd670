//! The audit: what is done is on record, and what is not done is not.

use futures::future::join_all;
use howdah::pb::{
    google::longrunning::{CancelOperationRequest, DeleteOperationRequest},
    v1::{
        AuditRecord, DeleteInstanceRequest, GetConnectionRequest, Instance,
        ListAuditRecordsRequest, StartInstanceRequest, audit_record::Effect,
        audit_service_client::AuditServiceClient,
    },
};
use tonic::{Code, Request};
use uuid::Uuid;

use super::rig::{Metadata, refused, serve};
use crate::support::howdah::{
    Howdah, Options, PROJECT, create_instance, eventually, instance_name,
};

fn list() -> ListAuditRecordsRequest {
    ListAuditRecordsRequest {
        parent: PROJECT.into(),
        ..Default::default()
    }
}

async fn filtered(howdah: &Howdah, filter: &str) -> Vec<AuditRecord> {
    let request = ListAuditRecordsRequest {
        filter: filter.into(),
        ..list()
    };
    let mut client = AuditServiceClient::new(howdah.channel().await);
    let answer = client.list_audit_records(request).await.unwrap();
    answer.into_inner().audit_records
}

/// The only record of a method's calls.
async fn of(howdah: &Howdah, method: &str) -> AuditRecord {
    let mut found = filtered(howdah, &format!("method = \"{method}\"")).await;
    assert_eq!(found.len(), 1, "{method}: {found:?}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_done_is_on_record() {
    let howdah = serve().await;
    let id = Uuid::new_v4().to_string();
    let mut create = create_instance(
        "orders",
        Instance {
            ephemeral: true,
            ..Instance::default()
        },
    );
    create.request_id = id.clone();
    let mut call = Request::new(create.clone());
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    call.metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    let mut instances = howdah.instances().await;
    let operation = instances.create_instance(call).await.unwrap().into_inner();
    howdah.wait(&operation).await;
    // A replay and a look change nothing.
    instances.create_instance(create.clone()).await.unwrap();
    create.validate_only = true;
    create.request_id.clear();
    create.instance_id = "other".into();
    instances.create_instance(create).await.unwrap();

    let created = of(&howdah, "howdah.v1.InstanceService/CreateInstance").await;
    assert_eq!(created.effect(), Effect::Mutation);
    assert_eq!(created.principal, "anonymous");
    assert!(created.peer.starts_with("127.0.0.1:"), "{created:?}");
    assert_eq!(created.resource, instance_name("orders"));
    assert_eq!(created.request_id, id);
    assert_eq!(created.operation, operation.name);
    assert_eq!(created.trace_id, trace);
    assert_eq!(created.result, "ACCEPTED");
    assert!(
        created.request.contains(r#""instanceId":"orders""#),
        "{created:?}"
    );
    assert!(created.create_time.is_some() && !created.uid.is_empty());

    let start = StartInstanceRequest {
        name: instance_name("orders"),
        ..Default::default()
    };
    instances.start_instance(start).await.unwrap();
    let started = of(&howdah, "howdah.v1.InstanceService/StartInstance").await;
    assert_eq!(started.result, "DONE");

    howdah.database("orders", "shop").await;
    let secret = of(&howdah, "howdah.v1.DatabaseService/GetConnection").await;
    assert_eq!(secret.effect(), Effect::Secret);
    assert_eq!(secret.result, "HANDED_OUT");
    assert_eq!(
        secret.resource,
        format!("{}/databases/shop", instance_name("orders"))
    );
    assert_eq!(secret.operation, "");

    let delete = DeleteOperationRequest {
        name: operation.name.clone(),
    };
    howdah
        .operations()
        .await
        .delete_operation(delete)
        .await
        .unwrap();
    let deleted = of(&howdah, "google.longrunning.Operations/DeleteOperation").await;
    assert_eq!(deleted.resource, operation.name);
    assert_eq!(deleted.result, "DONE");
}

/// Else the audit would grow with each connection that a program makes.
#[tokio::test(flavor = "multi_thread")]
async fn reads_of_one_password_in_an_hour_are_counted_in_one_record() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    howdah.database("orders", "other").await;
    // Each over a connection, and so from a port, of its own.
    join_all((0..20).map(|_| howdah.connection("orders", "shop"))).await;
    let secrets = "effect = SECRET AND resource : databases/shop";
    let found = filtered(&howdah, secrets).await;
    // Two only where an hour has ended meanwhile.
    assert!(found.len() <= 2, "{found:?}");
    assert_eq!(found.iter().map(|record| record.count).sum::<i64>(), 21);
    let time = |time: Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        (time.seconds, time.nanos)
    };
    let repeated = found.iter().max_by_key(|record| record.count).unwrap();
    assert!(time(repeated.last_time) > time(repeated.create_time));
    // Who looks for reads since then finds it by the last one, not by the first.
    let since = repeated.create_time.unwrap();
    for (field, expected) in [("last_time", 1), ("create_time", 0)] {
        let filter = format!("effect = SECRET AND {field} > \"{since}\"");
        let found = filtered(&howdah, &filter).await;
        let counted = found.iter().filter(|record| record.uid == repeated.uid);
        assert_eq!(counted.count(), expected, "{field}");
    }
    let other = filtered(&howdah, "effect = SECRET AND resource : other").await;
    assert_eq!(other[0].count, 1);
    assert!(
        filtered(&howdah, "effect = MUTATION AND method : Create")
            .await
            .len()
            > 2
    );

    // Those of another hour stay as they are.
    let metadata = Metadata::of(&howdah).await;
    let earlier = "update audit_records set uid = gen_random_uuid() where effect = 'SECRET'";
    metadata.execute(earlier).await;
    howdah.connection("orders", "shop").await;
    assert_eq!(filtered(&howdah, secrets).await.len(), found.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_no_record() {
    let howdah = serve().await;
    let missing = DeleteInstanceRequest {
        name: instance_name("missing"),
        ..Default::default()
    };
    let answer = howdah.instances().await.delete_instance(missing).await;
    refused(answer, Code::NotFound, "INSTANCE_NOT_FOUND");
    let missing = GetConnectionRequest {
        name: format!("{}/databases/missing", instance_name("missing")),
    };
    let answer = howdah.databases().await.get_connection(missing).await;
    refused(answer, Code::NotFound, "DATABASE_NOT_FOUND");
    let missing = CancelOperationRequest {
        name: format!("{PROJECT}/operations/{}", Uuid::new_v4()),
    };
    let answer = howdah.operations().await.cancel_operation(missing).await;
    refused(answer, Code::NotFound, "OPERATION_NOT_FOUND");
    assert_eq!(filtered(&howdah, "").await, []);
}

/// A password that cannot be recorded as handed out is not handed out, and a change that
/// cannot be recorded is not made.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_without_its_record() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "shop").await;
    let metadata = Metadata::of(&howdah).await;
    metadata
        .execute(
            "create function refuse() returns trigger language plpgsql as
                $$ begin raise exception 'no record'; end $$;
             create trigger refuse before insert on audit_records
                for each row execute function refuse()",
        )
        .await;
    let before = metadata.content().await;
    let connection = GetConnectionRequest {
        name: format!("{}/databases/shop", instance_name("orders")),
    };
    let answer = howdah.databases().await.get_connection(connection).await;
    let status = answer.expect_err("no password without a record");
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    let answer = howdah
        .instances()
        .await
        .create_instance(create_instance("other", Instance::default()))
        .await;
    answer.expect_err("no change without a record");
    assert_eq!(metadata.content().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_listed_in_pages_and_forgotten_in_time() {
    let options = Options::external().await;
    let howdah = Howdah::serve(options.with("HOWDAH_AUDIT_RETENTION", "1h")).await;
    let metadata = Metadata::of(&howdah).await;
    metadata
        .execute(
            "insert into audit_records (uid, project, create_time, effect, principal, peer, method,
                resource, request_id, operation, trace_id, request, result)
             select gen_random_uuid(), 'default', now() - make_interval(secs => n / 2),
                case when n % 5 = 0 then 'SECRET' else 'MUTATION' end, 'uid:' || n % 3, '', 'test',
                'r' || n, '', '', '', '{}', 'DONE' from generate_series(1, 25) n;
             insert into audit_records (uid, project, create_time, effect, principal, peer, method,
                resource, request_id, operation, trace_id, request, result)
             select gen_random_uuid(), 'other', now(), 'MUTATION', 'x', '', 'test', '', '', '', '',
                '{}', 'DONE'",
        )
        .await;
    let mut client = AuditServiceClient::new(howdah.channel().await);
    let mut request = ListAuditRecordsRequest {
        page_size: 4,
        ..list()
    };
    let (mut pages, mut found) = (0, Vec::new());
    loop {
        let page = client.list_audit_records(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.audit_records.len() <= 4);
        found.extend(page.audit_records);
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((pages, found.len()), (7, 25));
    let times: Vec<_> = found.iter().map(|it| it.create_time.unwrap()).collect();
    let nanoseconds = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    assert!(times.is_sorted_by(|a, b| nanoseconds(a) >= nanoseconds(b)));
    let uids: std::collections::BTreeSet<_> = found.iter().map(|it| &it.uid).collect();
    assert_eq!(uids.len(), 25);

    let secrets = filtered(&howdah, "effect = SECRET AND principal = \"uid:1\"").await;
    let names: Vec<_> = secrets.iter().map(|it| it.resource.as_str()).collect();
    assert_eq!(names, ["r10", "r25"]);
    for filter in ["labels.a = b", "peer = x", "effect = READ"] {
        let request = ListAuditRecordsRequest {
            filter: filter.into(),
            ..list()
        };
        let answer = client.list_audit_records(request).await;
        refused(answer, Code::InvalidArgument, "FILTER_INVALID");
    }

    metadata
        .execute(
            "update audit_records set create_time = now() - interval '2h' where resource <> 'r1'",
        )
        .await;
    eventually("old records are forgotten", async || {
        metadata.count("audit_records").await == 1
    })
    .await;
}

/// What users type.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_records() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_howdah"))
            .env("HOWDAH_ENDPOINT", howdah.endpoint())
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run(&["audit", "list"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    for word in [
        "anonymous",
        "127.0.0.1:",
        "CreateInstance",
        "orders",
        "ACCEPTED",
    ] {
        assert!(table.contains(word), "{table}");
    }
    let json = run(&[
        "audit",
        "list",
        "--filter",
        "effect = MUTATION",
        "-o",
        "json",
    ]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["auditRecords"][0]["result"], "ACCEPTED");
}
