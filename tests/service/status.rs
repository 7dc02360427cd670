//! `howdah status`.

use super::{command_line::User, rig::serve};

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_fails_and_what_is_there() {
    let howdah = serve().await;
    let user = User::of(&howdah);
    let nothing = user.says("status").await;
    assert!(nothing.contains("none"), "{nothing}");
    howdah.instance("orders").await;
    let broken = user
        .run("instances create broken --parameter timezone=Mars/Phobos --ephemeral --wait")
        .await;
    assert_eq!(broken.code, Some(8), "{broken:?}");
    let status = user.says("status").await;
    for part in ["1 READY", ": 1 servers", "create broken", "\"Mars/Phobos\""] {
        assert!(status.contains(part), "{part}: {status}");
    }
    // Not the data directory of these tests.
    assert!(!status.contains("disk here"), "{status}");
    let json = user.json("status").await;
    assert_eq!(json["instances"]["READY"], 1);
    assert_eq!(json["failing"].as_array().unwrap().len(), 1);

    let data_dir = howdah.data_dir();
    let mut here = user.command("status");
    let here = here
        .env("HOWDAH_DATA_DIR", &data_dir)
        .output()
        .await
        .unwrap();
    let here = String::from_utf8(here.stdout).unwrap();
    assert!(
        here.contains("disk here") && here.contains("trash here"),
        "{here}"
    );
}
