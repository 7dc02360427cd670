//! What the client and its commands make of a server's answers.

use std::time::Duration;

use howdah::{
    client::{Client, Error, Options, Wait},
    pb::{
        google::longrunning::{CancelOperationRequest, GetOperationRequest, Operation, operation},
        v1::{
            Change, ChangeBatch, CreateDatabaseRequest, Database, ListDatabasesRequest,
            ListDatabasesResponse, OperationMetadata, Row, RowChange, Schema, Value, change::Event,
            operation_metadata::Stage, row_change::Kind, schema::Column, value,
        },
    },
};
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    program::{Run, command},
    server::Server,
};

const NAME: &str = "projects/default/operations/0198c5a8-0000-7000-8000-000000000000";

fn packed(full_name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{full_name}"),
        value: message.encode_to_vec(),
    }
}

fn running(stage: &str) -> Operation {
    let metadata = OperationMetadata {
        verb: "create".into(),
        stages: vec![Stage {
            name: stage.into(),
            ..Stage::default()
        }],
        ..OperationMetadata::default()
    };
    Operation {
        name: NAME.into(),
        metadata: Some(packed("howdah.v1.OperationMetadata", &metadata)),
        ..Operation::default()
    }
}

fn done() -> Operation {
    let database = Database {
        name: "projects/default/instances/orders/databases/shop".into(),
        postgresql_name: "shop".into(),
        ..Database::default()
    };
    let response = packed("howdah.v1.Database", &database);
    Operation {
        done: true,
        result: Some(operation::Result::Response(response)),
        ..running("create_database")
    }
}

fn failed() -> Operation {
    let details = ErrorDetails::with_error_info("PORTS_EXHAUSTED", "howdah.dev", []);
    let status = Status::with_error_details(Code::ResourceExhausted, "no port is free", details);
    let error = howdah::pb::google::rpc::Status::decode(status.details()).unwrap();
    Operation {
        done: true,
        result: Some(operation::Result::Error(error)),
        ..running("start")
    }
}

fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "howdah.dev", []);
    Status::with_error_details(code, "refused", details)
}

async fn connect(server: &Server) -> Client {
    let connected = Client::connect(&server.endpoint(), &Options::default()).await;
    connected.unwrap()
}

/// Runs the program against the server.
async fn run(server: &Server, words: &[&str]) -> Run {
    let endpoint = server.endpoint();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let ended = tokio::task::spawn_blocking(move || {
        let home = tempfile::tempdir().unwrap();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        command(home.path(), &words)
            .env("HOWDAH_ENDPOINT", endpoint)
            .output()
    });
    ended.await.unwrap().unwrap().into()
}

#[tokio::test]
async fn reads_are_tried_again_until_the_server_is_there() {
    let server = Server::start().await;
    server.answer(Err(Status::unavailable("starting")));
    server.answer(Err(Status::unavailable("starting")));
    server.answer(Ok(done()));
    let request = GetOperationRequest { name: NAME.into() };
    let found = connect(&server).await.get_operation(request).await.unwrap();
    assert!(found.done);
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn only_unavailable_is_tried_again() {
    let server = Server::start().await;
    server.answer(Err(refusal(Code::ResourceExhausted, "RATE_LIMITED")));
    let request = GetOperationRequest { name: NAME.into() };
    let error = connect(&server)
        .await
        .get_operation(request)
        .await
        .unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(
        (failure.code, failure.reason.as_str()),
        (Code::ResourceExhausted, "RATE_LIMITED")
    );
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_mutation_keeps_its_request_id_and_others_are_tried_once() {
    let server = Server::start().await;
    let client = connect(&server).await;
    server.answer(Err(Status::unavailable("lost")));
    server.answer(Ok(running("create_database")));
    let request = CreateDatabaseRequest {
        parent: "p".into(),
        database_id: "d".into(),
        ..CreateDatabaseRequest::default()
    };
    client.create_database(request).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1]);
    let id = asked[0].rsplit(' ').next().unwrap();
    assert!(uuid::Uuid::try_parse(id).is_ok(), "{asked:?}");

    server.answer(Err(Status::unavailable("lost")));
    let request = CancelOperationRequest { name: NAME.into() };
    client.cancel_operation(request).await.unwrap_err();
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn waiting_tells_progress_and_ends_with_the_result() {
    let server = Server::start().await;
    let client = connect(&server).await;
    server.answer(Ok(running("initialise")));
    server.answer(Err(Status::unavailable("restarting")));
    server.answer(Ok(running("start")));
    server.answer(Ok(done()));
    let mut seen = Vec::new();
    let waited = client.wait(NAME, Wait::default(), |metadata| {
        seen.push(metadata.stages[0].name.clone());
    });
    assert!(waited.await.unwrap().done);
    assert_eq!(seen, ["initialise", "start", "create_database"]);

    server.answer(Ok(failed()));
    let error = client
        .wait(NAME, Wait::default(), |_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Operation { name, .. } if name == NAME),
        "{error:?}"
    );
    assert_eq!(error.failure().unwrap().reason, "PORTS_EXHAUSTED");

    server.answer(Ok(running("start")));
    let wait = Wait {
        timeout: Some(Duration::ZERO),
        ..Wait::default()
    };
    let error = client.wait(NAME, wait, |_| ()).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { .. }), "{error:?}");
}

#[tokio::test]
async fn lists_are_read_to_their_end_or_limit() {
    let server = Server::start().await;
    let client = connect(&server).await;
    let page = |next: &str| ListDatabasesResponse {
        databases: vec![Database::default(), Database::default()],
        next_page_token: next.into(),
    };
    for next in ["two", ""] {
        server.page(page(next));
    }
    let request = ListDatabasesRequest::default();
    let all = client
        .all_databases(request.clone(), usize::MAX)
        .await
        .unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(server.asked(), ["list after \"\"", "list after \"two\""]);
    server.page(page("more"));
    assert_eq!(client.all_databases(request, 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_change_prints_its_operation_or_waits_for_its_result() {
    let server = Server::start().await;
    server.answer(Ok(running("create_database")));
    let started = run(&server, &["databases", "create", "orders/shop"]).await;
    assert_eq!(started.code, 0, "{started:?}");
    assert!(started.stdout.contains("RUNNING"), "{started:?}");
    let id = NAME.rsplit('/').next().unwrap();
    assert!(
        started
            .stderr
            .contains(&format!("howdah operations wait {id}")),
        "{started:?}"
    );
    assert!(server.asked()[0].starts_with("create projects/default/instances/orders/shop "));

    server.answer(Ok(running("create_database")));
    server.answer(Ok(done()));
    let words = ["databases", "create", "orders/shop", "--wait", "-o", "json"];
    let waited = run(&server, &words).await;
    assert_eq!(waited.code, 0, "{waited:?}");
    assert_eq!(waited.json()["postgresqlName"], "shop");
    assert_eq!(waited.stderr, "");
}

#[tokio::test]
async fn answers_become_exit_codes() {
    let server = Server::start().await;
    let cases = [
        (Code::InvalidArgument, 2),
        (Code::NotFound, 3),
        (Code::AlreadyExists, 4),
        (Code::Aborted, 4),
        (Code::FailedPrecondition, 5),
        (Code::PermissionDenied, 7),
        (Code::Unauthenticated, 7),
        (Code::DeadlineExceeded, 9),
        (Code::ResourceExhausted, 10),
        (Code::Internal, 1),
    ];
    server.answer(Err(refusal(Code::Aborted, "STREAM_LOST")));
    let lost = run(&server, &["operations", "get", "x"]).await;
    assert_eq!(lost.code, 6, "{lost:?}");
    assert!(
        lost.stderr.ends_with("see `howdah explain STREAM_LOST`\n"),
        "{lost:?}"
    );
    for (code, exit) in cases {
        server.answer(Err(refusal(code, "SOME_REASON")));
        let run = run(&server, &["operations", "get", "x"]).await;
        assert_eq!(run.code, exit, "{code:?}: {run:?}");
        assert!(run.stderr.contains("error: refused"), "{run:?}");
        assert!(run.stderr.ends_with("reason: SOME_REASON\n"), "{run:?}");
    }
    server.answer(Ok(failed()));
    let broken = run(&server, &["operations", "wait", NAME]).await;
    assert_eq!(broken.code, 8, "{broken:?}");
    assert!(broken.stderr.contains(NAME), "{broken:?}");
    server.answer(Ok(running("start")));
    let late = run(&server, &["operations", "wait", NAME, "--timeout", "0s"]).await;
    assert_eq!(late.code, 9, "{late:?}");
    assert_eq!(run(&server, &["operations", "wait", "a/b"]).await.code, 2);
}

#[tokio::test]
async fn a_connection_is_a_url_or_an_environment() {
    let server = Server::start().await;
    let uri = "postgres://shop_user:pw@127.0.0.1:20000/shop";
    let plain = run(&server, &["connection", "orders/shop"]).await;
    assert_eq!(plain.stdout, format!("{uri}\n"));
    let env = run(&server, &["connection", "orders/shop", "--env"]).await;
    assert_eq!(env.stdout, format!("DATABASE_URL={uri}\n"));
    let json = run(&server, &["connection", "orders/shop", "--output=json"]).await;
    assert_eq!(json.json()["environment"]["DATABASE_URL"], uri);
}

/// A batch with a table's shape, and one with a row of it.
fn batches() -> Vec<Result<ChangeBatch, Status>> {
    let column = |name: &str| Column {
        name: name.into(),
        ..Column::default()
    };
    let schema = Schema {
        schema_id: 1,
        namespace: "public".into(),
        table: "items".into(),
        columns: vec![column("name"), column("id")],
        ..Schema::default()
    };
    let text = |text: &str| Value {
        value: Some(value::Value::Text(text.into())),
    };
    let row = RowChange {
        kind: Kind::Insert.into(),
        schema_id: 1,
        after: Some(Row {
            values: vec![text("a chair"), text("1")],
        }),
        ..RowChange::default()
    };
    let batch = |event, first_ordinal| {
        Ok(ChangeBatch {
            changes: vec![Change { event: Some(event) }],
            first_ordinal,
            ..ChangeBatch::default()
        })
    };
    let row = Event::Row(row);
    vec![
        Ok(ChangeBatch::default()),
        batch(Event::Schema(schema), 0),
        batch(row.clone(), 1),
        batch(row, 2),
        Err(refusal(Code::Aborted, "STREAM_LOST")),
    ]
}

#[tokio::test]
async fn changes_are_printed_with_column_names() {
    let server = Server::start().await;
    let words = [
        "streams",
        "subscribe",
        "orders",
        "shop",
        "--tables",
        "public.items,\"T\"",
    ];
    server.batches(batches());
    let lost = run(&server, &words).await;
    assert_eq!(lost.code, 6, "{lost:?}");
    let line = "insert public.items name='a chair' id=1\n";
    assert_eq!(
        lost.stdout,
        format!("schema public.items (name, id)\n{line}{line}")
    );
    let asked = "subscribe projects/default/instances/orders shop public.items \"T\"";
    assert_eq!(server.asked(), [asked]);

    server.batches(batches());
    let counted = run(
        &server,
        &[&words[..], &["--count=1", "-o", "json"]].concat(),
    )
    .await;
    assert_eq!(counted.code, 0, "{counted:?}");
    let last = counted.stdout.lines().last().unwrap();
    let record: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(record["after"]["name"], "a chair");
    assert_eq!(record["ordinal"], 1);
}
