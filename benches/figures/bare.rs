//! The bare alternative: a tonic handler with a pool and queries of its own, as one would
//! write them for this table alone: sqlx's pool, tonic's own server, no layer.

use std::{collections::BTreeMap, str::FromStr};

use chrono::{DateTime, Utc};
use howdah::pb::{
    google::longrunning::Operation,
    v1::{
        Condition, CreateInstanceRequest, DeleteInstanceRequest, GetInstanceRequest, Instance,
        ListEnginesRequest, ListEnginesResponse, ListInstancesRequest, ListInstancesResponse,
        ReadInstanceLogRequest, ReadInstanceLogResponse, RestartInstanceRequest, Server,
        StartInstanceRequest, StopInstanceRequest, UndeleteInstanceRequest,
        instance_service_server::{InstanceService, InstanceServiceServer},
    },
};
use serde::Deserialize;
use sqlx::{
    FromRow, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
    types::{Json, Uuid},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, async_trait, transport::server::TcpIncoming};

struct Bare(PgPool);

/// An instance with its only server.
#[derive(FromRow)]
struct Record {
    uid: Uuid,
    project: String,
    id: String,
    display_name: String,
    labels: Json<BTreeMap<String, String>>,
    annotations: Json<BTreeMap<String, String>>,
    create_time: DateTime<Utc>,
    update_time: DateTime<Utc>,
    wanted_version: String,
    parameters: Json<BTreeMap<String, String>>,
    epoch: i64,
    conditions: Json<Vec<Noted>>,
    server_uid: Uuid,
    number: i32,
    provider: String,
    version: String,
    host: Uuid,
    system_identifier: Option<String>,
}

#[derive(Deserialize)]
struct Noted {
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    message: String,
    time: DateTime<Utc>,
}

const SELECT: &str = "select i.uid, i.project, i.id, i.display_name, i.labels, i.annotations,
        i.create_time, i.update_time, i.wanted_version, i.parameters, i.epoch, i.conditions,
        s.uid as server_uid, s.number, s.provider, s.version, s.host, s.system_identifier
    from instances i join servers s on s.instance_uid = i.uid";

type Answer<T> = Result<Response<T>, Status>;

fn failed(error: impl ToString) -> Status {
    Status::unknown(error.to_string())
}

/// All that is in the record: an answer as long as Howdah's.
fn message(record: Record) -> Instance {
    let name = format!("projects/{}/instances/{}", record.project, record.id);
    let server = Server {
        name: format!("{name}/servers/{}", record.number),
        uid: record.server_uid.to_string(),
        version: record.version,
        provider: record.provider,
        host: record.host.to_string(),
        role: 1,
        system_identifier: record
            .system_identifier
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
    };
    let conditions = record.conditions.0.into_iter().map(|condition| Condition {
        r#type: condition.kind,
        status: 1,
        reason: condition.reason,
        message: condition.message,
        time: Some(time(condition.time)),
    });
    Instance {
        conditions: conditions.collect(),
        name,
        uid: record.uid.to_string(),
        labels: record.labels.0,
        annotations: record.annotations.0,
        display_name: record.display_name,
        create_time: Some(time(record.create_time)),
        update_time: Some(time(record.update_time)),
        state: 2,
        version: record.wanted_version,
        server_version: server.version.clone(),
        active_server: server.name.clone(),
        servers: vec![server],
        parameters: record.parameters.0,
        epoch: record.epoch,
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
        let name: Vec<&str> = request.get_ref().name.split('/').collect();
        let [_, project, _, id] = name[..] else {
            return Err(failed("no name of an instance"));
        };
        let sql = format!("{SELECT} where i.project = $1 and i.id = $2");
        let record: Record = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project)
            .bind(id)
            .fetch_one(&self.0)
            .await
            .map_err(failed)?;
        Ok(Response::new(message(record)))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Answer<ListInstancesResponse> {
        let request = request.into_inner();
        let project = request.parent.rsplit('/').next().unwrap_or_default();
        let sql = format!("{SELECT} where i.project = $1 order by i.id limit 51");
        let records: Vec<Record> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(project)
            .fetch_all(&self.0)
            .await
            .map_err(failed)?;
        Ok(Response::new(ListInstancesResponse {
            instances: records.into_iter().take(50).map(message).collect(),
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
    async fn read_instance_log(
        &self,
        _: Request<ReadInstanceLogRequest>,
    ) -> Answer<ReadInstanceLogResponse> {
        Err(failed("not compared"))
    }
    async fn list_engines(&self, _: Request<ListEnginesRequest>) -> Answer<ListEnginesResponse> {
        Err(failed("not compared"))
    }
}

/// Serves on a free port, which it prints.
pub async fn serve(database_url: &str) {
    let options = PgConnectOptions::from_str(database_url).unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect_with(options);
    let pool = pool.await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    tonic::transport::Server::builder()
        .add_service(InstanceServiceServer::new(Bare(pool)))
        // As `serve` would have it: without, answers wait for acknowledgements.
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .unwrap();
}
