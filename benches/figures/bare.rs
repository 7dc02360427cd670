//! The bare alternative: a tonic handler that runs the same query through sqlx, with
//! tonic's own server and no layer.

use std::str::FromStr;

use howdah::{
    domain::{
        instance::Instance as Record,
        list::Order,
        name::{InstanceName, ProjectName},
    },
    pb::{
        google::longrunning::Operation,
        v1::{
            Condition, CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest, Instance,
            ListEnginesRequest, ListEnginesResponse, ListInstancesRequest, ListInstancesResponse,
            RestartInstanceRequest, Server, StartInstanceRequest, StopInstanceRequest,
            UndeleteInstanceRequest,
            instance_service_server::{InstanceService, InstanceServiceServer},
        },
    },
    store::{Settings, Store, instances::Slice},
};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, async_trait, transport::server::TcpIncoming};

struct Bare(Store);

type Answer<T> = Result<Response<T>, Status>;

fn failed(error: impl ToString) -> Status {
    Status::unknown(error.to_string())
}

/// All that is in the record: an answer as long as Howdah's.
fn message(record: Record) -> Instance {
    let servers: Vec<Server> = record
        .servers
        .iter()
        .map(|server| Server {
            name: format!("{}/servers/{}", record.name, server.number),
            uid: server.uid.to_string(),
            version: server.version.to_string(),
            provider: server.provider.clone(),
            host: server.host.to_string(),
            system_identifier: server.system_identifier.unwrap_or_default(),
        })
        .collect();
    let conditions = record.conditions.into_iter().map(|condition| Condition {
        r#type: condition.kind,
        status: 1,
        reason: condition.reason,
        message: condition.message,
        time: Some(time(condition.time)),
    });
    Instance {
        conditions: conditions.collect(),
        name: record.name.to_string(),
        uid: record.uid.to_string(),
        labels: record.labels,
        annotations: record.annotations,
        display_name: record.display_name,
        create_time: Some(time(record.create_time)),
        update_time: Some(time(record.update_time)),
        state: 2,
        version: record.wanted.to_string(),
        server_version: servers[0].version.clone(),
        active_server: servers[0].name.clone(),
        servers,
        parameters: record.parameters,
        epoch: record.epoch,
        reconciling: record.reconciling,
        ..Instance::default()
    }
}

fn time(time: chrono::DateTime<chrono::Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: time.timestamp_subsec_nanos().try_into().unwrap(),
    }
}

#[async_trait]
impl InstanceService for Bare {
    async fn get_instance(&self, request: Request<GetInstanceRequest>) -> Answer<Instance> {
        let name = InstanceName::from_str(&request.get_ref().name).map_err(failed)?;
        Ok(Response::new(message(
            self.0.instance(&name).await.map_err(failed)?,
        )))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Answer<ListInstancesResponse> {
        let request = request.into_inner();
        let project = ProjectName::from_str(&request.parent).map_err(failed)?;
        let slice = Slice {
            order: Order::default(),
            after: None,
            limit: 51,
            show_deleted: false,
        };
        let records = self.0.instances(&project, slice).await.map_err(failed)?;
        let instances = records.into_iter().take(50).map(message).collect();
        Ok(Response::new(ListInstancesResponse {
            instances,
            ..Default::default()
        }))
    }

    async fn create_instance(&self, _: Request<CreateInstanceRequest>) -> Answer<Operation> {
        Err(failed("not compared"))
    }
    async fn delete_instance(&self, _: Request<DeleteInstanceRequest>) -> Answer<Operation> {
        Err(failed("not compared"))
    }
    async fn undelete_instance(&self, _: Request<UndeleteInstanceRequest>) -> Answer<Operation> {
        Err(failed("not compared"))
    }
    async fn start_instance(&self, _: Request<StartInstanceRequest>) -> Answer<Operation> {
        Err(failed("not compared"))
    }
    async fn stop_instance(&self, _: Request<StopInstanceRequest>) -> Answer<Operation> {
        Err(failed("not compared"))
    }
    async fn restart_instance(&self, _: Request<RestartInstanceRequest>) -> Answer<Operation> {
        Err(failed("not compared"))
    }
    async fn list_engines(&self, _: Request<ListEnginesRequest>) -> Answer<ListEnginesResponse> {
        Err(failed("not compared"))
    }
}

/// Serves on a free port, which it prints.
pub async fn serve(database_url: &str) {
    let options = PgConnectOptions::from_str(database_url).unwrap();
    let settings = Settings {
        max_connections: 10,
        acquire_timeout: std::time::Duration::from_secs(5),
    };
    let store = Store::new(options, settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    tonic::transport::Server::builder()
        .add_service(InstanceServiceServer::new(Bare(store)))
        // As `serve` would have it: without, answers wait for acknowledgements.
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .unwrap();
}
