//! A durable instance, ready, against initdb and pg_ctl with the same flags.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::Command,
    time::Instant,
};

use howdah::pb::v1::{DeleteInstanceRequest, Instance};

use crate::{
    ROUNDS,
    support::{
        howdah::{Howdah, Options, create_instance, instance_name, succeeded},
        postgres::installation,
    },
    table::Table,
};

pub async fn measure(table: &mut Table) {
    let howdah = Howdah::serve(Options::external().await).await;
    let mut pairs = Vec::new();
    for round in 0..=ROUNDS {
        let id = format!("bench-{round}");
        let ours = create(&howdah, &id).await;
        let settings = settings(&howdah);
        delete(&howdah, &id).await;
        let theirs = by_hand(&settings);
        // The first round warms the caches up.
        if round > 0 {
            pairs.push((ours, theirs));
        }
    }
    let how = "CreateInstance until its operation is done / initdb and pg_ctl -w start, synced";
    table.compare("durable instance ready", &pairs, "s", "<= 1.15", how);
}

async fn create(howdah: &Howdah, id: &str) -> f64 {
    let mut client = howdah.instances().await;
    let begin = Instant::now();
    let request = create_instance(
        id,
        Instance {
            version: "15".into(),
            ..Instance::default()
        },
    );
    let accepted = client.create_instance(request).await.unwrap().into_inner();
    let done = howdah.wait(&accepted).await;
    let took = begin.elapsed().as_secs_f64();
    let _: Instance = succeeded(&done);
    took
}

async fn delete(howdah: &Howdah, id: &str) {
    let name = instance_name(id);
    let request = DeleteInstanceRequest {
        name,
        purge: true,
        ..Default::default()
    };
    let accepted = howdah
        .instances()
        .await
        .delete_instance(request)
        .await
        .unwrap()
        .into_inner();
    howdah.wait(&accepted).await;
}

/// The settings that Howdah wrote for its server.
fn settings(howdah: &Howdah) -> String {
    let servers = howdah.data_dir().join("local/servers");
    let server = fs::read_dir(servers)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::read_to_string(server.join("data/howdah.conf")).unwrap()
}

fn by_hand(settings: &str) -> f64 {
    let directory = tempfile::Builder::new()
        .prefix("bare-")
        .tempdir_in("/tmp")
        .unwrap();
    let (path, owner) = (directory.path(), owner());
    if let Some((uid, gid)) = owner {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
    let password = path.join("password");
    fs::write(&password, "bare").unwrap();
    if let Some((uid, gid)) = owner {
        chown(&password, Some(uid), Some(gid)).unwrap();
    }
    let begin = Instant::now();
    run(
        path,
        "initdb",
        &[
            "-D",
            "data",
            "-U",
            "howdah_admin",
            "--pwfile=password",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ],
    );
    let conf = path.join("data/postgresql.conf");
    let own = settings
        .lines()
        .filter(|line| {
            // These name places of the server that they were read from.
            !line.starts_with("unix_socket_directories") && !line.starts_with("log_directory")
        })
        .collect::<Vec<_>>()
        .join("\n");
    let text = fs::read_to_string(&conf).unwrap();
    let sockets = format!("unix_socket_directories = '{}'", path.display());
    fs::write(&conf, format!("{text}\n{own}\n{sockets}\n")).unwrap();
    run(path, "pg_ctl", &["-D", "data", "-w", "-l", "log", "start"]);
    let took = begin.elapsed().as_secs_f64();
    run(path, "pg_ctl", &["-D", "data", "-m", "immediate", "stop"]);
    took
}

/// Whom to run as: PostgreSQL refuses root.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |flag: &str| -> u32 {
        let output = Command::new("id")
            .args([flag, "postgres"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    Some((id("-u"), id("-g")))
}

fn run(directory: &Path, tool: &str, arguments: &[&str]) {
    let mut command = Command::new(installation(15).expect("PostgreSQL 15").join(tool));
    command
        .args(arguments)
        .current_dir(directory)
        .stdout(std::process::Stdio::null());
    if let Some((uid, gid)) = owner() {
        command.uid(uid).gid(gid);
    }
    assert!(command.status().unwrap().success(), "{tool}");
}
