//! `howdah dev`: a PostgreSQL for experiments, which is deleted when the command ends.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    instances::pair,
    output::data,
};
use crate::{
    bootstrap::{self, Dev},
    client::{Client, Options, Wait},
    config::LogFormat,
    pb::{
        google::longrunning::Operation,
        v1::{
            Connection, CreateDatabaseRequest, CreateInstanceRequest, Database,
            GetConnectionRequest, Instance,
        },
    },
};

/// Id of the instance and of its database, if none is given.
const ID: &str = "dev";

/// Project that they are in.
const PROJECT: &str = "projects/default";

/// Longest wait for calls and workers at the end. What still runs after that is killed.
const STOP: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Id of the database and of its instance
    #[arg(default_value = ID)]
    name: String,
    /// PostgreSQL version: 15, or 15.18. The newest at hand if left out
    #[arg(long, default_value = "", hide_default_value = true)]
    version: String,
    /// PostgreSQL setting, such as work_mem=64MB; can be repeated
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
}

/// Serves in a new directory until a signal comes, and then deletes the directory.
pub(super) async fn run(command: Command, output: Output) -> Result<Exit, Failure> {
    // Before anything is created, so that nothing is left behind whenever a signal comes.
    let mut signals = Signals::new()?;
    let dev = Dev::make().await.map_err(|error| Failure::from(&error))?;
    let ended = attend(&dev, command, output, &mut signals).await;
    dev.remove().await.map_err(|error| Failure::from(&error))?;
    ended
}

async fn attend(
    dev: &Dev,
    command: Command,
    output: Output,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let config = dev.config().map_err(|error| Failure::from(&error))?;
    let as_json = config.log.format == LogFormat::Json;
    let (opened, endpoint) = oneshot::channel();
    let stop = CancellationToken::new();
    let mut serving = Box::pin(bootstrap::serve_for(config, opened, stop.clone()));
    let using = async {
        let endpoint = endpoint.await.map_err(|_| not_served())?;
        let found = make(&endpoint, command).await?;
        show(&found, &endpoint, output)?;
        // Waits until the user ends it.
        std::future::pending().await
    };
    let ended = tokio::select! {
        biased;
        () = signals.asked() => Ok(Exit::Success),
        served = &mut serving => {
            let served = served.map(|()| Exit::Success).map_err(Failure::from);
            return served.map_err(|failure| match as_json {
                true => failure.in_json(),
                false => failure,
            });
        }
        failed = using => failed,
    };
    stop.cancel();
    // What does not end in time is killed when the directory is deleted.
    let _ = tokio::time::timeout(STOP, serving).await;
    ended
}

fn not_served() -> Failure {
    Failure::new(Exit::Failed, "the service has ended")
}

/// How to connect, and the names of what was created.
struct Made {
    connection: Connection,
    version: String,
    database: String,
}

async fn make(endpoint: &str, command: Command) -> Result<Made, Failure> {
    let client = Client::connect(endpoint, &Options::default()).await?;
    let id = command.name;
    let request = CreateInstanceRequest {
        parent: PROJECT.to_owned(),
        instance_id: id.clone(),
        instance: Some(Instance {
            version: command.version,
            parameters: command.parameters.into_iter().collect(),
            ephemeral: true,
            ..Instance::default()
        }),
        ..CreateInstanceRequest::default()
    };
    let operation = client.create_instance(request).await?;
    let instance: Instance = done(&client, operation, "howdah.v1.Instance").await?;
    let request = CreateDatabaseRequest {
        parent: instance.name.clone(),
        database_id: id.clone(),
        database: Some(Database::default()),
        ..CreateDatabaseRequest::default()
    };
    let operation = client.create_database(request).await?;
    let database: Database = done(&client, operation, "howdah.v1.Database").await?;
    let request = GetConnectionRequest {
        name: database.name,
    };
    Ok(Made {
        connection: client.get_connection(request).await?,
        version: instance.server_version,
        database: format!("{id}/{id}"),
    })
}

/// Waits for an operation, and returns its resource.
async fn done<M: prost::Message + Default>(
    client: &Client,
    operation: Operation,
    full_name: &str,
) -> Result<M, Failure> {
    use crate::pb::google::longrunning::operation::Result::Response;
    let waited = client.wait(&operation.name, Wait::default(), |_| ());
    match waited.await?.result {
        Some(Response(resource)) => Ok(crate::client::unpack(&resource, full_name)?),
        _ => Err(not_served()),
    }
}

fn show(made: &Made, endpoint: &str, output: Output) -> Result<(), Failure> {
    let uri = &made.connection.uri;
    // The command line contains no password.
    let psql = format!("howdah psql {} --endpoint {endpoint}", made.database);
    let text = match output {
        Output::Json | Output::Yaml => data(
            &json!({ "uri": uri, "psql": psql, "endpoint": endpoint, "version": made.version }),
            output,
        )?,
        Output::Name => made.database.clone(),
        Output::Table | Output::Wide => format!(
            "PostgreSQL {}, until Ctrl-C: then all of it is gone\n\
             \n\
             URI       {uri}\n\
             psql      {psql}\n\
             endpoint  {endpoint}",
            made.version
        ),
    };
    let mut stdout = io::stdout();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

/// Signals that end the command: Ctrl-C, a supervisor's, and that of a closed terminal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
