//! PostgreSQL settings.

use howdah::pb::v1::Instance;
use tonic::Code::InvalidArgument;

use crate::{
    service::rig::{Metadata, refused, serve},
    support::howdah::{create_instance, succeeded},
};

#[tokio::test]
async fn settings_are_checked_before_anything_is_made() {
    let howdah = serve().await;
    let metadata = Metadata::of(&howdah).await;
    let before = metadata.content().await;
    for (name, value, why) in [
        ("no_such_setting", "1", "PARAMETER_INVALID"),
        ("", "1", "PARAMETER_INVALID"),
        ("work_mem", "1kB", "PARAMETER_INVALID"),
        ("work_mem", "100TB", "PARAMETER_INVALID"),
        ("work_mem", "much", "PARAMETER_INVALID"),
        ("work_mem", "", "PARAMETER_INVALID"),
        ("max_connections", "-1", "PARAMETER_INVALID"),
        ("max_connections", "many", "PARAMETER_INVALID"),
        ("autovacuum", "perhaps", "PARAMETER_INVALID"),
        ("synchronous_commit", "sometimes", "PARAMETER_INVALID"),
        ("block_size", "8192", "PARAMETER_INVALID"),
        ("shared_buffers\nport", "1", "PARAMETER_INVALID"),
        ("wal_level", "minimal", "PARAMETER_RESERVED"),
        ("WAL_Level", "minimal", "PARAMETER_RESERVED"),
        ("port", "1", "PARAMETER_RESERVED"),
        ("listen_addresses", "*", "PARAMETER_RESERVED"),
        ("unix_socket_directories", "/tmp", "PARAMETER_RESERVED"),
        ("max_replication_slots", "1", "PARAMETER_RESERVED"),
        ("data_directory", "/", "PARAMETER_RESERVED"),
        ("hba_file", "/etc/passwd", "PARAMETER_RESERVED"),
    ] {
        let instance = Instance {
            version: "15".into(),
            parameters: [(name.to_owned(), value.to_owned())].into(),
            ..Instance::default()
        };
        let request = create_instance("orders", instance);
        let answer = howdah.instances().await.create_instance(request).await;
        let Err(status) = &answer else {
            panic!("{name} = {value:?} was taken");
        };
        assert!(status.message().len() < 1000, "{status:?}");
        refused(answer, InvalidArgument, why);
    }
    assert_eq!(metadata.content().await, before);
}

pub(super) fn with_parameters(parameters: &[(&str, &str)]) -> Instance {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Instance {
        version: "15".into(),
        ephemeral: true,
        parameters: parameters.iter().map(owned).collect(),
        ..Instance::default()
    }
}

/// `work_mem` and `WORK_MEM` are the same setting.
#[tokio::test]
async fn a_setting_has_one_name() {
    let howdah = serve().await;
    let twice = with_parameters(&[("work_mem", "64MB"), ("WORK_MEM", "1MB")]);
    let request = create_instance("orders", twice);
    let answer = howdah.instances().await.create_instance(request).await;
    let said = answer.as_ref().unwrap_err().message().to_owned();
    assert!(said.contains("`work_mem` is given twice"), "{said}");
    refused(answer, InvalidArgument, "PARAMETER_INVALID");

    let once = with_parameters(&[("WORK_MEM", "64MB"), ("TimeZone", "UTC")]);
    let request = create_instance("orders", once);
    let accepted = howdah.instances().await.create_instance(request).await;
    let made: Instance = succeeded(&howdah.wait(accepted.unwrap().get_ref()).await);
    let names: Vec<&str> = made.parameters.keys().map(String::as_str).collect();
    assert_eq!(names, ["timezone", "work_mem"]);
}
