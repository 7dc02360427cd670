//! What cannot be followed, each with its own reason and nothing left behind.

use howdah::pb::v1::SubscribeRequest;
use tonic::Code;

use super::rig::Rig;
use crate::support::howdah::reason;

async fn refused(rig: &Rig<'_>, request: SubscribeRequest, code: Code, why: &str) {
    let status = rig.refusal(request.clone()).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (code, why),
        "{request:?}: {status:?}"
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let rig = Rig::new().await;
    rig.run("create table items (id int primary key); create publication mine for table items")
        .await;
    let mut request = rig.request("items missing");
    refused(&rig, request.clone(), Code::NotFound, "TABLE_NOT_FOUND").await;
    request.tables = vec!["elsewhere.items".into()];
    refused(&rig, request.clone(), Code::NotFound, "TABLE_NOT_FOUND").await;
    request.tables = vec!["\"Items\"".into()];
    refused(&rig, request, Code::NotFound, "TABLE_NOT_FOUND").await;

    let mut request = rig.request("items");
    request.database = "missing".into();
    refused(&rig, request, Code::NotFound, "DATABASE_NOT_FOUND").await;

    let mut request = rig.request("items");
    request.instance = "projects/default/instances/missing".into();
    refused(&rig, request, Code::NotFound, "INSTANCE_NOT_FOUND").await;

    let mut request = rig.request("");
    request.publication = "missing".into();
    refused(&rig, request, Code::NotFound, "PUBLICATION_NOT_FOUND").await;
    rig.clean().await;
}

#[tokio::test]
async fn only_ordinary_logged_tables_are_followed() {
    let rig = Rig::new().await;
    rig.run(
        "create table items (id int primary key); create view seen as select * from items;
         create materialized view kept as select * from items; create sequence numbers;
         create unlogged table quick (id int primary key); create index by_id on items (id)",
    )
    .await;
    for table in ["seen", "kept", "numbers", "quick", "by_id"] {
        refused(&rig, rig.request(table), Code::NotFound, "TABLE_NOT_FOUND").await;
    }
    rig.clean().await;
}

#[tokio::test]
async fn malformed_requests_name_their_field() {
    let rig = Rig::new().await;
    let invalid = Code::InvalidArgument;
    let both = SubscribeRequest {
        publication: "p".into(),
        ..rig.request("items")
    };
    refused(&rig, both, invalid, "FIELD_INVALID").await;
    refused(&rig, rig.request(""), invalid, "FIELD_INVALID").await;
    refused(&rig, rig.request("a.b.c"), invalid, "TABLE_NAME_MALFORMED").await;
    refused(&rig, rig.request(&"x".repeat(64)), invalid, "NAME_TOO_LONG").await;
    let small = SubscribeRequest {
        max_batch_bytes: 1023,
        ..rig.request("items")
    };
    refused(&rig, small, invalid, "FIELD_INVALID").await;
    let slow = SubscribeRequest {
        heartbeat_interval: Some(prost_types::Duration {
            seconds: 16,
            nanos: 0,
        }),
        ..rig.request("items")
    };
    refused(&rig, slow, invalid, "FIELD_INVALID").await;
    let instance = SubscribeRequest {
        instance: "instances/x".into(),
        ..rig.request("items")
    };
    refused(&rig, instance, invalid, "NAME_MALFORMED").await;
    assert!(rig.leftovers().await.is_empty());
}

#[tokio::test]
async fn a_table_that_is_locked_is_not_waited_for() {
    let rig = Rig::new().await;
    rig.run("create table items (id int primary key)").await;
    rig.run("begin; lock table items in access exclusive mode")
        .await;
    refused(
        &rig,
        rig.request("items"),
        Code::Unavailable,
        "LOCK_TIMEOUT",
    )
    .await;
    rig.run("commit").await;
    rig.clean().await;
}
