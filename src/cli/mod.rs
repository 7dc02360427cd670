//! The command line: runs and maintains the service, and calls it as a client.

mod arguments;
mod audit;
mod complete;
mod conditions;
mod config;
mod connection;
mod context;
mod databases;
mod dev;
mod doctor;
mod endpoint;
mod exit;
mod explain;
mod foreign;
mod instances;
mod logs;
mod metadata;
mod mutation;
mod names;
mod operations;
mod orphans;
mod output;
mod progress;
mod psql;
mod resource;
mod session;
mod status;
mod streams;
mod trash;
mod watch;

use std::{
    future::Future,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, FromArgMatches};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use self::{
    arguments::{Arguments, Command},
    exit::{Exit, Failure},
    session::Session,
};
use crate::{
    bootstrap,
    config::{Config, LogFormat},
};

/// Longest wait at the end of a command for threads that are blocked.
const THREADS_STOP: Duration = Duration::from_secs(1);

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    complete::answer_a_shell();
    let matches = Arguments::command().get_matches();
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let output = arguments.global.output;
    match foreign::refuse(&matches).and_then(|()| dispatch(arguments)) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(output),
    }
}

fn dispatch(arguments: Arguments) -> Result<Exit, Failure> {
    let global = arguments.global;
    match arguments.command {
        Command::Serve(settings) => {
            let config = Config::load(&settings)?;
            let as_json = config.log.format == LogFormat::Json;
            match to_its_end(bootstrap::serve(config)) {
                Ok(()) => Ok(Exit::Success),
                Err(failure) if as_json => Err(failure.in_json()),
                Err(failure) => Err(failure),
            }
        }
        Command::Migrate(settings) => {
            let config = Config::load(&settings)?;
            to_its_end(bootstrap::migrate(config)).map(|()| Exit::Success)
        }
        Command::Dev(command) => {
            let runtime = runtime()?;
            let ended = runtime.block_on(dev::run(command, global.output));
            runtime.shutdown_timeout(THREADS_STOP);
            ended
        }
        Command::Metadata(command) => metadata::run(command, global.output),
        Command::Trash(command) => trash::run(command, global.output),
        Command::Orphans(command) => orphans::run(command, global),
        Command::Doctor(settings) => runtime()?.block_on(doctor::run(&settings, global.output)),
        Command::Context(command) => context::run(command, global),
        Command::Config(command) => config::run(&command, global.output),
        Command::Explain(command) => explain::run(&command, global.output),
        Command::Completion { shell } => {
            io::stdout().write_all(&complete::script(shell)?)?;
            Ok(Exit::Success)
        }
        Command::Instances(command) => {
            client(async { instances::run(Session::open(global).await?, command).await })
        }
        Command::Databases(command) => {
            client(async { databases::run(Session::open(global).await?, command).await })
        }
        Command::Connection(command) => {
            client(async { connection::run(Session::open(global).await?, command).await })
        }
        Command::Psql(command) => client(async {
            let session = Session::open(global).await?;
            psql::run(session, command).await
        }),
        Command::Operations(command) => {
            client(async { operations::run(Session::open(global).await?, command).await })
        }
        Command::Status => client(async { status::run(&Session::open(global).await?).await }),
        Command::Audit(command) => {
            client(async { audit::run(Session::open(global).await?, command).await })
        }
        Command::Streams(command) => {
            client(async { streams::run(Session::open(global).await?, command).await })
        }
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Runtime::new().map_err(|error| Failure::new(Exit::Failed, format!("no runtime: {error}")))
}

/// Runs a command of the server. A thread that is still blocked at its end, for example by the
/// deletion of many files, does not delay the exit; the next start continues its work.
fn to_its_end<T>(command: impl Future<Output = anyhow::Result<T>>) -> Result<T, Failure> {
    let runtime = runtime()?;
    let ended = runtime.block_on(command);
    runtime.shutdown_timeout(THREADS_STOP);
    Ok(ended?)
}

/// Runs a client command until it ends or the user presses Ctrl-C.
fn client(command: impl Future<Output = Result<(), Failure>>) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        // Before the command starts, so that an early signal counts too.
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(Exit::Failed, format!("no signals: {error}")))?;
        tokio::select! {
            // The command comes first, because one that waits handles the signal itself.
            biased;
            result = command => result.map(|()| Exit::Success),
            _ = interrupt.recv() => Ok(Exit::Interrupted),
        }
    })
}
