//! Server reflection, v1 and v1alpha, so that grpcurl and similar programs need no proto files.
//!
//! tonic's service cannot find extensions, such as Howdah's own, and ends the stream at the
//! first unknown symbol.

mod index;

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming, async_trait, service::Routes};
use tonic_reflection::{
    pb,
    server::{v1, v1alpha},
};

use crate::domain::Result;

use index::{Answer, Index, Question};

/// Adds both versions to the routes.
///
/// # Errors
/// INTERNAL when the descriptors cannot be read.
pub fn add_to(routes: Routes) -> Result<Routes> {
    let service = Service(Arc::new(Index::load()?));
    let v1 = v1::ServerReflectionServer::new(service.clone());
    let v1alpha = v1alpha::ServerReflectionServer::new(service);
    Ok(routes.add_service(v1).add_service(v1alpha))
}

#[derive(Clone, Debug)]
struct Service(Arc<Index>);

/// The messages of both versions differ only in their package.
macro_rules! serve {
    ($version:ident) => {
        #[async_trait]
        impl $version::ServerReflection for Service {
            type ServerReflectionInfoStream = Pin<
                Box<
                    dyn Stream<Item = Result<pb::$version::ServerReflectionResponse, Status>>
                        + Send,
                >,
            >;

            async fn server_reflection_info(
                &self,
                request: Request<Streaming<pb::$version::ServerReflectionRequest>>,
            ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                use pb::$version::{
                    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse,
                    ListServiceResponse, ServerReflectionResponse, ServiceResponse,
                    server_reflection_request::MessageRequest,
                    server_reflection_response::MessageResponse,
                };
                let index = Arc::clone(&self.0);
                let answers = request.into_inner().map(move |request| {
                    let request = request?;
                    let question = request.message_request.as_ref().map(|asked| match asked {
                        MessageRequest::FileByFilename(name) => Question::File(name),
                        MessageRequest::FileContainingSymbol(name) => Question::Symbol(name),
                        MessageRequest::FileContainingExtension(extension) => Question::Extension(
                            &extension.containing_type,
                            extension.extension_number,
                        ),
                        MessageRequest::AllExtensionNumbersOfType(name) => {
                            Question::ExtensionsOf(name)
                        }
                        MessageRequest::ListServices(_) => Question::Services,
                    });
                    let answer = match index.answer(question) {
                        Answer::File(bytes) => {
                            MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                                file_descriptor_proto: vec![bytes.to_vec()],
                            })
                        }
                        Answer::Extensions(name, numbers) => {
                            MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                                base_type_name: name,
                                extension_number: numbers,
                            })
                        }
                        Answer::Services(names) => {
                            let service = |name: &String| ServiceResponse { name: name.clone() };
                            MessageResponse::ListServicesResponse(ListServiceResponse {
                                service: names.iter().map(service).collect(),
                            })
                        }
                        Answer::Error(code, message) => {
                            MessageResponse::ErrorResponse(ErrorResponse {
                                error_code: code.into(),
                                error_message: message.to_owned(),
                            })
                        }
                    };
                    Ok(ServerReflectionResponse {
                        valid_host: request.host.clone(),
                        original_request: Some(request),
                        message_response: Some(answer),
                    })
                });
                Ok(Response::new(Box::pin(answers)))
            }
        }
    };
}

serve!(v1);
serve!(v1alpha);
