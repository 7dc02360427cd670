//! The metrics that a scrape reads: their names are those of the page, and they tell what is.

use howdah::pb::v1::{Instance, StopInstanceRequest};

use super::rig::{metrics, serve, subscribe, superuser};
use crate::{
    house::dashboards,
    support::howdah::{Howdah, create_instance, eventually, instance_name},
};

/// The value of the only series with that name and all of these labels.
async fn value(howdah: &Howdah, name: &str, labels: &[&str]) -> Option<f64> {
    let page = metrics(howdah).await;
    let fits = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let mut found = page.lines().filter(fits);
    let line = found.next()?;
    assert_eq!(found.next(), None, "{line}");
    line.rsplit(' ').next()?.parse().ok()
}

/// Metrics of what does not happen here.
const RARE: [&str; 8] = [
    "howdah_change_streams",
    "howdah_change_streams_lag_bytes",
    "db_client_connection_timeouts_total",
    "howdah_orphans",
    "howdah_panics_total",
    "howdah_refusals_total",
    "howdah_task_restarts_total",
    "howdah_operations_age_seconds",
];

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_names_of_the_page() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let connection = howdah.database("orders", "shop").await;
    let admin = superuser(&howdah, "orders", "shop").await;
    let table = "create table items (id int primary key)";
    admin.batch_execute(table).await.unwrap();
    let _stream = subscribe(&howdah, &connection).await;
    let page = metrics(&howdah).await;
    for (name, _) in dashboards::metrics() {
        let there = page.contains(&format!("# TYPE {name} "));
        let expected = !RARE.contains(&name.as_str()) && name != "howdah_operations";
        assert!(there || !expected, "{name}");
    }
    let service = ["howdah_rpc_service=\"howdah.v1.ChangeStreamService\""];
    assert_eq!(
        value(&howdah, "howdah_streams_open", &service).await,
        Some(1.0)
    );
    drop(_stream);
    eventually("the stream has ended", async || {
        value(&howdah, "howdah_streams_open", &service).await == Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_servers_and_operations_are_counted() {
    let mut howdah = Howdah::new(crate::support::howdah::Options::external().await);
    howdah.start("instance.stop.stop.before_effect=pause").await;
    howdah.instance("orders").await;
    howdah.instance("billing").await;
    let ready = ["howdah_instance_state=\"READY\""];
    // Counted at most every ten seconds.
    eventually("both are counted", async || {
        value(&howdah, "howdah_instances", &ready).await == Some(2.0)
    })
    .await;
    let ended = ["howdah_operation_kind=\"instance.create\"", "SUCCEEDED"];
    let created = value(&howdah, "howdah_operations_ended_total", &ended).await;
    assert_eq!(created, Some(2.0));
    let stop = StopInstanceRequest {
        name: instance_name("orders"),
        ..StopInstanceRequest::default()
    };
    howdah.instances().await.stop_instance(stop).await.unwrap();
    let running = ["howdah_operation_kind=\"instance.stop\"", "RUNNING"];
    eventually("the stop is counted", async || {
        value(&howdah, "howdah_operations", &running).await == Some(1.0)
    })
    .await;
    let age = value(&howdah, "howdah_operations_age_seconds", &running).await;
    assert!(age.is_some_and(|age| (0.0..60.0).contains(&age)), "{age:?}");
    let stopped = [
        "howdah_server_role=\"ACTIVE\"",
        "howdah_server_goal=\"STOPPED\"",
    ];
    let running = [
        "howdah_server_role=\"ACTIVE\"",
        "howdah_server_goal=\"RUNNING\"",
    ];
    for servers in [stopped, running] {
        assert_eq!(value(&howdah, "howdah_servers", &servers).await, Some(1.0));
    }
    howdah.kill().await;
}

/// Nobody reads the metrics: nothing is counted.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_counted_for_nobody() {
    let howdah = serve().await;
    let request = create_instance("orders", Instance::default());
    howdah
        .instances()
        .await
        .create_instance(request)
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    let counts = super::rig::queries(&howdah, "census.instances").await;
    assert_eq!(counts, 1, "that of the start");
    eventually("it was read", async || {
        super::rig::queries(&howdah, "census.instances").await == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_measured() {
    let howdah = serve().await;
    let look = async |name: &str| value(&howdah, name, &[]).await.unwrap();
    let memory = look("process_memory_usage_bytes").await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", howdah.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.unwrap().trim().trim_end_matches(" kB");
    let resident: f64 = resident.parse::<f64>().unwrap() * 1024.0;
    assert!((memory / resident - 1.0).abs() < 0.5, "{memory} {resident}");
    let files = look("process_unix_file_descriptor_count").await;
    let there = std::fs::read_dir(format!("/proc/{}/fd", howdah.pid())).unwrap();
    let there = f64::from(u32::try_from(there.count()).unwrap());
    assert!((files - there).abs() < 10.0, "{files} {there}");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", howdah.pid())).unwrap();
    let tasks = f64::from(u32::try_from(tasks.count()).unwrap());
    assert!((look("process_thread_count").await - tasks).abs() < 4.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let up = now.unwrap().as_secs_f64() - look("process_start_time_seconds").await;
    assert!((0.0..120.0).contains(&up), "{up}");
    let busy = ["cpu_mode=\"user\""];
    let busy = value(&howdah, "process_cpu_time_seconds_total", &busy).await;
    assert!(busy.is_some_and(|seconds| seconds < 120.0), "{busy:?}");
    let used = ["db_client_connection_state=\"used\""];
    let used = value(&howdah, "db_client_connection_count", &used)
        .await
        .unwrap();
    assert!(used <= look("db_client_connection_max").await);
    assert!(look("db_client_connection_wait_time_seconds_count").await > 0.0);
}
