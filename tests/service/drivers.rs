//! Drivers connect with what the service and the command line say, in each form that they
//! read: with TLS and without, to names that are ordinary and to names that are odd.

use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Output};

use howdah::pb::v1::{Connection, CreateDatabaseRequest, Database};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use super::{
    command_line::User,
    rig::{PATIENCE, run_sql, tool},
};
use crate::{
    serving::Files,
    support::{
        howdah::{Howdah, Options, create_database, succeeded},
        postgres::installation,
    },
};

/// What is written and read back.
const BODY: &str = "it's \"quoted\", 100% \\ ünïcode 🐘";

/// The names of a database and of its owner, with characters that forms give a meaning.
const ODD: [&str; 2] = [
    "it's \"my\" 100% [shop];@&=+$, ü 🐘",
    "o'wner \"x\" %41/?#[]@&=+$ é",
];
/// Those that some drivers misread, and how.
const ODDER: [&str; 2] = [r"a/b?c#d:e\f", r"x:y\z"];
const MISREAD: &[(&str, Form)] = &[
    // It leaves some characters of the path encoded.
    ("node-postgres", Form::Uri),
    // It keeps the backslashes of the file.
    ("asyncpg", Form::Pgpass),
];

/// A form of what `howdah connection` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Uri,
    Jdbc,
    Env,
    /// `JDBC_DATABASE_URL` of `env`.
    JdbcOfEnv,
    Pgpass,
    Service,
}

/// A driver's program and the forms that it reads.
struct Driver {
    name: &'static str,
    words: Vec<OsString>,
    forms: &'static [Form],
}

const LIBPQ: &[Form] = &[Form::Uri, Form::Env, Form::Pgpass, Form::Service];
/// Without services: node-postgres has none, asyncpg has its own rules for `%` in them.
const NO_SERVICES: &[Form] = &[Form::Uri, Form::Env, Form::Pgpass];

fn drivers() -> Vec<Driver> {
    let source = |path: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    let python = |script: &str| {
        let python = tool("python", "python/bin/python");
        vec![python.into(), source(script).into()]
    };
    let java = tool("drivers", "drivers/java");
    let classes = format!("{0}:{0}/*", java.display());
    let psql = installation(15).unwrap().join("psql");
    let driver = |name, words, forms| Driver { name, words, forms };
    vec![
        driver(
            "libpq",
            vec![
                "sh".into(),
                source("tests/drivers/psql.sh").into(),
                psql.into(),
            ],
            LIBPQ,
        ),
        driver("psycopg", python("tests/python/with_psycopg.py"), LIBPQ),
        driver(
            "asyncpg",
            python("tests/python/with_asyncpg.py"),
            NO_SERVICES,
        ),
        driver(
            "node-postgres",
            vec!["node".into(), source("tests/drivers/node/main.js").into()],
            NO_SERVICES,
        ),
        driver("pgx", vec![tool("drivers", "drivers/pgx").into()], LIBPQ),
        driver("lib/pq", vec![tool("drivers", "drivers/pq").into()], LIBPQ),
        driver(
            "JDBC",
            vec!["java".into(), "-cp".into(), classes.into(), "Main".into()],
            &[Form::Jdbc, Form::JdbcOfEnv],
        ),
    ]
}

/// A database, as the command line says how to connect to it.
struct Place {
    user: User,
    name: &'static str,
    connection: Connection,
    directory: TempDir,
    authority: String,
    tls: bool,
}

impl Place {
    async fn new(howdah: &Howdah, id: &'static str, names: Option<[&str; 2]>, tls: bool) -> Self {
        let mut request = create_database("orders", id);
        if let Some([database, owner]) = names {
            request.database = Some(Database {
                postgresql_name: database.into(),
                owner: owner.into(),
                ..Database::default()
            });
        }
        let connection = create(howdah, request, id).await;
        Self {
            user: User::of(howdah),
            name: id,
            connection,
            directory: tempfile::tempdir().unwrap(),
            authority: String::new(),
            tls,
        }
    }

    async fn print(&self, format: &str) -> String {
        let words = format!("connection orders/{} --format {format}", self.name);
        let ended = self.user.run(&words).await;
        assert_eq!(ended.code, Some(0), "{words}: {ended:?}");
        ended.stdout
    }

    /// What is printed, in a file that others may not read.
    async fn file(&self, format: &str) -> PathBuf {
        let path = self.directory.path().join(format);
        fs::write(&path, self.print(format).await).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The driver's program, told how to connect in that form.
    async fn program(&self, driver: &Driver, form: Form) -> Command {
        let script = match form {
            Form::Env => r#"set -a; . "$FORM"; exec "$@" "" "$DRIVER" "$BODY""#,
            Form::JdbcOfEnv => {
                r#"set -a; . "$FORM"; exec "$@" "$JDBC_DATABASE_URL" "$DRIVER" "$BODY""#
            }
            Form::Uri | Form::Jdbc | Form::Pgpass | Form::Service => {
                r#"exec "$@" "$FORM" "$DRIVER" "$BODY""#
            }
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh"])
            .args(&driver.words)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("LANG", "C.UTF-8")
            .env("HOME", self.directory.path())
            .env("NODE_PATH", tool("drivers", "drivers/node/node_modules"))
            .env("DRIVER", format!("{} {form:?}", driver.name))
            .env("BODY", BODY)
            .kill_on_drop(true);
        if self.tls {
            // node-postgres verifies the certificate also where libpq does not.
            command.env("NODE_EXTRA_CA_CERTS", &self.authority);
        }
        match form {
            Form::Uri => command.env("FORM", self.print("uri").await.trim_end()),
            Form::Jdbc => command.env("FORM", self.print("jdbc").await.trim_end()),
            Form::Env | Form::JdbcOfEnv => command.env("FORM", self.file("env").await),
            Form::Pgpass => {
                let found = &self.connection;
                command
                    .env("FORM", "")
                    .env("PGPASSFILE", self.file("pgpass").await)
                    .env("PGHOST", &found.host)
                    .env("PGPORT", found.port.to_string())
                    .env("PGDATABASE", &found.database)
                    .env("PGUSER", &found.user)
                    .env("PGSSLMODE", &found.sslmode)
            }
            Form::Service => command
                .env("FORM", "")
                .env("PGSERVICEFILE", self.file("service").await)
                .env("PGSERVICE", format!("orders_{}", self.name)),
        };
        command
    }

    /// What a driver's program says after it has written a row.
    fn row(&self) -> serde_json::Value {
        let found = &self.connection;
        json!([found.database, found.user, BODY, self.tls])
    }

    /// What is wrong with how that driver connects in that form.
    async fn trouble(&self, driver: &Driver, form: Form) -> Option<String> {
        let mut program = self.program(driver, form).await;
        let output = timeout(PATIENCE, program.output()).await.unwrap().unwrap();
        let row: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        let right = output.status.success() && row.as_ref() == Some(&self.row());
        (!right).then(|| {
            let said = text(&output);
            format!("{} {form:?} {}: {said}", driver.name, self.name)
        })
    }

    /// sqlx is a library of this language.
    async fn sqlx(&self) {
        let uri = self.print("uri").await;
        let mut client = PgConnection::connect(uri.trim_end()).await.unwrap();
        let row: String = sqlx::query_scalar(
            "with new as (insert into notes values ('sqlx', $1) returning body)
            select json_build_array(current_database(), current_user, body,
                (select ssl from pg_stat_ssl where pid = pg_backend_pid()))::text from new",
        )
        .bind(BODY)
        .fetch_one(&mut client)
        .await
        .unwrap();
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        assert_eq!(row, self.row());
        client.close().await.unwrap();
    }

    /// All drivers in all forms, and what each has left in the table. Those of `misread`
    /// cannot connect, so that the list stays right.
    async fn check(&self, misread: &[(&str, Form)]) {
        assert_eq!(self.print("uri").await.trim_end(), self.connection.uri);
        run_sql(
            &self.connection,
            "create table notes (driver text primary key, body text not null)",
        );
        let mut troubles = Vec::new();
        let mut connected = 1;
        for driver in drivers() {
            for form in driver.forms {
                let trouble = self.trouble(&driver, *form).await;
                if misread.contains(&(driver.name, *form)) {
                    assert!(trouble.is_some(), "{} {form:?} connects", driver.name);
                } else {
                    troubles.extend(trouble);
                    connected += 1;
                }
            }
        }
        assert!(troubles.is_empty(), "{}", troubles.join("\n"));
        self.sqlx().await;
        let rows = run_sql(&self.connection, "select count(distinct driver) from notes");
        assert_eq!(rows.trim(), connected.to_string());
    }
}

async fn create(howdah: &Howdah, request: CreateDatabaseRequest, id: &str) -> Connection {
    let accepted = howdah.databases().await.create_database(request).await;
    let _: Database = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
    howdah.connection("orders", id).await
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{}: {out} {err}", output.status)
}

#[tokio::test]
async fn every_driver_connects() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let shop = Place::new(&howdah, "shop", None, false).await;
    assert_eq!(shop.connection.sslmode, "disable");
    shop.check(&[]).await;
    let odd = Place::new(&howdah, "odd", Some(ODD), false).await;
    odd.check(&[]).await;
    let odder = Place::new(&howdah, "odder", Some(ODDER), false).await;
    odder.check(MISREAD).await;
}

#[tokio::test]
async fn every_driver_connects_with_tls() {
    let files = Files::new();
    let options = Options::external()
        .await
        .with("HOWDAH_LOCAL_TLS_CERTIFICATE", files.path("server.pem"))
        .with("HOWDAH_LOCAL_TLS_KEY", files.path("server.key"));
    let howdah = Howdah::serve(options).await;
    howdah.instance("orders").await;
    for (id, names) in [("shop", None), ("odd", Some(ODD))] {
        let mut place = Place::new(&howdah, id, names, true).await;
        assert_eq!(place.connection.sslmode, "require");
        place.authority = files.path("ca.pem");
        place.check(&[]).await;
    }
}

#[tokio::test]
async fn what_a_file_of_libpq_cannot_hold_is_refused() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let names = ["two\nlines ", "two_lines"];
    let place = Place::new(&howdah, "lines", Some(names), false).await;
    for format in ["pgpass", "service"] {
        let words = format!("connection orders/lines --format {format}");
        let ended = place.user.run(&words).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(5), ""));
        let said = format!("error: a {format} file cannot hold the name of this database\n");
        assert!(ended.stderr.starts_with(&said), "{ended:?}");
    }
    run_sql(
        &place.connection,
        "create table notes (driver text primary key, body text not null)",
    );
    for driver in drivers() {
        for form in [Form::Uri, Form::Env, Form::Jdbc] {
            if driver.forms.contains(&form) {
                assert_eq!(place.trouble(&driver, form).await, None);
            }
        }
    }
}

#[tokio::test]
async fn no_driver_connects_with_another_password() {
    let howdah = Howdah::serve(Options::external().await).await;
    howdah.instance("orders").await;
    let shop = Place::new(&howdah, "shop", None, false).await;
    let wrong = |printed: &str| printed.replace(&shop.connection.password, "wrong");
    for driver in drivers() {
        let (form, format) = match driver.forms.contains(&Form::Jdbc) {
            true => (Form::Jdbc, "jdbc"),
            false => (Form::Uri, "uri"),
        };
        let mut program = shop.program(&driver, form).await;
        program.env("FORM", wrong(shop.print(format).await.trim_end()));
        let output = timeout(PATIENCE, program.output()).await.unwrap().unwrap();
        let said = text(&output);
        assert!(!output.status.success(), "{}: {said}", driver.name);
        let refused = said.contains("password authentication failed");
        assert!(refused, "{}: {said}", driver.name);
    }
    let refused = PgConnection::connect(&wrong(&shop.connection.uri)).await;
    let said = refused.err().unwrap().to_string();
    assert!(said.contains("password authentication failed"), "{said}");
}
