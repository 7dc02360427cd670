//! `howdah.v1.AuditService`.

use tonic::{Request, Response, Status, async_trait};

use super::{admit::admit, convert::audit};
use crate::{
    app::{self, List},
    pb::v1::{self, audit_service_server::AuditService},
};

/// The service for these use cases.
#[derive(Clone)]
pub struct Audit(pub app::Audit);

#[async_trait]
impl AuditService for Audit {
    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        let request = admit(request)?.message;
        let list = List {
            page_size: request.page_size,
            page_token: request.page_token,
            filter: request.filter,
            ..List::default()
        };
        let parent = request.parent.parse()?;
        let page = self.0.list(&parent, list).await?;
        Ok(Response::new(v1::ListAuditRecordsResponse {
            audit_records: page.items.into_iter().map(audit::to_wire).collect(),
            next_page_token: page.next_page_token,
        }))
    }
}
