//! `howdah streams`.

mod changes;
mod durable;
mod sheet;
mod tail;
mod text;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use self::changes::Tables;
use super::{arguments::Output, exit::Failure, output::data, session::Session};
use crate::pb::v1::{
    ChangeBatch, GetDatabaseRequest, OnChange, Publish, SubscribeRequest, change::Event,
    change_batch::WaitingFor,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a durable change stream, with a replication slot of its own
    Create(durable::Create),
    /// Show a change stream, and how far it is
    Get(durable::Get),
    /// Wait until a change stream can be subscribed to, or is gone
    Wait(durable::Wait),
    /// List the change streams of an instance
    List(durable::List),
    /// Delete a change stream with its slot and its publications
    Delete(durable::Delete),
    /// Acknowledge what was stored, so that the server may remove its log
    Ack(durable::Ack),
    /// Print the changes of tables as they are committed, a line each
    Subscribe(Subscribe),
}

#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// Instance, such as orders, or database, such as orders/shop
    #[arg(required_unless_present = "stream", add = crate::cli::complete::databases())]
    instance: Option<String>,
    /// Database by its name in PostgreSQL, where the first argument is the instance
    database: Option<String>,
    /// Tables as in SQL, such as public.items; with commas or repeated
    #[arg(long, required_unless_present_any = ["publication", "stream"])]
    tables: Vec<String>,
    /// Durable change stream, such as orders/audit, instead of an instance and tables. What was
    /// printed is acknowledged
    #[arg(long, conflicts_with_all = ["instance", "tables", "publication"],
        add = crate::cli::complete::change_streams())]
    stream: Option<String>,
    /// File with the token to go on from, written after each batch that was printed
    #[arg(long, requires = "stream", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// End the subscriber that the change stream has
    #[arg(long, requires = "stream")]
    take_over: bool,
    /// Publish inserts and truncates only: no UPDATE of the application can fail because of it
    #[arg(long, conflicts_with_all = ["publication", "stream"])]
    inserts_only: bool,
    /// Go on when a table is replaced or the publication is changed, instead of ending
    #[arg(long, conflicts_with = "stream")]
    on_change_follow: bool,
    /// Publication that exists in the database, instead of tables
    #[arg(long, conflicts_with = "tables")]
    publication: Option<String>,
    /// Columns of the key, instead of the primary key
    #[arg(long, value_delimiter = ',')]
    key_columns: Vec<String>,
    /// End after this many rows and truncates
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    /// Also print begin and commit of each transaction
    #[arg(long)]
    transactions: bool,
}

pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(create) => create.run(&session).await,
        Command::Get(get) => get.run(&session).await,
        Command::Wait(wait) => wait.run(&session).await,
        Command::List(list) => list.run(&session).await,
        Command::Delete(delete) => delete.run(&session).await,
        Command::Ack(ack) => ack.run(&session).await,
        Command::Subscribe(subscribe) => follow(&session, subscribe).await,
    }
}

async fn follow(session: &Session, subscribe: Subscribe) -> Result<(), Failure> {
    if let Some(stream) = &subscribe.stream {
        return tail::follow(session, &subscribe, stream).await;
    }
    let (instance, database) = source(session, &subscribe).await?;
    let publish = match subscribe.inserts_only {
        true => Publish::Inserts,
        false => Publish::Unspecified,
    };
    let on_change = match subscribe.on_change_follow {
        true => OnChange::Follow,
        false => OnChange::Unspecified,
    };
    let request = SubscribeRequest {
        publish: publish.into(),
        on_change: on_change.into(),
        instance,
        database,
        tables: subscribe
            .tables
            .iter()
            .flat_map(|text| split(text))
            .collect(),
        publication: subscribe.publication.clone().unwrap_or_default(),
        key_columns: subscribe.key_columns.clone(),
        ..SubscribeRequest::default()
    };
    let mut stream = session.client.subscribe(request).await?;
    let mut printer = Printer::new(session, &subscribe);
    while let Some(batch) = stream.message().await.map_err(crate::client::Error::from)? {
        if printer.batch(session, &batch)? {
            return Ok(());
        }
    }
    Ok(())
}

/// The instance, and the database's name in PostgreSQL, from one argument or two.
async fn source(session: &Session, subscribe: &Subscribe) -> Result<(String, String), Failure> {
    let text = subscribe.instance.as_deref().unwrap_or_default();
    if let Some(database) = &subscribe.database {
        return Ok((session.names.instance(text)?, database.clone()));
    }
    let name = session.names.database(text)?;
    let instance = name
        .split("/databases/")
        .next()
        .unwrap_or_default()
        .to_owned();
    let database = session
        .client
        .get_database(GetDatabaseRequest { name })
        .await?;
    Ok((instance, database.postgresql_name))
}

/// Splits `text` at commas outside of double quotes.
fn split(text: &str) -> Vec<String> {
    let mut quoted = false;
    let parts = text.split(|character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    let parts = parts.map(|part| part.trim().to_owned());
    parts.filter(|part| !part.is_empty()).collect()
}

/// Numbers the events of a batch in their transactions.
struct Ordinals {
    next: u64,
    /// Whether an event with an ordinal has come.
    counted: bool,
}

impl Ordinals {
    fn of(batch: &ChangeBatch) -> Self {
        Self {
            next: batch.first_ordinal,
            counted: false,
        }
    }

    /// The ordinal of the next event of the batch; 0 for one without.
    fn next(&mut self, event: &Event) -> u64 {
        let counts = match event {
            Event::Begin(_) => {
                if self.counted {
                    self.next = 1;
                }
                false
            }
            Event::Row(_) | Event::Truncate(_) => true,
            Event::Message(message) => message.transactional,
            Event::Fragment(fragment) => fragment.last,
            Event::Schema(_) | Event::Commit(_) | Event::Marker(_) => false,
        };
        match counts {
            true => {
                self.counted = true;
                self.next += 1;
                self.next - 1
            }
            false => 0,
        }
    }
}

/// Prints events and counts them.
struct Printer {
    tables: Tables,
    output: Output,
    transactions: bool,
    left: Option<u64>,
    greeted: bool,
    oldest: Option<WaitingFor>,
    lines: String,
}

impl Printer {
    fn new(session: &Session, subscribe: &Subscribe) -> Self {
        Self {
            tables: Tables::default(),
            output: session.output,
            transactions: subscribe.transactions,
            left: subscribe.count,
            greeted: false,
            oldest: None,
            lines: String::new(),
        }
    }

    /// Reports what the slot waits for, and then that the subscription has begun.
    fn greet(&mut self, session: &Session, batch: &ChangeBatch) {
        if self.greeted {
            return;
        }
        let Some(oldest) = batch.waiting_for.first() else {
            self.greeted = true;
            session.hint("subscribed: changes that are committed from now on are printed");
            return;
        };
        // Only the oldest transaction counts. On a busy server younger ones come and go.
        if self.oldest.as_ref() != Some(oldest) {
            self.oldest = Some(oldest.clone());
            session.hint(&text::waiting(oldest, batch.waiting_for.len()));
        }
    }

    /// Prints an event. Returns `true` if it was the last one requested.
    fn print(&mut self, event: &Event, ordinal: u64) -> Result<bool, Failure> {
        let record = self.tables.read(event, ordinal);
        if !self.transactions && matches!(event, Event::Begin(_) | Event::Commit(_)) {
            return Ok(false);
        }
        if let Some(record) = record {
            let line = match self.output {
                Output::Json => record.to_string(),
                Output::Yaml => format!("---\n{}", data(&record, Output::Yaml)?),
                _ => text::line(&record),
            };
            self.lines.push_str(&line);
            self.lines.push('\n');
        }
        let counts = matches!(event, Event::Row(_) | Event::Truncate(_));
        if let Some(left) = self.left.as_mut().filter(|_| counts) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.flush()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Prints a batch; true when its last event was the last one wanted.
    fn batch(&mut self, session: &Session, batch: &ChangeBatch) -> Result<bool, Failure> {
        self.greet(session, batch);
        let mut ordinals = Ordinals::of(batch);
        for event in batch.changes.iter().filter_map(|it| it.event.as_ref()) {
            if self.print(event, ordinals.next(event))? {
                return Ok(true);
            }
        }
        // One write for a batch: readers of the output never see half a line.
        self.flush()?;
        Ok(false)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(self.lines.as_bytes())?;
        stdout.flush()?;
        self.lines.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_inside_quotes_do_not_part() {
        assert_eq!(
            split(r#"a, "b,c"."d""e,",f,"#),
            ["a", r#""b,c"."d""e,""#, "f"]
        );
    }
}
