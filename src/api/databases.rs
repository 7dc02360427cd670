//! `howdah.v1.DatabaseService`.

use tonic::{Request, Response, async_trait};

use super::{
    admit::admit,
    answer::{Answer, answer},
    convert::database,
};
use crate::{
    app::{self, DeleteDatabase, List},
    pb::{
        google::longrunning::Operation,
        v1::{self, database_service_server::DatabaseService},
    },
};

/// The service for these use cases.
#[derive(Clone)]
pub struct Databases(pub app::Databases);

#[async_trait]
impl DatabaseService for Databases {
    async fn create_database(
        &self,
        request: Request<v1::CreateDatabaseRequest>,
    ) -> Answer<Operation> {
        let mut admitted = admit(request)?;
        let mutation = admitted.mutation()?;
        let new = database::create(admitted.message)?;
        answer(self.0.create(mutation, new).await)
    }

    async fn get_database(&self, request: Request<v1::GetDatabaseRequest>) -> Answer<v1::Database> {
        let name = admit(request)?.message.name.parse()?;
        Ok(Response::new(database::recorded_to_wire(
            self.0.get(&name).await?,
        )))
    }

    async fn list_databases(
        &self,
        request: Request<v1::ListDatabasesRequest>,
    ) -> Answer<v1::ListDatabasesResponse> {
        let request = admit(request)?.message;
        let list = List {
            page_size: request.page_size,
            page_token: request.page_token,
            filter: request.filter,
            order_by: request.order_by,
            show_deleted: false,
        };
        let page = self.0.list(&request.parent.parse()?, list).await?;
        Ok(Response::new(v1::ListDatabasesResponse {
            databases: page
                .items
                .into_iter()
                .map(database::recorded_to_wire)
                .collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn delete_database(
        &self,
        request: Request<v1::DeleteDatabaseRequest>,
    ) -> Answer<Operation> {
        let mut admitted = admit(request)?;
        let mutation = admitted.mutation()?;
        let request = admitted.message;
        let delete = DeleteDatabase {
            name: request.name.parse()?,
            etag: request.etag,
            force: request.force,
        };
        answer(self.0.delete(mutation, delete).await)
    }

    async fn get_connection(
        &self,
        request: Request<v1::GetConnectionRequest>,
    ) -> Answer<v1::Connection> {
        let admitted = admit(request)?;
        let origin = admitted.origin()?;
        let name = admitted.message.name.parse()?;
        let connection = self.0.connection(origin, &name).await?;
        Ok(Response::new(database::connection_to_wire(&connection)))
    }
}
