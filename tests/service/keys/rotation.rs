//! Rotation with one process, and what may come in between.

use std::{fs, os::unix::process::ExitStatusExt};

use tonic::Code;

use super::{
    doctor, embedded, id, key, refused_start, restart, still_works, try_connection, with_keys,
};
use crate::{
    service::rig::{Metadata, queries, refused},
    support::howdah::{Howdah, Options, eventually},
};

/// With the first key.
async fn serve() -> (Howdah, Metadata) {
    let howdah = Howdah::serve(with_keys(Options::external().await, 1, &[])).await;
    let metadata = Metadata::of(&howdah).await;
    (howdah, metadata)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_three_times() {
    let (mut howdah, metadata) = serve().await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    for newest in 2..=4 {
        howdah.stop().await;
        metadata.age_key(newest - 1).await;
        howdah.options = with_keys(howdah.options.clone(), newest, &[newest - 1]);
        howdah.start("").await;
        metadata.all_sealed_with(newest, 2).await;
        metadata.only_key_is(newest).await;
        // The former key is dropped, and is good for nothing any more.
        restart(&mut howdah, newest, &[]).await;
        still_works(&howdah, "orders", &shop).await;
        assert!(metadata.admin_opens_with(newest).await);
        assert!(!metadata.admin_opens_with(newest - 1).await);
        let found = doctor(&howdah);
        let expected = format!("2 secrets are sealed with {}, none", id(newest));
        assert!(found.contains(&expected), "{found}");
    }
    let log = howdah.log();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("re-sealed secrets"), 3);
    assert_eq!(lines("the former key is not needed any more"), 3);
    howdah.stop().await;
    refused_start(&mut howdah, 1, &[]).await;
}

/// The key of the data directory is rotated by its file.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_the_data_directory_is_rotated() {
    let mut howdah = Howdah::serve(Options::default()).await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    let (present, former) = (howdah.data_dir().join("secret.key"), "secret.key.former");
    let former = howdah.data_dir().join(former);
    let store = embedded(&howdah).await;
    let first = store.keys().await;
    let sql = "update sealing_keys set seen_time = now() - interval '1 hour'";
    drop(store);
    howdah.stop().await;
    fs::rename(&present, &former).unwrap();
    fs::write(&present, key(2)).unwrap();
    let previous = former.to_str().unwrap();
    howdah.options = Options::default().with("HOWDAH_SECRET_KEY_PREVIOUS_FILE", previous);
    howdah.start("").await;
    let store = embedded(&howdah).await;
    store.all_sealed_with(2, 2).await;
    assert_eq!(store.keys().await, [&[id(2)], &first[..]].concat());
    store.execute(sql).await;
    store.only_key_is(2).await;
    drop(store);
    howdah.stop().await;
    fs::remove_file(&former).unwrap();
    howdah.options = Options::default();
    howdah.start("").await;
    still_works(&howdah, "orders", &shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_open_does_not_stop_the_others() {
    let (mut howdah, metadata) = serve().await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    let other = howdah.database("orders", "other").await;
    // Its own inverse.
    let damage = "update roles set password = set_byte(password, octet_length(password) - 1,
        get_byte(password, octet_length(password) - 1) # 1) where id = 'shop-user'";
    metadata.execute(damage).await;
    howdah.stop().await;
    // The key is needed by one value, and by that one through a second rotation.
    for (newest, previous) in [(2, &[1][..]), (3, &[2, 1])] {
        for number in previous {
            metadata.age_key(*number).await;
        }
        howdah.options = with_keys(howdah.options.clone(), newest, previous);
        howdah.start("").await;
        eventually("the others are sealed anew", async || {
            metadata.sealed_with(newest).await == (2, 1)
        })
        .await;
        eventually("what is not needed is forgotten", async || {
            metadata.keys().await == [id(newest), id(1)]
        })
        .await;
        still_works(&howdah, "orders", &other).await;
        let answer = try_connection(&howdah, "orders", "shop").await;
        refused(answer, Code::FailedPrecondition, "SECRET_KEY_INVALID");
        let found = doctor(&howdah);
        let expected = format!("still needed: {} (1 secrets)", id(1));
        assert!(found.contains(&expected), "{found}");
        if newest == 2 {
            let looks = queries(&howdah, "sealing.lock_roles").await;
            eventually("it looks again", async || {
                queries(&howdah, "sealing.lock_roles").await > looks + 1
            })
            .await;
            let log = howdah.log();
            let lines = log
                .lines()
                .filter(|line| line.contains("does not open and"));
            assert_eq!(lines.count(), 1, "once for each run of the program");
            howdah.stop().await;
            refused_start(&mut howdah, 3, &[2]).await;
        }
    }
    metadata.execute(damage).await;
    metadata.only_key_is(3).await;
    still_works(&howdah, "orders", &shop).await;
}

/// Each start comes a little further, whatever ended the one before.
#[tokio::test(flavor = "multi_thread")]
async fn re_sealing_is_crashed() {
    let (mut howdah, metadata) = serve().await;
    howdah.instance("orders").await;
    metadata.add_roles(1, 230).await;
    howdah.stop().await;
    howdah.options = with_keys(howdah.options.clone(), 2, &[1]);
    for (points, done) in [
        ("keys.check.before_register=return", 0),
        ("keys.reseal.before_commit=return", 0),
        ("keys.reseal.after_commit=return", 1),
        // The empty batch of servers goes first.
        ("keys.reseal.before_commit=1*off->return", 1),
        ("keys.reseal.after_commit=1*off->return", 101),
    ] {
        metadata.age_key(1).await;
        howdah.spawn(points);
        let status = howdah.ended().await;
        assert_eq!(status.signal(), Some(9), "{points}: {status}");
        assert_eq!(
            metadata.sealed_with(2).await,
            (done, 231 - done),
            "{points}"
        );
    }
    metadata.age_key(1).await;
    howdah.start("").await;
    metadata.all_sealed_with(2, 231).await;
    metadata.only_key_is(2).await;
    metadata.roles_open_with(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_re_seal_together() {
    let (mut one, metadata) = serve().await;
    one.instance("orders").await;
    metadata.add_roles(1, 450).await;
    one.stop().await;
    metadata.age_key(1).await;
    one.options = with_keys(one.options.clone(), 2, &[1]);
    let mut two = Howdah::new(one.options.clone());
    one.spawn("");
    two.spawn("");
    one.ready().await;
    two.ready().await;
    metadata.all_sealed_with(2, 451).await;
    metadata.only_key_is(2).await;
    metadata.roles_open_with(2).await;
}

/// The former key is given first again before it was forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_taken_back() {
    let (mut howdah, metadata) = serve().await;
    howdah.instance("orders").await;
    let shop = howdah.database("orders", "shop").await;
    restart(&mut howdah, 2, &[1]).await;
    metadata.all_sealed_with(2, 2).await;
    howdah.stop().await;
    metadata.age_key(2).await;
    howdah.options = with_keys(howdah.options.clone(), 1, &[2]);
    howdah.start("").await;
    metadata.all_sealed_with(1, 2).await;
    metadata.only_key_is(1).await;
    still_works(&howdah, "orders", &shop).await;
}
