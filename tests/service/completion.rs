//! Names that a shell completes.

use std::time::{Duration, Instant};

use super::{command_line::User, rig::serve};

/// What can be typed in the place of the last word, as bash hears it.
pub(super) async fn completed(user: &User, words: &str) -> Vec<String> {
    let index = words.split(' ').count() - 1;
    let output = user
        .command(&format!("-- {words}"))
        // An empty last word is one too.
        .args(words.ends_with(' ').then_some(""))
        .env("_HOWDAH_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", index.to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .env("_CLAP_IFS", "\n")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_completed() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah.instance("stock").await;
    howdah.database("orders", "shop").await;
    let user = User::of(&howdah);
    assert_eq!(
        completed(&user, "howdah instances get or").await,
        ["orders"]
    );
    let all = completed(&user, "howdah instances logs ").await;
    assert!(
        all.contains(&"orders".into()) && all.contains(&"stock".into()),
        "{all:?}"
    );
    assert_eq!(completed(&user, "howdah psql or").await, ["orders/"]);
    assert_eq!(
        completed(&user, "howdah psql orders/").await,
        ["orders/shop"]
    );
    assert_eq!(
        completed(&user, "howdah connection orders/sh").await,
        ["orders/shop"]
    );
    assert!(completed(&user, "howdah psql nosuch/").await.is_empty());

    // Where nobody answers, nothing is proposed, and soon.
    let away = User::at("unix:/nowhere");
    let begin = Instant::now();
    assert!(completed(&away, "howdah psql or").await.is_empty());
    assert!(begin.elapsed() < Duration::from_secs(10));
}
