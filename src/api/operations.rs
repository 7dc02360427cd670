//! `google.longrunning.Operations`.

use std::time::Duration;

use tonic::{Request, Response, async_trait};

use super::{
    admit::{admit, admit_operation, collection_parent},
    answer::Answer,
    convert::{self, operation::to_wire},
};
use crate::{
    app::{self, ListOperations},
    domain::{
        Result as DomainResult,
        name::OperationName,
        operation::{Outcome, Response as OperationResponse},
    },
    pb::google::longrunning::{
        CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
        ListOperationsResponse, Operation, WaitOperationRequest,
        operations_server::Operations as OperationsService,
    },
};

/// Longest wait of one call. A client that wants to wait longer calls again.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Encodes the response of an operation, which is stored.
///
/// # Errors
/// INTERNAL when the message has a field for secrets.
pub fn encode(outcome: Outcome) -> DomainResult<OperationResponse> {
    convert::operation::encode(outcome)
}

/// The service for these use cases.
#[derive(Clone)]
pub struct Operations(pub app::Operations);

#[async_trait]
impl OperationsService for Operations {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Answer<ListOperationsResponse> {
        let request = admit(request)?.message;
        let parent = collection_parent(&request.name).parse()?;
        let list = ListOperations {
            page_size: request.page_size,
            page_token: request.page_token,
            filter: request.filter,
        };
        let page = self.0.list(&parent, list).await?;
        Ok(Response::new(ListOperationsResponse {
            operations: page.items.into_iter().map(to_wire).collect(),
            next_page_token: page.next_page_token,
            ..ListOperationsResponse::default()
        }))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        let admitted = admit_operation(&self.0, request).await?;
        let name: OperationName = admitted.message.name.parse()?;
        Ok(Response::new(to_wire(self.0.get(&name).await?)))
    }

    async fn delete_operation(&self, request: Request<DeleteOperationRequest>) -> Answer<()> {
        let admitted = admit_operation(&self.0, request).await?;
        let origin = admitted.origin()?;
        let name: OperationName = admitted.message.name.parse()?;
        self.0.delete(origin, &name).await?;
        Ok(Response::new(()))
    }

    async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Answer<()> {
        let admitted = admit_operation(&self.0, request).await?;
        let origin = admitted.origin()?;
        let name: OperationName = admitted.message.name.parse()?;
        self.0.cancel(origin, &name).await?;
        Ok(Response::new(()))
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Answer<Operation> {
        let request = admit_operation(&self.0, request).await?.message;
        let name: OperationName = request.name.parse()?;
        let asked = request
            .timeout
            .map(|timeout| convert::duration(timeout).unwrap_or_default());
        let limit = asked.unwrap_or(MAX_WAIT).min(MAX_WAIT);
        Ok(Response::new(to_wire(self.0.wait(&name, limit).await?)))
    }
}
