//! The metadata server that Howdah brings along.

use crate::support::howdah::{Howdah, Options, instance_name, signal};
use crate::support::postgres::server;
use howdah::pb::v1::GetInstanceRequest;

/// Of its pid file, which comes, goes and is empty for a moment at a start.
fn pid_in_file(howdah: &Howdah) -> Option<u32> {
    let file = howdah.data_dir().join("metadata/data/postmaster.pid");
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn metadata_pid(howdah: &Howdah) -> u32 {
    pid_in_file(howdah).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_found_again_after_a_kill_and_after_a_stop() {
    let mut howdah = Howdah::serve(Options::default()).await;
    let created = howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let (metadata, servers) = (metadata_pid(&howdah), howdah.servers());
    assert_eq!(servers.len(), 1);

    howdah.kill().await;
    howdah.start("").await;
    assert_eq!(
        metadata_pid(&howdah),
        metadata,
        "the metadata server is adopted"
    );
    assert_eq!(howdah.servers(), servers, "the user's server is adopted");

    let status = howdah.stop().await;
    assert_eq!(status.code(), Some(0));
    assert!(
        !howdah
            .data_dir()
            .join("metadata/data/postmaster.pid")
            .exists()
    );
    assert_eq!(howdah.servers(), servers, "the user's server goes on");
    assert!(!howdah.data_dir().join("endpoint").exists());

    howdah.start("").await;
    let request = GetInstanceRequest {
        name: instance_name("orders"),
    };
    let found = howdah
        .instances()
        .await
        .get_instance(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.uid, created.uid);
    let again = howdah.connection("orders", "shop").await;
    assert_eq!(again, connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_server_that_dies_is_started_again() {
    let howdah = Howdah::serve(Options::default()).await;
    let before = metadata_pid(&howdah);
    signal(before, "KILL");
    crate::support::howdah::eventually("the metadata server is back", async || {
        pid_in_file(&howdah).is_some_and(|pid| pid != before)
    })
    .await;
    crate::support::howdah::eventually("calls are answered", async || {
        let request = howdah::pb::v1::ListInstancesRequest {
            parent: "projects/default".into(),
            ..Default::default()
        };
        howdah
            .instances()
            .await
            .list_instances(request)
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_data_directory_is_refused() {
    let howdah = Howdah::serve(Options::external().await).await;
    let mut second = howdah.command("serve", "").spawn().unwrap();
    let status = second.wait().unwrap();
    assert!(!status.success());
    assert!(howdah.log().contains("DATA_DIR_IN_USE"), "{}", howdah.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_secret_key_is_found_at_start() {
    let mut howdah = Howdah::serve(Options::external().await).await;
    howdah.stop().await;
    let other = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";
    howdah
        .options
        .environment
        .push(("HOWDAH_SECRET_KEY".into(), other.into()));
    howdah.spawn("");
    let status = howdah.ended().await;
    assert!(!status.success());
    assert!(
        howdah.log().contains("SECRET_KEY_INVALID"),
        "{}",
        howdah.log()
    );
}

/// What a job does before the replicas of a new release start.
#[tokio::test(flavor = "multi_thread")]
async fn migrate_brings_an_empty_database_up_and_then_changes_nothing() {
    let mut howdah = Howdah::new(Options::external().await);
    let url = howdah.options.database_url.clone().unwrap();
    let (_, database) = url.rsplit_once('/').unwrap();
    let metadata = server(15).client(database).await;
    let applied = async || {
        let sql = "select string_agg(t::text, ',' order by version) from _sqlx_migrations t";
        let row = metadata.query_one(sql, &[]).await.unwrap();
        row.get::<_, Option<String>>(0).unwrap()
    };
    let migrate = || howdah.command("migrate", "").status().unwrap();
    assert!(migrate().success(), "{}", howdah.log());
    let first = applied().await;
    assert!(migrate().success(), "{}", howdah.log());
    assert_eq!(applied().await, first);
    howdah.start("").await;
    assert_eq!(applied().await, first);
    howdah.instance("orders").await;
}

/// As at a logout without linger: the runtime directory goes and cannot be made again.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_after_the_run_directory_has_gone() {
    let mut howdah = Howdah::new(Options::default());
    let (link, runtime) = (
        howdah.directory().join("link"),
        howdah.directory().join("r"),
    );
    std::fs::create_dir(&runtime).unwrap();
    std::os::unix::fs::symlink(&runtime, &link).unwrap();
    let run = link.join("run").to_string_lossy().into_owned();
    howdah.options = Options::default().with("HOWDAH_LOCAL_RUN_DIRECTORY", run);
    howdah.start("").await;
    let before = metadata_pid(&howdah);
    // Nothing can be made in /proc.
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("/proc", &link).unwrap();
    signal(before, "KILL");
    crate::support::howdah::eventually("calls are answered", async || {
        let request = howdah::pb::v1::ListInstancesRequest {
            parent: "projects/default".into(),
            ..Default::default()
        };
        let mut instances = howdah.instances().await;
        pid_in_file(&howdah) != Some(before) && instances.list_instances(request).await.is_ok()
    })
    .await;
    // Other commands find it there.
    let backup = howdah.directory().join("backup");
    let done = howdah.run(&["metadata", "backup", backup.to_str().unwrap()], "");
    assert!(done.status.success(), "{done:?}");
}
