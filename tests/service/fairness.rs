//! Nobody keeps the others from the service: no owner, no server that hangs.

use std::fs;

use howdah::{
    pb::v1::{Connection, DeleteInstanceRequest},
    pg::{self, Host, Login, Target, Tls},
};

use super::rig::{serve, superuser};
use crate::{
    soak::crash::world::is_success,
    support::{
        howdah::{Howdah, Options, create_database, eventually, instance_name, signal, succeeded},
        postgres::LIMIT,
    },
};

/// Half of the workers are left to others, whatever one instance is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn operations_of_one_instance_leave_workers_to_others() {
    let options = Options::external()
        .await
        .with("HOWDAH_OPERATIONS_WORKERS", "2");
    let howdah = Howdah::serve(options).await;
    howdah.instance("slow").await;
    howdah.instance("other").await;
    let holder = superuser(&howdah, "slow", "postgres").await;
    // Each new role gets a comment.
    let lock = "begin; lock table pg_shdescription in exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let mut databases = howdah.databases().await;
    let mut slow = Vec::new();
    for id in ["one", "two", "three"] {
        let accepted = databases.create_database(create_database("slow", id)).await;
        slow.push(accepted.unwrap().into_inner());
    }
    howdah.database("other", "shop").await;
    for operation in &slow {
        let now = howdah.operation(&operation.name).await;
        assert!(!now.done, "{}: nothing held it", operation.name);
    }
    holder.batch_execute("rollback").await.unwrap();
    for operation in &slow {
        assert!(is_success(&howdah.wait(operation).await));
    }
}

async fn login(connection: &Connection, database: &str) -> Result<pg::Client, pg::Error> {
    let target = Target {
        host: Host::Tcp(connection.host.clone()),
        port: u16::try_from(connection.port).unwrap(),
        tls: Tls::Disable,
    };
    let login = Login {
        user: connection.user.clone(),
        password: Some(connection.password.clone().into()),
        database: database.into(),
    };
    pg::client::connect(&target, &login, LIMIT).await
}

/// An open transaction there would stand in the way of every creation and deletion.
#[tokio::test(flavor = "multi_thread")]
async fn owners_stay_out_of_the_databases_that_all_share() {
    let mut howdah = serve().await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let closed = async || {
        for database in ["postgres", "template1"] {
            let refused = login(&connection, database).await.err();
            let code = refused.as_ref().and_then(pg::Error::sqlstate);
            if code != Some("42501") {
                return false;
            }
        }
        true
    };
    assert!(closed().await);
    login(&connection, "shop").await.unwrap();

    // A server of a former release.
    let admin = superuser(&howdah, "orders", "postgres").await;
    let open = "grant connect, temporary on database postgres, template1 to public";
    admin.batch_execute(open).await.unwrap();
    assert!(!closed().await);
    howdah.stop().await;
    howdah.start("").await;
    eventually("they are closed again", closed).await;
}

/// Processes of the servers of users, also those whose data is in the trash.
fn processes(howdah: &Howdah) -> Vec<u32> {
    let below = howdah.data_dir().join("local");
    let works_there = |pid: &u32| {
        let place = fs::read_link(format!("/proc/{pid}/cwd"));
        place.is_ok_and(|place| place.starts_with(&below))
    };
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(works_there).collect()
}

/// A server that does not react any more is deleted all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_can_be_purged() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    for pid in processes(&howdah) {
        signal(pid, "STOP");
    }
    let delete = DeleteInstanceRequest {
        name: instance_name("orders"),
        force: true,
        purge: true,
        ..DeleteInstanceRequest::default()
    };
    let accepted = howdah.instances().await.delete_instance(delete).await;
    let done = howdah.wait(accepted.unwrap().get_ref()).await;
    succeeded::<()>(&done);
    assert_eq!(processes(&howdah), Vec::<u32>::new());
    assert_eq!(howdah.local("servers"), Vec::<String>::new());
    // The id is free, and the host is well.
    howdah.instance("orders").await;
}
