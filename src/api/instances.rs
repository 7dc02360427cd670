//! `howdah.v1.InstanceService`.

use tonic::{Request, Response, async_trait};

use super::{
    admit::admit,
    answer::{Answer, answer},
    convert::instance,
};
use crate::{
    app::{self, ChangeInstance, DeleteInstance, List},
    domain::{name::ProjectName, server_log::Begin},
    pb::{
        google::longrunning::Operation,
        v1::{self, instance_service_server::InstanceService},
    },
};

/// The service for these use cases.
#[derive(Clone)]
pub struct Instances {
    /// Use cases of instances.
    pub instances: app::Instances,
    /// The installed PostgreSQL versions.
    pub engines: app::Engines,
    /// The logs of their servers.
    pub logs: app::Logs,
}

/// Handles a change whose request has only a name and an etag.
macro_rules! change {
    ($self:ident, $request:ident, $use_case:ident) => {{
        let mut admitted = admit($request)?;
        let mutation = admitted.mutation()?;
        let request = admitted.message;
        let change = ChangeInstance {
            name: request.name.parse()?,
            etag: request.etag,
        };
        answer($self.instances.$use_case(mutation, change).await)
    }};
}

#[async_trait]
impl InstanceService for Instances {
    async fn create_instance(
        &self,
        request: Request<v1::CreateInstanceRequest>,
    ) -> Answer<Operation> {
        let mut admitted = admit(request)?;
        let mutation = admitted.mutation()?;
        let new = instance::create(admitted.message)?;
        answer(self.instances.create(mutation, new).await)
    }

    async fn get_instance(&self, request: Request<v1::GetInstanceRequest>) -> Answer<v1::Instance> {
        let name = admit(request)?.message.name.parse()?;
        Ok(Response::new(instance::recorded_to_wire(
            self.instances.get(&name).await?,
        )))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        let request = admit(request)?.message;
        let list = List {
            page_size: request.page_size,
            page_token: request.page_token,
            filter: request.filter,
            order_by: request.order_by,
            show_deleted: request.show_deleted,
        };
        let page = self.instances.list(&request.parent.parse()?, list).await?;
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
        let mut admitted = admit(request)?;
        let mutation = admitted.mutation()?;
        let request = admitted.message;
        let delete = DeleteInstance {
            name: request.name.parse()?,
            etag: request.etag,
            force: request.force,
            purge: request.purge,
        };
        answer(self.instances.delete(mutation, delete).await)
    }

    async fn undelete_instance(
        &self,
        request: Request<v1::UndeleteInstanceRequest>,
    ) -> Answer<Operation> {
        change!(self, request, undelete)
    }

    async fn start_instance(
        &self,
        request: Request<v1::StartInstanceRequest>,
    ) -> Answer<Operation> {
        change!(self, request, start)
    }

    async fn stop_instance(&self, request: Request<v1::StopInstanceRequest>) -> Answer<Operation> {
        change!(self, request, stop)
    }

    async fn restart_instance(
        &self,
        request: Request<v1::RestartInstanceRequest>,
    ) -> Answer<Operation> {
        change!(self, request, restart)
    }

    async fn read_instance_log(
        &self,
        request: Request<v1::ReadInstanceLogRequest>,
    ) -> Answer<v1::ReadInstanceLogResponse> {
        let admitted = admit(request)?;
        let origin = admitted.origin()?;
        let request = &admitted.message;
        let name = request.name.parse()?;
        let begin = match request.position.as_str() {
            "" => Begin::Last(instance::log_lines(request.line_count)),
            position => Begin::At(position.parse()?),
        };
        let part = self.logs.read(&origin, &name, begin).await?;
        Ok(Response::new(v1::ReadInstanceLogResponse {
            lines: part.lines,
            next_position: part.next.to_string(),
        }))
    }

    async fn list_engines(
        &self,
        request: Request<v1::ListEnginesRequest>,
    ) -> Answer<v1::ListEnginesResponse> {
        let _: ProjectName = admit(request)?.message.parent.parse()?;
        let engines = self.engines.list().await?;
        Ok(Response::new(v1::ListEnginesResponse {
            engines: engines.iter().map(instance::engine_to_wire).collect(),
        }))
    }
}
