//! The audit: who has changed what, and who has read which secret.
//!
//! A record is written in the transaction of the change, so that there is neither a change
//! without its record nor a record of what was not done.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use chrono::{DateTime, Utc};
use uuid::{Builder, Uuid};

use super::pages::{List, Listed, Page, Query};
use crate::{
    domain::{
        Error, Reason, Result,
        audit::{AuditRecord, Effect, Outcome},
        filter::{Fields, Filter, Type, Value},
        list::{Order, SortBy},
        name::{Id, ProjectName},
        principal::Principal,
    },
    store::{Store, audit::NewAuditRecord},
};

pub(super) const FIELDS: Fields = &[
    ("effect", Type::Word(&["MUTATION", "SECRET"])),
    ("principal", Type::Text),
    ("method", Type::Text),
    ("resource", Type::Text),
    ("request_id", Type::Text),
    ("operation", Type::Text),
    ("trace_id", Type::Text),
    ("result", Type::Word(&["ACCEPTED", "DONE", "HANDED_OUT"])),
    ("create_time", Type::Time),
    ("last_time", Type::Time),
];

/// Newest first.
const ORDER: Order = Order {
    by: SortBy::CreateTime,
    descending: true,
};

/// Where a request comes from, and what it asks for.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Who asks.
    pub principal: Principal,
    /// From where: an address, or the user of a Unix socket.
    pub peer: String,
    /// Full method name, `howdah.v1.InstanceService/CreateInstance`.
    pub method: Arc<str>,
    /// Trace that the call belongs to.
    pub trace: String,
    /// The request, bounded and without secrets.
    pub asked: String,
}

impl Origin {
    /// What Howdah does by itself.
    pub(super) fn own(method: &'static str) -> Self {
        Self {
            principal: Principal::Howdah,
            peer: String::new(),
            method: method.into(),
            trace: String::new(),
            asked: String::new(),
        }
    }

    /// The record of what was done to a resource.
    pub(super) fn record<'a>(
        &'a self,
        project: &'a Id,
        resource: &'a str,
        outcome: Outcome,
    ) -> NewAuditRecord<'a> {
        NewAuditRecord {
            project,
            effect: match outcome {
                Outcome::HandedOut => Effect::Secret,
                Outcome::Accepted | Outcome::Done => Effect::Mutation,
            },
            principal: self.principal.to_string(),
            peer: &self.peer,
            method: &self.method,
            resource,
            request_id: None,
            operation: None,
            trace_id: &self.trace,
            request: &self.asked,
            outcome,
        }
    }
}

/// The records of the audit. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    pub(super) store: Store,
}

impl Audit {
    /// Lists the records of a project, newest first.
    ///
    /// # Errors
    /// PAGE_SIZE_NEGATIVE, PAGE_TOKEN_INVALID, FILTER_INVALID.
    pub async fn list(&self, project: &ProjectName, list: List) -> Result<Page<AuditRecord>> {
        let filter = Filter::parse(&list.filter, FIELDS)?;
        let mut fields = filter.comparisons().iter().map(|it| it.field.as_str());
        if let Some(field) = fields.find(|field| field.starts_with("labels.")) {
            let message = format!("audit records have no labels, as `{field}` asks for");
            return Err(Error::new(Reason::FilterInvalid, message).with_field("filter"));
        }
        let query = Query::new(&format!("{project}/audit"), list, ORDER, filter)?;
        query.page(self.store.audit_records(project, query.slice()).await?)
    }
}

/// The unique id of the record of what is done again and again: one for each hour, who, from
/// where, and what. The audit grows by what is read by whom, and not by how often.
pub(super) fn repeated_uid(record: &NewAuditRecord<'_>, now: DateTime<Utc>) -> Uuid {
    let peer = record.peer.parse::<SocketAddr>();
    let peer = peer.map_or_else(|_| record.peer.to_owned(), |peer| peer.ip().to_string());
    let hour = now.timestamp().div_euclid(3600).to_string();
    let parts = [
        &hour,
        record.project.as_str(),
        record.method,
        record.resource,
        &record.principal,
        &peer,
    ];
    let mut context = Context::new(&SHA256);
    for part in parts {
        // With their lengths, no two lists of parts are the same bytes.
        context.update(&part.len().to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(context.finish().as_ref()) {
        *byte = *hashed;
    }
    Builder::from_custom_bytes(bytes).into_uuid()
}

impl Listed for AuditRecord {
    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        None
    }

    fn field(&self, name: &str) -> Option<Value> {
        let text = match name {
            "effect" => &self.effect,
            "principal" => &self.principal,
            "method" => &self.method,
            "resource" => &self.resource,
            "request_id" => &self.request_id,
            "operation" => &self.operation,
            "trace_id" => &self.trace_id,
            "result" => &self.result,
            "create_time" => return Some(Value::Time(self.create_time)),
            "last_time" => return Some(Value::Time(self.last_time)),
            _ => return None,
        };
        Some(Value::Text(text.clone()))
    }
}
