//! `howdah databases`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    arguments::Output,
    exit::{Exit, Failure},
    instances::pair,
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
        CreateDatabaseRequest, Database, DeleteDatabaseRequest, GetDatabaseRequest,
        ListDatabasesRequest, ListDatabasesResponse,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a database with its owner and a password
    Create(Create),
    /// Show a database
    Get {
        /// Database, such as orders/shop
        #[arg(add = super::complete::databases())]
        database: String,
        /// Go on, and print it again when it has changed
        #[arg(long, short)]
        watch: bool,
    },
    /// Wait until a database is ready or deleted
    Wait(Wait),
    /// List the databases of an instance
    List(List),
    /// Drop a database and its owner, for good
    ///
    /// Without --force it is refused while something uses the database (DATABASE_IN_USE), or
    /// while the owner role owns something, or was granted something, in another database
    /// (ROLE_IN_USE). Nothing is dropped then.
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Database, such as orders/shop
    #[arg(add = super::complete::databases())]
    database: String,
    /// Name in PostgreSQL, if it is not the id
    #[arg(long, default_value = "", hide_default_value = true)]
    postgresql_name: String,
    /// Owner role in PostgreSQL, if it is not NAME_user
    #[arg(long, default_value = "", hide_default_value = true)]
    owner: String,
    /// Character set encoding, UTF8 if left out
    #[arg(long, default_value = "", hide_default_value = true)]
    encoding: String,
    /// Locale provider: libc, icu, or builtin from PostgreSQL 17 on
    #[arg(long, default_value = "", hide_default_value = true)]
    locale_provider: String,
    /// Locale in the provider's form
    #[arg(long, default_value = "", hide_default_value = true)]
    locale: String,
    /// Most connections at once; 0 is no limit
    #[arg(long, default_value_t = 0)]
    connection_limit: i32,
    /// Name for people
    #[arg(long, default_value = "", hide_default_value = true)]
    display_name: String,
    /// Label; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Refuse deletion without --force
    #[arg(long)]
    deletion_protection: bool,
    /// Print the database of that id if there is one already, whatever it is like
    #[arg(long, conflicts_with = "validate_only")]
    if_not_exists: bool,
    #[command(flatten)]
    mutation: Mutation,
}

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Database, such as orders/shop
    #[arg(add = super::complete::databases())]
    database: String,
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
    /// Exists
    Ready,
    /// Gone
    Deleted,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Instance, such as orders
    #[arg(add = super::complete::instances())]
    instance: String,
    /// Filter, such as 'state = READY'
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    /// Order, such as 'create_time desc'
    #[arg(long, default_value = "", hide_default_value = true)]
    order_by: String,
    /// Most databases to list
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Go on, and print again what has changed
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Database, such as orders/shop
    #[arg(add = super::complete::databases())]
    database: String,
    /// Drop also what its owner role owns in other databases, end its sessions, drop its
    /// replication slots, roll back its prepared transactions, ignore deletion protection
    ///
    /// In the other databases this is DROP OWNED: it drops the tables and other objects of the
    /// role with their data, and revokes what it was granted. A whole database or tablespace
    /// that the role owns is refused (ROLE_IN_USE), and so are subscriptions of logical
    /// replication in the database (DATABASE_IN_USE).
    #[arg(long)]
    force: bool,
    /// Only if the database has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    #[command(flatten)]
    mutation: Mutation,
}

pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(create) => create.run(&session).await,
        Command::Get { database, watch } => {
            let name = session.names.database(&database)?;
            resource::get::<Database>(&session, name, watch).await
        }
        Command::Wait(wait) => {
            let name = session.names.database(&wait.database)?;
            let wanted = wait.wanted.state();
            resource::wait::<Database>(&session, &name, wanted, wait.timeout).await
        }
        Command::List(list) => list.run(&session).await,
        Command::Delete(delete) => delete.run(&session).await,
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = session.names.database(&self.database)?;
        // An existing database is printed, even if its creation would be refused for another
        // reason.
        if self.if_not_exists && resource::find::<Database>(session, &name).await?.is_some() {
            return print_present::<Database>(session, &name, &self.mutation).await;
        }
        let (parent, id) = name
            .split_once("/databases/")
            .ok_or_else(|| Failure::new(Exit::Usage, "no name of a database"))?;
        let request = CreateDatabaseRequest {
            parent: parent.to_owned(),
            database_id: id.to_owned(),
            database: Some(Database {
                postgresql_name: self.postgresql_name,
                owner: self.owner,
                encoding: self.encoding,
                locale_provider: self.locale_provider,
                locale: self.locale,
                connection_limit: self.connection_limit,
                display_name: self.display_name,
                labels: self.labels.into_iter().collect(),
                deletion_protection: self.deletion_protection,
                ..Database::default()
            }),
            request_id: self.mutation.request_id.clone(),
            validate_only: self.mutation.validate_only,
        };
        let created = session.client.create_database(request).await;
        let exists = Reason::DatabaseExists.as_str();
        match created {
            // Somebody has created it since the check.
            Err(error) if self.if_not_exists && error.has_reason(exists) => {
                print_present::<Database>(session, &name, &self.mutation).await
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
            Self::Deleted => DELETED,
        }
    }
}

impl Named for Database {
    const TYPE: &'static str = "howdah.v1.Database";

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
        String::new()
    }
}

impl Resource for Database {
    const WORD: &'static str = "database";

    const NOT_FOUND: Reason = Reason::DatabaseNotFound;

    async fn get(client: &Client, name: String) -> client::Result<Self> {
        client.get_database(GetDatabaseRequest { name }).await
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
        let request = ListDatabasesRequest {
            parent: session.names.instance(&self.instance)?,
            filter: self.filter,
            order_by: self.order_by,
            ..ListDatabasesRequest::default()
        };
        let rows = |items: &[Database]| Database::rows(items, &session.names, session.output);
        if self.watch {
            let look = async || {
                let request = request.clone();
                Ok(session.client.all_databases(request, self.limit).await?)
            };
            return super::watch::watch(session, look, rows).await;
        }
        let databases = session.client.all_databases(request, self.limit).await?;
        let found = ListDatabasesResponse {
            databases,
            next_page_token: String::new(),
        };
        let full_name = "howdah.v1.ListDatabasesResponse";
        session.print_list(full_name, &found, &found.databases, rows)
    }
}

impl Delete {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = DeleteDatabaseRequest {
            name: session.names.database(&self.database)?,
            etag: self.etag,
            force: self.force,
            request_id: self.mutation.request_id.clone(),
            validate_only: self.mutation.validate_only,
        };
        let operation = session.client.delete_database(request).await?;
        self.mutation.finish(session, operation).await
    }
}

fn rows(databases: &[Database], names: &Names, output: Output) -> Sheet {
    let row = |database: &Database| {
        [
            names.short(&database.name),
            database.postgresql_name.clone(),
            database.owner.clone(),
            database.state().as_str_name().to_owned(),
            age(database.create_time.as_ref()),
        ]
    };
    if output != Output::Wide {
        let header = ["NAME", "POSTGRESQL NAME", "OWNER", "STATE", "AGE"];
        return Sheet::rows(header, databases.iter().map(row));
    }
    let wide = |database: &Database| {
        let [name, postgresql_name, owner, state, age] = row(database);
        let created = time(database.create_time.as_ref());
        let (display, uid) = (database.display_name.clone(), database.uid.clone());
        [
            name,
            postgresql_name,
            owner,
            state,
            age,
            created,
            display,
            uid,
        ]
    };
    let header = [
        "NAME",
        "POSTGRESQL NAME",
        "OWNER",
        "STATE",
        "AGE",
        "CREATED",
        "DISPLAY NAME",
        "UID",
    ];
    Sheet::rows(header, databases.iter().map(wide))
}

/// One database as a table for people.
pub(super) fn sheet(database: &Database, names: &Names) -> Sheet {
    let limit = match database.connection_limit {
        0 => String::new(),
        limit => limit.to_string(),
    };
    Sheet::fields([
        ("name".into(), names.short(&database.name)),
        ("display name".into(), database.display_name.clone()),
        ("state".into(), database.state().as_str_name().to_owned()),
        ("PostgreSQL name".into(), database.postgresql_name.clone()),
        ("owner".into(), database.owner.clone()),
        ("encoding".into(), database.encoding.clone()),
        ("locale provider".into(), database.locale_provider.clone()),
        ("locale".into(), database.locale.clone()),
        ("connection limit".into(), limit),
        ("uid".into(), database.uid.clone()),
        ("etag".into(), database.etag.clone()),
        ("created".into(), time(database.create_time.as_ref())),
        ("updated".into(), time(database.update_time.as_ref())),
        (
            "deletion protection".into(),
            yes(database.deletion_protection),
        ),
    ])
}
