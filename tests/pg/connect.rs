//! Connecting: every way to a server, and every way to be turned away.

use std::time::Duration;

use howdah::pg::wire;
use howdah::pg::{Error, Host, Login, Target, Tls, client, scram};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::postgres::{LIMIT, PASSWORD, SUPERUSER, Server, server};

/// Both of our clients: SQL, and the wire module's own login.
async fn both(target: &Target, login: &Login) -> Result<(), Error> {
    let sql = client::connect(target, login, LIMIT).await.map(drop);
    let wire = wire::log_in(target, login, &[], LIMIT).await.map(drop);
    assert_eq!(sql.is_ok(), wire.is_ok(), "{sql:?} {wire:?}");
    wire.and(sql)
}

#[tokio::test]
async fn every_way_in_works() {
    let server = server(15);
    let roots = server.roots();
    let targets = [
        server.target(),
        server.tcp(Tls::Disable),
        server.tcp(Tls::Prefer),
        server.tcp(Tls::Require),
        server.tcp_as(
            "127.0.0.1",
            Tls::VerifyCa {
                roots: roots.clone(),
            },
        ),
        server.tcp(Tls::VerifyFull { roots }),
    ];
    for target in targets {
        for user in [SUPERUSER, "md5_user"] {
            both(&target, &server.login_as(user, "postgres"))
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn tls_is_used_and_bound_to_the_password() {
    let server = server(15);
    let login = server.login("postgres");
    for (tls, expected) in [
        (Tls::Disable, false),
        (Tls::Prefer, true),
        (Tls::Require, true),
    ] {
        let target = server.tcp(tls);
        let stream = howdah::pg::open(&target, LIMIT).await.unwrap();
        assert_eq!(stream.channel_binding().is_some(), expected);
        let client = client::connect(&target, &login, LIMIT).await.unwrap();
        let row = client
            .query_one(
                "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
                &[],
            )
            .await
            .unwrap();
        assert_eq!(row.get::<_, bool>(0), expected);
    }
}

#[tokio::test]
async fn certificates_are_checked_as_asked() {
    let server = server(15);
    let login = server.login("postgres");
    let other = Server::start(15, &[]);
    let refused = [
        server.tcp(Tls::VerifyCa {
            roots: other.roots(),
        }),
        server.tcp(Tls::VerifyFull {
            roots: other.roots(),
        }),
        server.tcp_as(
            "127.0.0.1",
            Tls::VerifyFull {
                roots: server.roots(),
            },
        ),
    ];
    for target in refused {
        let error = both(&target, &login).await.unwrap_err();
        assert!(matches!(error, Error::Tls(_)), "{error:?}");
    }
}

#[tokio::test]
async fn clear_text_goes_over_private_streams_only() {
    let server = server(15);
    let login = server.login_as("clear_user", "postgres");
    both(&server.target(), &login).await.unwrap();
    both(&server.tcp(Tls::Require), &login).await.unwrap();
    let error = wire::log_in(&server.tcp(Tls::Disable), &login, &[], LIMIT)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Auth(_)), "{error:?}");
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let server = server(15);
    let mut wrong = server.login("postgres");
    wrong.password = Some(SecretString::from("wrong-password"));
    let error = both(&server.target(), &wrong).await.unwrap_err();
    assert!(
        error.is_auth() && error.sqlstate() == Some("28P01"),
        "{error:?}"
    );
    assert!(!format!("{wrong:?}{error:?}{error}").contains("wrong-password"));

    wrong.password = None;
    let error = both(&server.target(), &wrong).await.unwrap_err();
    assert!(matches!(error, Error::Auth(_)), "{error:?}");

    let error = both(&server.target(), &server.login("nowhere"))
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate(), Some("3D000"));

    let nobody = Target {
        host: Host::Tcp("127.0.0.1".into()),
        port: 1,
        tls: Tls::Prefer,
    };
    let error = both(&nobody, &server.login("postgres")).await.unwrap_err();
    assert!(
        matches!(error, Error::Connect(_)) && error.is_connection(),
        "{error:?}"
    );
}

/// A listener that answers the request for TLS with these bytes.
async fn impostor(answer: &'static [u8]) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 8];
            socket.read_exact(&mut request).await.unwrap();
            socket.write_all(answer).await.unwrap();
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest).await;
        }
    });
    Target {
        host: Host::Tcp("127.0.0.1".into()),
        port,
        tls: Tls::Require,
    }
}

#[tokio::test]
async fn odd_answers_to_the_request_for_tls_are_refused() {
    let limit = Duration::from_millis(700);
    let error = howdah::pg::open(&impostor(b"SE").await, limit)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("before the TLS handshake"),
        "{error:?}"
    );
    let error = howdah::pg::open(&impostor(b"E").await, limit)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    let error = howdah::pg::open(&impostor(b"N").await, limit)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    let error = howdah::pg::open(&impostor(b"").await, limit)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout), "{error:?}");
}

#[tokio::test]
async fn statements_are_cancelled_over_tls_too() {
    let server = server(15);
    for target in [server.target(), server.tcp(Tls::Require)] {
        let client = client::connect(&target, &server.login("postgres"), LIMIT)
            .await
            .unwrap();
        let canceller = client.canceller();
        let sleep = client.batch_execute("select pg_sleep(60)");
        let cancel = async {
            loop {
                canceller.cancel(LIMIT).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let error: Error = tokio::select! {
            done = sleep => done.unwrap_err().into(),
            () = cancel => unreachable!(),
        };
        assert_eq!(error.sqlstate(), Some("57014"));
        assert_eq!(client.server_major(), Some(15));
    }
}

#[tokio::test]
async fn the_server_knows_a_verifier_that_we_made() {
    let server = server(15);
    let password = SecretString::from("Pässwörd with \u{2003} and \u{ad}");
    let verifier = scram::verifier(&password, &[9; 16], scram::ITERATIONS);
    let admin = server.client("postgres").await;
    let sql = format!("create role verified login password '{verifier}'");
    admin.batch_execute(&sql).await.unwrap();
    let mut login = server.login_as("verified", "postgres");
    login.password = Some(password);
    for target in [server.target(), server.tcp(Tls::Require)] {
        both(&target, &login).await.unwrap();
    }
    assert!(!server.log().contains(PASSWORD));
}

#[tokio::test]
async fn a_dropped_client_leaves_no_backend() {
    let server = server(15);
    let database = server.fresh_database().await;
    let count = "select count(*) from pg_stat_activity where datname = $1";
    let admin = server.client("postgres").await;
    let client = server.client(&database).await;
    assert_eq!(
        admin
            .query_one(count, &[&database])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
    drop(client);
    let gone = async {
        while admin
            .query_one(count, &[&database])
            .await
            .unwrap()
            .get::<_, i64>(0)
            > 0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
}
