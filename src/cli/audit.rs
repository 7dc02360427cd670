//! `howdah audit`.

use std::io::{self, Write as _};

use clap::{Args, Subcommand};

use super::{
    exit::Failure,
    names::Names,
    output::{Sheet, time},
    session::Session,
};
use crate::pb::v1::{AuditRecord, ListAuditRecordsRequest, ListAuditRecordsResponse};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what was done, newest first
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Filter, such as 'effect = SECRET AND principal = "uid:1000"'; ':' looks for a part, as
    /// in 'resource : orders'
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,
    /// Most records to list
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

pub(super) async fn run(session: Session, command: Command) -> Result<(), Failure> {
    let Command::List(list) = command;
    let request = ListAuditRecordsRequest {
        parent: session.names.project(),
        page_size: i32::try_from(list.limit).unwrap_or(i32::MAX),
        filter: list.filter,
        ..ListAuditRecordsRequest::default()
    };
    let found = session
        .client
        .all_audit_records(request, list.limit)
        .await?;
    let found = ListAuditRecordsResponse {
        audit_records: found,
        next_page_token: String::new(),
    };
    if session.prints_names() {
        let uids = found.audit_records.iter().map(|record| record.uid.as_str());
        let uids: Vec<&str> = uids.collect();
        return Ok(writeln!(io::stdout(), "{}", uids.join("\n"))?);
    }
    session.print("howdah.v1.ListAuditRecordsResponse", &found, rows)
}

fn rows(found: &ListAuditRecordsResponse, names: &Names) -> Sheet {
    let row = |record: &AuditRecord| {
        let method = record.method.rsplit('/').next().unwrap_or_default();
        [
            time(record.create_time.as_ref()),
            record.principal.clone(),
            record.peer.clone(),
            method.to_owned(),
            names.short(&record.resource),
            record.result.clone(),
            record.count.to_string(),
            time(record.last_time.as_ref()),
        ]
    };
    let header = [
        "TIME",
        "PRINCIPAL",
        "PEER",
        "METHOD",
        "RESOURCE",
        "RESULT",
        "COUNT",
        "LAST",
    ];
    Sheet::rows(header, found.audit_records.iter().map(row))
}
