//! The closed list of reasons that an error can have.
//!
//! Each reason has one page, `docs/errors/{REASON}.md`, and one [`Kind`].

/// Class of an error; maps one to one to a gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong whatever the state of the system.
    InvalidArgument,
    /// The resource does not exist.
    NotFound,
    /// A resource of that name exists.
    AlreadyExists,
    /// The system is not in the state that the request needs.
    FailedPrecondition,
    /// Lost against another operation; try again from the start.
    Aborted,
    /// A quota, a port range or a slot count is used up.
    ResourceExhausted,
    /// The caller may not do this.
    PermissionDenied,
    /// The caller is not authenticated.
    Unauthenticated,
    /// A part that is needed is away; try again.
    Unavailable,
    /// The time that the caller gave is over.
    DeadlineExceeded,
    /// Cancelled by request.
    Cancelled,
    /// Not there yet, or not with this provider.
    Unimplemented,
    /// A defect of Howdah.
    Internal,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $kind:ident;)*) => {
        /// Why something failed, as clients see it in `ErrorInfo.reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire, in UPPER_SNAKE.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The class of the error.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }
        }
    };
}

reasons! {
    /// A resource name or id is no valid one.
    NameMalformed = "NAME_MALFORMED", InvalidArgument;
    /// A resource name, id or PostgreSQL name is too long.
    NameTooLong = "NAME_TOO_LONG", InvalidArgument;
    /// A table is not written as in SQL.
    TableNameMalformed = "TABLE_NAME_MALFORMED", InvalidArgument;
    /// A field breaks its documented rule.
    FieldInvalid = "FIELD_INVALID", InvalidArgument;
    /// The bytes are no message of the expected type, or hold invalid UTF-8.
    MessageUndecodable = "MESSAGE_UNDECODABLE", InvalidArgument;
    /// The HTTP request is not one of gRPC.
    HttpRequestInvalid = "HTTP_REQUEST_INVALID", InvalidArgument;
    /// The message is larger than the server takes.
    MessageTooLarge = "MESSAGE_TOO_LARGE", InvalidArgument;
    /// A page size is negative.
    PageSizeNegative = "PAGE_SIZE_NEGATIVE", InvalidArgument;
    /// A page token is damaged or of another query.
    PageTokenInvalid = "PAGE_TOKEN_INVALID", InvalidArgument;
    /// A filter cannot be read or names an unknown field.
    FilterInvalid = "FILTER_INVALID", InvalidArgument;
    /// An order cannot be read or names an unknown field.
    OrderByInvalid = "ORDER_BY_INVALID", InvalidArgument;
    /// A request id is no UUID.
    RequestIdMalformed = "REQUEST_ID_MALFORMED", InvalidArgument;
    /// A request id was used before with other content.
    RequestIdReused = "REQUEST_ID_REUSED", InvalidArgument;
    /// A PostgreSQL version is no version.
    VersionMalformed = "VERSION_MALFORMED", InvalidArgument;
    /// A PostgreSQL setting does not exist or its value is out of its range.
    ParameterInvalid = "PARAMETER_INVALID", InvalidArgument;
    /// A PostgreSQL setting is kept by Howdah.
    ParameterReserved = "PARAMETER_RESERVED", InvalidArgument;
    /// A label or annotation is out of its form.
    LabelInvalid = "LABEL_INVALID", InvalidArgument;
    /// The setting of the service itself is wrong.
    ConfigInvalid = "CONFIG_INVALID", InvalidArgument;
    /// A file is no backup of the metadata, or not a whole one.
    BackupInvalid = "BACKUP_INVALID", InvalidArgument;

    /// The project does not exist.
    ProjectNotFound = "PROJECT_NOT_FOUND", NotFound;
    /// The instance does not exist.
    InstanceNotFound = "INSTANCE_NOT_FOUND", NotFound;
    /// The database does not exist.
    DatabaseNotFound = "DATABASE_NOT_FOUND", NotFound;
    /// The operation does not exist or is over its retention.
    OperationNotFound = "OPERATION_NOT_FOUND", NotFound;
    /// The table does not exist.
    TableNotFound = "TABLE_NOT_FOUND", NotFound;
    /// The publication does not exist.
    PublicationNotFound = "PUBLICATION_NOT_FOUND", NotFound;
    /// The change stream does not exist.
    ChangeStreamNotFound = "CHANGE_STREAM_NOT_FOUND", NotFound;
    /// The replication slot does not exist.
    SlotNotFound = "SLOT_NOT_FOUND", NotFound;
    /// No service of that name is served here.
    ServiceNotFound = "SERVICE_NOT_FOUND", NotFound;
    /// The host does not exist.
    HostNotFound = "HOST_NOT_FOUND", NotFound;
    /// The data directory holds no metadata, or none from before a restore.
    MetadataNotFound = "METADATA_NOT_FOUND", NotFound;

    /// There is no such backup file.
    BackupNotFound = "BACKUP_NOT_FOUND", NotFound;

    /// There is no data of the server, neither where servers lie nor in the trash.
    ServerDataNotFound = "SERVER_DATA_NOT_FOUND", NotFound;

    /// An instance of that id exists, maybe deleted and not purged.
    InstanceExists = "INSTANCE_EXISTS", AlreadyExists;
    /// A database of that id or PostgreSQL name exists.
    DatabaseExists = "DATABASE_EXISTS", AlreadyExists;
    /// A change stream of that id exists, or has the slot.
    ChangeStreamExists = "CHANGE_STREAM_EXISTS", AlreadyExists;
    /// A role of that PostgreSQL name exists and is not Howdah's.
    RoleExists = "ROLE_EXISTS", AlreadyExists;
    /// A file is there already where a backup is to be written.
    BackupExists = "BACKUP_EXISTS", AlreadyExists;

    /// Data of the server is in the place that the trash's is to go to.
    ServerDataExists = "SERVER_DATA_EXISTS", AlreadyExists;

    /// No installed PostgreSQL has the wanted version.
    VersionNotInstalled = "VERSION_NOT_INSTALLED", FailedPrecondition;
    /// No PostgreSQL is installed at all.
    PostgresqlNotFound = "POSTGRESQL_NOT_FOUND", FailedPrecondition;
    /// A program of PostgreSQL that this needs is not installed.
    ToolMissing = "TOOL_MISSING", FailedPrecondition;
    /// The server did not stop within the time that it has for that.
    ServerNotStopped = "SERVER_NOT_STOPPED", FailedPrecondition;
    /// A record knows the server that was taken for an orphan.
    ServerOnRecord = "SERVER_ON_RECORD", FailedPrecondition;
    /// The instance is not READY.
    InstanceNotReady = "INSTANCE_NOT_READY", FailedPrecondition;
    /// The instance is deleted.
    InstanceDeleted = "INSTANCE_DELETED", FailedPrecondition;
    /// The instance is not deleted.
    InstanceNotDeleted = "INSTANCE_NOT_DELETED", FailedPrecondition;
    /// The instance has databases.
    InstanceHasDatabases = "INSTANCE_HAS_DATABASES", FailedPrecondition;
    /// Deletion protection is on.
    DeletionProtected = "DELETION_PROTECTED", FailedPrecondition;
    /// The database is not READY.
    DatabaseNotReady = "DATABASE_NOT_READY", FailedPrecondition;
    /// Sessions, prepared transactions, replication slots or subscriptions use the database.
    DatabaseInUse = "DATABASE_IN_USE", FailedPrecondition;
    /// The role owns something outside of its database, or was granted something there.
    RoleInUse = "ROLE_IN_USE", FailedPrecondition;
    /// What Howdah made on a server is not recognisable as its own any more.
    OwnershipLost = "OWNERSHIP_LOST", FailedPrecondition;
    /// The operation cannot be cancelled any more, or never.
    OperationNotCancellable = "OPERATION_NOT_CANCELLABLE", FailedPrecondition;
    /// The operation is still under way.
    OperationNotDone = "OPERATION_NOT_DONE", FailedPrecondition;
    /// Another release of Howdah has written what this one does not know.
    RecordUnreadable = "RECORD_UNREADABLE", FailedPrecondition;
    /// The host of a local server does not run Howdah any more.
    HostUnavailable = "HOST_UNAVAILABLE", FailedPrecondition;
    /// The call needs a process on another host.
    HostElsewhere = "HOST_ELSEWHERE", FailedPrecondition;
    /// The data directory cannot be written.
    DataDirUnwritable = "DATA_DIR_UNWRITABLE", FailedPrecondition;
    /// Another process serves from the data directory.
    DataDirInUse = "DATA_DIR_IN_USE", FailedPrecondition;
    /// A file that Howdah keeps in its data directory is missing or damaged.
    DataDirDamaged = "DATA_DIR_DAMAGED", FailedPrecondition;
    /// No such object is on the server without a record.
    OrphanNotFound = "ORPHAN_NOT_FOUND", NotFound;
    /// The `local.root` belongs to other metadata.
    LocalRootMismatch = "LOCAL_ROOT_MISMATCH", FailedPrecondition;
    /// A backup cannot be written to its place.
    BackupUnwritable = "BACKUP_UNWRITABLE", FailedPrecondition;
    /// The PostgreSQL that the embedded metadata was made with is gone.
    MetadataEngineMissing = "METADATA_ENGINE_MISSING", FailedPrecondition;
    /// The migrations of the metadata do not match this program.
    MetadataSchemaMismatch = "METADATA_SCHEMA_MISMATCH", FailedPrecondition;
    /// The metadata database has an encoding or a version that Howdah cannot use.
    MetadataUnsuitable = "METADATA_UNSUITABLE", FailedPrecondition;
    /// The secret key is missing or another one.
    SecretKeyInvalid = "SECRET_KEY_INVALID", FailedPrecondition;
    /// The server did not come up.
    ServerStartFailed = "SERVER_START_FAILED", FailedPrecondition;
    /// What was found at the place of a server is not that server.
    ServerMismatch = "SERVER_MISMATCH", FailedPrecondition;
    /// PostgreSQL refused a statement.
    PostgresqlRefused = "POSTGRESQL_REFUSED", FailedPrecondition;
    /// Howdah's role on the server lacks a right.
    RightMissing = "RIGHT_MISSING", FailedPrecondition;
    /// A change is larger than a message can be.
    ChangeTooLarge = "CHANGE_TOO_LARGE", FailedPrecondition;
    /// The server does not do logical decoding.
    LogicalDecodingOff = "LOGICAL_DECODING_OFF", FailedPrecondition;
    /// The publication was missing for a part of the log.
    PublicationLost = "PUBLICATION_LOST", FailedPrecondition;
    /// The publication that the request names was changed.
    PublicationChanged = "PUBLICATION_CHANGED", FailedPrecondition;
    /// A followed table was dropped, or another one has its name.
    TableReplaced = "TABLE_REPLACED", FailedPrecondition;
    /// The server has given up the slot of the stream.
    SlotLost = "SLOT_LOST", FailedPrecondition;
    /// The change stream is not READY.
    ChangeStreamNotReady = "CHANGE_STREAM_NOT_READY", FailedPrecondition;
    /// The instance has change streams, and the request does not delete them too.
    InstanceHasChangeStreams = "INSTANCE_HAS_CHANGE_STREAMS", FailedPrecondition;
    /// A replication slot cannot be used for a change stream.
    SlotUnsuitable = "SLOT_UNSUITABLE", FailedPrecondition;
    /// A token is of another stream, cluster or history.
    TokenForeign = "TOKEN_FOREIGN", FailedPrecondition;
    /// A token is ahead of the end of the server's log.
    TokenAhead = "TOKEN_AHEAD", FailedPrecondition;
    /// The token is behind what is acknowledged.
    TokenStale = "TOKEN_STALE", FailedPrecondition;

    /// The etag is not that of the resource.
    EtagMismatch = "ETAG_MISMATCH", Aborted;
    /// Another operation works on the resource, its parent or its children.
    ResourceBusy = "RESOURCE_BUSY", Aborted;
    /// The connection that the stream came through was lost.
    StreamLost = "STREAM_LOST", Aborted;
    /// Another program reads from the replication slot.
    SlotInUse = "SLOT_IN_USE", Aborted;

    /// No port of the configured range is free.
    PortsExhausted = "PORTS_EXHAUSTED", ResourceExhausted;
    /// The server has no replication slot or walsender left.
    SlotsExhausted = "SLOTS_EXHAUSTED", ResourceExhausted;
    /// Too many requests of this caller.
    RateLimited = "RATE_LIMITED", ResourceExhausted;
    /// This caller uses all that one caller may.
    BudgetExhausted = "BUDGET_EXHAUSTED", ResourceExhausted;
    /// Too many open streams.
    StreamsExhausted = "STREAMS_EXHAUSTED", ResourceExhausted;
    /// The headers of the call are larger than the server takes.
    HeadersTooLarge = "HEADERS_TOO_LARGE", ResourceExhausted;
    /// The disk is full.
    DiskFull = "DISK_FULL", ResourceExhausted;

    /// The caller lacks the permission.
    PermissionMissing = "PERMISSION_MISSING", PermissionDenied;
    /// No caller may call the method.
    MethodClosed = "METHOD_CLOSED", PermissionDenied;
    /// The caller did not say who it is.
    CredentialsMissing = "CREDENTIALS_MISSING", Unauthenticated;

    /// The metadata database is away.
    MetadataUnavailable = "METADATA_UNAVAILABLE", Unavailable;
    /// A server's port is in use by another program.
    PortTaken = "PORT_TAKEN", Unavailable;
    /// The user's PostgreSQL server is away.
    ServerUnavailable = "SERVER_UNAVAILABLE", Unavailable;
    /// The server of the stream shuts down.
    ServerStopping = "SERVER_STOPPING", Unavailable;
    /// Howdah shuts down.
    ShuttingDown = "SHUTTING_DOWN", Unavailable;
    /// The connection of the call ends, and another one can be made.
    ConnectionEnding = "CONNECTION_ENDING", Unavailable;
    /// Howdah has too much to do.
    Overloaded = "OVERLOADED", Unavailable;
    /// A lock was not had in time.
    LockTimeout = "LOCK_TIMEOUT", Unavailable;

    /// The time that the caller gave is over.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded;
    /// The request did not arrive as a whole in time.
    RequestIncomplete = "REQUEST_INCOMPLETE", DeadlineExceeded;
    /// The operation was cancelled by request.
    OperationCancelled = "OPERATION_CANCELLED", Cancelled;
    /// The request has no message or more than one, and the method takes one.
    MessageCountInvalid = "MESSAGE_COUNT_INVALID", Unimplemented;
    /// The method or the capability is not there.
    Unimplemented = "UNIMPLEMENTED", Unimplemented;
    /// A defect of Howdah.
    Internal = "INTERNAL", Internal;
}

impl Reason {
    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub const fn retryable(self) -> bool {
        match self.kind() {
            Kind::Unavailable => true,
            Kind::InvalidArgument
            | Kind::NotFound
            | Kind::AlreadyExists
            | Kind::FailedPrecondition
            | Kind::Aborted
            | Kind::ResourceExhausted
            | Kind::PermissionDenied
            | Kind::Unauthenticated
            | Kind::DeadlineExceeded
            | Kind::Cancelled
            | Kind::Unimplemented
            | Kind::Internal => false,
        }
    }

    /// The reason of that name on the wire.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == name)
    }
}
