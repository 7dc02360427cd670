//! Kill -9 of the program in the middle of the provider's effects. Those in the
//! middle of users' operations on durable servers are in the crash table; here are
//! the metadata server's, and what only ephemeral servers go through.

use std::{fs, os::unix::process::ExitStatusExt, time::Instant};

use howdah::{
    pb::v1::Instance,
    providers::local::{EMBEDDED_FAILPOINTS, FAILPOINTS},
};

use crate::support::howdah::{Howdah, LIMIT, Options, create_instance, succeeded};

const KILLED: Option<i32> = Some(9);

#[tokio::test]
async fn the_metadata_server_comes_up_after_each_crash() {
    for point in EMBEDDED_FAILPOINTS {
        let mut howdah = Howdah::new(Options::default());
        let armed = format!("{point}=return");
        let status = if point.starts_with("embedded.stop.") {
            howdah.start(&armed).await;
            howdah.stop().await
        } else {
            howdah.spawn(&armed);
            howdah.ended().await
        };
        assert_eq!(status.signal(), KILLED, "{point}: {}", howdah.log());
        howdah.start("").await;
        let entries = fs::read_dir(howdah.data_dir()).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.retain(|name| name.to_string_lossy().contains("metadata."));
        names.sort();
        let expected = ["metadata.engine", "metadata.lock", "metadata.password"];
        assert_eq!(names, expected, "{point}");
        assert!(howdah.stop().await.success(), "{point}");
    }
}

#[tokio::test]
async fn an_ephemeral_server_is_made_after_each_crash() {
    let points = FAILPOINTS.iter().filter(|point| {
        point.starts_with("local.template.")
            || point.ends_with(".after_clone")
            || point.ends_with("configure.after_rename")
            || point.ends_with("start.after_start")
    });
    for point in points {
        let mut howdah = Howdah::new(Options::external().await);
        howdah.start(&format!("{point}=return")).await;
        let ephemeral = Instance {
            ephemeral: true,
            ..Instance::default()
        };
        let mut request = create_instance("fleeting", ephemeral);
        request.request_id = uuid::Uuid::new_v4().to_string();
        // The answer may be lost with the program.
        let _ = howdah
            .instances()
            .await
            .create_instance(request.clone())
            .await;
        let status = howdah.ended().await;
        assert_eq!(status.signal(), KILLED, "{point}: {}", howdah.log());
        howdah.start("").await;
        let accepted = howdah.instances().await.create_instance(request).await;
        let operation = howdah.wait(accepted.unwrap().get_ref()).await;
        let _: Instance = succeeded(&operation);
        // A backend looks like its server until it has given itself a title.
        let end = Instant::now() + LIMIT;
        while howdah.servers().len() > 1 && Instant::now() < end {
            tokio::task::yield_now().await;
        }
        assert_eq!(howdah.servers().len(), 1, "{point}");
        let left = (howdah.local("servers"), howdah.local("templates"));
        assert_eq!((left.0.len(), left.1.len()), (1, 1), "{point}: {left:?}");
        howdah.stop().await;
    }
}
