//! Accepted requests, so that a repeated request finds the operation of the first one.

use uuid::Uuid;

use super::{Store, Tx, fault::Measured};
use crate::domain::{Error, Reason, Result};

/// What identifies a repeated mutation.
#[derive(Clone, Debug)]
pub struct RequestKey {
    /// Principal that sent it.
    pub principal: String,
    /// Full method name.
    pub method: String,
    /// The id that the caller gave to the request.
    pub request_id: Uuid,
    /// Hash of the request's contents.
    pub fingerprint: Vec<u8>,
}

impl Tx {
    /// Records that this request has created `operation`. If it was recorded before, returns the
    /// operation that it created then. Waits while another transaction accepts the same request.
    ///
    /// # Errors
    /// REQUEST_ID_REUSED when the id was used with other content;
    /// METADATA_UNAVAILABLE.
    pub async fn claim_request(
        &mut self,
        key: &RequestKey,
        operation: Uuid,
    ) -> Result<Option<Uuid>> {
        let inserted = sqlx::query!(
            "insert into requests (principal, method, request_id, fingerprint, operation_id)
             values ($1, $2, $3, $4, $5) on conflict do nothing",
            key.principal,
            key.method,
            key.request_id,
            key.fingerprint,
            operation,
        )
        .execute(self.connection())
        .named("requests.claim_request")
        .await?;
        if inserted.rows_affected() == 1 {
            return Ok(None);
        }
        let former = sqlx::query!(
            "select fingerprint, operation_id from requests
             where principal = $1 and method = $2 and request_id = $3",
            key.principal,
            key.method,
            key.request_id,
        )
        .fetch_one(self.connection())
        .named("requests.claim_request")
        .await?;
        if former.fingerprint != key.fingerprint {
            let message = "the request id was used before with other content";
            return Err(Error::new(Reason::RequestIdReused, message).with_field("request_id"));
        }
        Ok(Some(former.operation_id))
    }
}

impl Store {
    /// The operation that this request has created; none if it was not recorded.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn former_operation(&self, key: &RequestKey) -> Result<Option<Uuid>> {
        sqlx::query_scalar!(
            "select operation_id from requests where principal = $1 and method = $2
             and request_id = $3 and fingerprint = $4",
            key.principal,
            key.method,
            key.request_id,
            key.fingerprint,
        )
        .fetch_optional(&self.pool)
        .named("requests.former_operation")
        .await
    }

    /// Deletes the records of requests older than `seconds`, at most a thousand.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    pub async fn forget_requests(&self, seconds: f64) -> Result<u64> {
        let deleted = sqlx::query!(
            "delete from requests where (principal, method, request_id) in (
                select principal, method, request_id from requests
                where create_time < now() - make_interval(secs => $1) limit 1000)",
            seconds,
        )
        .execute(&self.pool)
        .named("requests.forget_requests")
        .await?;
        Ok(deleted.rows_affected())
    }
}
