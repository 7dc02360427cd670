//! A database to follow, on an instance of the real program.

use std::sync::atomic::{AtomicU32, Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use howdah::{
    pb::v1::{GetInstanceRequest, Instance, SubscribeRequest},
    pg::{self, Client, Host, Login, Target, Tls},
    store::sealing::Keyring,
};
use secrecy::SecretSlice;
use tokio::sync::OnceCell;
use tonic::Status;

use super::subscriber::Subscriber;
use crate::support::{
    howdah::{Howdah, LIMIT, Options, SECRET_KEY, create_instance, instance_name, succeeded},
    postgres::{installation, server},
};

/// A database, and the superuser's session in it.
pub struct Rig<'a> {
    pub howdah: &'a Howdah,
    pub instance: String,
    pub database: String,
    pub sql: Client,
}

/// The program that tests share which neither stop it nor its server.
pub async fn shared() -> &'static Howdah {
    static SHARED: OnceCell<Howdah> = OnceCell::const_new();
    let start = || async {
        let howdah = Howdah::serve(Options::external().await).await;
        instance(&howdah, "shared").await;
        howdah
    };
    SHARED.get_or_init(start).await
}

/// A shared program with servers of the oldest and the newest major of CI, `v15` and `v18`.
pub async fn majors() -> (&'static Howdah, [&'static str; 2]) {
    static SHARED: OnceCell<Howdah> = OnceCell::const_new();
    let start = || async {
        let directories: Vec<String> = [15, 18]
            .into_iter()
            .map(|major| installation(major).expect("`make tools` installs it"))
            .map(|bin| bin.display().to_string())
            .collect();
        let options = Options::external().await;
        let options = options.with("HOWDAH_LOCAL_ENGINE_DIRECTORIES", directories.join(","));
        let howdah = Howdah::serve(options).await;
        for major in ["15", "18"] {
            versioned_instance(&howdah, &format!("v{major}"), major).await;
        }
        howdah
    };
    (SHARED.get_or_init(start).await, ["v15", "v18"])
}

/// Creates an instance that takes prepared transactions.
pub async fn instance(howdah: &Howdah, id: &str) {
    versioned_instance(howdah, id, "").await;
}

/// The same of a major version; empty for the newest.
pub async fn versioned_instance(howdah: &Howdah, id: &str, version: &str) {
    let parameters = [("max_prepared_transactions".into(), "10".into())];
    let wanted = Instance {
        ephemeral: true,
        version: version.into(),
        parameters: parameters.into(),
        ..Instance::default()
    };
    let request = create_instance(id, wanted);
    let accepted = howdah.instances().await.create_instance(request).await;
    let operation = howdah.wait(accepted.unwrap().get_ref()).await;
    let _: Instance = succeeded(&operation);
}

/// A session of Howdah's own role.
pub async fn admin(howdah: &Howdah, instance: &str, database: &str) -> Client {
    let request = GetInstanceRequest {
        name: instance_name(instance),
    };
    let answer = howdah.instances().await.get_instance(request).await;
    let endpoint = answer.unwrap().into_inner().endpoint.unwrap();
    let port = u16::try_from(endpoint.port).unwrap();
    let url = howdah.options.database_url.clone().unwrap();
    let metadata = server(15).client(url.rsplit('/').next().unwrap()).await;
    let found = metadata
        .query_one(
            "select uid::text, admin_password from servers where port = $1",
            &[&i32::from(port)],
        )
        .await
        .unwrap();
    let (uid, sealed): (String, Vec<u8>) = (found.get(0), found.get(1));
    let key = SecretSlice::from(STANDARD.decode(SECRET_KEY).unwrap());
    let keyring = Keyring::new(&[key]).unwrap();
    let target = Target {
        host: Host::Tcp("127.0.0.1".into()),
        port,
        tls: Tls::Disable,
    };
    let login = Login {
        user: "howdah_admin".into(),
        password: Some(
            keyring
                .open(&sealed, &format!("server {uid} admin"))
                .unwrap(),
        ),
        database: database.into(),
    };
    pg::client::connect_as(&target, &login, "test", LIMIT)
        .await
        .unwrap()
}

impl Rig<'static> {
    /// A fresh database on the shared instance.
    pub async fn new() -> Self {
        Rig::on(shared().await, "shared", "").await
    }
}

impl<'a> Rig<'a> {
    /// A fresh database on an instance.
    pub async fn on(howdah: &'a Howdah, instance: &str, options: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let database = format!("rig_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let create = format!("create database {database} template template0 {options}");
        let first = admin(howdah, instance, "postgres").await;
        first.batch_execute(&create).await.unwrap();
        Rig {
            howdah,
            instance: instance.to_owned(),
            sql: admin(howdah, instance, &database).await,
            database,
        }
    }

    /// Another session in the database.
    pub async fn session(&self) -> Client {
        admin(self.howdah, &self.instance, &self.database).await
    }

    pub async fn run(&self, sql: &str) {
        let ended = self.sql.batch_execute(sql).await;
        ended.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The first column of the only row.
    pub async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'b> tokio_postgres::types::FromSql<'b>,
    {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// A request for these tables, separated by a space.
    pub fn request(&self, tables: &str) -> SubscribeRequest {
        SubscribeRequest {
            instance: instance_name(&self.instance),
            database: self.database.clone(),
            tables: tables.split_whitespace().map(str::to_owned).collect(),
            ..SubscribeRequest::default()
        }
    }

    /// The same, with a word every 100 ms.
    pub fn impatient(&self, tables: &str) -> SubscribeRequest {
        let heartbeat = prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        };
        SubscribeRequest {
            heartbeat_interval: Some(heartbeat),
            ..self.request(tables)
        }
    }

    /// Subscribes, and waits until the slot is made.
    pub async fn follow(&self, tables: &str) -> Subscriber {
        self.subscribe(self.request(tables)).await
    }

    pub async fn subscribe(&self, request: SubscribeRequest) -> Subscriber {
        let mut subscriber = self.try_subscribe(request).await.unwrap();
        subscriber.ready().await;
        subscriber
    }

    /// Subscribes, and does not wait.
    pub async fn try_subscribe(&self, request: SubscribeRequest) -> Result<Subscriber, Status> {
        let answer = self.howdah.streams().await.subscribe(request).await?;
        Ok(Subscriber::new(answer.into_inner()))
    }

    /// How a subscription is refused.
    pub async fn refusal(&self, request: SubscribeRequest) -> Status {
        match self.try_subscribe(request).await {
            Ok(mut subscriber) => subscriber.end().await,
            Err(status) => status,
        }
    }

    /// What Howdah has on the server for subscriptions to this database.
    pub async fn leftovers(&self) -> Vec<String> {
        let query = "select 'slot ' || slot_name from pg_replication_slots
                where database = current_database()
            union all select 'publication ' || pubname from pg_publication
                where pubname ~ '^howdah_'
            union all select backend_type || ' ' || application_name from pg_stat_activity
                where datname = current_database() and application_name ~ '^howdah'";
        let rows = self.sql.query(query, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Waits until nothing of a subscription to this database is on the server.
    pub async fn clean(&self) {
        crate::support::howdah::eventually("something is left on the server", || async {
            self.leftovers().await.is_empty()
        })
        .await;
    }
}
