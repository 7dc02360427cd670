//! Slots and publications that existed before.

use howdah::pb::v1::ChangeStream;
use tonic::Code;

use super::rig::{MAJORS, ask, database, delete, is_clean, items, made, make, name, objects};
use crate::{
    service::rig::{failure, refused},
    streams::rig::Rig,
};

/// A stream on that slot.
fn adopting(rig: &Rig<'_>, slot: &str) -> ChangeStream {
    ChangeStream {
        slot: slot.into(),
        ..items(rig)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_slot_stays() {
    for major in MAJORS {
        let rig = database(major).await;
        let slot = format!("mine_{}", rig.database);
        rig.run(&format!(
            "select pg_create_logical_replication_slot('{slot}', 'pgoutput');
             create publication mine for table items"
        ))
        .await;
        let wanted = ChangeStream {
            tables: Vec::new(),
            publication: "mine".into(),
            ..adopting(&rig, &slot)
        };
        let stream = made(&rig, "s", wanted.clone()).await;
        assert!(stream.slot_adopted);
        assert_eq!(
            (stream.slot.as_str(), stream.publication.as_str()),
            (slot.as_str(), "mine")
        );
        let taken = ask(&rig, "t", wanted.clone())
            .await
            .map(tonic::Response::new);
        refused(taken, Code::AlreadyExists, "CHANGE_STREAM_EXISTS");
        delete(rig.howdah, &name(&rig, "s"), false).await;
        let left = ["publication mine 1".to_owned(), format!("slot {slot} true")];
        assert_eq!(objects(&rig.sql).await, left);
        made(&rig, "s", wanted).await;
        delete(rig.howdah, &name(&rig, "s"), true).await;
        is_clean(&rig, &["publication mine 1"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_cannot_be_read_is_refused() {
    for major in MAJORS {
        let rig = database(major).await;
        let mark = &rig.database;
        let elsewhere = database(major).await;
        let make = |slot: &str, plugin: &str, more: &str| {
            format!("select pg_create_logical_replication_slot('{slot}_{mark}', '{plugin}'{more})")
        };
        rig.run(&make("test", "test_decoding", "")).await;
        rig.run(&make("phases", "pgoutput", ", false, true")).await;
        rig.run(&make("passing", "pgoutput", ", true")).await;
        rig.run(&format!(
            "select pg_create_physical_replication_slot('physical_{mark}')"
        ))
        .await;
        elsewhere.run(&make("elsewhere", "pgoutput", "")).await;
        let unsuitable = (Code::FailedPrecondition, "SLOT_UNSUITABLE");
        for (slot, (code, reason)) in [
            ("absent", (Code::NotFound, "SLOT_NOT_FOUND")),
            ("test", unsuitable),
            ("phases", unsuitable),
            ("passing", unsuitable),
            ("physical", unsuitable),
            ("elsewhere", unsuitable),
        ] {
            let slot = format!("{slot}_{mark}");
            let done = make_failed(&rig, &slot).await;
            assert_eq!(done, (code, reason.to_owned()), "{slot}");
        }
        elsewhere
            .run(&format!(
                "select pg_drop_replication_slot('elsewhere_{mark}')"
            ))
            .await;
        for slot in ["test", "phases", "passing", "physical"] {
            rig.run(&format!("select pg_drop_replication_slot('{slot}_{mark}')"))
                .await;
        }
        is_clean(&rig, &[]).await;
    }
}

async fn make_failed(rig: &Rig<'_>, slot: &str) -> (Code, String) {
    failure(&make(rig, "s", adopting(rig, slot)).await)
}
