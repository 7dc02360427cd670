//! What Howdah has made on the servers of instances and no record knows any more.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Command,
};

use howdah::pb::v1::{Condition, GetInstanceRequest, condition::Status};

use super::rig::{Metadata, labelled, serve, superuser};
use crate::support::{
    howdah::{Howdah, eventually, instance_name},
    postgres::server,
};

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

/// The server's uid, from where the page says that it is.
fn uid(howdah: &Howdah) -> String {
    let page = include_str!("../../docs/servers.md");
    assert!(page.contains("`servers[0].uid` in `howdah instances get orders -o json`"));
    let endpoint = howdah.endpoint();
    let words = ["instances", "get", "orders", "-o", "json"];
    let shown = howdah.run(&[&words[..], &["--endpoint", &endpoint]].concat(), "");
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    shown["servers"][0]["uid"].as_str().unwrap().to_owned()
}

/// Runs the lines of `docs/servers.md`, those of PostgreSQL as the user of the servers.
fn remove_as_documented(howdah: &Howdah, mark: &str) {
    let page = include_str!("../../docs/servers.md");
    let (_, script) = page.split_once("```sh\nhowdah instances stop").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let home = howdah.data_dir().join("local/servers").join(uid(howdah));
    let script = format!("howdah instances stop{script}")
        .replace(
            "drop publication howdah_tmp_...",
            &format!("drop publication howdah_tmp_{mark}_0_inserts"),
        )
        .replace("howdah_tmp_...", &format!("howdah_tmp_{mark}"));
    for line in script.lines().filter(|line| !line.starts_with("cd ")) {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("set -e; {line}")]);
        match line.strip_prefix("howdah ") {
            Some(rest) => {
                command = Command::new(env!("CARGO_BIN_EXE_howdah"));
                command
                    .args(rest.split(' '))
                    .env("HOWDAH_ENDPOINT", howdah.endpoint());
            }
            None => {
                let data = fs::metadata(home.join("data")).unwrap();
                let path = format!("{}:/usr/bin:/bin", server(15).bin.display());
                command.current_dir(&home).env("PATH", path).uid(data.uid());
            }
        }
        let done = command.output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            done.status.success() && !told.contains("ERROR"),
            "{line}: {told}"
        );
    }
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
         create role stranger"
    );
    for statements in [slot, publications] {
        shop.batch_execute(&statements).await.unwrap();
    }
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
         `howdah_tmp_{mark}_0_inserts in shop`, role `shop_user`, slot `howdah_tmp_{mark}`"
    );
    assert_eq!(condition.message, expected);
    for kind in ["database", "publication", "role", "slot"] {
        eventually("it is counted", async || {
            count(&howdah, kind).await == Some(1)
        })
        .await;
    }
    for kind in ["directory", "server"] {
        assert_eq!(count(&howdah, kind).await, Some(0), "{kind}");
    }

    drop(shop);
    remove_as_documented(&howdah, mark);
    howdah.stop().await;
    howdah.start("").await;
    eventually("it is taken back", async || {
        let found = unknown_objects(&howdah).await;
        found.is_some_and(|condition| condition.status() == Status::False)
    })
    .await;
    howdah.database("orders", "shop").await;
}
