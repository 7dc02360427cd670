//! `howdah instances`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    arguments::Output,
    exit::Failure,
    mutation::Mutation,
    names::Names,
    output::{Sheet, age, time, yes},
    resource::{self, DELETED, Resource, print_present},
    session::Session,
    watch::Named,
};
use crate::{
    client::{self, Client},
    config::duration,
    domain::Reason,
    pb::v1::{
        Condition, CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest, Instance,
        ListEnginesRequest, ListEnginesResponse, ListInstancesRequest, ListInstancesResponse,
        RestartInstanceRequest, Server, StartInstanceRequest, StopInstanceRequest,
        UndeleteInstanceRequest, condition,
        instance::{LocalProviderConfig, ProviderConfig, State},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create an instance
    Create(Create),
    /// Show an instance
    Get {
        /// Instance, such as orders
        #[arg(add = super::complete::instances())]
        instance: String,
        /// Go on, and print it again when it has changed
        #[arg(long, short)]
        watch: bool,
    },
    /// Wait until an instance is ready, stopped or deleted
    Wait(Wait),
    /// List instances
    List(List),
    /// Stop an instance and keep its data until it is purged
    Delete(Delete),
    /// Take a deletion back
    Undelete(Act),
    /// Start a stopped instance
    Start(Act),
    /// Stop an instance, and cut off its sessions
    Stop(Act),
    /// Stop and start an instance
    Restart(Act),
    /// Print the log of an instance's server
    Logs(super::logs::Command),
    /// List the PostgreSQL versions at hand
    Engines,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Id, such as orders: lower-case letters, digits and hyphens
    id: String,
    /// PostgreSQL version: 15, or 15.18. The newest at hand if left out
    #[arg(long, default_value = "", hide_default_value = true)]
    version: String,
    /// Name for people
    #[arg(long, default_value = "", hide_default_value = true)]
    display_name: String,
    /// PostgreSQL setting, such as work_mem=64MB; can be repeated
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// Label; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Host of the server, a UUID. That of the server that takes the call if left out
    #[arg(long)]
    host: Option<String>,
    /// The data may be lost in a crash of the machine: faster, for tests
    #[arg(long)]
    ephemeral: bool,
    /// Refuse deletion without --force
    #[arg(long)]
    deletion_protection: bool,
    /// Print the instance of that id if there is one already, whatever it is like
    #[arg(long, conflicts_with = "validate_only")]
    if_not_exists: bool,
    #[command(flatten)]
    mutation: Mutation,
}

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Instance, such as orders
    #[arg(add = super::complete::instances())]
    instance: String,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value_t = Wanted::Ready)]
    wanted: Wanted,
    /// Longest wait, such as 10m
    #[arg(long, value_parser = duration::parse)]
    timeout: Option<Duration>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Takes connections
    Ready,
    /// Stopped by request
    Stopped,
    /// Deleted or gone
    Deleted,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Filter, such as 'state = READY AND labels.team = "a"'
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    /// Order, such as 'create_time desc'
    #[arg(long, default_value = "", hide_default_value = true)]
    order_by: String,
    /// List deleted instances too
    #[arg(long)]
    show_deleted: bool,
    /// Most instances to list
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Go on, and print again what has changed
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Instance, such as orders
    #[arg(add = super::complete::instances())]
    instance: String,
    /// Also with databases or deletion protection; with --purge also of a host that is gone
    #[arg(long)]
    force: bool,
    /// Free the id and delete the data at once
    #[arg(long)]
    purge: bool,
    /// Only if the instance has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    #[command(flatten)]
    mutation: Mutation,
}

#[derive(Debug, Args)]
pub(super) struct Act {
    /// Instance, such as orders
    #[arg(add = super::complete::instances())]
    instance: String,
    /// Only if the instance has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    #[command(flatten)]
    mutation: Mutation,
}

/// Parses `NAME=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs a call whose request has an instance's name, its etag and the fields of a mutation.
macro_rules! act {
    ($session:ident, $act:ident, $method:ident($request:ident)) => {{
        let request = $request {
            name: $session.names.instance(&$act.instance)?,
            etag: $act.etag,
            request_id: $act.mutation.request_id.clone(),
            validate_only: $act.mutation.validate_only,
        };
        let operation = $session.client.$method(request).await?;
        $act.mutation.finish(&$session, operation).await
    }};
}

pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(create) => create.run(&session).await,
        Command::Get { instance, watch } => {
            let name = session.names.instance(&instance)?;
            resource::get::<Instance>(&session, name, watch).await
        }
        Command::Wait(wait) => {
            let name = session.names.instance(&wait.instance)?;
            let wanted = wait.wanted.state();
            resource::wait::<Instance>(&session, &name, wanted, wait.timeout).await
        }
        Command::List(list) => list.run(&session).await,
        Command::Delete(delete) => delete.run(&session).await,
        Command::Undelete(act) => act!(session, act, undelete_instance(UndeleteInstanceRequest)),
        Command::Start(act) => act!(session, act, start_instance(StartInstanceRequest)),
        Command::Stop(act) => act!(session, act, stop_instance(StopInstanceRequest)),
        Command::Restart(act) => act!(session, act, restart_instance(RestartInstanceRequest)),
        Command::Logs(command) => super::logs::run(&session, command).await,
        Command::Engines => engines(&session).await,
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = session.names.instance(&self.id)?;
        // An existing instance is printed, even if its creation would be refused for another
        // reason.
        if self.if_not_exists && resource::find::<Instance>(session, &name).await?.is_some() {
            return print_present::<Instance>(session, &name, &self.mutation).await;
        }
        let local = |host| ProviderConfig::Local(LocalProviderConfig { host });
        let request = CreateInstanceRequest {
            parent: session.names.project(),
            instance_id: self.id,
            instance: Some(Instance {
                version: self.version,
                display_name: self.display_name,
                parameters: self.parameters.into_iter().collect(),
                labels: self.labels.into_iter().collect(),
                ephemeral: self.ephemeral,
                deletion_protection: self.deletion_protection,
                provider_config: self.host.map(local),
                ..Instance::default()
            }),
            request_id: self.mutation.request_id.clone(),
            validate_only: self.mutation.validate_only,
        };
        let created = session.client.create_instance(request).await;
        let exists = Reason::InstanceExists.as_str();
        match created {
            // Somebody has created it since the check.
            Err(error) if self.if_not_exists && error.has_reason(exists) => {
                print_present::<Instance>(session, &name, &self.mutation).await
            }
            operation => self.mutation.finish(session, operation?).await,
        }
    }
}

impl Wanted {
    /// The state in the API.
    const fn state(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::Stopped => "STOPPED",
            Self::Deleted => DELETED,
        }
    }
}

impl Named for Instance {
    fn is_stuck(&self, wanted: &str) -> bool {
        let state = self.state_name();
        // A FAILED instance is not settled: its server is started again, and may come up.
        let settled = matches!(state, "READY" | "STOPPED" | "DELETED");
        !self.reconciling && state != wanted && settled
    }

    const TYPE: &'static str = "howdah.v1.Instance";

    fn name(&self) -> &str {
        &self.name
    }

    fn state_name(&self) -> &'static str {
        self.state().as_str_name()
    }

    fn reconciling(&self) -> bool {
        self.reconciling
    }

    fn trouble(&self) -> String {
        // A server that was stopped by request is not in trouble.
        if matches!(self.state(), State::Stopped | State::Deleted) {
            return String::new();
        }
        let down = |condition: &&Condition| {
            condition.r#type == "Available" && condition.status() != condition::Status::True
        };
        let found = self.conditions.iter().find(down);
        found
            .map(|it| format!("{}: {}", it.reason, it.message))
            .unwrap_or_default()
    }
}

impl Resource for Instance {
    const WORD: &'static str = "instance";

    const NOT_FOUND: Reason = Reason::InstanceNotFound;

    async fn get(client: &Client, name: String) -> client::Result<Self> {
        client.get_instance(GetInstanceRequest { name }).await
    }

    fn sheet(&self, names: &Names) -> Sheet {
        sheet(self, names)
    }

    fn rows(items: &[Self], names: &Names, output: Output) -> Sheet {
        rows(items, names, output)
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = ListInstancesRequest {
            parent: session.names.project(),
            filter: self.filter,
            order_by: self.order_by,
            show_deleted: self.show_deleted,
            ..ListInstancesRequest::default()
        };
        let rows = |items: &[Instance]| Instance::rows(items, &session.names, session.output);
        if self.watch {
            let look = async || {
                let request = request.clone();
                Ok(session.client.all_instances(request, self.limit).await?)
            };
            return super::watch::watch(session, look, rows).await;
        }
        let instances = session.client.all_instances(request, self.limit).await?;
        let found = ListInstancesResponse {
            instances,
            next_page_token: String::new(),
        };
        let full_name = "howdah.v1.ListInstancesResponse";
        session.print_list(full_name, &found, &found.instances, rows)
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = DeleteInstanceRequest {
            name: session.names.instance(&self.instance)?,
            etag: self.etag,
            force: self.force,
            purge: self.purge,
            request_id: self.mutation.request_id.clone(),
            validate_only: self.mutation.validate_only,
        };
        let operation = session.client.delete_instance(request).await?;
        self.mutation.finish(session, operation).await
    }
}

async fn engines(session: &Session) -> Result<(), Failure> {
    let parent = session.names.project();
    let found = session
        .client
        .list_engines(ListEnginesRequest { parent })
        .await?;
    session.print(
        "howdah.v1.ListEnginesResponse",
        &found,
        |found: &ListEnginesResponse, _| {
            let header = [
                "VERSION",
                "PROVIDER",
                "USABLE",
                "TLS",
                "ICU",
                "DIRECTORY",
                "LACKS",
            ];
            let row = |engine: &crate::pb::v1::Engine| {
                [
                    engine.version.clone(),
                    engine.provider.clone(),
                    yes(engine.usable),
                    yes(engine.tls),
                    yes(engine.icu),
                    engine.directory.clone(),
                    engine.missing_tools.join(","),
                ]
            };
            Sheet::rows(header, found.engines.iter().map(row))
        },
    )
}

fn endpoint(instance: &Instance) -> String {
    let endpoint = instance.endpoint.as_ref();
    endpoint
        .map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port))
        .unwrap_or_default()
}

fn version(instance: &Instance) -> String {
    let known = [&instance.server_version, &instance.version];
    let found = known.into_iter().find(|version| !version.is_empty());
    found.cloned().unwrap_or_default()
}

/// The state, with the reason if the server is not available in spite of it.
fn standing(instance: &Instance) -> String {
    let state = instance.state().as_str_name();
    match instance.trouble().split_once(':') {
        Some((reason, _)) if instance.state() == State::Ready => format!("{state},{reason}"),
        _ => state.to_owned(),
    }
}

fn rows(instances: &[Instance], names: &Names, output: Output) -> Sheet {
    let row = |instance: &Instance| {
        [
            names.short(&instance.name),
            version(instance),
            standing(instance),
            endpoint(instance),
            age(instance.create_time.as_ref()),
        ]
    };
    if output != Output::Wide {
        let header = ["NAME", "VERSION", "STATE", "ENDPOINT", "AGE"];
        return Sheet::rows(header, instances.iter().map(row));
    }
    let wide = |instance: &Instance| {
        let [name, version, state, endpoint, age] = row(instance);
        let created = time(instance.create_time.as_ref());
        let (display, uid) = (instance.display_name.clone(), instance.uid.clone());
        [
            name,
            version,
            state,
            endpoint,
            age,
            created,
            display,
            uid,
            instance.trouble(),
        ]
    };
    let header = [
        "NAME",
        "VERSION",
        "STATE",
        "ENDPOINT",
        "AGE",
        "CREATED",
        "DISPLAY NAME",
        "UID",
        "TROUBLE",
    ];
    Sheet::rows(header, instances.iter().map(wide))
}

/// One instance as a table for people.
pub(super) fn sheet(instance: &Instance, names: &Names) -> Sheet {
    let directory = instance
        .endpoint
        .as_ref()
        .map(|e| e.socket_directory.clone());
    let mut fields = vec![
        ("name".into(), names.short(&instance.name)),
        ("display name".into(), instance.display_name.clone()),
        ("state".into(), instance.state().as_str_name().to_owned()),
        ("version".into(), version(instance)),
        ("endpoint".into(), endpoint(instance)),
        ("socket directory".into(), directory.unwrap_or_default()),
        ("uid".into(), instance.uid.clone()),
        ("etag".into(), instance.etag.clone()),
        ("created".into(), time(instance.create_time.as_ref())),
        ("updated".into(), time(instance.update_time.as_ref())),
        ("deleted".into(), time(instance.delete_time.as_ref())),
        ("to be purged".into(), time(instance.purge_time.as_ref())),
        ("ephemeral".into(), yes(instance.ephemeral)),
        (
            "deletion protection".into(),
            yes(instance.deletion_protection),
        ),
        (
            "wait for a restart".into(),
            instance.pending_restart_parameters.join(", "),
        ),
    ];
    fields.extend(instance.servers.iter().map(server));
    fields.extend(sorted("parameter", &instance.parameters));
    fields.extend(sorted("label", &instance.labels));
    fields.extend(instance.conditions.iter().map(|condition| {
        let status = condition.status().as_str_name();
        let (reason, message) = (&condition.reason, &condition.message);
        let text = format!("{status} {reason} {message}").trim().to_owned();
        (format!("condition {}", condition.r#type), text)
    }));
    Sheet::fields(fields)
}

/// One server, labelled by its number.
fn server(server: &Server) -> (String, String) {
    let number = server.name.rsplit('/').next().unwrap_or_default();
    let host = match server.host.as_str() {
        "" => String::new(),
        host => format!(" on host {host}"),
    };
    let (role, version) = (server.role().as_str_name(), &server.version);
    let (provider, uid) = (&server.provider, &server.uid);
    let text = format!("{role}, PostgreSQL {version}, {provider}{host}, uid {uid}");
    (format!("server {number}"), text)
}

fn sorted<'a>(
    what: &'a str,
    entries: &'a std::collections::BTreeMap<String, String>,
) -> impl Iterator<Item = (String, String)> + use<'a> {
    let ordered: std::collections::BTreeMap<_, _> = entries.iter().collect();
    ordered
        .into_iter()
        .map(move |(name, value)| (format!("{what} {name}"), value.clone()))
}
