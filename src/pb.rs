//! Generated protobuf code and descriptor bytes, nothing else.
#![expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::expect_used,
    reason = "generated code"
)]

use std::fmt;

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut, Bytes},
    encoding::{DecodeContext, WireType, skip_field},
};

/// The descriptors of all services, with their options.
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

/// The server of `howdah.v1.ChangeStreamService`, which passes the bytes of batches on.
pub mod encoded {
    include!(concat!(env!("OUT_DIR"), "/encoded/howdah.v1.rs"));
}

/// A `howdah.v1.ChangeBatch` that is encoded already. It can only be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedBatch(pub Bytes);

impl From<v1::ChangeBatch> for EncodedBatch {
    fn from(batch: v1::ChangeBatch) -> Self {
        Self(batch.encode_to_vec().into())
    }
}

impl Message for EncodedBatch {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    /// Unused: the server only sends this message.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

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
