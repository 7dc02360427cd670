//! Locale providers of databases, by the version of their server.

use howdah::pb::v1::Database;
use tonic::Code;

use super::rig::refused;
use crate::{
    streams::rig::{admin, versioned_instance},
    support::{
        howdah::{Howdah, Options, create_database, succeeded},
        postgres::installation,
    },
};

fn builtin(locale: &str, encoding: &str) -> Database {
    Database {
        locale_provider: "builtin".into(),
        locale: locale.into(),
        encoding: encoding.into(),
        ..Database::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn builtin_locales_are_there_from_17_on() {
    let directories = [16, 17, 18].map(|major| {
        let bin = installation(major).expect("tools/install.sh postgres installs it");
        bin.display().to_string()
    });
    let options = Options::external().await;
    let options = options.with("HOWDAH_LOCAL_ENGINE_DIRECTORIES", directories.join(","));
    let howdah = Howdah::serve(options).await;
    for major in ["15", "16"] {
        let instance = format!("v{major}");
        versioned_instance(&howdah, &instance, major).await;
        let mut request = create_database(&instance, "shop");
        request.database = Some(builtin("", ""));
        let answer = howdah.databases().await.create_database(request).await;
        let status = refused(answer, Code::InvalidArgument, "FIELD_INVALID");
        assert!(
            status.message().contains("from PostgreSQL 17 on"),
            "{status:?}"
        );
    }
    for major in ["17", "18"] {
        let instance = format!("v{major}");
        versioned_instance(&howdah, &instance, major).await;
        for (id, database, locale) in [
            ("plain", builtin("", ""), "C.UTF-8"),
            ("latin", builtin("", "LATIN1"), "C"),
            ("bytes", builtin("C", ""), "C"),
        ] {
            let mut request = create_database(&instance, id);
            request.database = Some(database);
            let accepted = howdah.databases().await.create_database(request).await;
            let _: Database = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
            let client = admin(&howdah, &instance, "postgres").await;
            let found = "select datlocprovider::text || ' ' || datlocale from pg_database
                where datname = $1";
            let found = client.query_one(found, &[&id]).await.unwrap();
            assert_eq!(
                found.get::<_, String>(0),
                format!("b {locale}"),
                "{major} {id}"
            );
        }
    }
}
