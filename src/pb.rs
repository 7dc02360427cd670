//! Generated protobuf code and descriptor bytes, nothing else.
#![expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::expect_used,
    reason = "generated code"
)]

use std::fmt;

/// The descriptors of everything served, options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod google {
    pub mod api {
        include!(concat!(env!("OUT_DIR"), "/google.api.rs"));
    }
    pub mod longrunning {
        include!(concat!(env!("OUT_DIR"), "/google.longrunning.rs"));
    }
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}

pub mod howdah {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/howdah.v1.rs"));
    }
}

pub use howdah::v1;

include!(concat!(env!("OUT_DIR"), "/validate_impl.rs"));

impl fmt::Debug for v1::Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
