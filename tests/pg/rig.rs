//! A database with a stream, and the stream's messages as text.

use std::collections::HashSet;
use std::time::Duration;

use howdah::pg::pgoutput::{Decoder, Message, Old, PrepareKind, Tuple, Value};
use howdah::pg::replication::{
    Connection, Item, Limits, Options, ReplicationStream, SlotOptions, StartOptions, Streaming,
};
use howdah::pg::{Client, Error, Lsn, Target};

use crate::support::postgres::{LIMIT, Server};

/// A database with a table and a publication of everything.
pub struct Rig<'a> {
    pub server: &'a Server,
    pub database: String,
    pub sql: Client,
}

impl Rig<'_> {
    pub async fn new(server: &Server) -> Rig<'_> {
        let database = server.fresh_database().await;
        let sql = server.client(&database).await;
        let rig = Rig {
            server,
            database,
            sql,
        };
        rig.run(
            "create table t (id int primary key, v text);
             create publication p for all tables",
        )
        .await;
        rig
    }

    pub async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap();
    }

    pub async fn connect(&self, target: &Target, timeout: Duration) -> Connection {
        let options = Options {
            wal_sender_timeout: timeout,
            ..Options::default()
        };
        let login = self.server.login(&self.database);
        Connection::connect(target, &login, options, LIMIT)
            .await
            .unwrap()
    }

    /// A stream on a temporary slot.
    pub async fn stream(&self, limits: Limits, change: impl FnOnce(&mut StartOptions)) -> Stream {
        let connection = self
            .connect(&self.server.target(), Duration::from_secs(60))
            .await;
        self.stream_on(connection, limits, change).await
    }

    pub async fn stream_on(
        &self,
        mut connection: Connection,
        limits: Limits,
        change: impl FnOnce(&mut StartOptions),
    ) -> Stream {
        let slot = format!("tmp_{}", self.database);
        let mut options = start_options(&slot);
        change(&mut options);
        let temporary = SlotOptions {
            temporary: true,
            two_phase: options.two_phase,
            ..SlotOptions::default()
        };
        let created = connection.create_slot(&slot, &temporary);
        let created = tokio::time::timeout(LIMIT, created).await.unwrap().unwrap();
        assert_eq!(created.snapshot, None);
        let inner = connection.start(&options, limits).await.unwrap();
        Stream::new(inner)
    }

    pub async fn value(&self, sql: &str) -> String {
        let row = self.sql.query_one(sql, &[]).await.unwrap();
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }
}

/// From the start of the slot, everything of publication `p` as text.
pub fn start_options(slot: &str) -> StartOptions {
    StartOptions {
        slot: slot.into(),
        start: Lsn::ZERO,
        protocol: 1,
        publications: vec!["p".into()],
        messages: true,
        binary: false,
        streaming: Streaming::Off,
        two_phase: false,
        origins: Default::default(),
    }
}

pub struct Stream {
    pub inner: ReplicationStream,
    pub decoder: Decoder,
    described: HashSet<String>,
}

impl Stream {
    pub fn new(inner: ReplicationStream) -> Self {
        Self {
            inner,
            decoder: Decoder::new(),
            described: HashSet::new(),
        }
    }

    /// Shows each message to `look` until it says stop.
    pub async fn until(&mut self, mut look: impl FnMut(Message<'_>) -> bool) {
        let work = async {
            loop {
                let segment = self.inner.next().await.unwrap().unwrap();
                for item in segment.items() {
                    let Item::Data(data) = item else { continue };
                    if look(self.decoder.decode(data.payload).unwrap()) {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(LIMIT, work).await.unwrap();
    }

    /// The messages of the next `commits` transactions, as text.
    pub async fn told(&mut self, commits: usize) -> Vec<String> {
        let mut left = commits;
        self.told_until(|message| {
            left -= usize::from(matches!(
                message,
                Message::Commit(_)
                    | Message::StreamCommit { .. }
                    | Message::Prepared(PrepareKind::Commit, _)
            ));
            left == 0
        })
        .await
    }

    /// The messages up to the one that says stop, as text. The shape of a table is
    /// told once: the server may send it again whenever its caches were reset, which
    /// activity in other databases can cause.
    pub async fn told_until(&mut self, mut stop: impl FnMut(&Message<'_>) -> bool) -> Vec<String> {
        let mut told = Vec::new();
        let mut described = std::mem::take(&mut self.described);
        self.until(|message| {
            let text = tell(&message);
            let is_new = |text: &String| {
                !matches!(message, Message::Relation(_)) || described.insert(text.clone())
            };
            told.extend(text.filter(is_new));
            stop(&message)
        })
        .await;
        self.described = described;
        told
    }

    /// The error that ends it; what comes before is passed by.
    pub async fn end(&mut self) -> Error {
        let work = async {
            loop {
                match self.inner.next().await.unwrap() {
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        };
        tokio::time::timeout(LIMIT, work).await.unwrap()
    }
}

fn tell(message: &Message<'_>) -> Option<String> {
    let values = |tuple: &Tuple<'_>| {
        let one = |v| match v {
            Value::Null => "-".to_owned(),
            Value::Unchanged => "unchanged".to_owned(),
            Value::Text(t) => String::from_utf8_lossy(t).chars().take(40).collect(),
            Value::Binary(b) => format!("{b:x?}"),
        };
        tuple.values().map(one).collect::<Vec<_>>().join(",")
    };
    let old = |old: &Old<'_>| match old {
        Old::Key(t) => format!("key({})", values(t)),
        Old::Full(t) => format!("full({})", values(t)),
    };
    Some(match message {
        Message::Relation(r) => {
            let columns: Vec<_> = r.columns().map(|c| c.name.to_string()).collect();
            format!("relation {}.{}({})", r.schema, r.name, columns.join(","))
        }
        Message::Insert(i) => format!("insert {}", values(&i.new)),
        Message::Update(u) => {
            let old = u.old.as_ref().map(old).unwrap_or_default();
            format!("update {old}->{}", values(&u.new))
        }
        Message::Delete(d) => format!("delete {}", old(&d.old)),
        Message::Truncate(t) => format!(
            "truncate {} cascade={} restart={}",
            t.relations().count(),
            t.cascade,
            t.restart_identity
        ),
        Message::Logical(m) => {
            let content = String::from_utf8_lossy(m.content);
            format!("message {} {content} {}", m.prefix, m.transactional)
        }
        Message::Prepared(kind, p) => format!("{kind:?} {}", p.gid),
        Message::RollbackPrepared(p) => format!("rollback {}", p.gid),
        _ => return None,
    })
}
