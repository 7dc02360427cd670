//! Settings against what the installation really knows.

use std::{collections::BTreeMap, fs};

use howdah::domain::{Reason, provider::Provider};

use crate::support::local::{Place, installed};

#[tokio::test]
async fn settings_are_checked_before_a_server_sees_them() {
    let place = Place::new();
    let local = place.local();
    let check = async |name: &str, value: &str| {
        let parameters = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let checked = local.check_parameters(installed(), &parameters).await;
        checked.map_err(|error| error.reason())
    };
    for (name, value) in [
        ("shared_buffers", "64MB"),
        ("work_mem", "4096"),
        ("statement_timeout", "1.5min"),
        ("TimeZone", "UTC"),
        ("synchronous_commit", "remote_write"),
        ("random_page_cost", "1.1"),
        ("enable_seqscan", "off"),
        ("auto_explain.log_min_duration", "1s"),
        ("shared_preload_libraries", "pg_stat_statements"),
    ] {
        assert_eq!(check(name, value).await, Ok(()), "{name}");
    }
    for (name, value) in [
        ("shared_buffers", "1kB"),
        ("shared_buffers", "lots"),
        ("statement_timeout", "4MB"),
        ("max_connections", "0"),
        ("no_such_setting", "1"),
        ("enable_seqscan", "perhaps"),
        ("synchronous_commit", "sometimes"),
        ("block_size", "8192"),
        ("work_mem\nport", "1"),
        ("application_name", "a\u{0}b"),
    ] {
        let refused = Err(Reason::ParameterInvalid);
        assert_eq!(check(name, value).await, refused, "{name} {value}");
    }
    for name in ["wal_level", "port", "max_wal_senders", "ARCHIVE_COMMAND"] {
        assert_eq!(check(name, "x").await, Err(Reason::ParameterReserved));
    }
    // Read once; the next process finds it, and nothing else was left.
    let names = |name| {
        let entries = fs::read_dir(place.path().join("local").join(name)).unwrap();
        entries.count()
    };
    assert_eq!((names("parameters"), names("templates")), (1, 1));
    fs::remove_dir_all(place.path().join("local/templates")).unwrap();
    let next = place.local();
    let wrong = BTreeMap::from([("max_connections".to_owned(), "x".to_owned())]);
    let error = next
        .check_parameters(installed(), &wrong)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::ParameterInvalid);
    assert_eq!(error.field(), Some("instance.parameters.max_connections"));
    assert_eq!(names("templates"), 0);
    next.check_parameters(installed(), &BTreeMap::new())
        .await
        .unwrap();
}
