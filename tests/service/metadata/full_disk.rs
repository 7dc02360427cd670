//! The disk of the metadata is full.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use howdah::pb::{
    google::longrunning::{Operation, operation},
    v1::GetInstanceRequest,
};
use uuid::Uuid;

use super::{
    load::INSTANCE,
    serving::{Serving, unavailable},
};
use crate::support::{
    howdah::{create_database, instance_name},
    metadata_server::{DATABASE, MetadataServer},
    postgres::own,
    small_disk::{SmallDisk, may_mount},
};

/// Most mutations until one does not fit any more.
const MOST: usize = 60;

/// The metadata with their tables on a small disk, the log elsewhere: a server whose log
/// has no room ends itself.
async fn on(disk: &Path) -> MetadataServer {
    let metadata = MetadataServer::start().await;
    let place = disk.display();
    for sql in [
        format!("create tablespace small location '{place}'"),
        format!("alter database {DATABASE} set tablespace small"),
    ] {
        metadata.administer(&sql).await;
    }
    metadata
}

/// Asks for databases until one is refused; the operations of the others.
async fn until_it_is_full(serving: &Serving) -> Vec<Operation> {
    let mut accepted = Vec::new();
    for number in 0..MOST {
        let mut request = create_database(INSTANCE, &format!("d{number}"));
        request.request_id = Uuid::new_v4().to_string();
        // Text that does not get smaller when it is compressed.
        let text: String = (0..110).map(|_| Uuid::new_v4().to_string()).collect();
        let database = request.database.as_mut().unwrap();
        database.annotations.insert("text".into(), text);
        let mut client = serving.howdah.databases().await;
        match client.create_database(request).await {
            Ok(operation) => accepted.push(operation.into_inner()),
            Err(status) => {
                unavailable(&status);
                return accepted;
            }
        }
    }
    panic!("{MOST} mutations fit on a full disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_disk_is_full() {
    if !may_mount() {
        return;
    }
    let place = tempfile::Builder::new().prefix("howdah-disk-").tempdir();
    let disk = SmallDisk::mount(place.unwrap().keep(), "24m");
    own(disk.place());
    let serving = Serving::start(on(disk.place()).await).await;
    let filler = disk.fill();
    let accepted = until_it_is_full(&serving).await;
    serving.is_told(Instant::now()).await;
    let request = GetInstanceRequest {
        name: instance_name(INSTANCE),
    };
    let answer = serving.howdah.instances().await.get_instance(request).await;
    if let Err(status) = answer {
        unavailable(&status);
    }
    // Long enough for steps to fail and to be tried again.
    tokio::time::sleep(Duration::from_secs(5)).await;
    std::fs::remove_file(filler).unwrap();
    serving.serves_again(Instant::now()).await;
    for operation in &accepted {
        let done = serving.howdah.wait(operation).await;
        let succeeded = matches!(done.result, Some(operation::Result::Response(_)));
        assert!(succeeded, "{done:?}");
    }
}
