//! `howdah streams`, as its user types it.

use howdah::pb::v1::ChangeStream;
use serde_json::Value;

use super::rig::{database, is_clean, items, made, own};
use crate::service::{command_line::User, completion::completed};

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_made_and_deleted_on_the_command_line() {
    let rig = database("18").await;
    let user = User::of(rig.howdah);
    let name = format!("v18/{}", own(&rig, "cli"));
    let create = format!(
        "streams create {name} --database {} --tables items --label team=a --wait",
        rig.database
    );
    let created = user.json(&create).await;
    assert_eq!(
        (&created["state"], &created["labels"]["team"]),
        (&"READY".into(), &"a".into())
    );
    let again = user.run(&create).await;
    assert_eq!(again.code, Some(4), "{again:?}");
    let present = user.run(&format!("{create} --if-not-exists")).await;
    assert_eq!(present.code, Some(0), "{present:?}");
    let got: Value = user.json(&format!("streams get {name}")).await;
    assert!(got["progress"]["walEnd"].is_string(), "{got}");
    let sheet = user.run(&format!("streams get {name}")).await.stdout;
    for shown in ["READY", "acknowledged", "retained from", "reserved"] {
        assert!(sheet.contains(shown), "{sheet}");
    }
    let filter = format!("streams list v18 --filter database={}", rig.database);
    let list = user.run(&filter).await.stdout;
    assert!(list.contains(&name) && list.contains("AGE"), "{list}");
    let names = user.run(&format!("{filter} -o name")).await.stdout;
    assert_eq!(names.trim(), name);
    let completed = completed(
        &user,
        &format!("howdah streams get v18/{}", own(&rig, "cli")),
    )
    .await;
    assert_eq!(completed, std::slice::from_ref(&name));
    let wrong = user.run(&format!("streams ack {name} --token !")).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let deleted = user.run(&format!("streams delete {name} --wait")).await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let gone = user
        .run(&format!("streams wait {name} --for deleted"))
        .await;
    assert_eq!(gone.code, Some(0), "{gone:?}");
    let absent = user.run(&format!("streams get {name}")).await;
    assert_eq!(absent.code, Some(3), "{absent:?}");
    is_clean(&rig, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_tables_is_shortened() {
    let rig = database("15").await;
    rig.run("create table others (id int primary key)").await;
    let both = ChangeStream {
        tables: vec!["items".into(), "public.others".into()],
        ..items(&rig)
    };
    let stream = made(&rig, "long", both).await;
    let user = User::of(rig.howdah);
    let list = user.run("streams list v15 -o wide").await.stdout;
    assert!(
        list.contains("items and 1 more") && list.contains(&stream.slot),
        "{list}"
    );
    super::rig::delete(rig.howdah, &stream.name, false).await;
}
