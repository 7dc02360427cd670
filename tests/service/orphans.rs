//! What Howdah has made on the servers of instances and no record knows any more.

use howdah::pb::v1::{
    ChangeStream, Condition, CreateChangeStreamRequest, GetInstanceRequest, condition::Status,
};

use super::rig::{Metadata, labelled, serve, superuser};
use crate::support::howdah::{Howdah, eventually, instance_name, succeeded};

async fn unknown_objects(howdah: &Howdah) -> Option<Condition> {
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah.instances().await.get_instance(request).await;
    let conditions = found.unwrap().into_inner().conditions;
    let mut conditions = conditions.into_iter();
    conditions.find(|condition| condition.r#type == "UnknownObjects")
}

async fn count(howdah: &Howdah, kind: &str) -> Option<u64> {
    labelled(howdah, "howdah_orphans", &format!("howdah_kind=\"{kind}\"")).await
}

/// Exit code and all output of `howdah orphans`.
fn orphans(howdah: &Howdah, words: &[&str]) -> (i32, String) {
    let output = howdah.run(&[&["orphans"], words].concat(), "");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), text.concat())
}

/// The lines that the page says to type.
fn documented() -> Vec<Vec<&'static str>> {
    let page = include_str!("../../docs/servers.md");
    let lines = page
        .lines()
        .filter_map(|line| line.strip_prefix("howdah orphans "));
    lines.map(|line| line.split(' ').collect()).collect()
}

/// As after a restore of metadata that is older than a database and a subscription.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_record_knows_is_named_and_left_alone() {
    let mut howdah = serve().await;
    howdah.instance("orders").await;
    howdah.database("orders", "kept").await;
    howdah.database("orders", "shop").await;
    let shop = superuser(&howdah, "orders", "shop").await;
    let mark = "0123456789abcdef0123456789abcdef";
    let slot =
        format!("select pg_create_logical_replication_slot('howdah_tmp_{mark}', 'pgoutput')");
    let publications = format!(
        "create publication howdah_tmp_{mark}_0_inserts; create publication howdah_tmp_mine;
         create publication howdah_{mark}_0; create role stranger"
    );
    for statements in [slot, publications] {
        shop.batch_execute(&statements).await.unwrap();
    }
    // What a change stream on record has is known.
    let kept = superuser(&howdah, "orders", "kept").await;
    kept.batch_execute("create table items (id int primary key)")
        .await
        .unwrap();
    drop(kept);
    let request = CreateChangeStreamRequest {
        parent: instance_name("orders"),
        change_stream_id: "audit".into(),
        change_stream: Some(ChangeStream {
            database: "kept".into(),
            tables: vec!["items".into()],
            ..ChangeStream::default()
        }),
        ..CreateChangeStreamRequest::default()
    };
    let mut streams = howdah.streams().await;
    let accepted = streams.create_change_stream(request).await.unwrap();
    let _: ChangeStream = succeeded(&howdah.wait(accepted.get_ref()).await);
    let metadata = Metadata::of(&howdah).await;
    metadata
        .execute("delete from databases where id = 'shop'")
        .await;
    howdah.stop().await;
    howdah.start("").await;
    eventually("they are named", async || {
        let found = unknown_objects(&howdah).await;
        found.is_some_and(|condition| condition.status() == Status::True)
    })
    .await;
    let condition = unknown_objects(&howdah).await.unwrap();
    assert_eq!(condition.reason, "NO_RECORD");
    let expected = format!(
        "no record knows what Howdah has made on the server: database `shop`, publication \
         `howdah_{mark}_0 in shop`, publication `howdah_tmp_{mark}_0_inserts in shop`, role \
         `shop_user`, slot `howdah_tmp_{mark}`"
    );
    assert_eq!(condition.message, expected);
    for (kind, all) in [
        ("database", 1),
        ("publication", 2),
        ("role", 1),
        ("slot", 1),
    ] {
        eventually("it is counted", async || {
            count(&howdah, kind).await == Some(all)
        })
        .await;
    }
    for kind in ["directory", "server"] {
        assert_eq!(count(&howdah, kind).await, Some(0), "{kind}");
    }

    let [list, some, all] = &documented()[..] else {
        panic!("{:?}", documented());
    };
    let publication = format!("publication/howdah_tmp_{mark}_0_inserts in shop");
    let (role, slot) = ("role/shop_user", format!("slot/howdah_tmp_{mark}"));
    let of_stream = format!("publication/howdah_{mark}_0 in shop");
    let listed = format!("database/shop\n{of_stream}\n{publication}\n{role}\n{slot}\n");
    assert_eq!(orphans(&howdah, list), (0, listed));
    for other in [
        "database/kept",
        "role/kept_user",
        "role/stranger",
        "nonsense",
    ] {
        let (code, text) = orphans(&howdah, &["drop", "orders", &slot, other]);
        assert!(code == 3 && text.contains("ORPHAN_NOT_FOUND"), "{text}");
    }
    // Nothing was dropped, nor is it with a session in the database.
    let (code, text) = orphans(&howdah, some);
    assert!(
        code != 0 && text.contains("database/shop was not dropped"),
        "{text}"
    );
    drop(shop);
    let dropped = format!("{slot}\n");
    assert_eq!(orphans(&howdah, &["drop", "orders", &slot]), (0, dropped));
    let (code, text) = orphans(&howdah, all);
    assert_eq!(
        (code, text),
        (
            0,
            format!("{of_stream}\n{publication}\ndatabase/shop\n{role}\n")
        )
    );
    assert_eq!(orphans(&howdah, list), (0, String::new()));
    howdah.database("orders", "kept2").await;
    let roles = superuser(&howdah, "orders", "kept").await;
    let kept = "select count(*) from pg_roles where rolname in ('kept_user', 'stranger')";
    let kept: i64 = roles.query_one(kept, &[]).await.unwrap().get(0);
    assert_eq!(kept, 2);
    howdah.stop().await;
    howdah.start("").await;
    eventually("it is taken back", async || {
        let found = unknown_objects(&howdah).await;
        found.is_some_and(|condition| condition.status() == Status::False)
    })
    .await;
    howdah.database("orders", "shop").await;
}
