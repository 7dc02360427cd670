//! Names of attributes and metrics, by the OpenTelemetry semantic conventions (those
//! for RPC as of 1.40, those for databases as stable since 1.33).

/// Version of the service.
pub const SERVICE_VERSION: &str = "service.version";
/// Unique id of the process among the service's replicas.
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

/// Connections to the metadata, by [`DB_CLIENT_CONNECTION_STATE`].
pub const DB_CLIENT_CONNECTION_COUNT: &str = "db.client.connection.count";
/// State of a connection: `used` or `idle`.
pub const DB_CLIENT_CONNECTION_STATE: &str = "db.client.connection.state";
/// Most connections to the metadata.
pub const DB_CLIENT_CONNECTION_MAX: &str = "db.client.connection.max";
/// Callers that wait for a connection.
pub const DB_CLIENT_CONNECTION_PENDING_REQUESTS: &str = "db.client.connection.pending_requests";
/// Histogram of the time that callers wait for a connection, in seconds.
pub const DB_CLIENT_CONNECTION_WAIT_TIME: &str = "db.client.connection.wait_time";
/// Callers that got no connection in time.
pub const DB_CLIENT_CONNECTION_TIMEOUTS: &str = "db.client.connection.timeouts";

/// Instances (Howdah's own), by [`INSTANCE_STATE`].
pub const INSTANCES: &str = "howdah.instances";
/// State of an instance.
pub const INSTANCE_STATE: &str = "howdah.instance.state";
/// Change streams (Howdah's own), by [`CHANGE_STREAM_STATE`].
pub const CHANGE_STREAMS: &str = "howdah.change_streams";
/// State of a change stream.
pub const CHANGE_STREAM_STATE: &str = "howdah.change_stream.state";
/// Log between its end and how far a change stream is, in bytes (Howdah's own), by
/// [`INSTANCE_NAME`], [`CHANGE_STREAM`] and [`RUNG`].
pub const CHANGE_STREAMS_LAG: &str = "howdah.change_streams.lag";
/// Id of an instance.
pub const INSTANCE_NAME: &str = "howdah.instance.id";
/// Id of a change stream.
pub const CHANGE_STREAM: &str = "howdah.change_stream.id";
/// How far: `sent`, `received`, `acknowledged`, `confirmed` or `retained`.
pub const RUNG: &str = "howdah.rung";
/// Servers (Howdah's own), by [`SERVER_ROLE`] and [`SERVER_GOAL`].
pub const SERVERS: &str = "howdah.servers";
/// What a server is to its instance.
pub const SERVER_ROLE: &str = "howdah.server.role";
/// What is to become of a server.
pub const SERVER_GOAL: &str = "howdah.server.goal";
/// Operations under way (Howdah's own), by [`OPERATION_KIND`] and [`OPERATION_STATE`].
pub const OPERATIONS: &str = "howdah.operations";
/// Age of the oldest operation under way, in seconds (Howdah's own).
pub const OPERATIONS_AGE: &str = "howdah.operations.age";
/// Operations that have ended (Howdah's own).
pub const OPERATIONS_ENDED: &str = "howdah.operations.ended";
/// Kind of an operation.
pub const OPERATION_KIND: &str = "howdah.operation.kind";
/// State of an operation.
pub const OPERATION_STATE: &str = "howdah.operation.state";

/// Streams under way (Howdah's own), by [`RPC_SERVICE`].
pub const STREAMS_OPEN: &str = "howdah.streams.open";
/// Full name of the service, `package.Service`.
pub const RPC_SERVICE: &str = "howdah.rpc.service";

/// Time of the processor that the process has used, in seconds, by [`CPU_MODE`].
pub const PROCESS_CPU_TIME: &str = "process.cpu.time";
/// Where the time was used: `user` or `system`.
pub const CPU_MODE: &str = "cpu.mode";
/// Resident memory of the process, in bytes.
pub const PROCESS_MEMORY_USAGE: &str = "process.memory.usage";
/// Threads of the process.
pub const PROCESS_THREAD_COUNT: &str = "process.thread.count";
/// Open file descriptors of the process.
pub const PROCESS_FILE_DESCRIPTOR_COUNT: &str = "process.unix.file_descriptor.count";
/// When the process was started, in seconds of Unix time (as Prometheus' own libraries name
/// it).
pub const PROCESS_START_TIME: &str = "process.start_time";
