//! Durable change streams: creates, shows, lists, deletes and acknowledges them.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{super::resource, changes, sheet, split};
use crate::{
    cli::{
        complete,
        exit::{Exit, Failure},
        instances::pair,
        mutation::Mutation,
        resource::{DELETED, print_present},
        session::Session,
        watch::{self, Left},
    },
    config::duration,
    domain::Reason,
    pb::v1::{
        AcknowledgeRequest, ChangeStream, CreateChangeStreamRequest, DeleteChangeStreamRequest,
        ListChangeStreamsRequest, ListChangeStreamsResponse, OnChange, Publish,
    },
};

/// Largest token that is read from a file, in bytes.
const LARGEST_TOKEN: usize = 256;

#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    /// Change stream, such as orders/audit
    #[arg(add = complete::change_streams())]
    stream: String,
    /// Database by its name in PostgreSQL
    #[arg(long)]
    database: String,
    /// Tables as in SQL, such as public.items; with commas or repeated
    #[arg(long, required_unless_present = "publication")]
    tables: Vec<String>,
    /// Publication that exists in the database, instead of tables
    #[arg(
        long,
        conflicts_with = "tables",
        default_value = "",
        hide_default_value = true
    )]
    publication: String,
    /// What is published of the tables
    #[arg(long, value_enum, default_value_t = What::All)]
    publish: What,
    /// What to do when a name means another table, or the publication was changed
    #[arg(long, value_enum, default_value_t = Then::End)]
    on_change: Then,
    /// Replication slot that exists and is to be used from where it is
    #[arg(long, default_value = "", hide_default_value = true)]
    slot: String,
    /// Bytes of log that the slot may retain; 0 is no bound
    #[arg(long, default_value_t = 0)]
    max_retained_bytes: i64,
    /// Drop the slot when it retains more: the stream is lost then, and the disk is safe
    #[arg(long)]
    drop_when_exceeded: bool,
    /// Label; can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Print the change stream of that id if there is one already, whatever it is like
    #[arg(long, conflicts_with = "validate_only")]
    if_not_exists: bool,
    #[command(flatten)]
    mutation: Mutation,
}

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// All events; of tables without replica identity inserts and truncates
    All,
    /// Inserts and truncates
    Inserts,
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Then {
    /// The stream ends with the reason
    End,
    /// It goes on, after a marker
    Follow,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Get {
    /// Change stream, such as orders/audit
    #[arg(add = complete::change_streams())]
    stream: String,
    /// Go on, and print it again when it has changed
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Wait {
    /// Change stream, such as orders/audit
    #[arg(add = complete::change_streams())]
    stream: String,
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
    /// Can be subscribed to
    Ready,
    /// Gone
    Deleted,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// Instance, such as orders
    #[arg(add = complete::instances())]
    instance: String,
    /// Filter, such as 'state = READY'
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    /// Order, such as 'create_time desc'
    #[arg(long, default_value = "", hide_default_value = true)]
    order_by: String,
    /// Most change streams to list
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Go on, and print again what has changed
    #[arg(long, short)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Delete {
    /// Change stream, such as orders/audit
    #[arg(add = complete::change_streams())]
    stream: String,
    /// Drop a slot that existed before, too
    #[arg(long)]
    force: bool,
    /// Only if the change stream has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    #[command(flatten)]
    mutation: Mutation,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Ack {
    /// Change stream, such as orders/audit
    #[arg(add = complete::change_streams())]
    stream: String,
    /// Token of the last batch that was stored, in base64 as subscribers print it
    #[arg(long, required_unless_present = "token_file")]
    token: Option<String>,
    /// File with the token in base64
    #[arg(long, conflicts_with = "token")]
    token_file: Option<PathBuf>,
}

impl Create {
    pub(in crate::cli) async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = session.names.change_stream(&self.stream)?;
        // What is there is printed whatever a creation would be refused for.
        if self.if_not_exists
            && resource::find::<ChangeStream>(session, &name)
                .await?
                .is_some()
        {
            return print_present::<ChangeStream>(session, &name, &self.mutation).await;
        }
        let request = self.request(&name)?;
        let created = session.client.create_change_stream(request).await;
        let exists = Reason::ChangeStreamExists.as_str();
        match created {
            // Somebody else has made it since it was looked for.
            Err(error) if self.if_not_exists && error.has_reason(exists) => {
                print_present::<ChangeStream>(session, &name, &self.mutation).await
            }
            operation => self.mutation.finish(session, operation?).await,
        }
    }

    fn request(&self, name: &str) -> Result<CreateChangeStreamRequest, Failure> {
        let (parent, id) = name
            .split_once("/changeStreams/")
            .ok_or_else(|| Failure::new(Exit::Usage, "no name of a change stream"))?;
        let publish = match self.publish {
            What::All => Publish::Unspecified,
            What::Inserts => Publish::Inserts,
        };
        let on_change = match self.on_change {
            Then::End => OnChange::End,
            Then::Follow => OnChange::Follow,
        };
        Ok(CreateChangeStreamRequest {
            parent: parent.to_owned(),
            change_stream_id: id.to_owned(),
            change_stream: Some(ChangeStream {
                database: self.database.clone(),
                tables: self.tables.iter().flat_map(|text| split(text)).collect(),
                publication: self.publication.clone(),
                publish: publish.into(),
                on_change: on_change.into(),
                slot: self.slot.clone(),
                max_retained_bytes: self.max_retained_bytes,
                drop_when_exceeded: self.drop_when_exceeded,
                labels: self.labels.iter().cloned().collect(),
                ..ChangeStream::default()
            }),
            request_id: self.mutation.request_id.clone(),
            validate_only: self.mutation.validate_only,
        })
    }
}

impl Get {
    pub(in crate::cli) async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = session.names.change_stream(&self.stream)?;
        resource::get::<ChangeStream>(session, name, self.watch).await
    }
}

impl Wait {
    pub(in crate::cli) async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = session.names.change_stream(&self.stream)?;
        let wanted = match self.wanted {
            Wanted::Ready => "READY",
            Wanted::Deleted => DELETED,
        };
        resource::wait::<ChangeStream>(session, &name, wanted, self.timeout).await
    }
}

impl List {
    pub(in crate::cli) async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = ListChangeStreamsRequest {
            parent: session.names.instance(&self.instance)?,
            filter: self.filter,
            order_by: self.order_by,
            ..ListChangeStreamsRequest::default()
        };
        let rows = |items: &[ChangeStream]| sheet::rows(items, &session.names, session.output);
        if self.watch {
            let left = Left::of(&request.filter);
            let look = async || {
                let request = request.clone();
                let found = session.client.all_change_streams(request, self.limit);
                Ok(found.await?)
            };
            return watch::watch(session, left, look, rows).await;
        }
        let found = session.client.all_change_streams(request, self.limit);
        let found = ListChangeStreamsResponse {
            change_streams: found.await?,
            next_page_token: String::new(),
        };
        let full_name = "howdah.v1.ListChangeStreamsResponse";
        session.print_list(full_name, &found, &found.change_streams, rows)
    }
}

impl Delete {
    pub(in crate::cli) async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = DeleteChangeStreamRequest {
            name: session.names.change_stream(&self.stream)?,
            etag: self.etag,
            force: self.force,
            request_id: self.mutation.request_id.clone(),
            validate_only: self.mutation.validate_only,
        };
        let operation = session.client.delete_change_stream(request).await?;
        self.mutation.finish(session, operation).await
    }
}

impl Ack {
    pub(in crate::cli) async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = AcknowledgeRequest {
            change_stream: session.names.change_stream(&self.stream)?,
            token: self.token()?,
        };
        let answer = session.client.acknowledge(request).await?;
        let lsn = changes::lsn(answer.acknowledged);
        session.hint(&format!("acknowledged up to {lsn}"));
        Ok(())
    }

    fn token(&self) -> Result<Vec<u8>, Failure> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)?,
            (None, None) => String::new(),
        };
        let token = STANDARD.decode(text.trim()).ok();
        let token = token.filter(|token| (1..=LARGEST_TOKEN).contains(&token.len()));
        token.ok_or_else(|| Failure::new(Exit::Usage, "the token is not one in base64"))
    }
}
