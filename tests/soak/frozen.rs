//! A process that is frozen inside a transaction of the metadata holds the rows of its
//! operation; the database ends the transaction, and another process goes on.

use std::fs::File;

use howdah::pb::v1::{Instance, StartInstanceRequest, StopInstanceRequest, instance::State};
use rustix::fs::{FlockOperation, flock};

use super::crash::world::metadata;
use crate::support::howdah::{Howdah, Options, eventually, instance_name, signal, succeeded};

#[tokio::test(flavor = "multi_thread")]
async fn inside_a_transaction() {
    let lease = ("HOWDAH_OPERATIONS_LEASE", "2s");
    let one = Howdah::serve(Options::external().await.with(lease.0, lease.1)).await;
    let store = metadata(&one.options).await;
    let name = instance_name("orders");
    let server = one.instance("orders").await.servers[0].uid.clone();
    let request = StopInstanceRequest {
        name: name.clone(),
        ..StopInstanceRequest::default()
    };
    let stopping = one.instances().await.stop_instance(request).await;
    one.wait(stopping.unwrap().get_ref()).await;

    // The effect waits for its lock, then the commit for the instance's row.
    let lock = one.data_dir().join("local/locks").join(server);
    let lock = File::options().read(true).write(true).open(lock).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let request = StartInstanceRequest {
        name,
        ..StartInstanceRequest::default()
    };
    let starting = one.instances().await.start_instance(request).await;
    let starting = starting.unwrap().into_inner();
    let running = "select count(*) from operation_stages where state = 'RUNNING'";
    eventually("the step is under way", async || {
        let found = store.query_one(running, &[]).await.unwrap();
        found.get::<_, i64>(0) == 1
    })
    .await;
    store
        .batch_execute("begin; select from instances for update")
        .await
        .unwrap();
    drop(lock);
    let waiting = "select count(*) from pg_stat_activity where datname = current_database()
         and wait_event_type = 'Lock'";
    let other = metadata(&one.options).await;
    eventually("the commit waits", async || {
        let found = other.query_one(waiting, &[]).await.unwrap();
        found.get::<_, i64>(0) == 1
    })
    .await;
    signal(one.pid(), "STOP");
    store.batch_execute("rollback").await.unwrap();

    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let options = Options {
        database_url: one.options.database_url.clone(),
        environment: vec![(lease.0.into(), lease.1.into())],
    };
    let two = options
        .with("HOWDAH_LOCAL_ROOT", path(one.data_dir().join("local")))
        .with(
            "HOWDAH_LOCAL_RUN_DIRECTORY",
            path(one.directory().join("run")),
        );
    let two = Howdah::serve(two).await;
    let done = two.wait(&starting).await;
    assert_eq!(succeeded::<Instance>(&done).state(), State::Ready);
    signal(one.pid(), "CONT");
    one.instance("billing").await;
    assert_eq!(one.servers().len(), 2);
}
