//! `howdah.v1.InstanceService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    convert::{instance, mutation::mutation, operation},
    validate::check,
};
use crate::{
    app::{App, ChangeInstance, DeleteInstance, List},
    domain::{Error, name::ProjectName},
    pb::{
        google::longrunning::Operation,
        v1::{self, instance_service_server::InstanceService},
    },
};

/// The service over the use cases.
#[derive(Clone)]
pub struct Instances(pub App);

type Answer<T> = Result<Response<T>, Status>;

/// The mutation behind a request, whose id is left out of its hash.
macro_rules! mutation_of {
    ($request:ident, $method:literal) => {{
        let mut anonymous = $request.get_ref().clone();
        anonymous.request_id = String::new();
        let asked = $request.get_ref();
        mutation(
            $method,
            &$request,
            &asked.request_id,
            asked.validate_only,
            &anonymous,
        )
    }};
}
pub(super) use mutation_of;

/// A change of an instance that takes its name and etag alone.
macro_rules! change {
    ($self:ident, $request:ident, $use_case:ident, $method:literal) => {{
        check($request.get_ref())?;
        let mutation = mutation_of!($request, $method)?;
        let request = $request.into_inner();
        let change = ChangeInstance {
            name: request.name.parse()?,
            etag: request.etag,
        };
        answer($self.0.$use_case(mutation, change).await)
    }};
}

#[async_trait]
impl InstanceService for Instances {
    async fn create_instance(
        &self,
        request: Request<v1::CreateInstanceRequest>,
    ) -> Answer<Operation> {
        check(request.get_ref())?;
        let mutation = mutation_of!(request, "howdah.v1.InstanceService/CreateInstance")?;
        let new = instance::create(request.into_inner())?;
        answer(self.0.create_instance(mutation, new).await)
    }

    async fn get_instance(&self, request: Request<v1::GetInstanceRequest>) -> Answer<v1::Instance> {
        check(request.get_ref())?;
        let name = request.into_inner().name.parse()?;
        Ok(Response::new(instance::recorded_to_wire(
            self.0.instance(&name).await?,
        )))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        check(request.get_ref())?;
        let request = request.into_inner();
        let list = List {
            page_size: request.page_size,
            page_token: request.page_token,
            filter: request.filter,
            order_by: request.order_by,
            show_deleted: request.show_deleted,
        };
        let page = self
            .0
            .list_instances(&request.parent.parse()?, list)
            .await?;
        Ok(Response::new(v1::ListInstancesResponse {
            instances: page
                .items
                .into_iter()
                .map(instance::recorded_to_wire)
                .collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn delete_instance(
        &self,
        request: Request<v1::DeleteInstanceRequest>,
    ) -> Answer<Operation> {
        check(request.get_ref())?;
        let mutation = mutation_of!(request, "howdah.v1.InstanceService/DeleteInstance")?;
        let request = request.into_inner();
        let delete = DeleteInstance {
            name: request.name.parse()?,
            etag: request.etag,
            force: request.force,
            purge: request.purge,
        };
        answer(self.0.delete_instance(mutation, delete).await)
    }

    async fn undelete_instance(
        &self,
        request: Request<v1::UndeleteInstanceRequest>,
    ) -> Answer<Operation> {
        change!(
            self,
            request,
            undelete_instance,
            "howdah.v1.InstanceService/UndeleteInstance"
        )
    }

    async fn start_instance(
        &self,
        request: Request<v1::StartInstanceRequest>,
    ) -> Answer<Operation> {
        change!(
            self,
            request,
            start_instance,
            "howdah.v1.InstanceService/StartInstance"
        )
    }

    async fn stop_instance(&self, request: Request<v1::StopInstanceRequest>) -> Answer<Operation> {
        change!(
            self,
            request,
            stop_instance,
            "howdah.v1.InstanceService/StopInstance"
        )
    }

    async fn restart_instance(
        &self,
        request: Request<v1::RestartInstanceRequest>,
    ) -> Answer<Operation> {
        change!(
            self,
            request,
            restart_instance,
            "howdah.v1.InstanceService/RestartInstance"
        )
    }

    async fn list_engines(
        &self,
        request: Request<v1::ListEnginesRequest>,
    ) -> Answer<v1::ListEnginesResponse> {
        check(request.get_ref())?;
        let _: ProjectName = request.into_inner().parent.parse()?;
        let engines = self.0.engines().await?;
        Ok(Response::new(v1::ListEnginesResponse {
            engines: engines.iter().map(instance::engine_to_wire).collect(),
        }))
    }
}

/// The answer of every mutation.
pub(super) fn answer(
    operation: Result<crate::domain::operation::Operation, Error>,
) -> Answer<Operation> {
    Ok(Response::new(operation::to_wire(operation?)))
}
