//! From the creation of a stream to its end.

use howdah::pb::v1::{
    ChangeStream, CreateChangeStreamRequest, DeleteChangeStreamRequest, OnChange, Publish,
    change_stream::State,
};
use tonic::Code;
use uuid::Uuid;

use super::rig::{
    MAJORS, ask_to_delete, database, delete, get, is_clean, items, made, name, objects, request,
};
use crate::{service::rig::refused, support::howdah::succeeded};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_made_shown_and_deleted() {
    for major in MAJORS {
        let rig = database(major).await;
        let wanted = ChangeStream {
            labels: [("team".into(), "a".into())].into(),
            on_change: OnChange::Follow.into(),
            max_retained_bytes: 1 << 30,
            ..items(&rig)
        };
        let stream = made(&rig, "s", wanted).await;
        assert_eq!(stream.state(), State::Ready);
        assert_eq!(
            (stream.publish(), stream.on_change()),
            (Publish::All, OnChange::Follow)
        );
        assert_eq!(
            (&stream.tables[..], stream.publication.as_str()),
            (&["items".into()][..], "")
        );
        assert_eq!(stream.labels["team"], "a");
        let mark = Uuid::parse_str(&stream.uid).unwrap().simple();
        assert_eq!(stream.slot, format!("howdah_{mark}"));
        assert!(!stream.slot_adopted);
        let there = [
            format!("publication howdah_{mark}_0 1"),
            format!("slot howdah_{mark} true"),
        ];
        assert_eq!(objects(&rig.sql).await, there);
        let found = get(rig.howdah, &name(&rig, "s")).await.unwrap();
        assert_eq!((found.uid, found.etag), (stream.uid, stream.etag));
        delete(rig.howdah, &name(&rig, "s"), false).await;
        is_clean(&rig, &[]).await;
        // The id is free again.
        made(&rig, "s", items(&rig)).await;
        delete(rig.howdah, &name(&rig, "s"), false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_is_done_once() {
    let rig = database("18").await;
    let request = CreateChangeStreamRequest {
        request_id: Uuid::new_v4().to_string(),
        ..request(&rig, "s", items(&rig))
    };
    let mut client = rig.howdah.streams().await;
    let first = client.create_change_stream(request.clone()).await.unwrap();
    let again = client.create_change_stream(request).await.unwrap();
    assert_eq!(first.get_ref().name, again.get_ref().name);
    let stream: ChangeStream = succeeded(&rig.howdah.wait(first.get_ref()).await);
    let taken = client
        .create_change_stream(super::rig::request(&rig, "s", items(&rig)))
        .await;
    refused(taken, Code::AlreadyExists, "CHANGE_STREAM_EXISTS");
    let delete = DeleteChangeStreamRequest {
        name: stream.name.clone(),
        etag: "of-another".into(),
        request_id: Uuid::new_v4().to_string(),
        ..DeleteChangeStreamRequest::default()
    };
    let changed = client.delete_change_stream(delete.clone()).await;
    refused(changed, Code::Aborted, "ETAG_MISMATCH");
    let delete = DeleteChangeStreamRequest {
        etag: stream.etag,
        ..delete
    };
    let first = client.delete_change_stream(delete.clone()).await.unwrap();
    succeeded::<()>(&rig.howdah.wait(first.get_ref()).await);
    let again = client.delete_change_stream(delete).await.unwrap();
    assert_eq!(first.get_ref().name, again.get_ref().name);
    is_clean(&rig, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_validated_is_not_made() {
    let rig = database("15").await;
    let request = CreateChangeStreamRequest {
        validate_only: true,
        ..request(&rig, "s", items(&rig))
    };
    let mut client = rig.howdah.streams().await;
    let answer = client.create_change_stream(request).await.unwrap();
    let stream: ChangeStream = succeeded(answer.get_ref());
    assert_eq!(stream.name, name(&rig, "s"));
    let absent = get(rig.howdah, &stream.name)
        .await
        .map(tonic::Response::new);
    refused(absent, Code::NotFound, "CHANGE_STREAM_NOT_FOUND");
    is_clean(&rig, &[]).await;
    let absent = ask_to_delete(rig.howdah, &stream.name, false).await;
    refused(
        absent.map(tonic::Response::new),
        Code::NotFound,
        "CHANGE_STREAM_NOT_FOUND",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_can_still_be_changed() {
    for major in MAJORS {
        let rig = database(major).await;
        rig.run("create table keyless (n int); insert into keyless values (1)")
            .await;
        let both = ChangeStream {
            tables: vec!["items".into(), "keyless".into()],
            ..items(&rig)
        };
        made(&rig, "s", both).await;
        rig.run("update keyless set n = 2; delete from keyless")
            .await;
        let published = "select string_agg(tablename || ' ' || pubupdate, ', ' order by tablename)
            from pg_publication p join pg_publication_tables t using (pubname)";
        let published: String = rig.value(published).await;
        assert_eq!(published, "items true, keyless false");
        let inserts = ChangeStream {
            publish: Publish::Inserts.into(),
            ..items(&rig)
        };
        made(&rig, "inserts", inserts).await;
        let all: i64 = rig
            .value("select count(*) from pg_publication where pubinsert and not pubdelete")
            .await;
        assert_eq!(all, 2);
        delete(rig.howdah, &name(&rig, "s"), false).await;
        delete(rig.howdah, &name(&rig, "inserts"), false).await;
        is_clean(&rig, &[]).await;
    }
}
