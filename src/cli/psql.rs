//! `howdah psql`.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, process};

use clap::Args;

use super::{
    exit::{Exit, Failure},
    session::Session,
};
use crate::pb::v1::{Connection, GetConnectionRequest};

/// Variables of libpq that would make psql connect elsewhere or as another user.
const MISLEADING: &[&str] = &[
    "PGCHANNELBINDING",
    "PGGSSDELEGATION",
    "PGGSSENCMODE",
    "PGGSSLIB",
    "PGHOSTADDR",
    "PGKRBSRVNAME",
    "PGLOADBALANCEHOSTS",
    "PGMAXPROTOCOLVERSION",
    "PGMINPROTOCOLVERSION",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLNEGOTIATION",
    "PGTARGETSESSIONATTRS",
];

#[derive(Debug, Args)]
pub(super) struct Command {
    /// Database, such as orders/shop
    #[arg(add = super::complete::databases())]
    database: String,
    /// What psql is given, after `--`: howdah psql orders/shop -- -c 'select 1'
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process by psql. The password is passed in the environment, so it is not
/// visible in a command line or in a shell's history.
pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    let name = session.names.database(&command.database)?;
    let request = GetConnectionRequest { name };
    let found = session.client.get_connection(request).await?;
    let mut psql = process::Command::new("psql");
    psql.args(&command.arguments).envs(environment(&found));
    for name in MISLEADING {
        psql.env_remove(name);
    }
    Err(not_run(&psql.exec()))
}

/// The environment that makes libpq connect.
fn environment(found: &Connection) -> [(&'static str, String); 6] {
    [
        ("PGHOST", found.host.clone()),
        ("PGPORT", found.port.to_string()),
        ("PGDATABASE", found.database.clone()),
        ("PGUSER", found.user.clone()),
        ("PGPASSWORD", found.password.clone()),
        ("PGSSLMODE", found.sslmode.clone()),
    ]
}

fn not_run(error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("cannot run psql: {error}"));
    match error.kind() {
        io::ErrorKind::NotFound => failure
            .note("install it, on Debian by `apt-get install postgresql-client`")
            .note("`howdah connection` prints how to connect with another client"),
        _ => failure,
    }
}
