//! As an ordinary user.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    process::Command,
};

use crate::support::howdah::{Howdah, Options};

/// Ids of an account that is not root's and can log in nowhere; none if we are not root
/// and run as an ordinary user anyway.
fn ordinary() -> Option<(u32, u32)> {
    let id = |flag: &str, user: &str| -> u32 {
        let output = Command::new("id").args([flag, user]).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    (fs::metadata("/proc/self")
        .map(|own| std::os::unix::fs::MetadataExt::uid(&own))
        .unwrap()
        == 0)
        .then(|| (id("-u", "nobody"), id("-g", "nobody")))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_needs_nothing() {
    let mut howdah = Howdah::new(Options::default());
    if let Some((uid, gid)) = ordinary() {
        // The program may lie where only root can go.
        let program = howdah.directory().join("howdah");
        fs::copy(env!("CARGO_BIN_EXE_howdah"), &program).unwrap();
        chown(howdah.directory(), Some(uid), Some(gid)).unwrap();
        howdah.program(&program, move |command: &mut Command| {
            command.uid(uid).gid(gid);
        });
    }
    howdah.start("").await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let asked = Command::new("psql")
        .args([&connection.uri, "-Atc", "select 1"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&asked.stdout).trim(),
        "1",
        "{asked:?}"
    );
    assert_eq!(howdah.stop().await.code(), Some(0));
}
