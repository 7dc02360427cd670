//! Names of attributes and metrics, by the OpenTelemetry semantic conventions (those
//! for RPC as of 1.40, those for databases as stable since 1.33).

/// Version of the service.
pub const SERVICE_VERSION: &str = "service.version";
/// Identity of the process among the service's replicas.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";

/// Which RPC system: always [`GRPC`].
pub const RPC_SYSTEM_NAME: &str = "rpc.system.name";
/// Full name of the method, `package.Service/Method`; [`OTHER`] if it is unknown.
pub const RPC_METHOD: &str = "rpc.method";
/// Name of the gRPC status code, such as `OK` or `NOT_FOUND`.
pub const RPC_RESPONSE_STATUS_CODE: &str = "rpc.response.status_code";
/// Class of the error: here the name of the status code, or Howdah's reason.
pub const ERROR_TYPE: &str = "error.type";
/// Value of [`RPC_SYSTEM_NAME`].
pub const GRPC: &str = "grpc";
/// Stands for a method that is not known, to bound the number of series.
pub const OTHER: &str = "_OTHER";

/// Histogram of the duration of calls, in seconds.
pub const RPC_SERVER_CALL_DURATION: &str = "rpc.server.call.duration";
/// Calls under way (Howdah's own).
pub const RPC_ACTIVE: &str = "howdah.rpc.active";
/// Connections to the API that are open (Howdah's own).
pub const CONNECTIONS_OPEN: &str = "howdah.connections.open";

/// Calls and connections that were refused because of a bound (Howdah's own), by
/// [`LIMIT`] and [`SCOPE`].
pub const REFUSALS: &str = "howdah.refusals";
/// Which bound was reached: `calls`, `waits`, `streams`, `probes`, `unfinished_bytes` or
/// `connections`.
pub const LIMIT: &str = "howdah.limit";
/// Whose bound it was: of the `process`, a `caller`, a `connection` or an `address`.
pub const SCOPE: &str = "howdah.scope";

/// Log lines that were lost because standard error was not read (Howdah's own).
pub const LOG_LOST: &str = "howdah.log.lost";

/// Panics (Howdah's own), by [`PLACE`].
pub const PANICS: &str = "howdah.panics";
/// File and line of a panic.
pub const PLACE: &str = "howdah.place";
/// Background tasks that were started again (Howdah's own), by [`TASK`].
pub const TASK_RESTARTS: &str = "howdah.task.restarts";
/// Name of a background task.
pub const TASK: &str = "howdah.task";

/// Servers of this host, and objects on them, that no record knows (Howdah's own), by
/// [`KIND`].
pub const ORPHANS: &str = "howdah.orphans";
/// Kind of an object.
pub const KIND: &str = "howdah.kind";

/// Which database system: always [`POSTGRESQL`].
pub const DB_SYSTEM_NAME: &str = "db.system.name";
/// Name of the operation: the store's name of a query.
pub const DB_OPERATION_NAME: &str = "db.operation.name";
/// Value of [`DB_SYSTEM_NAME`].
pub const POSTGRESQL: &str = "postgresql";
/// Histogram of the duration of database calls, in seconds.
pub const DB_CLIENT_OPERATION_DURATION: &str = "db.client.operation.duration";
