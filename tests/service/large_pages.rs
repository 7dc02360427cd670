//! Pages of large records: cut by bytes, so that every client can read them.

use std::{collections::BTreeMap, process::Stdio};

use howdah::pb::{
    google::longrunning::{ListOperationsRequest, ListOperationsResponse},
    v1::{
        CreateInstanceRequest, Database, Instance, ListDatabasesRequest, ListDatabasesResponse,
        ListInstancesRequest, ListInstancesResponse,
    },
};
use prost::Message;
use tokio::{process::Command, time::timeout};
use tonic::{Code::InvalidArgument, codec::CompressionEncoding};

use super::rig::{Metadata, refused, serve};
use crate::support::howdah::{Howdah, LIMIT, PROJECT, instance_name};

/// What a page may take.
const PAGE: usize = 3 << 20;

/// Records so many instances with so large an annotation, the last one larger than a page.
async fn insert_instances(metadata: &Metadata, count: u32, bytes: u32) {
    let sql = format!(
        "insert into instances (uid, project, id, display_name, labels, annotations, state,
            wanted_version, parameters, ephemeral, deletion_protection)
         select gen_random_uuid(), 'default', 'i' || lpad(n::text, 3, '0'), '', '{{}}',
            jsonb_build_object('note', repeat('n', case n when {count} - 1 then 3500000
                else {bytes} end)), 'STOPPED', '15', '{{}}', false, false
         from generate_series(0, {count} - 1) n"
    );
    metadata.execute(&sql).await;
}

async fn insert_databases(metadata: &Metadata, count: u32, bytes: u32) {
    let sql = format!(
        "insert into databases (uid, instance_uid, id, display_name, labels, annotations, state,
            postgresql_name, owner, encoding, locale_provider, locale, connection_limit,
            deletion_protection)
         select gen_random_uuid(), i.uid, 'd' || lpad(n::text, 3, '0'), '', '{{}}',
            jsonb_build_object('note', repeat('n', {bytes})), 'READY', 'd' || n, 'o' || n, 'UTF8',
            '', '', 0, false
         from generate_series(0, {count} - 1) n, instances i where i.id = 'i000'"
    );
    metadata.execute(&sql).await;
}

/// Records so many operations that answered a database with so long a name.
async fn insert_operations(metadata: &Metadata, count: u32, bytes: usize) {
    let answered = Database {
        display_name: "n".repeat(bytes),
        ..Database::default()
    };
    let sql = format!(
        "insert into operations (id, project, kind, plan_version, verb, target, target_uid,
            principal, parameters, state, cancellable, end_time, response_type, response)
         select gen_random_uuid(), 'default', 'test.old', 1, 'test', 'n' || n, gen_random_uuid(),
            'test', '{{}}', 'SUCCEEDED', false, now(), 'type.googleapis.com/howdah.v1.Database', $1
         from generate_series(0, {count} - 1) n"
    );
    let inserted = metadata.0.execute(&sql, &[&answered.encode_to_vec()]).await;
    assert_eq!(inserted.unwrap(), u64::from(count));
}

/// Checks one page: how many records it has, and whether there are more.
#[track_caller]
fn check(page: &impl Message, records: usize, more: bool) {
    let bytes = page.encoded_len();
    assert!(records > 0);
    assert!(records == 1 || bytes <= PAGE, "{records}: {bytes}");
    // It ends because the next record does not fit, and not before.
    assert!(!more || bytes > PAGE * 4 / 5, "{records}: {bytes}");
}

async fn instances(howdah: &Howdah, mut request: ListInstancesRequest) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let mut client = howdah.instances().await;
        let answer = client.list_instances(request.clone()).await;
        let page: ListInstancesResponse = answer.unwrap().into_inner();
        let more = !page.next_page_token.is_empty();
        // Before the last one, which does not fit beside any other.
        let last = page
            .instances
            .iter()
            .any(|instance| instance.name.ends_with('8'));
        check(&page, page.instances.len(), more && !last);
        names.extend(page.instances.into_iter().map(|instance| instance.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return names;
        }
    }
}

#[tokio::test]
async fn pages_of_large_instances_join_to_the_whole_list() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    insert_instances(&metadata, 40, 200_000).await;
    let whole: Vec<_> = (0..40)
        .map(|number| instance_name(&format!("i{number:03}")))
        .collect();
    for (filter, order_by) in [
        ("", ""),
        ("", "create_time desc"),
        ("state = STOPPED", "instance_id"),
        ("version != 16", "update_time"),
    ] {
        let request = ListInstancesRequest {
            parent: PROJECT.into(),
            page_size: 1000,
            filter: filter.into(),
            order_by: order_by.into(),
            ..ListInstancesRequest::default()
        };
        let mut found = instances(&howdah, request).await;
        if order_by.contains("time") {
            found.sort();
        }
        assert_eq!(found, whole, "{filter} {order_by}");
    }
}

#[tokio::test]
async fn pages_of_large_databases_join_to_the_whole_list() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    insert_instances(&metadata, 2, 10).await;
    insert_databases(&metadata, 40, 200_000).await;
    let mut request = ListDatabasesRequest {
        parent: instance_name("i000"),
        page_size: 1000,
        ..ListDatabasesRequest::default()
    };
    let mut found = 0;
    loop {
        let mut client = howdah.databases().await;
        let answer = client.list_databases(request.clone()).await;
        let page: ListDatabasesResponse = answer.unwrap().into_inner();
        check(
            &page,
            page.databases.len(),
            !page.next_page_token.is_empty(),
        );
        found += page.databases.len();
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, 40);
}

#[tokio::test]
async fn pages_of_large_operations_join_to_the_whole_list() {
    let howdah = serve().await;
    insert_operations(&Metadata::of(&howdah).await, 40, 200_000).await;
    let mut request = ListOperationsRequest {
        name: PROJECT.into(),
        page_size: 1000,
        ..ListOperationsRequest::default()
    };
    let mut names = Vec::new();
    loop {
        let mut client = howdah.operations().await;
        let answer = client.list_operations(request.clone()).await;
        let page: ListOperationsResponse = answer.unwrap().into_inner();
        check(
            &page,
            page.operations.len(),
            !page.next_page_token.is_empty(),
        );
        names.extend(page.operations.into_iter().map(|operation| operation.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 40);
    let listed = Command::new(env!("CARGO_BIN_EXE_howdah"))
        .args(["operations", "list", "--output", "json"])
        .env("HOWDAH_ENDPOINT", howdah.endpoint())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let listed = timeout(LIMIT, listed).await.unwrap().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(
        text.matches("/operations/").count(),
        40,
        "{} bytes",
        text.len()
    );
}

/// What pages are cut by is never less than what a record takes.
#[tokio::test]
async fn a_record_takes_no_more_than_is_counted() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    metadata
        .execute(
            "insert into instances (uid, project, id, display_name, labels, annotations, state,
                wanted_version, parameters, pending_restart, conditions, ephemeral,
                deletion_protection)
             select gen_random_uuid(), 'default', 'i' || lpad('', 40, 'x') || n,
                repeat('ä', least(n * 100, 255)),
                (select jsonb_object_agg(lpad(k::text, 1 + 8 * n, 'k'), repeat('v', 9 * n))
                    from generate_series(1, 64) k),
                (select jsonb_object_agg(lpad(k::text, 1 + 8 * n, 'k'), repeat('v', 50 * n))
                    from generate_series(1, 64) k),
                'STOPPED', '15',
                (select jsonb_object_agg(lpad(k::text, 4 + 8 * n, 'k'), repeat('v', n * n * n))
                    from generate_series(1, 256) k),
                (select array_agg(lpad(k::text, 4 + 8 * n, 'k')) from generate_series(1, 256) k),
                jsonb_build_array(jsonb_build_object('type', 'Ready', 'status', 'FALSE',
                    'reason', 'SERVER_START_FAILED', 'message', repeat('m', 1000 * n),
                    'time', '2026-01-01T00:00:00Z')), false, false
             from generate_series(0, 7) n",
        )
        .await;
    let rows = metadata
        .0
        .query("select id, message_bytes from instances order by id", &[]);
    let rows = rows.await.unwrap();
    let mut client = howdah.instances().await;
    let request = ListInstancesRequest {
        parent: PROJECT.into(),
        ..ListInstancesRequest::default()
    };
    let page = client.list_instances(request).await.unwrap().into_inner();
    assert_eq!(page.instances.len(), 8);
    for (row, instance) in rows.iter().zip(&page.instances) {
        assert!(instance.name.ends_with(row.get::<_, &str>(0)));
        let (counted, bytes) = (row.get::<_, i32>(1) as usize, instance.encoded_len());
        assert_eq!(instance.conditions.len(), 1);
        assert!(bytes + 8 <= counted, "{bytes} of {counted}");
        assert!(counted < 3 * bytes + 3000, "{bytes} of {counted}");
    }
}

#[tokio::test]
async fn an_instance_that_no_page_could_hold_is_refused() {
    let howdah = serve().await;
    let create = async |value: usize| {
        let annotations = (0..64).map(|key| (format!("k{key:02}"), "v".repeat(value)));
        let parameters = (0..256).map(|key| (format!("p{key:03}"), "v".repeat(value)));
        let request = CreateInstanceRequest {
            parent: PROJECT.into(),
            instance_id: "orders".into(),
            instance: Some(Instance {
                annotations: annotations.collect::<BTreeMap<_, _>>(),
                parameters: parameters.collect::<BTreeMap<_, _>>(),
                ..Instance::default()
            }),
            validate_only: true,
            ..CreateInstanceRequest::default()
        };
        howdah.instances().await.create_instance(request).await
    };
    refused(create(4000).await, InvalidArgument, "FIELD_INVALID");
    // Of this size it is only its parameters that are wrong.
    refused(create(3000).await, InvalidArgument, "PARAMETER_INVALID");
}

#[tokio::test]
async fn a_list_is_compressed_for_who_asks_for_it() {
    let howdah = serve().await;
    insert_instances(&Metadata::of(&howdah).await, 10, 100_000).await;
    for (encoding, name) in [
        (CompressionEncoding::Gzip, "gzip"),
        (CompressionEncoding::Zstd, "zstd"),
    ] {
        let mut client = howdah.instances().await.accept_compressed(encoding);
        let request = ListInstancesRequest {
            parent: PROJECT.into(),
            ..ListInstancesRequest::default()
        };
        let answer = client.list_instances(request).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), name);
        assert_eq!(answer.into_inner().instances.len(), 9);
    }
}
