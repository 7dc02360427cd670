//! The secret keys: checked one process after the other, rotated any number of times,
//! and forgotten when nothing needs them.

mod fleet;
mod outage;
mod rotation;

use std::process::Stdio;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use howdah::{
    pb::v1::{Connection, GetConnectionRequest},
    pg,
    store::sealing::Keyring,
};
use secrecy::{ExposeSecret as _, SecretSlice};
use tonic::{Response, Status};
use uuid::Uuid;

use super::rig::{Metadata, run_sql};
use crate::support::howdah::{Howdah, Options, eventually, instance_name};

/// Any key, one for each number.
fn key(number: u8) -> String {
    STANDARD.encode([number; 32])
}

fn ring(number: u8) -> Keyring {
    Keyring::new(&[SecretSlice::from(vec![number; 32])]).unwrap()
}

/// The id of that key.
fn id(number: u8) -> String {
    ring(number).id().to_owned()
}

/// The same with these keys: the one that seals, and those that only open.
fn with_keys(options: Options, current: u8, previous: &[u8]) -> Options {
    let previous: Vec<String> = previous.iter().map(|number| key(*number)).collect();
    options
        .with("HOWDAH_SECRET_KEY", key(current))
        .with("HOWDAH_SECRET_KEY_PREVIOUS", previous.join(","))
}

/// Stops it, and starts it with other keys.
async fn restart(howdah: &mut Howdah, current: u8, previous: &[u8]) {
    howdah.stop().await;
    howdah.options = with_keys(howdah.options.clone(), current, previous);
    howdah.start("").await;
}

/// Starts it with such keys, and expects that it ends for that reason.
async fn refused_start(howdah: &mut Howdah, current: u8, previous: &[u8]) {
    let before = howdah.log().len();
    howdah.options = with_keys(howdah.options.clone(), current, previous);
    howdah.spawn("");
    assert!(!howdah.ended().await.success());
    let log = howdah.log().split_off(before);
    assert!(log.contains("SECRET_KEY_INVALID"), "{log}");
}

impl Metadata {
    /// Ids of the keys on record, the newest first.
    async fn keys(&self) -> Vec<String> {
        let sql = "select key_id from sealing_keys order by number desc";
        let rows = self.0.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// As if no process had sealed with that key for long.
    async fn age_key(&self, number: u8) {
        let sql = "update sealing_keys set seen_time = now() - interval '1 hour'
            where key_id = $1";
        self.0.execute(sql, &[&id(number)]).await.unwrap();
    }

    /// How many values are sealed with that key, and how many with others.
    async fn sealed_with(&self, number: u8) -> (i64, i64) {
        let sql = "select count(*) filter (where k = $1), count(*) filter (where k <> $1)
            from (select sealing_key k from servers union all select sealing_key from roles) t";
        let row = self.0.query_one(sql, &[&id(number)]).await.unwrap();
        (row.get(0), row.get(1))
    }

    /// Waits until that key has sealed all of these values.
    async fn all_sealed_with(&self, number: u8, values: i64) {
        eventually("all is sealed with the newest key", async || {
            self.sealed_with(number).await == (values, 0)
        })
        .await;
    }

    async fn only_key_is(&self, number: u8) {
        eventually("the former keys are forgotten", async || {
            self.keys().await == [id(number)]
        })
        .await;
    }

    /// Adds roles whose password is their uid, of an instance that is there.
    async fn add_roles(&self, number: u8, count: usize) {
        let sql = "insert into roles (uid, instance_uid, id, postgresql_name, password)
            select $1::text::uuid, uid, $1::text, $1::text, $2 from instances";
        for _ in 0..count {
            let uid = Uuid::new_v4();
            let sealed = ring(number).seal(&uid.to_string().into(), &format!("role {uid}"));
            let row = (uid.to_string(), sealed.unwrap());
            self.0.execute(sql, &[&row.0, &row.1]).await.unwrap();
        }
    }

    async fn roles_open_with(&self, number: u8) {
        let sql = "select uid::text, password from roles";
        for row in self.0.query(sql, &[]).await.unwrap() {
            let uid: String = row.get(0);
            let opened = ring(number).open(row.get(1), &format!("role {uid}"));
            assert_eq!(opened.unwrap().expose_secret(), uid);
        }
    }

    /// The password of `howdah_admin` opens with that key alone.
    async fn admin_opens_with(&self, number: u8) -> bool {
        let sql = "select uid::text, admin_password from servers";
        let row = self.0.query_one(sql, &[]).await.unwrap();
        let uid: Uuid = row.get::<_, String>(0).parse().unwrap();
        let opened = ring(number).open(row.get(1), &format!("server {uid} admin"));
        opened.is_ok_and(|password| !password.expose_secret().is_empty())
    }
}

/// What `howdah doctor` says of the keys.
fn doctor(howdah: &Howdah) -> String {
    let mut command = howdah.command("doctor", "");
    let output = command.stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("secret keys"));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// The password is the same and lets in.
async fn still_works(howdah: &Howdah, instance: &str, connection: &Connection) {
    let now = howdah.connection(instance, &connection.database).await;
    assert_eq!(now.password, connection.password);
    assert_eq!(run_sql(&now, "select current_user").trim(), now.user);
}

async fn try_connection(
    howdah: &Howdah,
    instance: &str,
    id: &str,
) -> Result<Response<Connection>, Status> {
    let name = format!("{}/databases/{id}", instance_name(instance));
    let request = GetConnectionRequest { name };
    howdah.databases().await.get_connection(request).await
}

/// The embedded metadata of a program that serves.
async fn embedded(howdah: &Howdah) -> Metadata {
    let data_dir = howdah.data_dir();
    let pid_file = data_dir.join("metadata/data/postmaster.pid");
    let pid_file = std::fs::read_to_string(pid_file).unwrap();
    let lines: Vec<&str> = pid_file.lines().collect();
    let target = pg::Target {
        host: pg::Host::Unix(lines[4].into()),
        port: lines[3].parse().unwrap(),
        tls: pg::Tls::Disable,
    };
    let password = std::fs::read_to_string(data_dir.join("metadata.password")).unwrap();
    let login = pg::Login {
        user: "howdah_admin".into(),
        password: Some(password.trim().to_owned().into()),
        database: "howdah".into(),
    };
    let limit = crate::support::howdah::LIMIT;
    Metadata(pg::client::connect(&target, &login, limit).await.unwrap())
}
