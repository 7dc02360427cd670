//! Reflection: what is described, and that nothing that is missing ends the stream.

use std::collections::BTreeSet;

use futures::stream;
use prost_reflect::DescriptorPool;
use tonic::Code;
use tonic_reflection::pb::{v1, v1alpha};

use super::harness::{Edge, Raw, Setup};

/// The client of a version, and its answers to these requests, on one stream.
macro_rules! ask {
    ($version:ident, $client:expr, [$($kind:ident($value:expr)),* $(,)?]) => {{
        use $version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest,
        };
        let requests = vec![$(ServerReflectionRequest {
            host: "here".to_owned(),
            message_request: Some(MessageRequest::$kind($value)),
        }),*];
        let sent = requests.clone();
        let mut answers = ServerReflectionClient::with_origin($client.channel(), Raw::origin())
            .server_reflection_info(stream::iter(requests))
            .await
            .unwrap()
            .into_inner();
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            assert_eq!(answer.valid_host, "here");
            assert_eq!(answer.original_request.as_ref(), sent.get(all.len()));
            all.push(answer.message_response.unwrap());
        }
        assert_eq!(all.len(), sent.len());
        all
    }};
}

fn text(text: &str) -> String {
    text.to_owned()
}

macro_rules! tests_of {
    ($version:ident, $lists:ident, $missing:ident, $extensions:ident) => {
        #[tokio::test]
        async fn $lists() {
            use $version::server_reflection_response::MessageResponse;
            let edge = Edge::start(Setup::default()).await;
            let client = edge.connect().await;
            let answers = ask!($version, client, [ListServices(String::new())]);
            let [MessageResponse::ListServicesResponse(list)] = &answers[..] else {
                panic!("{answers:?}");
            };
            let names: BTreeSet<_> = list.service.iter().map(|it| it.name.as_str()).collect();
            assert_eq!(names.len(), list.service.len());
            for name in [
                "howdah.v1.InstanceService",
                "howdah.v1.DatabaseService",
                "howdah.v1.ChangeStreamService",
                "howdah.v1.AuditService",
                "google.longrunning.Operations",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ] {
                assert!(names.contains(name), "{name} in {names:?}");
            }
            let described = ask!(
                $version,
                client,
                [
                    FileContainingSymbol(text("howdah.v1.DatabaseService.GetDatabase")),
                    FileContainingSymbol(text("howdah.v1.Instance.State")),
                    FileContainingSymbol(text("howdah.options.v1.permission")),
                    FileContainingSymbol(text("howdah.v1.Instance.name")),
                    FileByFilename(text("howdah/v1/database_service.proto")),
                ]
            );
            for answer in described {
                let is_file = matches!(answer, MessageResponse::FileDescriptorResponse(_));
                assert!(is_file, "{answer:?}");
            }
        }

        #[tokio::test]
        async fn $missing() {
            use $version::{ExtensionRequest, server_reflection_response::MessageResponse};
            let edge = Edge::start(Setup::default()).await;
            let client = edge.connect().await;
            let of = |name: &str, number| ExtensionRequest {
                containing_type: text(name),
                extension_number: number,
            };
            let answers = ask!(
                $version,
                client,
                [
                    FileContainingSymbol(text("no.Symbol")),
                    FileContainingSymbol(String::new()),
                    FileByFilename(text("no/file.proto")),
                    FileContainingExtension(of("google.protobuf.MethodOptions", 1)),
                    FileContainingExtension(of("google.protobuf.MethodOptions", -1)),
                    FileContainingExtension(of("no.Message", 1)),
                    AllExtensionNumbersOfType(text("no.Message")),
                ]
            );
            for answer in answers {
                let MessageResponse::ErrorResponse(error) = answer else {
                    panic!("{answer:?}");
                };
                assert_eq!(error.error_code, i32::from(Code::NotFound), "{error:?}");
                assert!(!error.error_message.is_empty());
            }
        }

        /// Found by a client that knows nothing but the option's message, and decodable by it.
        #[tokio::test]
        async fn $extensions() {
            use $version::{ExtensionRequest, server_reflection_response::MessageResponse};
            let edge = Edge::start(Setup::default()).await;
            let client = edge.connect().await;
            let options = "google.protobuf.MethodOptions";
            let answers = ask!($version, client, [AllExtensionNumbersOfType(text(options))]);
            let [MessageResponse::AllExtensionNumbersResponse(numbers)] = &answers[..] else {
                panic!("{answers:?}");
            };
            assert_eq!(numbers.base_type_name, options);
            let mut found = BTreeSet::new();
            for number in &numbers.extension_number {
                let extension = ExtensionRequest {
                    containing_type: text(options),
                    extension_number: *number,
                };
                let answers = ask!($version, client, [FileContainingExtension(extension)]);
                let [MessageResponse::FileDescriptorResponse(file)] = &answers[..] else {
                    panic!("{answers:?}");
                };
                let file = &file.file_descriptor_proto[0];
                let name = prost_types::FileDescriptorProto::name;
                let decoded: prost_types::FileDescriptorProto =
                    prost::Message::decode(&file[..]).unwrap();
                found.insert(name(&decoded).to_owned());
            }
            assert!(
                found
                    .iter()
                    .any(|name| name.starts_with("howdah/options/v1/")),
                "{found:?}"
            );

            // Files come with their options: the permission of a method is in them.
            let wanted = "howdah/v1/database_service.proto";
            let mut pool = DescriptorPool::global();
            let mut missing = vec![text(wanted)];
            let mut files = Vec::new();
            while let Some(name) = missing.pop() {
                if files.iter().any(|(known, _)| *known == name) {
                    continue;
                }
                let answers = ask!($version, client, [FileByFilename(name.clone())]);
                let [MessageResponse::FileDescriptorResponse(file)] = &answers[..] else {
                    panic!("{name}: {answers:?}");
                };
                let bytes = file.file_descriptor_proto[0].clone();
                let decoded: prost_types::FileDescriptorProto =
                    prost::Message::decode(&bytes[..]).unwrap();
                missing.extend(decoded.dependency);
                files.push((name, bytes));
            }
            // As a set: each file is its field 1.
            let mut set = Vec::new();
            for (_, bytes) in files.iter().rev() {
                prost::encoding::bytes::encode(1, bytes, &mut set);
            }
            pool.decode_file_descriptor_set(&set[..]).unwrap();
            let service = pool
                .get_service_by_name("howdah.v1.DatabaseService")
                .unwrap();
            let method = service
                .methods()
                .find(|it| it.name() == "GetDatabase")
                .unwrap();
            let permission = pool
                .get_extension_by_name("howdah.options.v1.permission")
                .unwrap();
            let options = method.options();
            let permission = options.get_extension(&permission);
            assert_eq!(permission.as_str(), Some("databases.get"));
        }
    };
}

tests_of!(
    v1,
    v1_lists_and_describes,
    v1_goes_on_after_what_is_missing,
    v1_knows_our_extensions
);
tests_of!(
    v1alpha,
    v1alpha_lists_and_describes,
    v1alpha_goes_on_after_what_is_missing,
    v1alpha_knows_our_extensions
);
