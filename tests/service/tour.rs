//! What a first-time caller does, by three clients.

use std::{process::Stdio, time::Instant};

use howdah::pb::v1::{GetConnectionRequest, Instance, ListEnginesRequest, instance::State};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use super::rig::{PATIENCE, next_row, run_sql, subscribe, tool};
use crate::support::howdah::{
    Howdah, Options, PROJECT, create_database, create_instance, instance_name, succeeded,
};

/// With no setting at all: it keeps its metadata itself.
async fn first_start() -> Howdah {
    Howdah::serve(Options::default()).await
}

#[tokio::test]
async fn by_the_generated_client() {
    let howdah = first_start().await;
    let request = ListEnginesRequest {
        parent: PROJECT.into(),
    };
    let engines = howdah.instances().await.list_engines(request).await;
    let engines = engines.unwrap().into_inner().engines;
    assert!(
        engines
            .iter()
            .any(|engine| engine.major == 15 && engine.usable),
        "{engines:?}"
    );

    let wanted = Instance {
        version: "15".into(),
        ..Instance::default()
    };
    let request = create_instance("orders", wanted);
    let operation = howdah.instances().await.create_instance(request).await;
    let instance: Instance = succeeded(&howdah.wait(operation.unwrap().get_ref()).await);
    assert_eq!(instance.name, instance_name("orders"));
    assert_eq!(instance.state(), State::Ready);
    assert!(instance.server_version.starts_with("15."));
    assert!(!instance.reconciling);

    let request = create_database("orders", "shop");
    let operation = howdah.databases().await.create_database(request).await;
    let database: howdah::pb::v1::Database =
        succeeded(&howdah.wait(operation.unwrap().get_ref()).await);
    assert_eq!(database.owner, "shop_user");
    let name = database.name;
    let connection = howdah
        .databases()
        .await
        .get_connection(GetConnectionRequest { name })
        .await;
    let connection = connection.unwrap().into_inner();
    assert_eq!(connection.environment["DATABASE_URL"], connection.uri);

    run_sql(
        &connection,
        "create table items (id int primary key, name text)",
    );
    let mut changes = subscribe(&howdah, &connection).await;
    run_sql(&connection, "insert into items values (1, 'howdah')");
    assert_eq!(next_row(&mut changes).await, ["1", "howdah"]);
}

/// A client that shares no code with the server and has no proto files.
#[tokio::test]
async fn by_python_with_reflection() {
    let python = tool("python", "python/bin/python");
    let howdah = first_start().await;
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/client.py");
    let run = Command::new(python)
        .arg(client)
        .args(["--endpoint", &howdah.endpoint()])
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, run).await.unwrap().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        shown.contains(r#"{"row": ["1", "howdah"], "step": "change"}"#),
        "{shown}"
    );
}

/// The README's own words: grpcurl, and no proto files.
#[tokio::test]
async fn by_grpcurl_with_reflection() {
    let grpcurl = Grpcurl {
        howdah: first_start().await,
    };
    let services = grpcurl.run(&["list"]).await;
    for service in [
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
        "howdah.v1.ChangeStreamService",
        "howdah.v1.DatabaseService",
        "howdah.v1.InstanceService",
    ] {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    grpcurl
        .change(
            "InstanceService/CreateInstance",
            r#"{"parent":"projects/default","instance_id":"orders","instance":{"version":"15"}}"#,
        )
        .await;
    grpcurl
        .change(
            "DatabaseService/CreateDatabase",
            r#"{"parent":"projects/default/instances/orders","database_id":"shop","database":{}}"#,
        )
        .await;
    let connection = grpcurl
        .call(
            "howdah.v1.DatabaseService/GetConnection",
            r#"{"name":"projects/default/instances/orders/databases/shop"}"#,
        )
        .await;
    let uri = connection["uri"].as_str().unwrap();
    assert!(
        super::rig::psql(&[uri, "-c", "create table items (id int, name text)"])
            .status
            .success()
    );
    grpcurl.see_a_change(uri).await;
}

struct Grpcurl {
    howdah: Howdah,
}

impl Grpcurl {
    fn command(&self) -> Command {
        let mut command = Command::new(tool("grpcurl", "bin/grpcurl"));
        command.arg("-plaintext").kill_on_drop(true);
        command
    }

    async fn finish(mut command: Command) -> String {
        let output = timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.arg(self.howdah.endpoint()).args(arguments);
        Self::finish(command).await
    }

    async fn call(&self, method: &str, request: &str) -> serde_json::Value {
        let mut command = self.command();
        command.args(["-d", request, &self.howdah.endpoint(), method]);
        serde_json::from_str(&Self::finish(command).await).unwrap()
    }

    /// Calls a mutation and waits for its operation.
    async fn change(&self, method: &str, request: &str) {
        let begun = self.call(&format!("howdah.v1.{method}"), request).await;
        let wait = serde_json::json!({ "name": begun["name"], "timeout": "30s" });
        let end = Instant::now() + PATIENCE;
        loop {
            let operation = self
                .call(
                    "google.longrunning.Operations/WaitOperation",
                    &wait.to_string(),
                )
                .await;
            if operation["done"] == true {
                assert!(operation.get("error").is_none(), "{operation}");
                return;
            }
            assert!(Instant::now() < end, "{operation}");
        }
    }

    async fn see_a_change(&self, uri: &str) {
        let request = r#"{"instance":"projects/default/instances/orders","database":"shop",
            "tables":["public.items"]}"#;
        let mut child = self
            .command()
            .args(["-d", request, &self.howdah.endpoint()])
            .arg("howdah.v1.ChangeStreamService/Subscribe")
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = async || timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
        // The end of the first batch: the slot is made.
        while next().await.expect("a batch") != "}" {}
        assert!(
            super::rig::psql(&[uri, "-c", "insert into items values (1, 'howdah')"])
                .status
                .success()
        );
        while !next()
            .await
            .expect("a change")
            .contains(r#""text": "howdah""#)
        {}
        child.kill().await.unwrap();
    }
}
