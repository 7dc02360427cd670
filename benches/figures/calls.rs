//! GetInstance and ListInstances against the bare handler.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use howdah::pb::v1::{
    GetInstanceRequest, ListInstancesRequest, instance_service_client::InstanceServiceClient,
};
use tonic::transport::Channel;

use crate::{
    ROUNDS,
    support::{
        howdah::{Howdah, Options, PROJECT},
        postgres::server,
    },
    table::{Table, percentile},
};

const CONNECTIONS: usize = 64;
const INSTANCES: usize = 200;
const WARM_UP: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(4);

#[derive(Clone, Copy)]
enum Call {
    Get,
    List,
}

/// What a round of calls gave.
struct Round {
    rate: f64,
    cpu_microseconds: f64,
    /// Of the handler's process and of the metadata server together.
    both_microseconds: f64,
    p50: f64,
    p99: f64,
}

pub async fn measure(table: &mut Table) {
    let options = Options::external().await.with("HOWDAH_LOG_FILTER", "warn");
    let url = options.database_url.clone().unwrap();
    let howdah = Howdah::serve(options).await;
    howdah.instance("orders").await;
    let (bare, address) = bare(&url);
    for (call, name) in [(Call::List, "ListInstances"), (Call::Get, "GetInstance")] {
        let instances = match call {
            Call::List => "one instance",
            Call::Get => {
                copy_instances(&url).await;
                "200 instances"
            }
        };
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let ours = round(&howdah.endpoint(), howdah.pid(), call).await;
            let theirs = round(&address, bare.0.id(), call).await;
            rounds.push((ours, theirs));
        }
        let how = format!(
            "64 connections, {instances}, 4 s each in turns, same answer, client on the same 2 \
             cores"
        );
        let mut row = |what: &str, of: fn(&Round) -> f64, unit: &str, target: &str| {
            let pairs: Vec<(f64, f64)> = rounds.iter().map(|(a, b)| (of(a), of(b))).collect();
            table.compare(&format!("{name}: {what}"), &pairs, unit, target, &how);
        };
        row("rate", |round| round.rate, "calls/s", ">= 0.8");
        row("CPU per call", |round| round.cpu_microseconds, "us", "");
        let target = match call {
            Call::Get => "<= 90 us",
            Call::List => "",
        };
        row(
            "CPU per call with PostgreSQL",
            |round| round.both_microseconds,
            "us",
            target,
        );
        row("p50", |round| round.p50, "ms", "");
        row("p99", |round| round.p99, "ms", "");
    }
}

/// Copies of the only instance in a project of their own, stopped: enough that callers
/// seldom ask for the same one.
async fn copy_instances(database_url: &str) {
    let path = database_url.rsplit('/').next().unwrap();
    let database = path.split('?').next().unwrap();
    let client = server(15).client(database).await;
    let sql = format!(
        "insert into projects (id) values ('bench');
         create temporary table copies as select gen_random_uuid() as uid, number
            from generate_series(0, {INSTANCES} - 1) number;
         insert into instances (uid, project, id, display_name, labels, annotations, state,
                wanted_version, parameters, ephemeral, deletion_protection, epoch, conditions)
            select c.uid, 'bench', 'orders-' || c.number, i.display_name, i.labels, i.annotations,
                i.state, i.wanted_version, i.parameters, i.ephemeral, i.deletion_protection,
                i.epoch, i.conditions from instances i, copies c;
         insert into servers (uid, instance_uid, number, role, provider, version, host, port,
                system_identifier, started, admin_password)
            select gen_random_uuid(), c.uid, s.number, s.role, s.provider, s.version, s.host,
                1024 + c.number, s.system_identifier, false, s.admin_password from servers s, copies c;
         analyze"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// The bare server, ended when this is dropped.
struct Bare(Child);

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bare(database_url: &str) -> (Bare, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["bare-server", database_url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut address)
        .unwrap();
    (Bare(child), address.trim().to_owned())
}

async fn round(address: &str, pid: u32, call: Call) -> Round {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        clients.push(InstanceServiceClient::new(channel.connect().await.unwrap()));
    }
    drive(&clients, call, WARM_UP).await;
    let postgres = postmaster();
    let (before, start) = (cpu_seconds(pid), Instant::now());
    let postgres_before = family_cpu_seconds(postgres);
    let times = drive(&clients, call, ROUND).await;
    let (cpu, elapsed) = (cpu_seconds(pid) - before, start.elapsed().as_secs_f64());
    let postgres_cpu = family_cpu_seconds(postgres) - postgres_before;
    let count = times.len() as f64;
    Round {
        rate: count / elapsed,
        cpu_microseconds: cpu * 1e6 / count,
        both_microseconds: (cpu + postgres_cpu) * 1e6 / count,
        p50: percentile(&times, 0.5) * 1e3,
        p99: percentile(&times, 0.99) * 1e3,
    }
}

/// Calls on every connection, one after the other; answers each call's seconds.
async fn drive(clients: &[InstanceServiceClient<Channel>], call: Call, time: Duration) -> Vec<f64> {
    let end = Instant::now() + time;
    let mut running = tokio::task::JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        let mut client = client.clone();
        // Each caller begins elsewhere and goes round.
        let mut instance = number * INSTANCES / clients.len();
        running.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                match call {
                    Call::Get => {
                        let request = GetInstanceRequest {
                            name: format!("projects/bench/instances/orders-{instance}"),
                        };
                        instance = (instance + 1) % INSTANCES;
                        client.get_instance(request).await.map(drop).unwrap();
                    }
                    Call::List => {
                        let parent = PROJECT.to_owned();
                        let request = ListInstancesRequest {
                            parent,
                            ..Default::default()
                        };
                        client.list_instances(request).await.map(drop).unwrap();
                    }
                }
                times.push(start.elapsed().as_secs_f64());
            }
            times
        });
    }
    running.join_all().await.concat()
}

/// Process id of the shared server, which has the metadata.
pub fn postmaster() -> u32 {
    let file = server(15).data().join("postmaster.pid");
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().next().unwrap().parse().unwrap()
}

/// User and system time of a process, from /proc/PID/stat.
pub fn cpu_seconds(pid: u32) -> f64 {
    let ticks = stat(pid).map_or(0, |fields| fields[11] + fields[12]);
    ticks as f64 / 100.0
}

/// The same of a process, of its children, and of those that have ended.
pub fn family_cpu_seconds(pid: u32) -> f64 {
    let own = stat(pid).map_or(0, |fields| fields[11..15].iter().sum());
    let entries = std::fs::read_dir("/proc").unwrap();
    let processes = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let children = processes.filter_map(stat);
    let children = children.filter(|fields| fields[1] == u64::from(pid));
    let theirs: u64 = children.map(|fields| fields[11] + fields[12]).sum();
    (own + theirs) as f64 / 100.0
}

/// The numbers of /proc/PID/stat after the name, the parent's id as the second; none when
/// the process has ended.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    let fields = after_name.split_whitespace();
    Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
}
