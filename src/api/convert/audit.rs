//! Audit records.

use super::timestamp;
use crate::{
    domain::audit::AuditRecord,
    pb::v1::{self, audit_record::Effect},
};

/// Converts an audit record to its message.
pub(in crate::api) fn to_wire(record: AuditRecord) -> v1::AuditRecord {
    v1::AuditRecord {
        uid: record.uid.to_string(),
        create_time: Some(timestamp(record.create_time)),
        count: record.count,
        last_time: Some(timestamp(record.last_time)),
        effect: Effect::from_str_name(&record.effect)
            .unwrap_or(Effect::Unspecified)
            .into(),
        principal: record.principal,
        peer: record.peer,
        method: record.method,
        resource: record.resource,
        request_id: record.request_id,
        operation: record.operation,
        trace_id: record.trace_id,
        request: record.request,
        result: record.result,
    }
}
