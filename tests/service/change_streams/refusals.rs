//! Requests that are wrong, and what is missing on the server.

use howdah::pb::v1::{ChangeStream, DeleteInstanceRequest, Publish};
use tonic::Code;

use super::rig::{MAJORS, ask, database, is_clean, items, make};
use crate::{
    service::rig::{failure, refused},
    streams::rig::{Rig, versioned_instance},
    support::howdah::{Howdah, Options, instance_name},
};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_at_once() {
    let rig = database("18").await;
    let items = items(&rig);
    let publication = ChangeStream {
        tables: Vec::new(),
        publication: "p".into(),
        ..items.clone()
    };
    let wrong = [
        (
            ChangeStream {
                publication: "p".into(),
                ..items.clone()
            },
            "FIELD_INVALID",
        ),
        (
            ChangeStream {
                tables: Vec::new(),
                ..items.clone()
            },
            "FIELD_INVALID",
        ),
        (
            ChangeStream {
                tables: vec!["a b".into()],
                ..items.clone()
            },
            "TABLE_NAME_MALFORMED",
        ),
        (
            ChangeStream {
                publish: Publish::Inserts.into(),
                ..publication
            },
            "FIELD_INVALID",
        ),
        (
            ChangeStream {
                slot: "Not-One".into(),
                ..items.clone()
            },
            "FIELD_INVALID",
        ),
        (
            ChangeStream {
                slot: "howdah_tmp_1".into(),
                ..items.clone()
            },
            "FIELD_INVALID",
        ),
        (
            ChangeStream {
                drop_when_exceeded: true,
                ..items.clone()
            },
            "FIELD_INVALID",
        ),
        (
            ChangeStream {
                max_retained_bytes: -1,
                ..items.clone()
            },
            "FIELD_INVALID",
        ),
        (
            ChangeStream {
                database: String::new(),
                ..items.clone()
            },
            "NAME_MALFORMED",
        ),
        (
            ChangeStream {
                labels: [("Bad Key".into(), String::new())].into(),
                ..items
            },
            "LABEL_INVALID",
        ),
    ];
    for (stream, reason) in wrong {
        let shown = format!("{stream:?}");
        let answer = ask(&rig, "s", stream).await.map(tonic::Response::new);
        let status = refused(answer, Code::InvalidArgument, reason);
        assert!(!status.message().is_empty(), "{shown}");
    }
    is_clean(&rig, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_ends_the_operation_with_its_reason() {
    for major in MAJORS {
        let rig = database(major).await;
        let items = items(&rig);
        for (stream, reason) in [
            (
                ChangeStream {
                    tables: vec!["absent".into()],
                    ..items.clone()
                },
                "TABLE_NOT_FOUND",
            ),
            (
                ChangeStream {
                    tables: Vec::new(),
                    publication: "absent".into(),
                    ..items.clone()
                },
                "PUBLICATION_NOT_FOUND",
            ),
            (
                ChangeStream {
                    database: "absent".into(),
                    ..items
                },
                "DATABASE_NOT_FOUND",
            ),
        ] {
            let (code, found) = failure(&make(&rig, "s", stream).await);
            assert_eq!((code, found.as_str()), (Code::NotFound, reason));
        }
        is_clean(&rig, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_slots_is_named() {
    let howdah = Howdah::serve(Options::external().await).await;
    versioned_instance(&howdah, "full", "").await;
    let rig = Rig::on(&howdah, "full", "").await;
    rig.run(
        "create table items (id int primary key);
         select pg_create_physical_replication_slot('mine_' || n)
            from generate_series(1, current_setting('max_replication_slots')::int) n",
    )
    .await;
    let (code, reason) = failure(&make(&rig, "s", items(&rig)).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::ResourceExhausted, "SLOTS_EXHAUSTED")
    );
    is_clean(&rig, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_streams_is_deleted_by_force() {
    let howdah = Howdah::serve(Options::external().await).await;
    versioned_instance(&howdah, "orders", "").await;
    let rig = Rig::on(&howdah, "orders", "").await;
    rig.run("create table items (id int primary key)").await;
    super::rig::made(&rig, "s", items(&rig)).await;
    let delete = DeleteInstanceRequest {
        name: instance_name("orders"),
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let mut client = howdah.instances().await;
    let answer = client.delete_instance(delete.clone()).await;
    refused(
        answer,
        Code::FailedPrecondition,
        "INSTANCE_HAS_CHANGE_STREAMS",
    );
    let delete = DeleteInstanceRequest {
        force: true,
        ..delete
    };
    let accepted = client.delete_instance(delete).await.unwrap();
    let done = howdah.wait(accepted.get_ref()).await;
    crate::support::howdah::succeeded::<()>(&done);
    let metadata = crate::service::rig::Metadata::of(&howdah).await;
    assert_eq!(metadata.count("change_streams").await, 0);
}
