//! Instances, servers and engines.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{refuse_large, refuse_nul, refuse_nul_in, timestamp};
use crate::{
    app::CreateInstance,
    domain::{
        Error, Reason, Result,
        engine::Engine,
        instance::{Condition, Instance, Server, ServerRole, State, Status},
        name::{Id, InstanceName, ProjectName},
        provider::ServerAddress,
        recorded::Recorded,
        server_log,
    },
    pb::v1,
};

/// Converts an instance to its message.
pub(in crate::api) fn to_wire(instance: Instance) -> v1::Instance {
    let active = instance.active().ok();
    let host = active.and_then(Server::host).map(|host| host.to_string());
    let active_server = active.map(|server| instance.server_name(server));
    let server_version = active
        .filter(|server| server.started)
        .map(|server| server.version);
    let servers = instance
        .servers
        .iter()
        .map(|server| server_to_wire(&instance, server))
        .collect();
    v1::Instance {
        etag: instance.etag(),
        active_server: active_server.unwrap_or_default(),
        server_version: server_version
            .map(|version| version.to_string())
            .unwrap_or_default(),
        servers,
        provider_config: host.map(|host| {
            v1::instance::ProviderConfig::Local(v1::instance::LocalProviderConfig { host })
        }),
        name: instance.name.to_string(),
        uid: instance.uid.to_string(),
        labels: instance.labels,
        annotations: instance.annotations,
        display_name: instance.display_name,
        create_time: Some(timestamp(instance.create_time)),
        update_time: Some(timestamp(instance.update_time)),
        delete_time: instance.delete_time.map(timestamp),
        purge_time: instance.purge_time.map(timestamp),
        state: state(instance.state).into(),
        reconciling: instance.reconciling,
        version: instance.wanted.to_string(),
        parameters: instance.parameters,
        pending_restart_parameters: instance.pending_restart,
        ephemeral: instance.ephemeral,
        deletion_protection: instance.deletion_protection,
        epoch: instance.epoch,
        endpoint: instance.endpoint.map(endpoint),
        conditions: instance.conditions.into_iter().map(condition).collect(),
    }
}

/// Converts an instance to its message; of an unreadable one, the part that is known.
pub(in crate::api) fn recorded_to_wire(instance: Recorded<Instance>) -> v1::Instance {
    match instance {
        Recorded::Whole(instance) => to_wire(instance),
        Recorded::Unreadable(unreadable) => v1::Instance {
            conditions: vec![condition(Condition {
                kind: "Readable".to_owned(),
                status: Status::False,
                reason: Reason::RecordUnreadable.as_str().to_owned(),
                message: unreadable.message(),
                time: unreadable.update_time,
            })],
            name: unreadable.name,
            uid: unreadable.uid.to_string(),
            create_time: Some(timestamp(unreadable.create_time)),
            update_time: Some(timestamp(unreadable.update_time)),
            delete_time: unreadable.delete_time.map(timestamp),
            ..v1::Instance::default()
        },
    }
}

fn state(state: State) -> v1::instance::State {
    match state {
        State::Creating => v1::instance::State::Creating,
        State::Ready => v1::instance::State::Ready,
        State::Stopped => v1::instance::State::Stopped,
        State::Starting => v1::instance::State::Starting,
        State::Stopping => v1::instance::State::Stopping,
        State::Deleting => v1::instance::State::Deleting,
        State::Deleted => v1::instance::State::Deleted,
        State::Failed => v1::instance::State::Failed,
    }
}

fn role(role: ServerRole) -> v1::server::Role {
    match role {
        ServerRole::Active => v1::server::Role::Active,
        ServerRole::Successor => v1::server::Role::Successor,
        ServerRole::Retired => v1::server::Role::Retired,
    }
}

fn server_to_wire(instance: &Instance, server: &Server) -> v1::Server {
    v1::Server {
        name: instance.server_name(server),
        uid: server.uid.to_string(),
        role: role(server.role).into(),
        version: server.version.to_string(),
        provider: server.provider.clone(),
        host: server
            .host()
            .map(|host| host.to_string())
            .unwrap_or_default(),
        system_identifier: server.system_identifier.unwrap_or_default(),
    }
}

fn endpoint(address: ServerAddress) -> v1::Endpoint {
    let directory = address
        .socket_directory
        .map(|directory| directory.display().to_string());
    v1::Endpoint {
        host: address.host,
        port: address.port.into(),
        socket_directory: directory.unwrap_or_default(),
    }
}

pub(super) fn condition(condition: Condition) -> v1::Condition {
    let status = match condition.status {
        Status::True => v1::condition::Status::True,
        Status::False => v1::condition::Status::False,
        Status::Unknown => v1::condition::Status::Unknown,
    };
    v1::Condition {
        r#type: condition.kind,
        status: status.into(),
        reason: condition.reason,
        message: condition.message,
        time: Some(timestamp(condition.time)),
    }
}

/// Number of log lines to return. The field rules limit it.
pub(in crate::api) fn log_lines(asked: i32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => server_log::LINES,
        Ok(lines) => lines.min(server_log::LINES_MOST),
    }
}

/// Converts an engine to its message.
pub(in crate::api) fn engine_to_wire(engine: &Engine) -> v1::Engine {
    v1::Engine {
        provider: engine.provider.to_owned(),
        version: engine.version.to_string(),
        major: engine.version.major.into(),
        directory: engine.directory.display().to_string(),
        tls: engine.tls,
        icu: engine.icu,
        extensions: engine.extensions.clone(),
        tools: engine.tools.clone(),
        missing_tools: engine.missing_tools(),
        usable: engine.usable(),
    }
}

/// Converts a request to create an instance.
///
/// # Errors
/// NAME_MALFORMED, NAME_TOO_LONG, VERSION_MALFORMED, FIELD_INVALID, LABEL_INVALID,
/// PARAMETER_INVALID.
pub(in crate::api) fn create(request: v1::CreateInstanceRequest) -> Result<CreateInstance> {
    let parent: ProjectName = request.parent.parse()?;
    let instance = request.instance.unwrap_or_default();
    let host = match instance.provider_config {
        Some(v1::instance::ProviderConfig::Local(local)) => host(&local.host)?,
        None => None,
    };
    refuse_nul(
        &instance.display_name,
        "instance.display_name",
        Reason::FieldInvalid,
    )?;
    for (map, field, reason) in [
        (&instance.labels, "labels", Reason::LabelInvalid),
        (&instance.annotations, "annotations", Reason::LabelInvalid),
        (&instance.parameters, "parameters", Reason::ParameterInvalid),
    ] {
        refuse_nul_in(map, &format!("instance.{field}"), reason)?;
    }
    let maps = [
        &instance.labels,
        &instance.annotations,
        &instance.parameters,
    ];
    refuse_large(&maps, "instance")?;
    Ok(CreateInstance {
        name: InstanceName {
            project: parent.project,
            instance: Id::parse(&request.instance_id, "instance_id")?,
        },
        wanted: instance
            .version
            .parse()
            .map_err(|error: Error| error.with_field("instance.version"))?,
        display_name: instance.display_name,
        labels: instance.labels,
        annotations: instance.annotations,
        parameters: lower_cased(instance.parameters)?,
        ephemeral: instance.ephemeral,
        deletion_protection: instance.deletion_protection,
        host,
    })
}

/// The parameters, with their names in lower case. PostgreSQL treats `work_mem` and `WORK_MEM`
/// as the same parameter. Without this one of two spellings would silently win, and the two
/// could not be compared.
fn lower_cased(parameters: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut lower = BTreeMap::new();
    for (given, value) in parameters {
        let name = given.to_ascii_lowercase();
        if lower.insert(name.clone(), value).is_some() {
            let message = format!(
                "the setting `{name}` is given twice: its name is the same in upper and lower case"
            );
            return Err(Error::new(Reason::ParameterInvalid, message)
                .with_field(format!("instance.parameters.{given}")));
        }
    }
    Ok(lower)
}

fn host(text: &str) -> Result<Option<Uuid>> {
    if text.is_empty() {
        return Ok(None);
    }
    Uuid::try_parse(text).map(Some).map_err(|_| {
        Error::new(Reason::FieldInvalid, "the id of a host is a UUID")
            .with_field("instance.local.host")
    })
}
