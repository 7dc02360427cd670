//! A metadata database of a test's own, behind a proxy: both can be taken away.

use howdah::pg;

use super::{
    howdah::Options,
    postgres::{PASSWORD, Server},
    proxy::Proxy,
};

/// Name of the database.
pub const DATABASE: &str = "metadata";

/// Role that Howdah connects as: it owns the database and is no superuser.
pub const ROLE: &str = "metadata_owner";

/// A server with an empty database, and the proxy in front of it.
pub struct MetadataServer {
    pub server: Server,
    pub proxy: Proxy,
}

impl MetadataServer {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With these settings of the server.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let server = tokio::task::block_in_place(|| Server::start(15, settings));
        let proxy = Proxy::new(server.port);
        let metadata = Self { server, proxy };
        let client = metadata.server.client("postgres").await;
        for sql in [
            format!("create role {ROLE} login password '{PASSWORD}'"),
            format!("create database {DATABASE} owner {ROLE} template template0"),
        ] {
            client.batch_execute(&sql).await.unwrap();
        }
        metadata
    }

    /// For a Howdah whose connections go through the proxy.
    pub fn options(&self) -> Options {
        let port = self.proxy.port;
        let url = format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}");
        Options {
            database_url: Some(url),
            environment: Vec::new(),
        }
    }

    /// For a Howdah that the proxy does not concern.
    pub fn url_past_the_proxy(&self) -> String {
        let port = self.server.port;
        format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{port}/{DATABASE}")
    }

    /// A superuser's connection to the metadata, past the proxy.
    pub async fn client(&self) -> pg::Client {
        self.server.client(DATABASE).await
    }

    /// SQL of a superuser, in the database `postgres`.
    pub async fn administer(&self, sql: &str) {
        let client = self.server.client("postgres").await;
        client.batch_execute(sql).await.unwrap();
    }

    /// Ends Howdah's sessions.
    pub async fn terminate(&self) {
        self.server.terminate(DATABASE).await;
    }
}
