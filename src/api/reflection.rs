//! Server reflection, v1 and v1alpha: grpcurl and its like need no proto files.

use tonic::service::Routes;
use tonic_reflection::server::Builder;

use crate::{
    domain::{Error, Result},
    pb,
};

/// Adds both versions to the routes.
///
/// # Errors
/// INTERNAL when the descriptors cannot be read.
pub fn add_to(routes: Routes) -> Result<Routes> {
    let v1 = builder().build_v1().map_err(broken)?;
    let v1alpha = builder().build_v1alpha().map_err(broken)?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn broken(error: tonic_reflection::server::Error) -> Error {
    Error::internal("the descriptors cannot be served").with_source(error)
}
