//! The server that keeps the metadata.

use std::{fs, os::unix::fs::PermissionsExt};

use howdah::{
    domain::{Reason, provider::Started},
    pg::{self, Host, Login, Target, Tls},
    providers::local::embedded::{Access, Embedded},
};
use secrecy::ExposeSecret;

use crate::support::{
    local::{Place, end, postmaster},
    postgres::LIMIT,
};

pub(super) async fn client(access: &Access) -> pg::Client {
    let target = Target {
        host: Host::Unix(access.socket_directory.clone()),
        port: access.port,
        tls: Tls::Disable,
    };
    let login = Login {
        user: access.user.clone(),
        password: Some(access.password.clone()),
        database: access.database.clone(),
    };
    Box::pin(pg::client::connect(&target, &login, LIMIT))
        .await
        .unwrap()
}

#[tokio::test]
async fn it_starts_is_adopted_and_survives_a_crash() {
    let place = Place::new();
    let home = place.path().join("state/metadata");
    let first = Embedded::open(place.embedded()).await.unwrap();
    assert_eq!(first.started(), Started::Now);
    let connected = client(&first.access()).await;
    connected
        .batch_execute("create table kept as select 7 as n")
        .await
        .unwrap();
    let listening: String = connected
        .query_one("show listen_addresses", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(listening, "");
    drop(connected);
    let pid = postmaster(&home).unwrap();
    drop(first);

    let second = Embedded::open(place.embedded()).await.unwrap();
    assert_eq!(second.started(), Started::Before);
    assert_eq!(postmaster(&home), Some(pid));

    let kill = tokio::task::spawn_blocking(move || end(pid));
    let (ended, killed) = tokio::join!(second.ended(), kill);
    ended.unwrap();
    killed.unwrap();
    assert_eq!(second.restart().await.unwrap(), Started::Now);

    second.stop().await.unwrap();
    second.stop().await.unwrap();
    assert_eq!(postmaster(&home), None);
    let third = Embedded::open(place.embedded()).await.unwrap();
    assert_eq!(third.started(), Started::Now);
    let kept: i32 = client(&third.access())
        .await
        .query_one("select n from kept", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(kept, 7);
}

#[tokio::test]
async fn its_password_is_ours_alone() {
    let place = Place::new();
    let embedded = Embedded::open(place.embedded()).await.unwrap();
    let file = place.path().join("state/metadata.password");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let password = fs::read_to_string(&file).unwrap();
    assert_eq!(password, embedded.access().password.expose_secret());
    assert!(!format!("{embedded:?}").contains(&password));
    embedded.stop().await.unwrap();
    // `-e`: a password may begin with a hyphen.
    let found = std::process::Command::new("grep")
        .args(["-rlF", "-e", &password])
        .arg(place.path().join("state"))
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(found.trim(), file.to_str().unwrap());
}

#[tokio::test]
async fn without_its_postgresql_it_says_so() {
    let place = Place::new();
    let data = place.path().join("state/metadata/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("PG_VERSION"), "98\n").unwrap();
    let error = Embedded::open(place.embedded()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::MetadataEngineMissing);
    assert!(error.message().contains("98"));
}
