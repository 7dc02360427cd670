//! The audit: who has changed something, and who has read a secret.
//!
//! A record is written in the transaction of the change, so there is never one without the
//! other.

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

/// The caller of a request, and the request itself.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Authenticated caller.
    pub principal: Principal,
    /// Address of the caller, or the user of a Unix socket.
    pub peer: String,
    /// Full method name, `howdah.v1.InstanceService/CreateInstance`.
    pub method: Arc<str>,
    /// Id of the trace that the call belongs to.
    pub trace: String,
    /// The request as text, bounded and without secrets.
    pub asked: String,
}

impl Origin {
    /// The origin of changes that Howdah makes by itself.
    pub(super) fn own(method: &'static str) -> Self {
        Self {
            principal: Principal::Howdah,
            peer: String::new(),
            method: method.into(),
            trace: String::new(),
            asked: String::new(),
        }
    }

    /// The audit record of an effect on a resource.
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

/// Access to the audit records. Cheap to clone.
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

/// Unique id of the record of a repeated effect, such as a read. It is the same for an hour, a
/// principal, an address and a resource. So the audit does not grow with the number of reads.
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
        // The lengths make the bytes unambiguous.
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
