//! Change streams for people.

use super::changes;
use crate::{
    cli::{
        arguments::Output,
        names::Names,
        output::{Sheet, age, time, yes},
        resource::Resource,
        watch::Named,
    },
    client::{self, Client},
    domain::Reason,
    pb::v1::{
        ChangeStream, GetChangeStreamRequest,
        change_stream::{Progress, State},
        condition::Status,
    },
};

impl Named for ChangeStream {
    const TYPE: &'static str = "howdah.v1.ChangeStream";

    fn name(&self) -> &str {
        &self.name
    }

    fn state_name(&self) -> &'static str {
        self.state().as_str_name()
    }

    fn reconciling(&self) -> bool {
        matches!(self.state(), State::Creating | State::Deleting)
    }

    /// A condition of one that is READY takes nothing from that.
    fn trouble(&self) -> String {
        match self.state() {
            State::Lost => observed(self),
            _ => String::new(),
        }
    }
}

impl Resource for ChangeStream {
    const WORD: &'static str = "change stream";

    const NOT_FOUND: Reason = Reason::ChangeStreamNotFound;

    async fn get(client: &Client, name: String) -> client::Result<Self> {
        client
            .get_change_stream(GetChangeStreamRequest { name })
            .await
    }

    fn sheet(&self, names: &Names) -> Sheet {
        sheet(self, names)
    }

    fn rows(items: &[Self], names: &Names, output: Output) -> Sheet {
        rows(items, names, output)
    }
}

/// Several change streams.
pub(super) fn rows(streams: &[ChangeStream], names: &Names, output: Output) -> Sheet {
    let row = |stream: &ChangeStream| {
        [
            names.short(&stream.name),
            stream.database.clone(),
            follows(stream),
            stream.state().as_str_name().to_owned(),
            age(stream.create_time.as_ref()),
        ]
    };
    if output != Output::Wide {
        let header = ["NAME", "DATABASE", "FOLLOWS", "STATE", "AGE"];
        return Sheet::rows(header, streams.iter().map(row));
    }
    let wide = |stream: &ChangeStream| {
        let [name, database, follows, state, age] = row(stream);
        let created = time(stream.create_time.as_ref());
        let (slot, uid) = (stream.slot.clone(), stream.uid.clone());
        let trouble = observed(stream);
        [
            name, database, follows, state, age, created, slot, trouble, uid,
        ]
    };
    let header = [
        "NAME", "DATABASE", "FOLLOWS", "STATE", "AGE", "CREATED", "SLOT", "OBSERVED", "UID",
    ];
    Sheet::rows(header, streams.iter().map(wide))
}

/// The messages of the conditions that hold.
fn observed(stream: &ChangeStream) -> String {
    let conditions = stream.conditions.iter();
    let held = conditions.filter(|condition| condition.status() == Status::True);
    let messages: Vec<&str> = held.map(|condition| condition.message.as_str()).collect();
    messages.join("; ")
}

/// The first table, and how many more.
fn follows(stream: &ChangeStream) -> String {
    match (stream.tables.first(), stream.tables.len()) {
        (None, _) => format!("publication {}", stream.publication),
        (Some(table), 1) => table.clone(),
        (Some(table), all) => format!("{table} and {} more", all - 1),
    }
}

fn sheet(stream: &ChangeStream, names: &Names) -> Sheet {
    let bound = match stream.max_retained_bytes {
        0 => String::new(),
        bytes => bytes.to_string(),
    };
    let fields = [
        ("name", names.short(&stream.name)),
        ("state", stream.state().as_str_name().to_owned()),
        ("database", stream.database.clone()),
        ("tables", stream.tables.join(", ")),
        ("publication", stream.publication.clone()),
        ("publish", stream.publish().as_str_name().to_owned()),
        ("on change", stream.on_change().as_str_name().to_owned()),
        ("slot", stream.slot.clone()),
        ("slot adopted", yes(stream.slot_adopted)),
        ("may retain", bound),
        ("dropped above", yes(stream.drop_when_exceeded)),
        ("observed", observed(stream)),
        ("uid", stream.uid.clone()),
        ("etag", stream.etag.clone()),
        ("created", time(stream.create_time.as_ref())),
        ("updated", time(stream.update_time.as_ref())),
    ];
    let progress = stream.progress.iter().flat_map(progress);
    let all = fields.into_iter().chain(progress);
    Sheet::fields(all.map(|(name, value)| (name.to_owned(), value)))
}

/// How far it is, from the newest position to the oldest.
fn progress(progress: &Progress) -> Vec<(&'static str, String)> {
    let lsn = |position| match position {
        0 => String::new(),
        position => changes::lsn(position),
    };
    let safe = match progress.safe_bytes {
        -1 => "no bound".to_owned(),
        bytes => bytes.to_string(),
    };
    vec![
        ("end of log", lsn(progress.wal_end)),
        ("sent", lsn(progress.sent)),
        ("received", lsn(progress.received)),
        ("delivered", lsn(progress.delivered)),
        ("acknowledged", lsn(progress.acknowledged)),
        ("confirmed", lsn(progress.confirmed)),
        ("retained from", lsn(progress.restart)),
        ("lag in bytes", progress.lag_bytes.to_string()),
        ("retained bytes", progress.retained_bytes.to_string()),
        ("safe bytes", safe),
        ("WAL status", progress.wal_status.clone()),
        ("has a subscriber", yes(progress.active)),
        ("inactive since", time(progress.inactive_since.as_ref())),
    ]
}
