//! The embedded metadata server is crashed at every point, and the next start serves.

use howdah::{pb::v1::ListInstancesRequest, providers::local::EMBEDDED_FAILPOINTS};

use std::os::unix::process::ExitStatusExt;

use crate::support::howdah::{Howdah, Options, PROJECT, eventually, signal};

/// It is passed when the program ends, the others when it starts.
const AT_THE_END: &str = "embedded.stop.after_spawn";

#[tokio::test(flavor = "multi_thread")]
async fn metadata_server() {
    for point in EMBEDDED_FAILPOINTS {
        let mut howdah = Howdah::new(Options::default());
        howdah.spawn(&format!("{point}=return"));
        if *point == AT_THE_END {
            howdah.ready().await;
            signal(howdah.pid(), "TERM");
        }
        let status = howdah.ended().await;
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        howdah.start("").await;
        serves(&howdah).await;
        assert!(howdah.stop().await.success(), "{point}");
        // And with what is there by now.
        howdah.start("").await;
        serves(&howdah).await;
        assert!(howdah.stop().await.success(), "{point}");
        eventually("nothing runs", async || howdah.processes().len() == 1).await;
        left_over(&howdah, point);
    }
}

async fn serves(howdah: &Howdah) {
    let request = ListInstancesRequest {
        parent: PROJECT.into(),
        ..ListInstancesRequest::default()
    };
    let listed = howdah.instances().await.list_instances(request).await;
    assert!(listed.unwrap().into_inner().instances.is_empty());
}

fn left_over(howdah: &Howdah, point: &str) {
    for entry in std::fs::read_dir(howdah.data_dir()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let unfinished = name.contains(".unfinished") || name.ends_with(".new");
        assert!(!unfinished, "{point}: {name}");
    }
}
