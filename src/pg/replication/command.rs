//! The text of replication commands in the syntax of each major version.

use crate::pg::Lsn;
use crate::pg::sql::quote_identifier;

/// What is done with the snapshot of a new slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snapshot {
    /// It is dropped.
    #[default]
    Nothing,
    /// It is exported under a name. It is valid until the connection's next command or its
    /// end.
    Export,
}

/// How a slot is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotOptions {
    /// Dropped when the connection ends.
    pub temporary: bool,
    /// Its snapshot.
    pub snapshot: Snapshot,
    /// PREPARE TRANSACTION is decoded when it happens; cannot be undone.
    pub two_phase: bool,
    /// Synced to standbys (17 and later; ignored before).
    pub failover: bool,
}

/// Whether transactions are streamed before they commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// Only after the commit.
    #[default]
    Off,
    /// Large ones before the commit (protocol 2, server 14).
    On,
    /// As `On`, and aborts include their LSN and time (protocol 4, server 16).
    Parallel,
}

/// Which transactions are streamed, by their origin (server 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// All.
    #[default]
    Any,
    /// Those without an origin: they were made on this server.
    Local,
}

/// How a stream is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOptions {
    /// The slot.
    pub slot: String,
    /// Where to start. A position below the slot's confirmed position is silently replaced by that
    /// one by the server.
    pub start: Lsn,
    /// pgoutput's protocol, 1 to 4.
    pub protocol: u8,
    /// The publications.
    pub publications: Vec<String>,
    /// Whether messages of `pg_logical_emit_message` are streamed.
    pub messages: bool,
    /// Whether values are sent in binary where their type supports it.
    pub binary: bool,
    /// Whether transactions are streamed before they commit.
    pub streaming: Streaming,
    /// Whether a transaction is streamed at its PREPARE TRANSACTION (protocol 3).
    pub two_phase: bool,
    /// Which transactions are streamed. The option is sent only if it is not `Any`.
    pub origins: Origins,
}

/// In the replication grammar's literals a backslash has no special meaning.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(super) fn create_slot(name: &str, options: &SlotOptions, major: u32) -> String {
    let temporary = if options.temporary { " TEMPORARY" } else { "" };
    let mut list = Vec::new();
    if major >= 15 {
        list.push(match options.snapshot {
            Snapshot::Nothing => "SNAPSHOT 'nothing'",
            Snapshot::Export => "SNAPSHOT 'export'",
        });
    } else {
        list.push(match options.snapshot {
            Snapshot::Nothing => "NOEXPORT_SNAPSHOT",
            Snapshot::Export => "EXPORT_SNAPSHOT",
        });
    }
    if options.two_phase {
        list.push("TWO_PHASE");
    }
    if options.failover && major >= 17 {
        list.push("FAILOVER");
    }
    let list = match major >= 15 {
        true => format!("({})", list.join(", ")),
        false => list.join(" "),
    };
    let name = quote_identifier(name);
    format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL pgoutput {list}")
}

pub(super) fn drop_slot(name: &str, wait: bool) -> String {
    let wait = if wait { " WAIT" } else { "" };
    format!("DROP_REPLICATION_SLOT {}{wait}", quote_identifier(name))
}

pub(super) fn start(options: &StartOptions) -> String {
    let names: Vec<_> = options
        .publications
        .iter()
        .map(|p| quote_identifier(p))
        .collect();
    let mut list = vec![
        format!("proto_version '{}'", options.protocol),
        format!("publication_names {}", literal(&names.join(","))),
    ];
    let mut on = |given: bool, option: &str| {
        if given {
            list.push(option.to_owned());
        }
    };
    on(options.messages, "messages 'true'");
    on(options.binary, "binary 'true'");
    on(options.streaming == Streaming::On, "streaming 'on'");
    on(
        options.streaming == Streaming::Parallel,
        "streaming 'parallel'",
    );
    on(options.two_phase, "two_phase 'on'");
    on(options.origins == Origins::Local, "origin 'none'");
    let slot = quote_identifier(&options.slot);
    format!(
        "START_REPLICATION SLOT {slot} LOGICAL {} ({})",
        options.start,
        list.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_made_in_each_version_s_words() {
        let mut options = SlotOptions {
            temporary: true,
            failover: true,
            ..Default::default()
        };
        assert_eq!(
            create_slot("a", &options, 14),
            r#"CREATE_REPLICATION_SLOT "a" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT"#
        );
        assert_eq!(
            create_slot("a", &options, 15),
            r#"CREATE_REPLICATION_SLOT "a" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"#
        );
        options = SlotOptions {
            two_phase: true,
            failover: true,
            ..Default::default()
        };
        assert_eq!(
            create_slot("a", &options, 17),
            r#"CREATE_REPLICATION_SLOT "a" LOGICAL pgoutput (SNAPSHOT 'nothing', TWO_PHASE, FAILOVER)"#
        );
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        let options = StartOptions {
            slot: "s".into(),
            start: Lsn::new(0x1_0000_0002),
            protocol: 2,
            publications: vec!["a'b".into(), "c\"d".into()],
            messages: true,
            binary: false,
            streaming: Streaming::On,
            two_phase: false,
            origins: Origins::Any,
        };
        assert_eq!(
            start(&options),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/2 (proto_version '2', \
             publication_names '\"a''b\",\"c\"\"d\"', messages 'true', streaming 'on')"
        );
    }
}
