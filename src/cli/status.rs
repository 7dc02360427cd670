//! `howdah status`: the state of everything on one page.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
};

use rustix::fs::statvfs;
use serde_json::{Value, json};

use super::{
    exit::Failure,
    names::Names,
    operations,
    output::{Sheet, data},
    session::Session,
    watch::Named,
};
use crate::{
    bootstrap,
    config::{Config, ServeArguments},
    pb::{
        google::longrunning::{ListOperationsRequest, Operation},
        v1::{Instance, ListInstancesRequest, instance::State},
    },
};

/// How many of the newest operations are searched for failures.
const NEWEST: usize = 50;

/// Most lines of failures and of running operations. The others are only counted.
const LINES: usize = 10;

pub(super) async fn run(session: &Session) -> Result<(), Failure> {
    let parent = session.names.project();
    let request = ListInstancesRequest {
        parent: parent.clone(),
        show_deleted: true,
        ..ListInstancesRequest::default()
    };
    let instances = session.client.all_instances(request, usize::MAX).await?;
    let request = ListOperationsRequest {
        name: parent,
        ..ListOperationsRequest::default()
    };
    let newest = session.client.all_operations(request.clone(), NEWEST);
    let newest = newest.await?;
    let open = ListOperationsRequest {
        filter: "done = false".to_owned(),
        ..request
    };
    let open = session.client.all_operations(open, usize::MAX).await?;
    let status = Status {
        states: counted(instances.iter().map(Instance::state_name)),
        hosts: hosts(&instances),
        failing: failing(&instances, &newest, &session.names),
        open: open
            .iter()
            .map(|it| operations::brief(it, &session.names))
            .collect(),
        machine: Machine::here(&instances).await,
    };
    let text = match session.output.is_data() {
        true => data(&status.json(), session.output)?,
        false => status.text(),
    };
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// The contents of the page.
struct Status {
    states: BTreeMap<&'static str, usize>,
    /// Number of servers by host; servers without a host have an empty name.
    hosts: BTreeMap<String, usize>,
    failing: Vec<Trouble>,
    /// Running operations.
    open: Vec<Trouble>,
    machine: Option<Machine>,
}

/// A resource or an operation, and what is wrong with it.
pub(super) struct Trouble {
    pub(super) name: String,
    pub(super) text: String,
}

fn counted<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn hosts(instances: &[Instance]) -> BTreeMap<String, usize> {
    let mut hosts = BTreeMap::new();
    for server in instances.iter().flat_map(|instance| &instance.servers) {
        *hosts.entry(server.host.clone()).or_default() += 1;
    }
    hosts
}

/// Instances that are not available although they shall be, and failed operations that were the
/// last ones on their resource. `newest` starts with the newest operation.
fn failing(instances: &[Instance], newest: &[Operation], names: &Names) -> Vec<Trouble> {
    let down = instances.iter().filter_map(|instance| {
        let text = match (instance.trouble(), instance.state()) {
            (trouble, _) if !trouble.is_empty() => trouble,
            (_, State::Failed) => instance.state_name().to_owned(),
            _ => return None,
        };
        Some(Trouble {
            name: names.short(&instance.name),
            text,
        })
    });
    let mut targets = BTreeSet::new();
    let last = newest
        .iter()
        .filter(|it| targets.insert(operations::target(it)));
    let failed: Vec<&Operation> = last.filter(|it| it.state_name() == "FAILED").collect();
    let failed = failed.into_iter().map(|it| operations::brief(it, names));
    down.chain(failed).collect()
}

impl Status {
    fn text(&self) -> String {
        let joined = |counts: Vec<String>| match counts.is_empty() {
            true => "none".to_owned(),
            false => counts.join(", "),
        };
        let states = self.states.iter();
        let states = states.map(|(state, count)| format!("{count} {state}"));
        let hosts = self.hosts.iter();
        let hosts = hosts.map(|(host, count)| match host.as_str() {
            "" => format!("{count} servers without a host"),
            host => format!("{host}: {count} servers"),
        });
        let mut fields = vec![
            ("instances".to_owned(), joined(states.collect())),
            ("hosts".to_owned(), joined(hosts.collect())),
            ("under way".to_owned(), self.open.len().to_string()),
            ("failing".to_owned(), self.failing.len().to_string()),
        ];
        if let Some(machine) = &self.machine {
            let (free, size) = (shown(machine.free), shown(machine.size));
            fields.push(("disk here".into(), format!("{free} of {size} free")));
            let (count, bytes) = (machine.trash, shown(machine.trash_bytes));
            fields.push(("trash here".into(), format!("{count} servers, {bytes}")));
        }
        let mut text = Sheet::fields(fields).to_string();
        for (title, lines) in [("failing", &self.failing), ("under way", &self.open)] {
            text.push_str(&listed(title, lines));
        }
        text
    }

    fn json(&self) -> Value {
        let lines = |lines: &[Trouble]| -> Value {
            let lines = lines.iter();
            lines
                .map(|line| json!({ "name": line.name, "message": line.text }))
                .collect()
        };
        json!({
            "instances": self.states,
            "hosts": self.hosts,
            "failing": lines(&self.failing),
            "underWay": lines(&self.open),
            "machine": self.machine.as_ref().map(|machine| json!({
                "freeBytes": machine.free,
                "sizeBytes": machine.size,
                "trashServers": machine.trash,
                "trashBytes": machine.trash_bytes,
            })),
        })
    }
}

fn listed(title: &str, lines: &[Trouble]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let rows = lines.iter().take(LINES);
    let rows = rows.map(|line| (line.name.clone(), line.text.clone()));
    let more = match lines.len().saturating_sub(LINES) {
        0 => String::new(),
        more => format!("\nand {more} more"),
    };
    format!("\n\n{title}:\n{}{more}", Sheet::fields(rows))
}

/// Disk and trash of this machine, if one of the listed servers is on it.
struct Machine {
    free: u64,
    size: u64,
    trash: usize,
    trash_bytes: u64,
}

impl Machine {
    /// None if this user's data directory is not on the host of any of the servers.
    async fn here(instances: &[Instance]) -> Option<Self> {
        let config = Config::load(&ServeArguments::default()).ok()?;
        let host = bootstrap::host_here(&config)?.to_string();
        let mut servers = instances.iter().flat_map(|instance| &instance.servers);
        if !servers.any(|server| server.host == host) {
            return None;
        }
        let (free, size) = disk(&config.local.root)?;
        // The directory of an empty trash may be missing.
        let trash = bootstrap::trash_list(config).await.unwrap_or_default();
        Some(Self {
            free,
            size,
            trash: trash.len(),
            trash_bytes: trash.iter().map(|entry| entry.bytes).sum(),
        })
    }
}

/// Free and total bytes of the file system at `path`.
fn disk(path: &Path) -> Option<(u64, u64)> {
    let found = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some((bytes(found.f_bavail), bytes(found.f_blocks)))
}

/// Formats bytes in the largest unit that keeps the number precise enough.
fn shown(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut left = bytes;
    for unit in UNITS {
        if left < 10_000 {
            return format!("{left} {unit}");
        }
        left /= 1024;
    }
    format!("{left} PB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_few_figures() {
        for (bytes, expected) in [
            (0, "0 B"),
            (9_999, "9999 B"),
            (10_240, "10 kB"),
            (25 << 30, "25 GB"),
            (u64::MAX, "16383 PB"),
        ] {
            assert_eq!(shown(bytes), expected);
        }
    }

    #[test]
    fn a_long_list_is_counted() {
        let line = |number: usize| Trouble {
            name: format!("name{number}"),
            text: "why".into(),
        };
        let lines: Vec<Trouble> = (0..12).map(line).collect();
        let text = listed("failing", &lines);
        assert!(text.ends_with("\nand 2 more"), "{text}");
        assert!(!text.contains("name10"), "{text}");
    }
}
